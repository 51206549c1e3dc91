#include "fetcher/s3_keys.h"

#include <gmock/gmock.h>
#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>

#include "tests/cli/command.h"
#include "tests/support/refusal.h"

namespace faultline::test {

namespace {

using fetcher::S3Keys;
using fetcher::s3Keys;
using testing::HasSubstr;
using testing::Not;

class Keys : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* variable : {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
                                 "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"})
      unsetenv(variable);
    setenv("HOME", folder_.path().c_str(), 1);
  }
  std::string file(const std::string& content) {
    std::filesystem::create_directory(folder_ / ".aws");
    return folder_.file(".aws/credentials", content);
  }
  static std::string refusal(const std::string& profile) {
    return refusalOf<std::runtime_error>([&] { s3Keys(profile); });
  }
  const Directory folder_;
};

constexpr char FILE_OF_TWO[] =
    "# of mine\n[default]\naws_access_key_id = ID1\naws_secret_access_key=SECRET1/+=\n\n"
    "[ other ]\r\naws_access_key_id=ID2\r\naws_secret_access_key = SECRET2\r\n; and\naws_session_token = "
    "TOKEN2\n"
    "s3 =\n  max_queue = 3\n[bad]\naws_access_key_id = ID3\nnonsense HIDDEN\n";

}  // namespace

TEST_F(Keys, AreOfTheEnvironmentFirst) {
  file(FILE_OF_TWO);
  setenv("AWS_ACCESS_KEY_ID", "ID", 1);
  setenv("AWS_SECRET_ACCESS_KEY", "SECRET", 1);
  EXPECT_EQ(s3Keys(""), (S3Keys{"ID", "SECRET", ""}));
  setenv("AWS_SESSION_TOKEN", "TOKEN", 1);
  EXPECT_EQ(s3Keys(""), (S3Keys{"ID", "SECRET", "TOKEN"}));
  // A profile that is named is meant.
  EXPECT_EQ(s3Keys("other"), (S3Keys{"ID2", "SECRET2", "TOKEN2"}));
}

TEST_F(Keys, AreOfTheFileElse) {
  const std::string path = file(FILE_OF_TWO);
  EXPECT_EQ(s3Keys(""), (S3Keys{"ID1", "SECRET1/+=", ""}));
  setenv("AWS_PROFILE", "other", 1);
  EXPECT_EQ(s3Keys(""), (S3Keys{"ID2", "SECRET2", "TOKEN2"}));
  unsetenv("AWS_PROFILE");
  setenv("HOME", "/nonexistent", 1);
  setenv("AWS_SHARED_CREDENTIALS_FILE", path.c_str(), 1);
  EXPECT_EQ(s3Keys(""), (S3Keys{"ID1", "SECRET1/+=", ""}));
}

TEST_F(Keys, NeedNotBeThere) {
  EXPECT_TRUE(s3Keys("").none());
  file("[other]\naws_access_key_id=ID\naws_secret_access_key=SECRET\n");
  EXPECT_TRUE(s3Keys("").none());
}

TEST_F(Keys, ThatAreMeantAndNotThereAreAnErrorWithoutAKeyInIt) {
  EXPECT_THAT(refusal("other"), HasSubstr("No such file"));
  file(FILE_OF_TWO);
  EXPECT_THAT(refusal("third"), HasSubstr("has no profile [third]"));
  const std::string why = refusal("bad");
  EXPECT_THAT(why, HasSubstr("no aws_secret_access_key"));
  EXPECT_THAT(why, Not(HasSubstr("ID3")));
  EXPECT_THAT(why, Not(HasSubstr("HIDDEN")));
  setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent", 1);
  EXPECT_THAT(refusal(""), HasSubstr("/nonexistent"));
}

}  // namespace faultline::test
