#include "rpc/object_uri.h"

#include <gmock/gmock.h>
#include <stdlib.h>

#include <string>

#include "tests/support/refusal.h"

namespace faultline::test {

namespace {

using rpc::BadUri;
using rpc::ObjectUri;
using testing::HasSubstr;
using testing::Not;

// None of the settings of whoever runs the tests.
class ObjectUris : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"})
      unsetenv(name);
  }
};

std::string url(const std::string& text) {
  return ObjectUri::parse(text).url();
}

std::string refusal(const std::string& text) {
  return refusalOf<BadUri>([&] { ObjectUri::parse(text); });
}

}  // namespace

TEST_F(ObjectUris, OfHttpAreWhatTheySay) {
  const ObjectUri uri = ObjectUri::parse("https://host.example:8443/a/b%20c?version=1");
  EXPECT_TRUE(uri.tls);
  EXPECT_FALSE(uri.s3);
  EXPECT_EQ(uri.host, "host.example");
  EXPECT_EQ(uri.port, "8443");
  EXPECT_EQ(uri.target, "/a/b%20c?version=1");
  EXPECT_EQ(uri.url(), "https://host.example:8443/a/b%20c?version=1");
  EXPECT_EQ(url("http://host:80/a"), "http://host/a");
  EXPECT_EQ(url("http://[::1]:81/a"), "http://[::1]:81/a");
}

TEST_F(ObjectUris, OfS3LeadToAws) {
  EXPECT_EQ(url("s3://bucket/a/b"), "https://bucket.s3.us-east-1.amazonaws.com/a/b");
  EXPECT_EQ(url("s3://bucket/a?region=eu-west-1"), "https://bucket.s3.eu-west-1.amazonaws.com/a");
  EXPECT_EQ(url("s3://dotted.bucket/a"), "https://s3.us-east-1.amazonaws.com/dotted.bucket/a");
  // A key as S3 wants it signed, however it was written.
  EXPECT_EQ(url("s3://bucket/a+b%20c%2fd"), "https://bucket.s3.us-east-1.amazonaws.com/a%2Bb%20c/d");
}

TEST_F(ObjectUris, OfS3LeadToAnEndpoint) {
  EXPECT_EQ(url("s3://bucket/a?endpoint=http://127.0.0.1:7480"), "http://127.0.0.1:7480/bucket/a");
  setenv("AWS_ENDPOINT_URL", "https://s3.example", 1);
  setenv("AWS_DEFAULT_REGION", "here", 1);
  EXPECT_EQ(url("s3://bucket/a"), "https://s3.example/bucket/a");
  EXPECT_EQ(ObjectUri::parse("s3://bucket/a").region, "here");
  setenv("AWS_ENDPOINT_URL_S3", "http://[::1]:9000/", 1);
  EXPECT_EQ(url("s3://bucket/a"), "http://[::1]:9000/bucket/a");
  EXPECT_EQ(url("s3://bucket/a?endpoint=http%3A%2F%2Fother"), "http://other/bucket/a");
}

TEST_F(ObjectUris, ThatMakeNoSenseAreRefusedWithTheReason) {
  EXPECT_THAT(refusal("ftp://host/a"), HasSubstr("give s3://BUCKET/KEY"));
  EXPECT_THAT(refusal("http://host"), HasSubstr("names no object"));
  EXPECT_THAT(refusal("http://host/"), HasSubstr("names no object"));
  EXPECT_THAT(refusal("http:///a"), HasSubstr("names no host"));
  EXPECT_THAT(refusal("http://host:0/a"), HasSubstr("port"));
  EXPECT_THAT(refusal("http://host:99999/a"), HasSubstr("port"));
  EXPECT_THAT(refusal("http://ho st/a"), HasSubstr("no spaces"));
  EXPECT_THAT(refusal("http://host/a\r\nx-evil: 1"), HasSubstr("control characters"));
  EXPECT_THAT(refusal("http://host/a%0"), HasSubstr("hexadecimal"));
  EXPECT_THAT(refusal("http://host/a#b"), HasSubstr("fragment"));
  EXPECT_THAT(refusal("s3://bucket"), HasSubstr("its key"));
  EXPECT_THAT(refusal("s3://b/a"), HasSubstr("its bucket"));
  EXPECT_THAT(refusal("s3://bucket@evil/a"), HasSubstr("its bucket"));
  for (const char* bucket : {"-ucket", "bucket-", ".ucket", "bucket.", "_ucket", "..."})
    EXPECT_THAT(refusal("s3://" + std::string(bucket) + "/a"), HasSubstr("its bucket")) << bucket;
  EXPECT_THAT(refusal("s3://bucket/a?secret=x"), HasSubstr("there is no option secret"));
  EXPECT_THAT(refusal("s3://bucket/a?endpoint=ftp://x"), HasSubstr("its endpoint"));
  EXPECT_THAT(refusal("s3://bucket/a?endpoint=http://x/y"), HasSubstr("has a path"));
  EXPECT_THAT(refusal("s3://bucket/a?region=../x"), HasSubstr("its region"));
  EXPECT_THAT(refusal("http://host/" + std::string(5000, 'a')), HasSubstr("4096"));
}

// It would be in lists of processes and in logs.
TEST_F(ObjectUris, WithAKeyInThemAreRefusedAndNotShown) {
  EXPECT_THAT(refusal("https://user:pass@host/a"), HasSubstr("a user or a password"));
  const std::string why = refusal("https://host/a?X-Amz-Algorithm=x&X-Amz-Signature=cafe");
  EXPECT_THAT(why, HasSubstr("it is signed"));
  EXPECT_THAT(why, Not(HasSubstr("cafe")));
}

}  // namespace faultline::test
