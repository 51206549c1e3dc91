#include "cli/progress.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/common.h"

namespace faultline::cli {

namespace {

nlohmann::json toJson(rpc::RestoreInfo::Reader info) {
  return {{"restore", info.getName().cStr()}, {"pages", info.getPages()},     {"missing", info.getMissing()},
          {"faulted", info.getFaulted()},     {"removed", info.getRemoved()}, {"age_ns", info.getAgeNs()},
          {"target_pid", info.getTargetPid()}};
}

std::string line(rpc::RestoreInfo::Reader info, double pagesPerSecond) {
  const double done =
      100.0 * static_cast<double>(info.getPages() - info.getMissing()) / static_cast<double>(info.getPages());
  char text[200];
  snprintf(text, sizeof text, "%s: %5.1f %%  %llu of %llu pages in place, %llu given back, %.0f pages/s, %s",
           info.getName().cStr(), done, static_cast<unsigned long long>(info.getFaulted()),
           static_cast<unsigned long long>(info.getPages()),
           static_cast<unsigned long long>(info.getRemoved()), pagesPerSecond,
           humanNs(info.getAgeNs()).c_str());
  return text;
}

}  // namespace

Progress::Progress(Output output) : output_(output), terminal_(output == Output::people && isTerminal()) {}

void Progress::print(const std::string& text, bool last) {
  if (terminal_)
    printf("\r\033[K%s%s", text.c_str(), last ? "\n" : "");
  else
    printf("%s\n", text.c_str());
  fflush(stdout);
}

void Progress::show(rpc::RestoreInfo::Reader info) {
  if (output_ == Output::json) {
    auto json = toJson(info);
    json["event"] = "progress";
    return print(json.dump(), false);
  }
  const double seconds = static_cast<double>(info.getAgeNs() - lastAge_) / 1e9;
  const double pages =
      lastMissing_ > info.getMissing() ? static_cast<double>(lastMissing_ - info.getMissing()) : 0;
  print(line(info, lastAge_ == 0 || seconds <= 0 ? 0 : pages / seconds), false);
  lastAge_ = info.getAgeNs();
  lastMissing_ = info.getMissing();
}

void Progress::finish(rpc::RestoreInfo::Reader info, const std::string& reason) {
  if (output_ == Output::json) {
    auto json = toJson(info);
    json["event"] = "end";
    json["reason"] = reason;
    return print(json.dump(), true);
  }
  const double seconds = static_cast<double>(info.getAgeNs()) / 1e9;
  print(line(info, static_cast<double>(info.getFaulted()) / seconds), true);
  print(std::string(info.getName().cStr()) + ": " + reason, true);
}

void Progress::say(const std::string& text) {
  if (output_ == Output::json)
    print(nlohmann::json{{"event", "note"}, {"text", text}}.dump(), true);
  else
    print(text, true);
}

}  // namespace faultline::cli
