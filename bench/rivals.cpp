#include "bench/rivals.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "bench/figures.h"
#include "bench/handler.h"
#include "bench/image.h"
#include "bench/workload.h"

namespace faultline::bench {

namespace {

constexpr Pattern PATTERNS[] = {Pattern::random, Pattern::sequential, Pattern::clusters,
                                Pattern::sparse, Pattern::scattered,  Pattern::runs};

// Measures one of them, once.
struct Rival {
  std::string name;
  std::function<Measured(Pattern pattern, bool cold)> once;
};

class Rivals {
 public:
  explicit Rivals(const RivalOptions& options)
      : options_(options),
        image_(makeImage(options.directory + "/rivals-image", options.bytes, 0)),
        lazily_(options.directory, image_.path, {}),
        populating_(options.directory, image_.path, {.prefault = true}),
        // A server copies a page for the first read or write alike; the kernel copies a mapped one when it is
        // written.
        rivals_{of("mapped file (reads)", {.kind = Backing::Kind::file}, Touch::read),
                of("mapped file (writes)", {.kind = Backing::Kind::file}, Touch::write),
                of("faultline", populating_.backing(), Touch::read),
                of("faultline (lazily)", lazily_.backing(), Touch::read),
                plain("64 KiB around", "around"),
                plain("single pages", "floor")} {}

  nlohmann::json measure() {
    for (const Pattern pattern : PATTERNS)
      for (const bool cold : {false, true}) measure(pattern, cold);
    fmt::print(stderr, "\n");
    return std::move(rows_);
  }

 private:
  void makeReady(bool cold) const { cold ? makeCold(image_) : makeWarm(image_); }

  Measured touchAll(Pattern pattern, Touch touch, const Backing& backing) const {
    return run({.bytes = image_.dataBytes, .threads = 4, .touch = touch, .pattern = pattern}, image_,
               backing);
  }

  Rival of(const std::string& name, const Backing& backing, Touch touch) const {
    return {name, [this, backing, touch](Pattern pattern, bool cold) {
              makeReady(cold);
              return touchAll(pattern, touch, backing);
            }};
  }

  // Anew each time: it keeps the file in the page cache.
  Rival plain(const std::string& name, const std::string& kind) const {
    return {name, [this, kind](Pattern pattern, bool cold) {
              makeReady(cold);
              const PlainHandler handler(kind, options_.directory, image_.path, Placement::free,
                                         cold ? Readiness::asNeeded : Readiness::resident);
              return touchAll(pattern, Touch::read, handler.backing());
            }};
  }

  void measure(Pattern pattern, bool cold) {
    std::vector<std::function<Measured()>> runs;
    for (const Rival& rival : rivals_)
      runs.push_back([&, pattern, cold] { return rival.once(pattern, cold); });
    const auto results = interleave<Measured>(options_.rounds, runs);
    for (std::size_t i = 0; i < results.size(); i++) put(rivals_[i].name, pattern, cold, results[i]);
    fmt::print(stderr, "\r{} of {} bars", rows_.size(), 2 * std::size(PATTERNS) * rivals_.size());
    std::fflush(stderr);
  }

  void put(const std::string& rival, Pattern pattern, bool cold, const std::vector<Measured>& runs) {
    std::vector<double> seconds, cpu;
    for (const Measured& measured : runs) {
      seconds.push_back(measured.wholeSeconds);
      cpu.push_back(1e6 * measured.serverSecondsATouch());
    }
    const auto [least, most] = std::ranges::minmax(seconds);
    const double usual = median(seconds);
    const std::uint64_t touches = runs.front().touches;
    rows_.push_back({{"pattern", nameOf(pattern)},
                     {"source", cold ? "cold" : "warm"},
                     {"rival", rival},
                     {"seconds", usual},
                     {"least_seconds", least},
                     {"most_seconds", most},
                     {"touches_per_second", static_cast<double>(touches) / usual},
                     {"server_us_a_touch", median(cpu)},
                     {"mib", image_.dataBytes >> 20},
                     {"touches", touches}});
  }

  const RivalOptions options_;
  const BenchImage image_;
  const Faultline lazily_, populating_;
  const std::vector<Rival> rivals_;
  nlohmann::json rows_ = nlohmann::json::array();
};

}  // namespace

nlohmann::json measureRivals(const RivalOptions& options) {
  return Rivals(options).measure();
}

std::string toText(const nlohmann::json& rivals) {
  std::string text = fmt::format("{:<24} {:<5} {:<20} {:>8} {:>17} {:>12} {:>18}\n", "pattern", "image",
                                 "who", "seconds", "of the rounds", "touches/s", "server CPU a page");
  for (const auto& row : rivals) {
    const double cpu = row.at("server_us_a_touch");
    text += fmt::format("{:<24} {:<5} {:<20} {:>8.3f} {:>17} {:>12.0f} {:>18}\n",
                        row.at("pattern").get<std::string>(), row.at("source").get<std::string>(),
                        row.at("rival").get<std::string>(), row.at("seconds").get<double>(),
                        fmt::format("{:.3f} to {:.3f}", row.at("least_seconds").get<double>(),
                                    row.at("most_seconds").get<double>()),
                        row.at("touches_per_second").get<double>(),
                        cpu > 0 ? fmt::format("{:.2f} us", cpu) : "-");
  }
  return text;
}

}  // namespace faultline::bench
