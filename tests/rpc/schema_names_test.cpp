// Names that the generators of other languages take: none is a keyword there, or hidden by what the generated
// code has itself.

#include <capnp/schema.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "rpc/control.capnp.h"
#include "rpc/fd.capnp.h"
#include "rpc/reasons.capnp.h"

namespace faultline::rpc {
namespace {

// Keywords of Python, JavaScript and TypeScript, Go, Rust and C++. Not among them: TypeScript's "number", a name of a type
// that a property may have as well.
const std::set<std::string> KEYWORDS = {
    "abstract", "alignas",   "and",      "any",        "as",        "assert",   "async",       "auto",
    "await",    "become",    "bool",     "boolean",    "box",       "break",    "byte",        "case",
    "catch",    "chan",      "char",     "class",      "concept",   "const",    "constructor", "continue",
    "crate",    "debugger",  "declare",  "def",        "default",   "defer",    "del",         "delete",
    "do",       "double",    "dyn",      "elif",       "else",      "enum",     "except",      "explicit",
    "export",   "extends",   "extern",   "false",      "final",     "finally",  "float",       "fn",
    "for",      "friend",    "from",     "func",       "function",  "get",      "global",      "go",
    "goto",     "if",        "impl",     "implements", "import",    "in",       "inline",      "instanceof",
    "int",      "interface", "is",       "lambda",     "let",       "long",     "loop",        "macro",
    "map",      "match",     "mod",      "module",     "move",      "mut",      "namespace",   "never",
    "new",      "nil",       "none",     "nonlocal",   "not",       "null",     "object",      "of",
    "operator", "or",        "override", "package",    "pass",      "priv",     "private",     "protected",
    "pub",      "public",    "raise",    "range",      "ref",       "register", "require",     "return",
    "select",   "self",      "set",      "short",      "signed",    "sizeof",   "static",      "string",
    "struct",   "super",     "switch",   "symbol",     "template",  "this",     "throw",       "trait",
    "true",     "try",       "type",     "typeof",     "undefined", "union",    "unsafe",      "unsigned",
    "unsized",  "use",       "using",    "var",        "virtual",   "void",     "volatile",    "where",
    "while",    "with",      "yield",
};
// Attributes of pycapnp's structs, and methods of Go's clients.
const std::set<std::string> TAKEN = {"addRef",   "adopt",   "clone",   "copy",    "disown",
                                     "init",     "isValid", "release", "resolve", "schema",
                                     "toString", "which",   "write",   "toDict",  "totalSize"};

void expectFree(const std::string& name, const std::string& where) {
  EXPECT_EQ(KEYWORDS.count(name) + TAKEN.count(name), 0u) << name << " of " << where;
}

void look(capnp::StructSchema schema, const std::string& where) {
  for (auto field : schema.getFields()) expectFree(field.getProto().getName().cStr(), where);
}
void look(capnp::EnumSchema schema, const std::string& where) {
  for (auto value : schema.getEnumerants()) expectFree(value.getProto().getName().cStr(), where);
}
void look(capnp::InterfaceSchema schema, const std::string& where) {
  for (auto method : schema.getMethods()) {
    const std::string name = method.getProto().getName().cStr();
    expectFree(name, where);
    look(method.getParamType(), where + "." + name);
    look(method.getResultType(), where + "." + name);
  }
}

template <typename... Types>
void lookAtAll() {
  (look(capnp::Schema::from<Types>(), capnp::Schema::from<Types>().getProto().getDisplayName().cStr()), ...);
}

TEST(SchemaNames, AreNoWordsOfOtherLanguages) {
  lookAtAll<Region, PageRange, PageState, PageRun, Phase, OwnerRun, OnLost, SourceRange, WorkingSet,
            RestorePolicy, Layer, SourceSpec, RestoreInfo, Latency, ShardStats, RestoreStats, Prefault,
            RecordedWorkingSet, Restore, AttachSpec, ListenSpec, Listener, ShardInfo, ServiceEvent,
            ServiceTotals, ServiceInfo, Coordinator, Fd, Reason, EndReason>();
}

}  // namespace
}  // namespace faultline::rpc
