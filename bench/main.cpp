// faultline-bench: how fast faultline is, next to what the kernel allows and next to other handlers.

#include <fmt/format.h>
#include <kj/exception.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/aims.h"
#include "bench/bulk.h"
#include "bench/call_per_fault.h"
#include "bench/floor.h"
#include "bench/handler.h"
#include "bench/image.h"
#include "bench/matrix.h"
#include "bench/rivals.h"
#include "bench/slow_file.h"
#include "bench/workload.h"

namespace {

using namespace faultline::bench;

const std::map<std::string, Placement> PLACEMENTS = {
    {"one", Placement::oneCpu}, {"across", Placement::across}, {"free", Placement::free}};
const std::map<std::string, Touch> TOUCHES = {{"read", Touch::read},
                                              {"write", Touch::write},
                                              {"zero", Touch::zero},
                                              {"zero-write", Touch::zeroWrite},
                                              {"removed", Touch::removed}};
const std::map<std::string, Pattern> PATTERNS = {
    {"random", Pattern::random}, {"sequential", Pattern::sequential}, {"clusters", Pattern::clusters},
    {"sparse", Pattern::sparse}, {"scattered", Pattern::scattered},   {"runs", Pattern::runs}};

void addPlainHandler(CLI::App& app, const std::string& name, const std::string& description,
                     void (*serve)(const std::string&, const std::string&, Readiness)) {
  struct Paths {
    std::string socket, memory;
    bool cold = false;
  };
  auto paths = std::make_shared<Paths>();
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("--socket", paths->socket, "Where to listen for handshakes")->required();
  command->add_option("--memory", paths->memory, "The memory file")->required();
  command->add_flag("--cold", paths->cold, "Do not read the memory file beforehand");
  command->callback([paths, serve] {
    serve(paths->socket, paths->memory, paths->cold ? Readiness::asNeeded : Readiness::resident);
  });
}

void addImage(CLI::App& app) {
  struct Spec {
    std::string path;
    std::uint64_t mebibytes = 1024, hole = 64;
  };
  auto spec = std::make_shared<Spec>();
  CLI::App* command = app.add_subcommand("image", "Write the memory file that `client` restores");
  command->add_option("path", spec->path, "Where to write it")->required();
  command->add_option("--mib", spec->mebibytes, "Size of its content")->capture_default_str();
  command->add_option("--hole-mib", spec->hole, "Size of the hole behind it")->capture_default_str();
  command->callback([spec] { makeImage(spec->path, spec->mebibytes << 20, spec->hole << 20); });
}

void addClient(CLI::App& app) {
  struct Spec {
    std::string socket;
    std::uint64_t imageMib = 1024, mib = 128;
    Workload workload;
    bool noRemove = false;
  };
  auto spec = std::make_shared<Spec>();
  CLI::App* command = app.add_subcommand("client", "Measure any handler that serves the handshake, once");
  command->description(
      "Restores from the handshake socket of any handler that serves a file made by `faultline-bench "
      "image`,\n"
      "and prints what its faults took, as JSON.");
  command->add_option("--socket", spec->socket, "The handler's handshake socket")->required();
  command->add_option("--image-mib", spec->imageMib, "Size of the image's content")->capture_default_str();
  command->add_option("--mib", spec->mib, "How much to touch, over all targets")->capture_default_str();
  command->add_option("--page-size", spec->workload.pageSize, "4096 or 2097152")->capture_default_str();
  command->add_option("--threads", spec->workload.threads, "Faulting threads")->capture_default_str();
  command->add_option("--targets", spec->workload.targets, "Targets")->capture_default_str();
  command->add_option("--touch", spec->workload.touch, "read, write, zero, zero-write or removed")
      ->transform(CLI::CheckedTransformer(TOUCHES));
  command
      ->add_option(
          "--pattern", spec->workload.pattern,
          "random, sequential, clusters (of 64 KiB), sparse (one page in 16), scattered (5 % one by one) "
          "or runs (5 % in runs of 8 to 64); all generated, none recorded")
      ->transform(CLI::CheckedTransformer(PATTERNS));
  command->add_flag("--no-remove", spec->noRemove, "Do not negotiate REMOVE events");
  command->add_option("--removes-per-second", spec->workload.removesPerSecond, "Give a page back so often");
  command->add_option("--placement", spec->workload.placement, "Of the touching threads: one, across, free")
      ->transform(CLI::CheckedTransformer(PLACEMENTS));
  command->callback([spec] {
    spec->workload.bytes = spec->mib << 20;
    spec->workload.negotiateRemove = !spec->noRemove;
    const Measured measured = run(spec->workload, {"", spec->imageMib << 20}, {.socket = spec->socket});
    const nlohmann::json json = {{"touches", measured.touches},
                                 {"touchesPerSecond", measured.touchesPerSecond()},
                                 {"faults", measured.faults},
                                 {"perSecond", measured.perSecond()},
                                 {"p50", measured.latency.quantile(0.5)},
                                 {"p99", measured.latency.quantile(0.99)},
                                 {"p999", measured.latency.quantile(0.999)}};
    fmt::print("{}\n", json.dump());
  });
}

void addAims(CLI::App& app) {
  auto options = std::make_shared<AimOptions>();
  auto output = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("aims", "The table of what is to be reached");
  command->add_option("--directory", options->directory, "For the image; on a disk, with 6 GiB free")
      ->required();
  command->add_option("--rounds", options->rounds, "Rounds of each comparison")->capture_default_str();
  command->add_option("--only", options->only, "Only lines whose name contains this");
  command->add_flag("--quick", options->quick, "Smaller images");
  command
      ->add_option("--before", options->before,
                   "The directory of an earlier build's programs, to compare with where the aim is no loss")
      ->check(CLI::ExistingDirectory);
  command->add_option("--json", *output, "Write the table there as well");
  command->callback([options, output] {
    nlohmann::json table = nlohmann::json::array();
    for (const Verdict& verdict : measureAims(*options)) table.push_back(toJson(verdict));
    if (!output->empty()) std::ofstream(*output) << table.dump(1) << "\n";
  });
}

void addBulk(CLI::App& app) {
  struct Spec {
    unsigned rounds = 5;
    std::uint64_t mebibytes = 512;
  };
  auto spec = std::make_shared<Spec>();
  CLI::App* command =
      app.add_subcommand("bulk", "Raw UFFDIO_COPY by threads and size of call, nobody faulting");
  command->add_option("--rounds", spec->rounds, "Rounds; the medians are printed")->capture_default_str();
  command->add_option("--mib", spec->mebibytes, "How much each copies")->capture_default_str();
  command->callback([spec] { print(measureBulk(spec->rounds, spec->mebibytes << 20)); });
}

struct Rival {
  std::string name;
  Backing backing;
  bool keepsBooks = false;  // for pages given back; others bring the snapshot there
};

void check(const Rival& rival, const std::string& what, Workload workload, const BenchImage& image) {
  workload.everyByte = true;
  try {
    if (run(workload, image, rival.backing).touches == 0) throw std::runtime_error("no page was touched");
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("{}, {}: {}", rival.name, what, error.what()));
  }
}

// With and without a page cache, and through a disk.
void smokeSlowFiles(const std::string& directory, const BenchImage& image) {
  if (!SlowFile::whyNot().empty()) return;
  const Workload workload{.bytes = 64 << 12, .regionBytes = 4 << 20, .threads = 16};
  const auto serve = [&](const std::string& what, const std::string& path, bool ioUring) {
    const Faultline faultline(directory, path, {.around = "off", .ioUring = ioUring});
    check({what, faultline.backing()}, "slow reads", workload, {path, image.dataBytes});
    readsPerSecond(workload, {path, image.dataBytes});
  };
  for (const SlowFile::Cache cache : {SlowFile::Cache::pages, SlowFile::Cache::none})
    serve("FUSE", SlowFile(directory, image.path, cache, 1).path(), true);
  if (SlowDisk::whyNot().empty()) serve("ext4", SlowDisk(directory, 16 << 20, 1).path(), false);
}

// For correctness, not for time: every handler, every kind of touch, every pattern, every byte.
void smoke(const std::string& directory) {
  const BenchImage image = makeImage(directory + "/image", 16 << 20, 16 << 20);
  const PlainHandler floor("floor", directory, image.path, Placement::free);
  const PlainHandler around("around", directory, image.path, Placement::free);
  const PlainHandler calls("calls", directory, image.path, Placement::free);
  const Faultline faultline(directory, image.path, {}), populating(directory, image.path, {.prefault = true});
  const Rival file{"mapped file", {.kind = Backing::Kind::file}};
  const Rival rivals[] = {file,
                          {"floor", floor.backing()},
                          {"around", around.backing()},
                          {"calls", calls.backing()},
                          {"faultline", faultline.backing(), true},
                          {"faultline, populating", populating.backing(), true}};
  for (const Rival& rival : rivals) {
    for (const auto& [name, touch] : TOUCHES) {
      if (touch == Touch::removed && !rival.keepsBooks) continue;
      check(rival, name,
            {.bytes = 8 << 20, .threads = 4, .targets = 2, .touch = touch, .removesPerSecond = 1000}, image);
    }
    for (const auto& [name, pattern] : PATTERNS)
      check(rival, name, {.bytes = 16 << 20, .threads = 3, .pattern = pattern}, image);
    secondsOfRestoresAtOnce(3, {.bytes = 4 << 20, .everyByte = true}, image, rival.backing);
  }
  const BenchImage striped =
      makeStripedImage(directory + "/striped", 16 << 20, {.data = 1 << 20, .hole = 3 << 20});
  check({"faultline", Faultline(directory, striped.path, {}).backing()}, "holes", {.bytes = 16 << 20},
        striped);
  check({"anonymous", {.kind = Backing::Kind::anonymous}}, "holes",
        {.bytes = 8 << 20, .touch = Touch::zeroWrite, .hugePages = true}, image);
  smokeSlowFiles(directory, image);
  measureBulk(1, 8 << 20);
  measureRivals({.directory = directory, .rounds = 1, .bytes = 16 << 20});
  fmt::print("every byte right\n");
}

void addSmoke(CLI::App& app) {
  auto directory = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("smoke", "Run every handler a little, and check every byte");
  command->add_option("--directory", *directory, "For image and sockets; must exist")->required();
  command->callback([directory] { smoke(*directory); });
}

void addMatrix(CLI::App& app) {
  auto options = std::make_shared<MatrixOptions>();
  auto output = std::make_shared<std::string>(".");
  CLI::App* command =
      app.add_subcommand("matrix", "The sweep over shards, threads, targets and all the rest");
  command->description(fmt::format(
      "Writes matrix.json, matrix.csv, histogram.csv and breakdown.csv. Without --full one axis is swept "
      "after the\nother ({} cells on this machine); with it every combination ({}).",
      matrixCells(false), matrixCells(true)));
  command->add_option("--directory", options->directory, "For the image; on a disk, with 2 GiB free")
      ->required();
  command->add_option("--output", *output, "Where to write the files")->capture_default_str();
  command->add_flag("--full", options->full, "Every combination");
  command->callback([options, output] {
    const MatrixResult result = measureMatrix(*options);
    std::ofstream(*output + "/matrix.json") << result.cells.dump(1) << "\n";
    std::ofstream(*output + "/matrix.csv") << toCsv(result.cells);
    std::ofstream(*output + "/histogram.csv") << toCsv(result.histogram);
    std::ofstream(*output + "/breakdown.csv") << toCsv(result.breakdown);
  });
}

void addRivals(CLI::App& app) {
  struct Spec {
    RivalOptions options;
    std::uint64_t mebibytes = 1024;
    std::string output;
  };
  auto spec = std::make_shared<Spec>();
  CLI::App* command =
      app.add_subcommand("rivals", "How long until memory has been touched, by who brings it and by pattern");
  command->add_option("--directory", spec->options.directory, "For the image; on a disk, with as much free")
      ->required();
  command->add_option("--rounds", spec->options.rounds, "Rounds of each comparison")->capture_default_str();
  command->add_option("--mib", spec->mebibytes, "Each target's memory")->capture_default_str();
  command->add_option("--output", spec->output, "Write rivals.csv there as well");
  command->callback([spec] {
    spec->options.bytes = spec->mebibytes << 20;
    const nlohmann::json rows = measureRivals(spec->options);
    fmt::print("{}", toText(rows));
    if (!spec->output.empty()) std::ofstream(spec->output + "/rivals.csv") << toCsv(rows);
  });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"faultline-bench: how fast faultline is, next to what the kernel allows and other handlers."};
  app.require_subcommand(1);
  addAims(app);
  addMatrix(app);
  addRivals(app);
  addBulk(app);
  addSmoke(app);
  addImage(app);
  addClient(app);
  addPlainHandler(app, "floor", "A handler that does the least there is to do: what the kernel allows",
                  serveFloor);
  addPlainHandler(app, "around", "The same, but it copies the aligned 64 KiB around each fault", serveAround);
  addPlainHandler(app, "calls", "A handler that hands each fault over by a Cap'n Proto call", serveByCalls);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Error& error) {
    return app.exit(error);
  } catch (const kj::Exception& error) {
    fmt::print(stderr, "faultline-bench: {}\n", error.getDescription().cStr());
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "faultline-bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
