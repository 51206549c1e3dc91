#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/format.h"
#include "process/plain_text.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds TERMINAL_INTERVAL{200}, INTERVAL{1000};

json toJson(const char* event, const RestoreView& view, const Rates& rates) {
  return {{"event", event},
          {"restore", view.name},
          {"phase", phaseName(view.phase)},
          {"target_pid", view.targetPid},
          {"pages", view.pages},
          {"missing", view.missing},
          {"faulted", view.faulted},
          {"removed", view.removed},
          {"released", view.released},
          {"poisoned", view.poisoned},
          {"faults", view.faults},
          {"age_ns", view.ageNs},
          {"pages_per_second", rates.pages},
          {"bytes_per_second", rates.bytes},
          {"faults_per_second", rates.faults}};
}

// Whatever bytes a path, or a peer's message that is quoted, has: in ASCII no terminal takes it for a command.
std::string jsonLine(const json& object) {
  return object.dump(-1, ' ', true, json::error_handler_t::replace);
}

std::string line(const RestoreView& view, const Rates& rates) {
  char text[256];
  snprintf(text, sizeof text,
           "%s: %5.1f %%  %llu pages in place, %llu given back, %llu missing, %.0f faults/s, %s/s, %s",
           view.name.c_str(), view.donePercent(), static_cast<unsigned long long>(view.faulted),
           static_cast<unsigned long long>(view.removed), static_cast<unsigned long long>(view.missing),
           rates.faults, humanBytes(static_cast<std::uint64_t>(rates.bytes)).c_str(),
           humanNs(view.ageNs).c_str());
  return text;
}

// A line that wraps cannot be rewritten.
std::string fitted(std::string text) {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 && text.size() >= size.ws_col)
    text.resize(size.ws_col - 1u);

  return text;
}

}  // namespace

Progress::Progress(Output output) : output_(output), terminal_(output == Output::people && isTerminal()) {}

void Progress::print(const std::string& text, bool stays) {
  const std::string plain = process::plainText(text);
  if (terminal_)
    printf("\r\033[K%s%s", stays ? plain.c_str() : process::plainText(fitted(plain)).c_str(),
           stays ? "\n" : "");
  else
    printf("%s\n", plain.c_str());
  fflush(stdout);
}

void Progress::show(const RestoreView& view) {
  const auto now = std::chrono::steady_clock::now();
  if (last_.has_value() && now - shownAt_ < (terminal_ ? TERMINAL_INTERVAL : INTERVAL)) return;
  shownAt_ = now;
  const Rates rates = ratesBetween(last_.has_value() ? &*last_ : nullptr, view);
  print(output_ == Output::json ? jsonLine(toJson("progress", view, rates)) : line(view, rates), false);
  last_ = view;
}

void Progress::finish(const RestoreView& view, rpc::EndReason reason, const std::string& text) {
  const Rates rates = ratesBetween(nullptr, view);
  if (output_ == Output::json) {
    json summary = toJson("end", view, rates);
    summary["reason"] = rpc::nameOf(reason);
    summary["text"] = text;
    summary["fault_p50_ns"] = view.latency.quantile(0.5);
    summary["fault_p99_ns"] = view.latency.quantile(0.99);
    return print(jsonLine(summary), true);
  }
  print(line(view, rates), true);
  if (view.latency.samples() > 0)
    print(view.name + ": " + std::to_string(view.faults) + " faults, answered within " +
              humanNs(view.latency.quantile(0.5)) + " (p50), " + humanNs(view.latency.quantile(0.99)) +
              " (p99)",
          true);
  print(view.name + ": " + text, true);
}

void Progress::say(const std::string& text) {
  print(output_ == Output::json ? jsonLine({{"event", "note"}, {"text", text}}) : text, true);
}

}  // namespace faultline::cli
