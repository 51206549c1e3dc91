#include "process/kept_name.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace faultline::process {

namespace {

using Kind = KeptName::Kind;
using Part = KeptName::Part;

// sd_notify(3): a name in a service manager's store has at most so many bytes.
constexpr std::size_t MAX_TEXT = 255;

struct KindForm {
  Kind kind;
  std::string_view text;
  enum class Key { none, word, number32, number64 } key;
};
constexpr KindForm KINDS[] = {
    {Kind::service, "", KindForm::Key::none},
    {Kind::listener, "listener", KindForm::Key::word},
    {Kind::restore, "restore", KindForm::Key::number64},
    {Kind::fetcher, "fetcher", KindForm::Key::none},
    {Kind::shard, "shard", KindForm::Key::number32},
    {Kind::program, "program", KindForm::Key::none},
    {Kind::failpoint, "failpoint", KindForm::Key::word},
};

struct Form {
  Kind kind;
  Part part;
  std::string_view text;
  bool numbered = false;
};
constexpr Form FORMS[] = {
    {Kind::service, Part::control, "control"},
    {Kind::service, Part::counters, "counters"},
    {Kind::service, Part::ended, "ended"},
    {Kind::service, Part::election, "election"},
    {Kind::service, Part::names, "names", true},
    {Kind::listener, Part::listen, "listen"},
    {Kind::listener, Part::conn, "conn", true},
    {Kind::listener, Part::source, "source", true},
    {Kind::listener, Part::specOfCommandLine, "spec-options"},
    {Kind::listener, Part::specOfConfiguration, "spec-file"},
    {Kind::listener, Part::specOfCall, "spec-call"},
    {Kind::restore, Part::uffd, "uffd"},
    {Kind::restore, Part::source, "source", true},
    {Kind::restore, Part::cache, "cache", true},
    {Kind::restore, Part::map, "map", true},
    {Kind::restore, Part::ring, "ring", true},
    {Kind::restore, Part::names, "names"},
    {Kind::restore, Part::conn, "conn"},
    {Kind::restore, Part::target, "target"},
    {Kind::restore, Part::touches, "touches"},
    {Kind::restore, Part::segment, "segment"},
    {Kind::fetcher, Part::pidfd, "pidfd"},
    {Kind::shard, Part::pidfd, "pidfd"},
    {Kind::shard, Part::channel, "channel"},
    {Kind::program, Part::shard, "shard"},
    {Kind::program, Part::fetcher, "fetcher"},
    {Kind::failpoint, Part::reached, "reached"},
    {Kind::failpoint, Part::resume, "resume"},
};

const KindForm& formOf(Kind kind) {
  return *std::find_if(std::begin(KINDS), std::end(KINDS),
                       [kind](const KindForm& f) { return f.kind == kind; });
}

const Form* formOf(Kind kind, Part part) {
  const auto found = std::find_if(std::begin(FORMS), std::end(FORMS),
                                  [&](const Form& f) { return f.kind == kind && f.part == part; });
  return found == std::end(FORMS) ? nullptr : &*found;
}

// A number as it is written: digits without a leading zero.
std::optional<std::uint64_t> numberOf(std::string_view text, std::uint64_t most = ~0ull) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number > most) return std::nullopt;
  if (text.size() > 1 && text.front() == '0') return std::nullopt;
  return number;
}

bool isWord(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) > ' ' && c != '\x7f' && c != '.' && c != ':' && c != '/';
  });
}

bool fits(KindForm::Key form, std::string_view key) {
  switch (form) {
    case KindForm::Key::none:
      return key.empty();
    case KindForm::Key::word:
      return isWord(key);
    case KindForm::Key::number32:
      return numberOf(key, ~std::uint32_t{0}).has_value();
    case KindForm::Key::number64:
      return numberOf(key).has_value();
  }
  return false;
}

bool valid(const KeptName& name) {
  const Form* form = formOf(name.kind, name.part);
  return form != nullptr && form->numbered == name.number.has_value() &&
         fits(formOf(name.kind).key, name.key) && name.text().size() <= MAX_TEXT;
}

KeptName made(KeptName name) {
  if (!valid(name))
    throw std::invalid_argument("nothing is kept under such a name; key \"" + name.key + "\"");
  return name;
}

std::string_view take(std::string_view& rest) {
  const std::size_t dot = rest.find('.');
  const std::string_view word = rest.substr(0, dot);
  rest = dot == std::string_view::npos ? std::string_view() : rest.substr(dot + 1);
  return word;
}

}  // namespace

KeptName KeptName::service(Part part, std::optional<std::uint64_t> number) {
  return made({Kind::service, "", part, number});
}

KeptName KeptName::listener(const std::string& name, Part part, std::optional<std::uint64_t> number) {
  return made({Kind::listener, name, part, number});
}

KeptName KeptName::listenerSpec(const std::string& name, Origin origin) {
  switch (origin) {
    case Origin::commandLine:
      return listener(name, Part::specOfCommandLine);
    case Origin::configuration:
      return listener(name, Part::specOfConfiguration);
    case Origin::call:
      break;
  }
  return listener(name, Part::specOfCall);
}

KeptName KeptName::restore(std::uint64_t id, Part part, std::optional<std::uint64_t> number) {
  return made({Kind::restore, std::to_string(id), part, number});
}

KeptName KeptName::shard(std::uint32_t index, Part part) {
  return made({Kind::shard, std::to_string(index), part, {}});
}

KeptName KeptName::fetcher() {
  return made({Kind::fetcher, "", Part::pidfd, {}});
}

KeptName KeptName::program() {
  return made({Kind::program, "", Part::shard, {}});
}

KeptName KeptName::fetcherProgram() {
  return made({Kind::program, "", Part::fetcher, {}});
}

KeptName KeptName::failpoint(const std::string& armed, Part part) {
  return made({Kind::failpoint, armed, part, {}});
}

KeptName KeptName::with(Part other, std::optional<std::uint64_t> itsNumber) const {
  return made({kind, key, other, itsNumber});
}

KeptName KeptName::layer(std::size_t index, std::size_t layers) const {
  return with(Part::source, layers == 1 ? 0 : layers - index);
}

std::string KeptName::text() const {
  const Form* form = formOf(kind, part);
  std::string text(formOf(kind).text);
  for (const std::string_view word : {std::string_view(key), form == nullptr ? "?" : form->text})
    if (!word.empty()) text += (text.empty() ? "" : ".") + std::string(word);
  return number.has_value() ? text + "." + std::to_string(*number) : text;
}

std::optional<KeptName> KeptName::parse(std::string_view text) {
  for (const Form& form : FORMS) {
    std::string_view rest = text;
    const KindForm& kind = formOf(form.kind);
    if (!kind.text.empty() && take(rest) != kind.text) continue;
    const std::string_view key = kind.key == KindForm::Key::none ? std::string_view() : take(rest);
    if (take(rest) != form.text) continue;
    KeptName name{form.kind, std::string(key), form.part, numberOf(rest)};
    // A rest, or another way of writing, makes it no name of ours.
    if (valid(name) && name.text() == text) return name;
  }
  return std::nullopt;
}

std::uint64_t KeptName::id() const {
  return numberOf(key).value();
}

std::optional<Origin> KeptName::origin() const {
  switch (part) {
    case Part::specOfCommandLine:
      return Origin::commandLine;
    case Part::specOfConfiguration:
      return Origin::configuration;
    case Part::specOfCall:
      return Origin::call;
    default:
      return std::nullopt;
  }
}

std::vector<KeptName> everyKeptName() {
  std::vector<KeptName> names;
  for (const Form& form : FORMS) {
    const KindForm::Key key = formOf(form.kind).key;
    std::string example = key == KindForm::Key::none ? "" : key == KindForm::Key::word ? "vm-1" : "7";
    names.push_back(made({form.kind, std::move(example), form.part,
                          form.numbered ? std::optional<std::uint64_t>(3) : std::nullopt}));
  }
  return names;
}

}  // namespace faultline::process
