// The files that a source is made of, as restores and listeners hold them.
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include <optional>
#include <string>
#include <vector>

#include "coordinator/supervisor_link.h"
#include "process/file_identity.h"
#include "rpc/control.capnp.h"

namespace faultline::coordinator {

// Open for reading, the top layer first.
using SourceFiles = std::vector<kj::AutoCloseFd>;

SourceFiles duplicates(const SourceFiles& files);

// The names of the layers of a call, the top one first.
std::vector<std::string> namesOf(rpc::SourceSpec::Reader source);
// The files of a call. Refuses (badInput, unsupported) what names none, too many, or something else.
kj::Promise<SourceFiles> filesOf(rpc::SourceSpec::Reader source);
// For people: "TOP over BASE".
std::string nameOf(const std::vector<std::string>& layers);

// Resolves with `files` where they can be the layers of one source; fails (badSource) naming the one that cannot be. A
// single file is not looked at. Looks in a thread of its own: file systems may take as long as they like.
kj::Promise<SourceFiles> checkedStack(SourceFiles files, const std::vector<std::string>& names);

// A file of several, as it was when the restore began.
struct SourceLayer {
  std::string name;  // for messages
  process::FileIdentity identity;
};

// The layers as they are now. Empty for a single file, which may change. Does not wait.
std::vector<SourceLayer> layersOf(const SourceFiles& files, const std::vector<std::string>& names);
// Why they are not what they were; nothing: they are, as far as their identities tell. Does not wait.
std::optional<std::string> whatChanged(const SourceFiles& files, const std::vector<SourceLayer>& were);

// --- what is kept of them: a single file as PART.0, several as PART.1 and up, the lowest first, so that a part of them
// is never taken for all. `owner`: any part of the restore or the listener ---
void store(SupervisorLink& link, const process::KeptName& owner, const SourceFiles& files);
void drop(SupervisorLink& link, const process::KeptName& owner, std::size_t files);
// The files that are there in one row: how many of several there should be is to be compared. Empty where it is one of
// several.
SourceFiles take(Inheritance& inherited, const process::KeptName& owner);

// In memory that outlives us; and back. Throws where the message makes no sense.
kj::AutoCloseFd keptLayers(const std::vector<SourceLayer>& layers);
std::vector<SourceLayer> layersFrom(int kept);

}  // namespace faultline::coordinator
