#include "supervisor/programs.h"

#include <utility>

#include "process/duplicate.h"

namespace faultline::supervisor {

namespace {

SharedFd shared(const kj::AutoCloseFd& fd) {
  return std::make_shared<const kj::AutoCloseFd>(process::duplicate(fd.get()));
}

}  // namespace

Programs::Programs(const std::string& executable, const std::optional<process::Build>& build)
    : now_{executable, nullptr, nullptr, nullptr} {
  if (!build.has_value()) return;
  now_ = {build->coordinatorPath(), shared(build->coordinator), shared(build->shard),
          build->fetcher.get() < 0 ? nullptr : shared(build->fetcher)};
}

void Programs::offer(const std::string& part, kj::AutoCloseFd program) {
  SharedFd& of = part == "shard" ? next_.shard : part == "fetcher" ? next_.fetcher : next_.coordinator;
  of = std::make_shared<const kj::AutoCloseFd>(kj::mv(program));
}

bool Programs::begin(const std::string& directory) {
  if (next_.coordinator == nullptr || next_.shard == nullptr || step_ != Step::none) return false;
  former_ = std::exchange(now_, std::exchange(next_, {}));
  now_.executable = directory + "/faultline-coordinator";
  step_ = Step::leaving;
  givenUp_.clear();
  return true;
}

void Programs::served() {
  if (!starting()) return;
  step_ = Step::none;
  former_ = {};
}

void Programs::goBack(const std::string& why) {
  givenUp_ = now_.executable + " could not take over: " + why;
  now_ = std::exchange(former_, {});
  step_ = Step::none;
}

}  // namespace faultline::supervisor
