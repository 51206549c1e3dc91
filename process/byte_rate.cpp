#include "process/byte_rate.h"

#include <algorithm>

namespace faultline::process {

namespace {

constexpr std::uint64_t SECOND = 1'000'000'000;  // ns
constexpr std::uint64_t CREDIT = SECOND / 50;    // ns that may pass unused and are still made up for
constexpr std::uint64_t PORTIONS_A_SECOND = 50;  // portions of a worker
constexpr std::uint64_t ANY = ~std::uint64_t{0};

}  // namespace

void ByteRate::limit(std::uint64_t bytesPerSecond) {
  const threads::Lock lock(mutex_);
  limit_ = bytesPerSecond;
  if (limit_ == 0) paidAt_ = 0;
}

std::uint64_t ByteRate::timeOf(std::uint64_t bytes) const {
  return static_cast<std::uint64_t>(static_cast<double>(bytes) / static_cast<double>(limit_) * SECOND);
}

void ByteRate::took(std::uint64_t bytes, std::uint64_t now) {
  const threads::Lock lock(mutex_);
  if (limit_ == 0) return;
  paidAt_ = std::max(paidAt_, now - std::min(now, CREDIT)) + timeOf(bytes);
}

std::uint64_t ByteRate::tryTake(std::uint64_t bytes, std::uint64_t now) {
  const threads::Lock lock(mutex_);
  if (limit_ == 0) return 0;
  if (paidAt_ > now) return paidAt_ - now;
  paidAt_ = std::max(paidAt_, now - std::min(now, CREDIT)) + timeOf(bytes);
  return 0;
}

void ByteRate::gaveBack(std::uint64_t bytes) {
  const threads::Lock lock(mutex_);
  if (limit_ != 0) paidAt_ -= std::min(paidAt_, timeOf(bytes));
}

std::uint64_t ByteRate::wait(std::uint64_t now) const {
  const threads::Lock lock(mutex_);
  return paidAt_ > now ? paidAt_ - now : 0;
}

std::uint64_t ByteRate::portion() const {
  const threads::Lock lock(mutex_);
  return limit_ == 0 ? ANY : limit_ / PORTIONS_A_SECOND;
}

}  // namespace faultline::process
