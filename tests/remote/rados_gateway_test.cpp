// Objects of a real radosgw, which compares signatures and ETags.

#include <gmock/gmock.h>

#include <cctype>
#include <cerrno>
#include <string>

#include "fetcher/http_engine.h"
#include "tests/remote/opened.h"
#include "tests/remote/servers.h"
#include "tests/support/image.h"

namespace faultline::test {

namespace {

using fetcher::S3Keys;
using testing::AllOf;
using testing::HasSubstr;

class RadosGateway : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = CephCluster::whyNot(); !why.empty()) GTEST_SKIP() << why;
    CephCluster::curl("-X PUT " + bucket());
  }
  // A bucket for each test.
  std::string name() const {
    std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    for (char& c : name) c = static_cast<char>(std::tolower(c));
    return name.substr(0, 60);
  }
  std::string bucket() const { return CephCluster::s3() + "/" + name(); }
  std::string uri(const std::string& key) const {
    return "s3://" + name() + "/" + key + "?endpoint=" + CephCluster::s3();
  }
  const S3Keys keys_{CephCluster::KEY, CephCluster::SECRET, ""};
};

}  // namespace

TEST_F(RadosGateway, EveryByteIsRight) {
  const Image image(8 * MIB);
  CephCluster::curl("-T " + image.path() + " " + bucket() + "/vm.mem");
  Opened opened(uri("vm.mem"), CephCluster::s3Port(), keys_);
  const fetcher::HttpEngine engine(opened.object);
  expectSame(engine, image);
  EXPECT_EQ(engine.fingerprint(), fingerprintOf(image));
}

TEST_F(RadosGateway, AWrongSecretIsRefusedAndNamesNone) {
  const Image image(MIB);
  CephCluster::curl("-T " + image.path() + " " + bucket() + "/vm.mem");
  const std::string why = whyNot([&] {
    Opened(uri("vm.mem"), CephCluster::s3Port(), {CephCluster::KEY, "WRONGSECRET", ""});
  });
  EXPECT_THAT(why, AllOf(HasSubstr("403"), HasSubstr("SignatureDoesNotMatch")));
  EXPECT_THAT(why, testing::Not(HasSubstr("WRONGSECRET")));
  EXPECT_THAT(whyNot([&] { Opened(uri("nothing"), CephCluster::s3Port(), keys_); }),
              HasSubstr("404 (NoSuchKey)"));
  EXPECT_THAT(whyNot([&] { Opened(uri("vm.mem"), CephCluster::s3Port()); }),
              HasSubstr("403"));  // without keys
}

TEST_F(RadosGateway, AnObjectThatIsReplacedIsNoticed) {
  const Image image(MIB), other(2 * MIB);
  CephCluster::curl("-T " + image.path() + " " + bucket() + "/vm.mem");
  Opened opened(uri("vm.mem"), CephCluster::s3Port(), keys_);
  ASSERT_EQ(opened.read(0, 65536), 0);
  CephCluster::curl("-T " + other.path() + " " + bucket() + "/vm.mem");
  EXPECT_EQ(opened.read(65536, 65536), ESTALE);
}

TEST_F(RadosGateway, TemporaryKeysOpenItWithTheirToken) {
  const Image image(MIB);
  CephCluster::curl("-T " + image.path() + " " + bucket() + "/vm.mem");
  const std::string place = "s3://" + name() + "/vm.mem?endpoint=" + CephCluster::sts();
  const auto [id, secret, token] = CephCluster::temporaryKeys(name());
  Opened opened(place, CephCluster::stsPort(), {id, secret, token});
  expectSame(fetcher::HttpEngine(opened.object), image);
  EXPECT_THAT(whyNot([&, id = id, secret = secret] {
                Opened(place, CephCluster::stsPort(), {id, secret, ""});
              }),
              HasSubstr("403"));
  const std::string why = whyNot([&, id = id, secret = secret] {
    Opened(place, CephCluster::stsPort(), {id, secret, "ANOTHERTOKEN"});
  });
  EXPECT_THAT(why, AllOf(HasSubstr("the server says 4"), testing::Not(HasSubstr("ANOTHERTOKEN"))));
}

TEST_F(RadosGateway, KeysThatWereReplacedAreTakenUp) {
  const Image image(MIB);
  CephCluster::curl("-T " + image.path() + " " + bucket() + "/vm.mem");
  const auto key = [](const char* what, const char* access, const std::string& more) {
    CephCluster::run(std::string("radosgw-admin key ") + what +
                     " --uid=fl --key-type=s3 --access-key=" + access + more);
  };
  key("create", "OLDKEY", " --secret-key=old");
  Opened opened(uri("vm.mem"), CephCluster::s3Port(), {"OLDKEY", "old", ""});
  ASSERT_EQ(opened.read(0, 65536), 0);
  key("rm", "OLDKEY", "");
  opened.keys = keys_;
  EXPECT_EQ(opened.read(0, 65536), 0);
  EXPECT_EQ(opened.keysAsked, 2u);
}

}  // namespace faultline::test
