#include "bench/nbd.h"

#include <fcntl.h>
#include <libnbd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <thread>

#include "bench/figures.h"
#include "process/clock.h"
#include "threads/mutex.h"

namespace faultline::bench {

namespace {

constexpr std::uint64_t READ = 64u << 10, START_NS = 10'000'000'000;

using Nbd = std::unique_ptr<nbd_handle, void (*)(nbd_handle*)>;

Nbd connected(const std::string& uri) {
  Nbd nbd(nbd_create(), nbd_close);
  if (nbd == nullptr || nbd_connect_uri(nbd.get(), uri.c_str()) != 0)
    throw std::runtime_error("libnbd: " + uri + ": " + nbd_get_error());
  return nbd;
}

std::string freshSocket(const std::string& directory) {
  static unsigned number = 0;
  return std::filesystem::absolute(directory).string() + "/nbd-" + std::to_string(getpid()) + "-" +
         std::to_string(++number);
}

}  // namespace

std::string NbdKit::whyNot() {
  for (const char* program : {"nbdkit", "nbdcopy"})
    if (std::system(
            ("PATH=$PATH:/usr/sbin:/sbin; command -v " + std::string(program) + " >/dev/null").c_str()) != 0)
      return std::string(program) + " is missing (./scripts/deps)";
  return "";
}

NbdKit::NbdKit(const std::string& directory, const std::string& file, unsigned delayMs, unsigned threads)
    : socket_(freshSocket(directory)) {
  std::vector<std::string> command = {"nbdkit", "-f", "-r", "-U", socket_, "-t", std::to_string(threads)};
  if (delayMs != 0) command.emplace_back("--filter=delay");
  command.insert(command.end(), {"file", file});
  if (delayMs != 0) command.push_back("rdelay=" + std::to_string(delayMs) + "ms");
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  const int error = posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::runtime_error("nbdkit cannot be started");
  for (const std::uint64_t from = process::nowNs();; usleep(1000)) {
    try {
      connected(uri());
      return;
    } catch (const std::runtime_error&) {
      if (process::nowNs() - from < START_NS && waitpid(pid_, nullptr, WNOHANG) == 0) continue;
      kill(pid_, SIGKILL);
      throw;
    }
  }
}

NbdKit::~NbdKit() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  unlink(socket_.c_str());
}

BareReads readBarely(const std::string& uri, const std::vector<std::uint64_t>& offsets, unsigned threads) {
  std::barrier together(static_cast<std::ptrdiff_t>(threads) + 1);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  struct {
    threads::Mutex mutex;
    std::vector<double> us GUARDED_BY(mutex);
  } all;
  std::vector<std::thread> readers;
  std::vector<Nbd> connections;
  for (unsigned i = 0; i < threads; i++) connections.push_back(connected(uri));
  for (unsigned i = 0; i < threads; i++)
    readers.emplace_back([&, nbd = connections[i].get()] {
      std::vector<char> bytes(READ);
      std::vector<double> own;
      together.arrive_and_wait();
      for (std::size_t at; (at = next++) < offsets.size();) {
        const std::uint64_t before = process::nowNs();
        if (nbd_pread(nbd, bytes.data(), READ, offsets[at], 0) != 0) failed = true;
        own.push_back(static_cast<double>(process::nowNs() - before) * 1e-3);
      }
      const threads::Lock lock(all.mutex);
      all.us.insert(all.us.end(), own.begin(), own.end());
    });
  together.arrive_and_wait();
  const std::uint64_t from = process::nowNs();
  for (std::thread& reader : readers) reader.join();
  const double seconds = static_cast<double>(process::nowNs() - from) * 1e-9;
  const threads::Lock lock(all.mutex);
  if (failed || all.us.empty()) throw std::runtime_error("libnbd cannot read " + uri);
  return {median(all.us), seconds};
}

}  // namespace faultline::bench
