#include "rpc/convert.h"

#include <capnp/schema.h>
#include <gtest/gtest.h>

namespace faultline::rpc {
namespace {

EndReason reason(std::size_t number) {
  return static_cast<EndReason>(number);
}

// A reason that is added to the schema is one of a failure, without a change of code.
TEST(EndReasons, ThoseFromPageLostOnAreFailures) {
  const std::size_t count = capnp::Schema::from<EndReason>().getEnumerants().size();
  for (std::size_t i = 0; i < count; i++)
    EXPECT_EQ(isFailure(reason(i)), reason(i) >= EndReason::PAGE_LOST) << i;
  EXPECT_FALSE(isFailure(reason(count))) << "this build does not know it";
  EXPECT_FALSE(isFailure(reason(0xffff)));
}

}  // namespace
}  // namespace faultline::rpc
