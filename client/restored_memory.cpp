#include "client/restored_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

namespace faultline::target {

namespace {

constexpr std::uint64_t HUGE_PAGE = 2 << 20;

const std::filesystem::path POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB";

std::uint64_t poolNumber(const char* name) {
  std::uint64_t number = 0;
  std::ifstream(POOL / name) >> number;
  return number;
}

// Every page will be touched, and memory that is not reserved is not refused where it is mapped.
void requireHugePages(std::uint64_t pages) {
  if (!std::filesystem::exists(POOL)) return;  // /sys is missing, as in some containers
  const std::uint64_t free = poolNumber("free_hugepages") + poolNumber("nr_overcommit_hugepages");
  const std::uint64_t taken = poolNumber("resv_hugepages") + poolNumber("surplus_hugepages");
  const std::uint64_t available = free > taken ? free - taken : 0;
  if (available >= pages) return;
  throw EnvironmentError(std::to_string(pages) + " huge pages of 2 MiB are needed, " +
                         std::to_string(available) + " are free; echo " +
                         std::to_string(poolNumber("nr_hugepages") + pages - available) +
                         " > /proc/sys/vm/nr_hugepages");
}

}  // namespace

RestoredMemory::RestoredMemory(const Image& image, unsigned regions, unsigned flags, std::uint64_t seed)
    : pageSize_(image.pageSize()) {
  if (regions > image.pages())
    throw UsageError("the image has " + std::to_string(image.pages()) + " pages: too few for " +
                     std::to_string(regions) + " regions");
  if (pageSize_ == HUGE_PAGE) requireHugePages(image.pages());
  std::uint64_t page = 0;
  for (unsigned i = 0; i < regions; i++) {
    const std::uint64_t pages = image.pages() / regions + (i < image.pages() % regions ? 1 : 0);
    byPage_.push_back({page, 0, pages, nullptr});
    page += pages;
  }
  // Mapped one after the other in this order, so the addresses are, too.
  std::vector<Part*> order;
  order.reserve(byPage_.size());
  for (Part& part : byPage_) order.push_back(&part);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
  std::vector<faultline_region> specs;
  specs.reserve(order.size());
  for (const Part* part : order)
    specs.push_back({part->pages * pageSize_, part->firstPage * pageSize_, pageSize_});
  char why[256];
  if (faultline_target_open(specs.data(), specs.size(), flags, &target_, why, sizeof why) != 0)
    throw EnvironmentError(why);
  for (std::size_t i = 0; i < order.size(); i++)
    order[i]->address = static_cast<char*>(faultline_target_address(target_, i));

  std::sort(order.begin(), order.end(), [](const Part* a, const Part* b) { return a->address < b->address; });
  std::uint64_t slot = 0;
  for (Part* part : order) {
    part->firstSlot = slot;
    slot += part->pages;
    byAddress_.push_back(*part);
  }
}

RestoredMemory::~RestoredMemory() {
  faultline_target_close(target_);
}

void RestoredMemory::connect(const std::string& socket, unsigned timeoutMs) {
  char why[256];
  if (faultline_target_connect(target_, socket.c_str(), timeoutMs, why, sizeof why) != 0)
    throw EnvironmentError(why);
  connected_.store(true);
}

const RestoredMemory::Part& RestoredMemory::partOfPage(std::uint64_t page) const {
  const auto behind = std::upper_bound(byPage_.begin(), byPage_.end(), page,
                                       [](std::uint64_t p, const Part& part) { return p < part.firstPage; });
  return *std::prev(behind);
}

std::size_t RestoredMemory::partAtSlot(std::uint64_t slot) const {
  const auto behind = std::upper_bound(byAddress_.begin(), byAddress_.end(), slot,
                                       [](std::uint64_t s, const Part& part) { return s < part.firstSlot; });
  return static_cast<std::size_t>(behind - byAddress_.begin()) - 1;
}

char* RestoredMemory::address(std::uint64_t page) const {
  const Part& part = partOfPage(page);
  return part.address + (page - part.firstPage) * pageSize_;
}

std::uint64_t RestoredMemory::pageAt(std::uint64_t slot) const {
  const Part& part = byAddress_[partAtSlot(slot)];
  return part.firstPage + (slot - part.firstSlot);
}

std::uint64_t RestoredMemory::slotOf(std::uint64_t page) const {
  const Part& part = partOfPage(page);
  return part.firstSlot + (page - part.firstPage);
}

std::uint64_t RestoredMemory::contiguous(std::uint64_t slot, std::uint64_t most) const {
  std::size_t i = partAtSlot(slot);
  std::uint64_t end = byAddress_[i].firstSlot + byAddress_[i].pages;
  while (end - slot < most && i + 1 < byAddress_.size() &&
         byAddress_[i].address + byAddress_[i].pages * pageSize_ == byAddress_[i + 1].address)
    end += byAddress_[++i].pages;
  return std::min(most, end - slot);
}

}  // namespace faultline::target
