#include "bench/bulk.h"

#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <barrier>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "bench/figures.h"
#include "faultline_client.h"
#include "process/clock.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t SOURCE =
    64u << 20;  // bytes that are copied again and again: resident, not in the CPU's cache

}  // namespace

double bulkCopy(unsigned threads, std::uint64_t callBytes, std::uint64_t bytes, std::uint64_t pageSize,
                Placement placement) {
  char why[256];
  faultline_target* target;
  const faultline_region region{bytes, 0, pageSize};
  if (faultline_target_open(&region, 1, FAULTLINE_NO_REMOVE, &target, why, sizeof why) != 0)
    throw std::runtime_error(why);
  char* memory = static_cast<char*>(faultline_target_address(target, 0));
  const int uffd = faultline_target_uffd(target);
  void* source =
      mmap(nullptr, SOURCE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (source == MAP_FAILED) throw std::runtime_error("no memory for a source");
  std::memset(source, 0x5a, SOURCE);

  const cpu_set_t cpus = handlerCpus(placement);
  std::atomic<int> error{0};
  std::barrier together(static_cast<std::ptrdiff_t>(threads) + 1);
  std::vector<std::thread> running;
  for (unsigned t = 0; t < threads; t++)
    running.emplace_back([&, t] {
      pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
      together.arrive_and_wait();
      const std::uint64_t calls = bytes / callBytes;
      for (std::uint64_t call = calls * t / threads; call < calls * (t + 1) / threads; call++) {
        // A signal, or the scheduler, may cut a long call short: EAGAIN, and `copy` says how far it came.
        for (std::uint64_t done = 0; done < callBytes;) {
          uffdio_copy copy{};
          copy.dst = reinterpret_cast<std::uint64_t>(memory) + call * callBytes + done;
          copy.src = reinterpret_cast<std::uint64_t>(source) + (call * callBytes + done) % SOURCE;
          copy.len = callBytes - done;
          if (ioctl(uffd, UFFDIO_COPY, &copy) != 0 && copy.copy <= 0) {
            error.store(errno);
            return;
          }
          done += static_cast<std::uint64_t>(copy.copy);
        }
      }
    });
  const std::uint64_t before = process::nowNs();
  together.arrive_and_wait();
  for (std::thread& thread : running) thread.join();
  const std::uint64_t took = process::nowNs() - before;
  munmap(source, SOURCE);
  faultline_target_close(target);
  if (error.load() != 0) throw std::runtime_error(std::string("UFFDIO_COPY: ") + std::strerror(error.load()));
  return static_cast<double>(bytes) / static_cast<double>(1u << 30) / (static_cast<double>(took) * 1e-9);
}

namespace {
constexpr std::array BULK_THREADS = {1u, 2u};
constexpr std::array<std::uint64_t, 4> BULK_CALLS = {4u << 10, 16u << 10, 64u << 10, 2u << 20};
}  // namespace

BulkTable measureBulk(unsigned rounds, std::uint64_t bytes) {
  std::map<std::pair<unsigned, std::uint64_t>, std::vector<double>> figures;
  for (unsigned round = 0; round < rounds; round++)
    for (const unsigned threads : BULK_THREADS)
      for (const std::uint64_t call : BULK_CALLS)
        figures[{threads, call}].push_back(bulkCopy(threads, call, bytes, 4096, Placement::free));
  BulkTable table;
  for (auto& [cell, values] : figures) table[cell] = median(std::move(values));
  return table;
}

void print(const BulkTable& table) {
  fmt::print("{:<10}", "call");
  for (const unsigned threads : BULK_THREADS) fmt::print("{:>14}", fmt::format("{} thread(s)", threads));
  fmt::print("\n");
  for (const std::uint64_t call : BULK_CALLS) {
    fmt::print("{:<10}", fmt::format("{} KiB", call >> 10));
    for (const unsigned threads : BULK_THREADS)
      fmt::print("{:>14}", fmt::format("{:.3g} GiB/s", table.at({threads, call})));
    fmt::print("\n");
  }
}

}  // namespace faultline::bench
