// The files that a source is made of, as restores and listeners hold them.
#pragma once

#include <kj/async.h>
#include <kj/io.h>

#include <optional>
#include <string>
#include <vector>

#include "coordinator/fetched_source.h"
#include "coordinator/supervisor_link.h"
#include "process/file_identity.h"
#include "rpc/control.capnp.h"

namespace faultline::coordinator {

class Fetcher;

// A file that a source is made of.
struct SourceFile {
  SourceFile() = default;
  SourceFile(kj::AutoCloseFd f, bool isPacked = false)
      : file(kj::mv(f)), packed(isPacked) {}  // NOLINT: is one

  kj::AutoCloseFd file;  // open for reading
  bool packed = false;   // its bytes are fetched: a packed image, or what names a source (rpc/named_source.h)
  FetchedRef fetched{};  // its cache; null: it is not fetched, or not opened yet (checkedStack)

  int get() const { return file.get(); }
  // The fd that has the size of the memory, and is read.
  int content() const { return fetched == nullptr ? file.get() : fetched->data.get(); }
};

// The top layer first.
using SourceFiles = std::vector<SourceFile>;

// A source that a server has. Refuses (badInput) a URI that is none, or not served.
SourceFile namedSource(const std::string& uri);
SourceFiles duplicates(const SourceFiles& files);

// The names of the layers of a call, the top one first.
std::vector<std::string> namesOf(rpc::SourceSpec::Reader source);
// The files of a call. Refuses (badInput, unsupported) what names none, too many, or something else.
kj::Promise<SourceFiles> filesOf(rpc::SourceSpec::Reader source);
// For people: "TOP over BASE".
std::string nameOf(const std::vector<std::string>& layers);

// Resolves with `files`, those that are packed opened, where they can be the layers of one source; fails (badSource) naming
// the one that cannot be. A single plain file is not looked at. Looks in a thread of its own, and has packed images looked
// at by the fetcher: file systems may take as long as they like.
kj::Promise<SourceFiles> checkedStack(Fetcher& fetcher, SourceFiles files,
                                      const std::vector<std::string>& names);

// A file of several, as it was when the restore began.
struct SourceLayer {
  std::string name;  // for messages
  process::FileIdentity identity;
  bool fetched = false;
};

// The layers as they are now. Empty for a single plain file, which may change. Does not wait.
std::vector<SourceLayer> layersOf(const SourceFiles& files, const std::vector<std::string>& names);
// Why they are not what they were; nothing: they are, as far as their identities tell. Does not wait.
std::optional<std::string> whatChanged(const SourceFiles& files, const std::vector<SourceLayer>& were);

// --- what is kept of them: a single plain file as PART.0, others as PART.1 and up, the lowest first, so that a part of
// them is never taken for all. Parts of a layer's cache have its number. `owner`: any part of the restore or the listener ---
void store(SupervisorLink& link, const process::KeptName& owner, const SourceFiles& files);
void drop(SupervisorLink& link, const process::KeptName& owner, std::size_t files);
// The files that are there in one row: how many of several there should be is to be compared. Empty where it is one of
// several, or one whose cache is not there. Caches are taken over by `fetcher`.
SourceFiles take(Fetcher& fetcher, Inheritance& inherited, const process::KeptName& owner);

// Whether these files are those that were kept with them, all of them and what belongs to them.
bool areOf(const SourceFiles& files, const std::vector<SourceLayer>& layers);

// In memory that outlives us; and back. Throws where the message makes no sense.
kj::AutoCloseFd keptLayers(const std::vector<SourceLayer>& layers);
std::vector<SourceLayer> layersFrom(int kept);

}  // namespace faultline::coordinator
