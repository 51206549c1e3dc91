#include "rpc/rbd_uri.h"

#include <gmock/gmock.h>

#include <string>

#include "tests/support/refusal.h"

namespace faultline::test {

namespace {

using rpc::BadUri;
using rpc::RbdUri;
using testing::HasSubstr;

std::string refusal(const std::string& text) {
  return refusalOf<BadUri>([&] { RbdUri::parse(text); });
}

}  // namespace

TEST(RbdUris, SayWhatTheyName) {
  const RbdUri uri = RbdUri::parse("rbd:pool/vm%201@snap");
  EXPECT_EQ(uri.pool, "pool");
  EXPECT_EQ(uri.nameSpace, "");
  EXPECT_EQ(uri.image, "vm 1");
  EXPECT_EQ(uri.snapshot, "snap");
  EXPECT_EQ(uri.id, "admin");
  const RbdUri more = RbdUri::parse("rbd:pool/tenant/vm@snap?conf=/etc/c.conf&id=faultline&keyring=/etc/k");
  EXPECT_EQ(more.nameSpace, "tenant");
  EXPECT_EQ(more.conf, "/etc/c.conf");
  EXPECT_EQ(more.id, "faultline");
  EXPECT_EQ(more.keyring, "/etc/k");
}

TEST(RbdUris, ThatMakeNoSenseAreRefusedWithTheReason) {
  EXPECT_THAT(refusal("nbd:pool/vm@snap"), HasSubstr("give rbd:POOL/IMAGE@SNAPSHOT"));
  EXPECT_THAT(refusal("rbd:pool/vm"), HasSubstr("it names no snapshot"));
  EXPECT_THAT(refusal("rbd:pool/vm@"), HasSubstr("its snapshot is no name"));
  EXPECT_THAT(refusal("rbd:vm@snap"), HasSubstr("it names no pool and image"));
  EXPECT_THAT(refusal("rbd:a/b/c/d@snap"), HasSubstr("it names no pool and image"));
  EXPECT_THAT(refusal("rbd:pool/@snap"), HasSubstr("it names no pool and image"));
  EXPECT_THAT(refusal("rbd:pool/vm@snap?mon_host=evil"), HasSubstr("there is no option mon_host"));
  EXPECT_THAT(refusal("rbd:pool/vm@snap?conf=here"), HasSubstr("absolute path"));
  EXPECT_THAT(refusal("rbd:pool/vm%00@snap"), HasSubstr("its image is no name"));
}

}  // namespace faultline::test
