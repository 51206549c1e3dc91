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
    : now_{executable, nullptr, nullptr} {
  if (build.has_value()) now_ = {build->coordinatorPath(), shared(build->coordinator), shared(build->shard)};
}

void Programs::offer(const std::string& part, kj::AutoCloseFd program) {
  (part == "shard" ? next_.shard : next_.coordinator) =
      std::make_shared<const kj::AutoCloseFd>(kj::mv(program));
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
