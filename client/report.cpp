#include "client/report.h"

#include <cstdarg>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

namespace faultline::target {

namespace {

using nlohmann::json;
using Number = unsigned long long;

constexpr std::uint64_t STUCK_NS = 100'000'000;  // longer than this at one page: it is waited for

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

// The place of a byte of a page.
struct Place {
  Number page, byte, address, imageOffset;
};

Place placeOf(const Run& run, const RunOptions& options, std::uint64_t page, std::uint64_t byte) {
  return {page, byte, reinterpret_cast<Number>(run.memory().address(page)) + byte,
          page * options.pageSize + byte};
}

json toJson(const Place& place) {
  return {{"page", place.page},
          {"byte", place.byte},
          {"address", format("0x%llx", place.address)},
          {"image_offset", place.imageOffset}};
}

const char* nameOf(Content content) {
  switch (content) {
    case Content::snapshot:
      return "snapshot";
    case Content::pattern:
      return "written";
    case Content::zeros:
      break;
  }
  return "removed";
}

const char* reasonFor(const Mismatch& mismatch) {
  switch (mismatch.content) {
    case Content::snapshot:
      return mismatch.orZeros ? "the snapshot's, or a zero as it is being given back" : "the snapshot's";
    case Content::pattern:
      return mismatch.orZeros ? "what the target wrote, or a zero as it is being given back"
                              : "what the target wrote";
    case Content::zeros:
      break;
  }
  return "a zero, as the page was given back";
}

void addLatencies(json& out, const std::string& prefix, const LatencyHistogram& latencies) {
  out[prefix + "p50_ns"] = latencies.quantile(0.5);
  out[prefix + "p99_ns"] = latencies.quantile(0.99);
  out[prefix + "p999_ns"] = latencies.quantile(0.999);
  out[prefix + "max_ns"] = latencies.max();
}

json settings(const RunOptions& options) {
  return {{"page_size", options.pageSize},
          {"threads", options.threads},
          {"regions", options.regions},
          {"seed", options.seed}};
}

json figures(const RunOptions& options, const RunResult& result) {
  const double seconds = std::max(result.seconds, 1e-9);
  json out = settings(options);
  out.update({{"pages", result.pages},
              {"from_source", result.fromSource},
              {"zero_in_source", result.zeroInSource},
              {"removed", result.removed},
              {"written", result.written},
              {"given_back", result.givenBack},
              {"seconds", result.seconds},
              {"first_page_ns", result.firstPageNs},
              {"touches_per_second", static_cast<double>(result.touches.count()) / seconds},
              {"faults", result.faults.count()},
              {"faults_per_second", static_cast<double>(result.faults.count()) / seconds},
              {"madvises", result.madvises.count()}});
  addLatencies(out, "", result.touches);
  addLatencies(out, "fault_", result.faults);
  addLatencies(out, "madvise_", result.madvises);
  return out;
}

void row(const char* what, const std::string& value) {
  printf("%-28s %s\n", what, value.c_str());
}

std::string inMicroseconds(const LatencyHistogram& latencies) {
  auto us = [](std::uint64_t ns) { return static_cast<double>(ns) / 1e3; };
  return format("p50 %.1f us, p99 %.1f us, p99.9 %.1f us, at most %.1f us", us(latencies.quantile(0.5)),
                us(latencies.quantile(0.99)), us(latencies.quantile(0.999)), us(latencies.max()));
}

void printText(const RunResult& result, const json& out, const std::string& error) {
  auto count = [](std::uint64_t number) { return format("%llu", static_cast<Number>(number)); };
  row("pages", count(result.pages));
  row("  from the source", count(result.fromSource));
  row("  zero in the source", count(result.zeroInSource));
  row("  removed (given back)", count(result.removed));
  row("  written", count(result.written));
  row("faults", format("%llu, %.0f a second", static_cast<Number>(result.faults.count()),
                       out["faults_per_second"].get<double>()));
  row("fault latency", inMicroseconds(result.faults));
  row("first-touch latency", inMicroseconds(result.touches));
  if (result.madvises.count() > 0) {
    row("given back", format("%llu pages by %llu madvises", static_cast<Number>(result.givenBack),
                             static_cast<Number>(result.madvises.count())));
    row("madvise latency", inMicroseconds(result.madvises));
  }
  row("first page after", format("%.2f ms", static_cast<double>(result.firstPageNs) / 1e6));
  row("verdict", error.empty() ? "every byte is right" : error);
}

std::string describe(const Mismatch& mismatch, const Place& place) {
  return format("page %llu, byte %llu (address 0x%llx, image offset %llu): expected 0x%02x (%s), got 0x%02x",
                place.page, place.byte, place.address, place.imageOffset, mismatch.expected,
                reasonFor(mismatch), mismatch.got);
}

std::string describe(const LostPage& lost, const Place& place) {
  return format("page %llu (address 0x%llx, image offset %llu) %s", place.page, place.address,
                place.imageOffset,
                lost.poisoned ? "is poisoned (SIGBUS): the server could not give it"
                              : "raised SIGBUS: there is no memory for it");
}

std::string describe(const Run& run, const WaitBoard::Waiting& waiting, const Place& place) {
  const double seconds = static_cast<double>(waiting.ns) / 1e9;
  if (waiting.seat == run.givingSeat())
    return format(
        "the giving thread: in madvise, or at, page %llu (address 0x%llx, image offset %llu) for %.1f s",
        place.page, place.address, place.imageOffset, seconds);
  return format("thread %zu: page %llu (address 0x%llx, image offset %llu) for %.1f s", waiting.seat,
                place.page, place.address, place.imageOffset, seconds);
}

}  // namespace

int report(const Run& run, const RunOptions& options, const RunResult& result, Format form) {
  json out = figures(options, result);
  std::string error;
  ExitCode code = OK;
  out["verdict"] = "ok";
  if (result.mismatch.has_value()) {
    const Place place = placeOf(run, options, result.mismatch->page, result.mismatch->byte);
    error = describe(*result.mismatch, place);
    json& found = out["mismatch"] = toJson(place);
    found["expected"] = result.mismatch->expected;
    found["got"] = result.mismatch->got;
    found["content"] = nameOf(result.mismatch->content);
    out["verdict"] = "mismatch";
    code = MISMATCH;
  } else if (result.lostPage.has_value()) {
    const Place place = placeOf(run, options, result.lostPage->page, 0);
    error = describe(*result.lostPage, place);
    out["poisoned"] = toJson(place);
    out["verdict"] = "poisoned";
    code = POISONED;
  }
  if (!error.empty()) out["error"] = error;
  if (form == Format::json)
    printf("%s\n", out.dump().c_str());
  else
    printText(result, out, error);
  return code;
}

int reportTimeout(const Run& run, const RunOptions& options, unsigned seconds, Format form) {
  const Run::Progress progress = run.progress();
  std::string error = format("not done after %u s: %llu of %llu pages %s%s", seconds,
                             static_cast<Number>(progress.pages), static_cast<Number>(run.pages()),
                             progress.phase, run.memory().peerClosed() ? "; the server has gone" : "");
  json out = settings(options);
  out["pages"] = run.pages();
  out["done"] = progress.pages;
  out["waiting"] = json::array();
  for (const WaitBoard::Waiting& waiting : run.waiting(STUCK_NS)) {
    const Place place = placeOf(run, options, waiting.page, 0);
    error += "\n  waits: " + describe(run, waiting, place);
    json one = toJson(place);
    one["ns"] = waiting.ns;
    one["madvise"] = waiting.seat == run.givingSeat();
    out["waiting"].push_back(one);
  }
  if (out["waiting"].empty()) error += "\n  no thread waits for a page: it is slow, not stuck";
  out["verdict"] = "timeout";
  out["error"] = error.substr(0, error.find('\n'));
  if (form == Format::json) printf("%s\n", out.dump().c_str());
  fflush(stdout);
  fprintf(stderr, "faultline-target: %s\n", error.c_str());
  return GONE;
}

}  // namespace faultline::target
