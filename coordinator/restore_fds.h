// The fds of a restore, and what the supervisor keeps of them for a successor.
#pragma once

#include <kj/io.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "coordinator/fetcher.h"
#include "coordinator/source_files.h"
#include "coordinator/supervisor_link.h"

namespace faultline::coordinator {

struct InheritedRestore;

// uffd and source always, the others where known (-1).
struct RestoreFds {
  kj::AutoCloseFd uffd;
  SourceFiles source;
  kj::AutoCloseFd conn;               // the handshake's connection
  kj::AutoCloseFd target;             // pidfd of the process that connected
  kj::AutoCloseFd touches{};          // the recording of a working set, as a predecessor left it
  std::vector<SourceLayer> layers{};  // the files of the source as they were, where they are several

  // Has the supervisor keep all that restore `id` consists of, again where it does already. The segment goes last: a
  // restore is durable with it. `recording`: that of the restore's working set; -1: there is none.
  void store(SupervisorLink& link, std::uint64_t id, int recording, int segment) const;
  // Has the supervisor keep nothing of restore `id`, whose source has at most so many layers. The segment goes first:
  // without it, what is left was never durable.
  static void drop(SupervisorLink& link, std::uint64_t id, std::size_t layers);
  // Takes what is there of restore `id` out of `inherited`; caches of its source are taken over by `fetcher`.
  static InheritedRestore take(Fetcher& fetcher, Inheritance& inherited, std::uint64_t id);
};

// A restore as a predecessor left it.
struct InheritedRestore {
  RestoreFds fds;
  kj::AutoCloseFd segment;  // -1: not there
  bool durable = false;     // its segment was kept, whether or not there was room for it
};

}  // namespace faultline::coordinator
