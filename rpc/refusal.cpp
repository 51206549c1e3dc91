#include "rpc/refusal.h"

#include <capnp/schema.h>
#include <kj/debug.h>

#include <optional>
#include <string_view>

#include "process/message.h"

namespace faultline::rpc {

namespace {

constexpr std::string_view REMOTE = "remote exception: ", STANDARD = "std::exception: ";

template <typename Enum>
std::string nameIn(Enum value, const char* otherwise) {
  const auto enumerants = capnp::Schema::from<Enum>().getEnumerants();
  const auto index = static_cast<unsigned>(value);
  return index < enumerants.size() ? enumerants[index].getProto().getName().cStr() : otherwise;
}

std::optional<Reason> reasonNamed(std::string_view name) {
  for (auto enumerant : capnp::Schema::from<Reason>().getEnumerants())
    if (name == enumerant.getProto().getName().cStr()) return static_cast<Reason>(enumerant.getOrdinal());
  return std::nullopt;
}

// The text between the brackets that `text` begins with, and the text behind them.
struct Bracketed {
  std::string_view name, rest;
};
std::optional<Bracketed> bracketed(std::string_view text) {
  const std::size_t end = text.find("] ");
  if (text.empty() || text.front() != '[' || end == std::string_view::npos) return std::nullopt;
  const std::string_view name = text.substr(1, end - 1);
  if (name.empty() || name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") !=
                          std::string_view::npos)
    return std::nullopt;
  return Bracketed{name, text.substr(end + 2)};
}

// Without what RPC puts before it, once for each process on the way.
std::string_view bare(const kj::Exception& exception) {
  std::string_view text(exception.getDescription().cStr());
  while (text.starts_with(REMOTE)) text.remove_prefix(REMOTE.size());
  return text;
}

// KJ makes "std::exception: TEXT" of a std::exception, whose text is for people already.
std::string forPeople(std::string_view text) {
  if (text.starts_with(STANDARD)) return std::string(text.substr(STANDARD.size()));
  return process::messageOf({kj::Exception::Type::FAILED, "", 0, kj::str(std::string(text).c_str())});
}

bool speaksForItself(const kj::Exception& exception) {
  return exception.getType() == kj::Exception::Type::DISCONNECTED ||
         exception.getType() == kj::Exception::Type::UNIMPLEMENTED;
}

}  // namespace

kj::Exception refusal(Reason reason, const std::string& message) {
  return {kj::Exception::Type::FAILED, __FILE__, __LINE__,
          kj::str("[", nameOf(reason).c_str(), "] ", message.c_str())};
}

void refuse(Reason reason, const std::string& message) {
  kj::throwFatalException(refusal(reason, message));
}

Refusal refusalOf(const kj::Exception& exception) {
  const std::string_view text = bare(exception);
  if (const auto said = bracketed(text))
    return {reasonNamed(said->name).value_or(Reason::FAILED), std::string(said->rest)};
  return {Reason::FAILED, forPeople(text)};
}

bool hasReason(const kj::Exception& exception) {
  return bracketed(bare(exception)).has_value();
}

kj::Exception because(Reason reason, kj::Exception&& exception) {
  if (speaksForItself(exception)) return kj::mv(exception);
  if (hasReason(exception))
    return {kj::Exception::Type::FAILED, __FILE__, __LINE__, kj::str(std::string(bare(exception)).c_str())};
  return refusal(reason, refusalOf(exception).message);
}

void because(Reason reason, kj::FunctionParam<void()> action) {
  KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] { action(); }))
    kj::throwFatalException(because(reason, kj::mv(*exception)));
}

std::string nameOf(Reason reason) {
  return nameIn(reason, "failed");
}

std::string nameOf(EndReason reason) {
  return nameIn(reason, "serverFailed");
}

}  // namespace faultline::rpc
