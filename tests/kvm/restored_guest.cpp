#include "tests/kvm/restored_guest.h"

#include <bit>
#include <cstring>

namespace faultline::kvm {

namespace {

constexpr std::uint64_t SMALL = 4096;
// Behind a gap, as a PC has one below 4 GiB.
constexpr std::uint64_t HIGH = 1u << 30;
// Pages that hold program and blocks, or nothing; useOf() begins to count behind them.
constexpr std::uint64_t OWN_PAGES = 8;

std::vector<MemoryPart> partsOf(std::uint64_t low, std::uint64_t high) {
  return {{0, low, 0}, {HIGH, high, low}};
}

}  // namespace

RestoredGuest::RestoredGuest(unsigned vcpus, std::uint64_t pageSize, test::ServerOptions options,
                             std::function<void(std::uint64_t)> beforePage, unsigned layers)
    : pageSize_(pageSize),
      lowPages_(pageSize == SMALL ? 4096 : 16),
      highPages_(pageSize == SMALL ? 2048 : 16),
      image_((lowPages_ + highPages_) * pageSize),
      server_(image_, served(vcpus, std::move(options), layers)),
      memory_(partsOf(lowPages_ * pageSize, highPages_ * pageSize), pageSize),
      vm_(memory_),
      balloon_(memory_, std::move(beforePage)),
      sums_(vcpus) {
  memory_.restoreFrom(server_.socket());
  for (unsigned i = 0; i < vcpus; i++) {
    const std::uint32_t block = GUEST_BLOCKS + i * GUEST_STACK;
    vm_.addVcpu(GUEST_ENTRY, block, block + GUEST_STACK);
  }
}

RestoredGuest::~RestoredGuest() {
  memory_.abandon();
  for (std::future<void>& vcpu : running_)
    if (vcpu.valid()) vcpu.wait();
}

// The snapshot holds the program, and each vCPU's part of the work.
void RestoredGuest::load(unsigned vcpus) {
  image_.write(GUEST_ENTRY, faultline_guest_begin,
               static_cast<std::uint64_t>(faultline_guest_end - faultline_guest_begin));
  for (unsigned i = 0; i < vcpus; i++) {
    const std::pair<std::uint64_t, std::uint64_t> fields[] = {
        {GUEST_FIRST, OWN_PAGES + i}, {GUEST_STEP, vcpus}, {GUEST_END, pages()},
        {GUEST_LOW, lowPages_},       {GUEST_HIGH, HIGH},  {GUEST_SHIFT, std::countr_zero(pageSize_)}};
    for (const auto& [at, value] : fields) {
      const auto word = static_cast<std::uint32_t>(value);
      image_.write(GUEST_BLOCKS + i * GUEST_STACK + at, &word, sizeof word);
    }
  }
}

test::ServerOptions RestoredGuest::served(unsigned vcpus, test::ServerOptions options, unsigned layers) {
  load(vcpus);
  if (layers == 1) return options;
  stack_ = test::Stack::split(image_, layers);
  options.memory = stack_->top().path();
  options.more = stack_->over();
  return options;
}

void RestoredGuest::start() {
  for (unsigned i = 0; i < sums_.size(); i++)
    running_.push_back(std::async(std::launch::async, [this, i] {
      vm_.run(i, [this, i](bool out, std::uint16_t port, std::uint32_t value) {
        return answer(i, out, port, value);
      });
    }));
}

void RestoredGuest::join() {
  for (std::future<void>& vcpu : running_) vcpu.get();
}

std::uint32_t RestoredGuest::answer(unsigned vcpu, bool out, std::uint16_t port, std::uint32_t value) {
  if (out && port == GUEST_PORT_GIVE_BACK) {
    balloon_.give(value);
  } else if (!out && port == GUEST_PORT_SETTLED) {
    balloon_.settle();
  } else if (out && port == GUEST_PORT_SUM) {
    sums_[vcpu] = value;
  } else if (out && port == GUEST_PORT_STALE) {
    const threads::Lock lock(mutex_);
    stale_.push_back(value < HIGH ? value / pageSize_ : lowPages_ + (value - HIGH) / pageSize_);
  } else {
    throw std::runtime_error("the guest uses a port that there is not: " + std::to_string(port));
  }
  return 0;
}

std::vector<std::uint64_t> RestoredGuest::stalePages() const {
  const threads::Lock lock(mutex_);
  return stale_;
}

void RestoredGuest::takeAway(std::uint64_t page) {
  takenAway_.insert(page);
  balloon_.give(addressOf(page));
  balloon_.settle();
}

std::uint64_t RestoredGuest::addressOf(std::uint64_t page) const {
  return page < lowPages_ ? page * pageSize_ : HIGH + (page - lowPages_) * pageSize_;
}

std::uint64_t RestoredGuest::serverPage(std::uint64_t page) const {
  const bool low = page < lowPages_;
  const bool lowFirst = memory_.host(0) < memory_.host(HIGH);
  if (low) return lowFirst ? page : highPages_ + page;
  return lowFirst ? page : page - lowPages_;
}

std::uint32_t RestoredGuest::expectedSum(unsigned vcpu) const {
  std::uint32_t sum = 0;
  for (std::uint64_t page = OWN_PAGES + vcpu; page < pages(); page += sums_.size()) {
    if (useOf(page) == Use::givenBackUntouched) continue;
    for (unsigned i = 0; i < GUEST_WORDS; i++) {
      std::uint32_t word = 0;
      if (takenAway_.count(page) == 0)
        std::memcpy(&word, image_.data() + page * pageSize_ + i * (pageSize_ / GUEST_WORDS), sizeof word);
      sum = std::rotl(sum, 1) + word;
    }
  }
  return sum;
}

std::vector<unsigned char> RestoredGuest::expectedPage(std::uint64_t page) const {
  const char* snapshot = image_.data() + page * pageSize_;
  std::vector<unsigned char> bytes(snapshot, snapshot + pageSize_);
  if (page < OWN_PAGES) return bytes;
  const Use use = useOf(page);
  if (use == Use::givenBackAfterRead || use == Use::givenBackUntouched || takenAway_.count(page) != 0)
    std::fill(bytes.begin(), bytes.end(), 0);
  if (use == Use::readOnly) return bytes;
  const auto number = static_cast<std::uint32_t>(page);
  std::memcpy(bytes.data() + 4, &number, sizeof number);
  return bytes;
}

std::uint64_t RestoredGuest::firstWrongPage() const {
  for (std::uint64_t page = 0; page < pages(); page++) {
    std::vector<unsigned char> expected = expectedPage(page);
    const unsigned char* real = memory_.host(addressOf(page));
    // The vCPUs' stacks are theirs.
    const std::uint64_t stacks = GUEST_BLOCKS / pageSize_;
    if (page == stacks) {
      const std::uint64_t at = GUEST_BLOCKS % pageSize_;
      std::memcpy(expected.data() + at, real + at, sums_.size() * GUEST_STACK);
    }
    if (std::memcmp(expected.data(), real, pageSize_) != 0) return page;
  }
  return pages();
}

}  // namespace faultline::kvm
