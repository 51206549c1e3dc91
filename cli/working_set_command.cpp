// `faultline working-set`: recordings as files.

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/memory_file.h"
#include "cli/policy_options.h"
#include "cli/recorded_working_set.h"
#include "cli/restore_options.h"
#include "cli/session.h"
#include "cli/snapshot_identity.h"
#include "cli/working_set_file.h"

namespace faultline::cli {

namespace {

struct WorkingSetOptions {
  std::string control = DEFAULT_CONTROL;
  std::string name, output, file, memory;
  std::vector<std::string> over;  // the layers below `memory`
  bool json = false;
};

int save(const WorkingSetOptions& options) {
  requireWritable(options.output);
  Interrupts::capture();
  Session session(options.control);
  auto response = session.wait(session.restore(options.name).workingSetRequest().send());
  const WorkingSet set = fetchWorkingSet(session, response.getWorkingSet());
  writeWorkingSet(options.output, set);
  printf("%s: %s\n", options.output.c_str(), describe(set).c_str());
  return OK;
}

int show(const WorkingSetOptions& options) {
  const WorkingSet set =
      options.memory.empty()
          ? readWorkingSet(options.file)
          : readWorkingSetFor(options.file, openStack(pathsOf(options.memory, options.over)));
  const std::string fingerprint = fingerprintText(set.snapshot);
  if (options.json) {
    auto ranges = nlohmann::json::array();
    for (const SourceRange& range : set.ranges)
      ranges.push_back({{"offset", range.offset}, {"size", range.size}});
    printf("%s\n", nlohmann::json{{"page_size", set.pageSize},
                                  {"snapshot_bytes", set.snapshot.bytes},
                                  {"fingerprint", fingerprint},
                                  {"pages", set.bytes() / set.pageSize},
                                  {"lost", set.lost},
                                  {"ranges", ranges}}
                       .dump()
                       .c_str());
    return OK;
  }
  printf("%s\npages of %llu bytes; snapshot of %llu bytes, fingerprint %s\n", describe(set).c_str(),
         static_cast<unsigned long long>(set.pageSize), static_cast<unsigned long long>(set.snapshot.bytes),
         fingerprint.c_str());
  for (const SourceRange& range : set.ranges)
    printf("%16llu %12llu\n", static_cast<unsigned long long>(range.offset),
           static_cast<unsigned long long>(range.size));
  return OK;
}

}  // namespace

void addWorkingSet(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<WorkingSetOptions>();
  CLI::App* command = app.add_subcommand("working-set", "Save or show the recorded working set of a restore");
  command->description(
      "Save or show a recorded working set: what a target touched first, in that order, so that the next "
      "restore of the\nsame snapshot can populate that before everything else (--working-set FILE of restore "
      "and serve).\n\n"
      "Example:\n"
      "  faultline serve --socket /run/vm1.sock --memory vm1.mem --no-prefault --record-working-set\n"
      "  faultline working-set save vm1 --output vm1.ws\n"
      "  faultline working-set show vm1.ws --memory vm1.mem");
  command->require_subcommand(1);
  command->footer(EXIT_CODES);
  CLI::App* saving = command->add_subcommand("save", "Write what a running restore has recorded to a file");
  saving->description("Write what a running restore has recorded to a file; it goes on recording.");
  saving->add_option("RESTORE", options->name, "The restore's name; `faultline status` lists them")
      ->required();
  saving->add_option("--output", options->output, "The file; replaced in one step if it is there")
      ->required();
  addControl(*saving, options->control);
  saving->footer(EXIT_CODES);
  saving->callback([options, &chosen] { chosen = [options] { return save(*options); }; });
  CLI::App* showing = command->add_subcommand("show", "Check a file and print what is in it");
  showing->description(
      "Check a file and print what is in it: a line a run, its offset in the memory file and its bytes.");
  showing->add_option("FILE", options->file, "The file")->required();
  showing->add_option("--memory", options->memory, "Refuse it unless it is for this memory file");
  addOver(*showing, options->over);
  showing->add_flag("--json", options->json, "Print one JSON object");
  showing->footer(EXIT_CODES);
  showing->callback([options, &chosen] { chosen = [options] { return show(*options); }; });
}

}  // namespace faultline::cli
