// faultline completion: what a shell offers at the tab key, made from the commands and options that there are.

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/restore_options.h"
#include "cli/session.h"
#include "process/plain_text.h"

namespace faultline::cli {

namespace {

// The kind of what follows an option or a command.
enum class Value { none, file, word, restore };

struct OptionView {
  std::vector<std::string> names;  // with their dashes
  std::string what;                // in one line
  Value value = Value::none;
  std::vector<std::string> words;  // that it can be
};

struct CommandView {
  std::string name, what;
  std::vector<OptionView> options;
  Value positional = Value::none;
  std::vector<std::string> inner;  // commands of its own, or words
};

std::string firstLine(const std::string& text) {
  return text.substr(0, text.find_first_of("\n;:("));
}

// The words of IsMember, which makes "TEXT:{one,two}" of them.
std::vector<std::string> wordsOf(const std::string& type) {
  const std::size_t begin = type.find('{'), end = type.find('}');
  if (begin == std::string::npos || end == std::string::npos) return {};
  return CLI::detail::split(type.substr(begin + 1, end - begin - 1), ',');
}

Value valueOf(const std::string& name) {
  if (name == "RESTORE") return Value::restore;
  for (const char* file :
       {"memory", "over", "socket", "control", "config", "png", "svg", "build", "dir", "working-set",
        "output", "record-working-set", "IMAGE", "FILE", "TOP", "IN", "OUT"})
    if (name == file) return Value::file;
  return Value::word;
}

CommandView viewOf(const CLI::App& app) {
  CommandView view{app.get_name(), firstLine(app.get_description()), {}, Value::none, {}};
  for (const CLI::Option* option : app.get_options()) {
    const bool takes = option->get_expected_max() > 0 && option->get_items_expected_max() > 0;
    if (option->get_positional()) {
      if (view.inner.empty()) view.inner = wordsOf(option->get_type_name());
      if (view.positional == Value::none) view.positional = valueOf(option->get_name());
      continue;
    }
    OptionView each{{}, firstLine(option->get_description()), Value::none, wordsOf(option->get_type_name())};
    for (const std::string& name : option->get_lnames()) each.names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) each.names.push_back("-" + name);
    if (takes && !option->get_lnames().empty()) each.value = valueOf(option->get_lnames().front());
    view.options.push_back(each);
  }
  for (const CLI::App* inner : app.get_subcommands([](const CLI::App*) { return true; }))
    view.inner.push_back(inner->get_name());
  return view;
}

std::vector<CommandView> viewsOf(const CLI::App& root) {
  std::vector<CommandView> views;
  for (const CLI::App* command : root.get_subcommands([](const CLI::App*) { return true; }))
    views.push_back(viewOf(*command));
  return views;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// In single quotes.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char each : text) result += each == '\'' ? std::string("'\\''") : std::string(1, each);
  return result + "'";
}

// Prints the names of restores, for every shell. A name may hold what a shell would run or replace, so none is made a part
// of what the shell evaluates.
constexpr const char* NAMES = "faultline completion restores 2>/dev/null";

// --- bash ---

std::string bashOf(Value value, const std::vector<std::string>& words) {
  if (!words.empty()) return "COMPREPLY=($(compgen -W '" + joined(words) + "' -- \"$cur\"))";
  switch (value) {
    case Value::restore:
      return "_faultline_restores \"$cur\"";
    case Value::file:
      return "compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\"))";
    default:
      return "COMPREPLY=()";
  }
}

std::string bash(const std::vector<CommandView>& commands) {
  std::ostringstream out;
  std::vector<std::string> names;
  names.reserve(commands.size());
  for (const CommandView& command : commands) names.push_back(command.name);
  out << "# Completions of faultline for bash: made by `faultline completion bash`.\n"
         "_faultline_restores() {\n"
         "  local name\n"
         "  COMPREPLY=()\n"
         "  while IFS= read -r name; do\n"
         "    case $name in \"$1\"*) COMPREPLY+=(\"$(printf %q \"$name\")\") ;; esac\n"
         "  done < <("
      << NAMES
      << ")\n"
         "}\n"
         "_faultline() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= word\n"
         "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do case $word in -*) ;; *) command=$word; break "
         ";; esac; done\n"
         "  if [ -z \"$command\" ]; then COMPREPLY=($(compgen -W '"
      << joined(names) << " --help --version' -- \"$cur\")); return; fi\n  case $command in\n";
  for (const CommandView& command : commands) {
    std::vector<std::string> all;
    out << "    " << command.name << ")\n      case $prev in\n";
    for (const OptionView& option : command.options) {
      all.insert(all.end(), option.names.begin(), option.names.end());
      if (option.value == Value::none) continue;
      std::string names;
      for (const std::string& name : option.names) names += (names.empty() ? "" : "|") + name;
      out << "        " << names << ") " << bashOf(option.value, option.words) << "; return ;;\n";
    }
    out << "      esac\n      case $cur in\n        -*) COMPREPLY=($(compgen -W '" << joined(all)
        << "' -- \"$cur\")) ;;\n        *) " << bashOf(command.positional, command.inner)
        << " ;;\n      esac ;;\n";
  }
  out << "  esac\n}\ncomplete -F _faultline faultline\n";
  return out.str();
}

// --- zsh ---

std::string zshOf(Value value, const std::vector<std::string>& words) {
  if (!words.empty()) return "(" + joined(words) + ")";
  switch (value) {
    case Value::restore:
      return "compadd -a names";
    case Value::file:
      return "_files";
    default:
      return " ";
  }
}

// For _arguments, in which some signs mean something.
std::string zshText(const std::string& text) {
  std::string result;
  for (const char each : text) result += each == '[' || each == ']' || each == ':' ? ' ' : each;
  return result;
}

std::string zsh(const std::vector<CommandView>& commands) {
  std::ostringstream out;
  out << "#compdef faultline\n# Completions of faultline for zsh: made by `faultline completion zsh`.\n"
         "_faultline() {\n  local -a commands names\n  local command=$words[2]\n  commands=(\n";
  for (const CommandView& command : commands)
    out << "    " << quoted(command.name + ":" + zshText(command.what)) << "\n";
  out << "  )\n  if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
         "  shift words; (( CURRENT-- ))\n  case $command in\n";
  for (const CommandView& command : commands) {
    out << "    " << command.name << ")\n";
    if (command.positional == Value::restore) out << "      names=(\"${(@f)$(" << NAMES << ")}\")\n";
    out << "      _arguments";
    for (const OptionView& option : command.options)
      for (const std::string& name : option.names)
        out << " \\\n        "
            << quoted("*" + name + "[" + zshText(option.what) + "]" +
                      (option.value == Value::none ? "" : ":value:" + zshOf(option.value, option.words)));
    const std::string positional = zshOf(command.positional, command.inner);
    if (positional != " ") out << " \\\n        " << quoted("*:value:" + positional);
    out << " ;;\n";
  }
  out << "  esac\n}\nif [ \"$funcstack[1]\" = _faultline ]; then _faultline; else compdef _faultline "
         "faultline; fi\n";
  return out.str();
}

// --- fish ---

std::string fish(const std::vector<CommandView>& commands) {
  std::ostringstream out;
  out << "# Completions of faultline for fish: made by `faultline completion fish`.\ncomplete -c faultline "
         "-f\n";
  for (const CommandView& command : commands) {
    out << "complete -c faultline -n __fish_use_subcommand -a " << command.name << " -d "
        << quoted(command.what) << "\n";
    const std::string seen = "complete -c faultline -n '__fish_seen_subcommand_from " + command.name + "'";
    for (const OptionView& option : command.options) {
      out << seen;
      for (const std::string& name : option.names)
        out << (name.rfind("--", 0) == 0 ? " -l " + name.substr(2) : " -s " + name.substr(1));
      if (!option.words.empty())
        out << " -x -a " << quoted(joined(option.words));
      else if (option.value == Value::file)
        out << " -r -F";
      else if (option.value != Value::none)
        out << " -x";
      out << " -d " << quoted(option.what) << "\n";
    }
    if (!command.inner.empty())
      out << seen << " -a " << quoted(joined(command.inner)) << "\n";
    else if (command.positional == Value::restore)
      out << seen << " -a '(" << NAMES << ")'\n";
    else if (command.positional == Value::file)
      out << seen << " -F\n";
  }
  return out.str();
}

// --- names of what is served now ---

constexpr std::chrono::milliseconds PATIENCE{2000};

int printNames(const std::string& control) {
  Interrupts::capture();
  Session session(control, Session::Interrupted::ends, PATIENCE);
  auto response = session.wait(session.coordinator().listRequest().send());
  for (auto info : response.getRestores()) printf("%s\n", process::plainText(info.getName().cStr()).c_str());
  return OK;
}

}  // namespace

void addCompletion(CLI::App& app, Result& chosen) {
  struct Options {
    std::string what, control = DEFAULT_CONTROL;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("completion", "Print completions for a shell");
  command->description(
      "Print completions for a shell: commands, options, what they can be, and the names of restores. An "
      "installed "
      "faultline\nhas them in place.\n\n"
      "Examples:\n"
      "  . <(faultline completion bash)\n"
      "  faultline completion zsh > ~/.zfunc/_faultline\n"
      "  faultline completion fish | source");
  command->add_option("WHAT", options->what, "A shell; or restores: their names, one a line")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish", "restores"}));
  addControl(*command, options->control);
  command->footer(EXIT_CODES);
  command->callback([options, &app, &chosen] {
    chosen = [options, &app] {
      if (options->what == "restores") return printNames(options->control);
      const auto commands = viewsOf(app);
      const std::string script = options->what == "bash"  ? bash(commands)
                                 : options->what == "zsh" ? zsh(commands)
                                                          : fish(commands);
      fputs(script.c_str(), stdout);
      return static_cast<int>(OK);
    };
  });
}

}  // namespace faultline::cli
