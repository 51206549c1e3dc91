// Parameters and results of a call of the control interface as JSON, by the schema: capnp's JsonCodec. Numbers of 64 bits
// are strings, as JSON's numbers have no room for them; both are taken.
#pragma once

#include <capnp/dynamic.h>

#include <string>

namespace faultline::cli {

// Puts the parameters in: of `query` ("a=1&b=2", percent-encoded) numbers, booleans and texts by name, also those of the
// only struct among them; of `body`, unless it is empty, an object with parameters by name, or the one that is called
// `whole`. Refuses (badInput) what the schema does not know, and what is not understood.
void fillFromJson(capnp::DynamicStruct::Builder parameters, const std::string& query, const std::string& body,
                  const std::string& whole);

// The results as an object, without capabilities. Valid UTF-8, whatever bytes a path has.
std::string jsonOf(capnp::DynamicStruct::Reader results);

// {"reason": ..., "text": ...}
std::string jsonOfFailure(const std::string& reason, const std::string& text);

}  // namespace faultline::cli
