#include "cli/json_call.h"

#include <capnp/compat/json.h>
#include <capnp/message.h>
#include <kj/debug.h>
#include <kj/encoding.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "process/plain_text.h"
#include "rpc/fd.capnp.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

using rpc::Reason;

// A file descriptor has no form in JSON: it is null in answers, and refused in parameters. No other capability lies within
// a value.
class NoFile final : public capnp::JsonCodec::Handler<rpc::Fd> {
 public:
  void encode(const capnp::JsonCodec&, rpc::Fd::Client, capnp::JsonValue::Builder output) const override {
    output.setNull();
  }
  rpc::Fd::Client decode(const capnp::JsonCodec&, capnp::JsonValue::Reader) const override {
    rpc::refuse(Reason::BAD_INPUT, "a file descriptor cannot be given in JSON");
  }
};

struct Codec {
  Codec() {
    codec.setRejectUnknownFields(true);
    codec.addTypeHandler(files);
  }
  NoFile files;
  capnp::JsonCodec codec;
};

std::string decoded(const std::string& text) {
  std::string spaced = text;
  for (char& c : spaced)
    if (c == '+') c = ' ';
  auto result = kj::decodeUriComponent(kj::StringPtr(spaced.c_str()));
  if (result.hadErrors) rpc::refuse(Reason::BAD_INPUT, "the query is not percent-encoded as it should be");
  return result.cStr();
}

template <typename Number>
std::optional<Number> numberFrom(const std::string& text) {
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

[[noreturn]] void refuseValue(const std::string& key, const char* what) {
  rpc::refuse(Reason::BAD_INPUT, "the query's " + process::plainText(key).substr(0, 64) + " is " + what);
}

void setFromText(capnp::DynamicStruct::Builder to, capnp::StructSchema::Field field, const std::string& key,
                 const std::string& text) {
  const capnp::Type type = field.getType();
  if (type.isUInt64() || type.isUInt32() || type.isUInt16()) {
    const auto number = numberFrom<std::uint64_t>(text);
    const std::uint64_t most = type.isUInt64() ? ~0ull : type.isUInt32() ? 0xffffffff : 0xffff;
    if (!number.has_value() || *number > most) refuseValue(key, "no number that fits");
    to.set(field, *number);
  } else if (type.isBool()) {
    if (text != "true" && text != "false") refuseValue(key, "neither true nor false");
    to.set(field, text == "true");
  } else if (type.isText()) {
    to.set(field, text.c_str());
  } else {
    refuseValue(key, "given in the body, as JSON");
  }
}

kj::Maybe<capnp::StructSchema::Field> onlyStruct(capnp::StructSchema schema) {
  kj::Maybe<capnp::StructSchema::Field> only;
  unsigned structs = 0;
  for (auto field : schema.getFields())
    if (field.getType().isStruct()) {
      only = field;
      structs++;
    }
  if (structs != 1) return nullptr;
  return only;
}

void fillFromQuery(capnp::DynamicStruct::Builder to, const std::string& query) {
  for (std::size_t at = 0; at < query.size();) {
    const std::size_t end = std::min(query.find('&', at), query.size());
    const std::string pair = query.substr(at, end - at);
    at = end + 1;
    if (pair.empty()) continue;
    const std::size_t sign = std::min(pair.find('='), pair.size());
    const std::string key = decoded(pair.substr(0, sign));
    const std::string value = decoded(sign == pair.size() ? "" : pair.substr(sign + 1));
    KJ_IF_MAYBE (field, to.getSchema().findFieldByName(key.c_str())) {
      setFromText(to, *field, key, value);
      continue;
    }
    KJ_IF_MAYBE (inner, onlyStruct(to.getSchema())) {
      auto within = to.has(*inner) ? to.get(*inner).as<capnp::DynamicStruct>()
                                   : to.init(*inner).as<capnp::DynamicStruct>();
      KJ_IF_MAYBE (field, within.getSchema().findFieldByName(key.c_str())) {
        setFromText(within, *field, key, value);
        continue;
      }
    }
    refuseValue(key, "nothing that this call takes");
  }
}

}  // namespace

void fillFromJson(capnp::DynamicStruct::Builder parameters, const std::string& query, const std::string& body,
                  const std::string& whole) {
  if (!body.empty()) {
    auto failure = kj::runCatchingExceptions([&] {
      const Codec json;
      const auto text = kj::arrayPtr(body.data(), body.size());
      if (whole.empty())
        json.codec.decode(text, parameters);
      else
        json.codec.decode(text, parameters.init(whole.c_str()).as<capnp::DynamicStruct>());
    });
    KJ_IF_MAYBE (exception, failure) {
      if (rpc::hasReason(*exception)) kj::throwFatalException(kj::mv(*exception));
      rpc::refuse(Reason::BAD_INPUT, "the body is not understood: " + rpc::refusalOf(*exception).message);
    }
  }
  fillFromQuery(parameters, query);
}

std::string jsonOf(capnp::DynamicStruct::Reader results) {
  const Codec json;
  capnp::MallocMessageBuilder message;
  auto value = message.initRoot<capnp::JsonValue>();
  std::vector<capnp::StructSchema::Field> told;
  for (auto field : results.getSchema().getFields())
    if (!field.getType().isInterface()) told.push_back(field);
  auto object = value.initObject(static_cast<unsigned>(told.size()));
  for (unsigned i = 0; i < told.size(); i++) {
    object[i].setName(told[i].getProto().getName());
    json.codec.encode(results.get(told[i]), told[i].getType(), object[i].initValue());
  }
  return process::plainText(json.codec.encodeRaw(value).cStr());
}

std::string jsonOfFailure(const std::string& reason, const std::string& text) {
  return nlohmann::json{{"reason", reason}, {"text", text}}.dump(-1, ' ', true,
                                                                 nlohmann::json::error_handler_t::replace);
}

}  // namespace faultline::cli
