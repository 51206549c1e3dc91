#include "process/build.h"

#include <fcntl.h>
#include <kj/debug.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "process/process.h"
#include "shmtracker/layout.h"

// The upgrade tests make builds that differ here from the one that they are part of.
#ifndef FAULTLINE_TEST_LAYOUT
#define FAULTLINE_TEST_LAYOUT shm::LAYOUT_VERSION
#endif

namespace faultline::process {

namespace {

kj::AutoCloseFd openProgram(const std::string& path) {
  kj::AutoCloseFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  KJ_REQUIRE(fd.get() >= 0, "no program there: give the directory of a whole build", path.c_str(),
             std::strerror(errno));
  struct stat status {};
  KJ_SYSCALL(fstat(fd.get(), &status), path.c_str());
  KJ_REQUIRE(S_ISREG(status.st_mode) && access(path.c_str(), X_OK) == 0,
             "not a program that can be started: give the directory of a whole build", path.c_str());
  return fd;
}

std::string describe(const struct stat& status) {
  std::ostringstream text;
  text << status.st_dev << ':' << status.st_ino << ':' << status.st_mtim.tv_sec << '.'
       << status.st_mtim.tv_nsec;
  return text.str();
}

std::string differ(const char* what, std::uint64_t now, std::uint64_t next) {
  return std::string(what) + " is " + std::to_string(next) + " there and " + std::to_string(now) + " here";
}

}  // namespace

const char* version() {
  return FAULTLINE_VERSION;
}

BuildFacts BuildFacts::own() {
  return {process::version(), PROTOCOL, FAULTLINE_TEST_LAYOUT, shm::layoutHash()};
}

std::string BuildFacts::text() const {
  return "faultline " + version + " protocol " + std::to_string(protocol) + " layout " +
         std::to_string(layoutVersion) + " " + std::to_string(layoutHash) + "\n";
}

std::optional<BuildFacts> BuildFacts::parse(const std::string& text) {
  std::istringstream in(text);
  std::string faultline, protocol, layout, rest;
  BuildFacts facts;
  in >> faultline >> facts.version >> protocol >> facts.protocol >> layout >> facts.layoutVersion >>
      facts.layoutHash;
  const bool good = !in.fail() && !(in >> rest) && faultline == "faultline" && protocol == "protocol" &&
                    layout == "layout" && facts.version.size() <= 64;
  return good ? std::optional(facts) : std::nullopt;
}

int sayBuild() {
  const int to = fcntl(CHANNEL_FD, F_GETFD) >= 0 ? CHANNEL_FD : STDOUT_FILENO;
  const std::string text = BuildFacts::own().text();
  return write(to, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1;
}

std::optional<std::string> whyNotSuccessor(const BuildFacts& now, const BuildFacts& next) {
  const std::string builds = "build " + next.version + " cannot take over from " + now.version + ": ";
  if (next.protocol != now.protocol) return builds + differ("the protocol", now.protocol, next.protocol);
  if (next.layoutVersion != now.layoutVersion)
    return builds + differ("the segment's layout version", now.layoutVersion, next.layoutVersion);
  if (next.layoutHash != now.layoutHash)
    return builds + differ("the segment's layout hash", now.layoutHash, next.layoutHash);
  return std::nullopt;
}

Build Build::open(const std::string& directory) {
  Build build;
  build.directory = directory;
  build.coordinator = openProgram(build.coordinatorPath());
  build.shard = openProgram(build.shardPath());
  if (access(build.fetcherPath().c_str(), F_OK) == 0) build.fetcher = openProgram(build.fetcherPath());
  return build;
}

std::string imageOf(int fd) {
  struct stat status {};
  KJ_SYSCALL(fstat(fd, &status));
  return describe(status);
}

std::string ownImage() {
  struct stat status {};
  KJ_SYSCALL(stat("/proc/self/exe", &status));
  return describe(status);
}

}  // namespace faultline::process
