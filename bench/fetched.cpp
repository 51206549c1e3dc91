#include "bench/fetched.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kj/io.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "bench/figures.h"
#include "process/clock.h"
#include "process/process.h"
#include "rpc/fetch_ring.h"

namespace faultline::bench {

ProgramBytes::ProgramBytes(const std::string& directory, std::uint64_t bytes)
    : path_(directory + "/program-bytes") {
  std::ofstream out(path_, std::ios::binary);
  std::error_code error;
  std::vector<char> content;
  using Walk = std::filesystem::recursive_directory_iterator;
  for (Walk it("/usr/lib", std::filesystem::directory_options::skip_permission_denied, error), end;
       !error && it != end && bytes > 0; it.increment(error)) {
    if (!it->is_regular_file(error) || it->is_symlink(error)) continue;
    content.resize(std::min(it->file_size(error), bytes));
    std::ifstream in(it->path(), std::ios::binary);
    in.read(content.data(), static_cast<std::streamsize>(content.size()));
    out.write(content.data(), in.gcount());
    bytes -= static_cast<std::uint64_t>(in.gcount());
  }
  if (bytes > 0 || !out.flush()) throw std::runtime_error("no program bytes for " + path_);
}

ProgramBytes::~ProgramBytes() {
  std::error_code ignored;
  for (const char* more : {"", ".packed", ".zst"}) std::filesystem::remove(path_ + more, ignored);
}

void finish(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  if (error != 0 || waitpid(pid, &status, 0) != pid || status != 0)
    throw std::runtime_error(command.front() + " fails");
}

void pack(const std::string& memory, const std::string& packed) {
  finish({process::siblingExecutable("faultline"), "pack", "--force", memory, packed});
}

int cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  return std::max(CPU_COUNT(&set), 1);
}

double secondsOfWriting(const std::string& path, std::uint64_t bytes) {
  constexpr std::uint64_t PIECE = 2u << 20;
  const kj::AutoCloseFd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  const std::vector<std::byte> content(PIECE, std::byte{0x5a});
  const std::uint64_t begin = process::nowNs();
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(cpus()));
  for (int i = 0; i < cpus(); i++)
    threads.emplace_back([&] {
      for (std::uint64_t at; (at = PIECE * next++) < bytes;) {
        const std::uint64_t size = std::min(PIECE, bytes - at);
        if (pwrite(file.get(), content.data(), size, static_cast<off_t>(at)) != static_cast<ssize_t>(size))
          failed = true;
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (failed) throw std::runtime_error("cannot write " + path);
  return static_cast<double>(process::nowNs() - begin) * 1e-9;
}

double handOver() {
  using Ring = rpc::FetchRing;
  constexpr unsigned QUESTIONS = 2000;
  constexpr std::uint64_t LONG = 1'000'000'000;  // ns
  const kj::AutoCloseFd memory = Ring::create();
  const pid_t answerer = fork();
  if (answerer < 0) throw std::runtime_error("cannot fork");
  if (answerer == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Ring ring = Ring::attach(memory.get());
    for (;;) {
      const std::uint32_t seen = ring.doorbell();
      if (const auto question = ring.take(Ring::Purpose::fault))
        ring.answerKept(*question);
      else
        ring.awaitQuestion(seen, LONG);
    }
  }
  Ring ring = Ring::attach(memory.get());
  std::vector<double> us;
  for (unsigned i = 0; i < QUESTIONS; i++) {
    const std::uint64_t before = process::nowNs();
    ring.ask(0, 0, i, Ring::Purpose::fault);
    if (ring.await(0, 0, before + LONG).kind == Ring::Answer::Kind::kept)
      us.push_back(static_cast<double>(process::nowNs() - before) * 1e-3);
    ring.release(0, 0);
  }
  kill(answerer, SIGKILL);
  waitpid(answerer, nullptr, 0);
  if (us.size() < QUESTIONS / 2) throw std::runtime_error("a fetch ring gives no answers");
  return median(us);
}

std::uint64_t fetchedBytes(const Faultline& server) {
  const auto client = server.connect();
  auto response = client->wait(client->coordinator().statusRequest().send());
  std::uint64_t bytes = 0;
  for (auto engine : response.getService().getFetcher().getEngines()) bytes += engine.getBytes();
  return bytes;
}

}  // namespace faultline::bench
