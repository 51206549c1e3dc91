// Restores that are over, with their last figures: the latest ones, under former coordinators as well.
//
// The figures lie in a memfd that the supervisor keeps: a ring of slots of SLOT_BYTES, of which the file system holds only what
// was written. A slot whose writer died in the middle has a wrong checksum, and counts as empty; the restore is then
// there still, since its end is noted before anything of it is given back, and is noted once more.
#pragma once

#include <kj/array.h>
#include <kj/io.h>

#include <cstdint>
#include <deque>
#include <string>

#include "rpc/control.capnp.h"

namespace faultline::coordinator {

// Loop thread only.
class EndedRestores {
 public:
  static constexpr std::size_t KEPT = 64;
  static constexpr std::size_t SLOT_BYTES = 1u << 19;  // more than 4096 regions and 64 shards take

  // The fate of the fds of a restore that is told as ended.
  enum class Fds : std::uint32_t {
    givenBack = 1,  // not needed any more
    held = 2,       // the restore could not be taken over: they are held while its target lives
  };

  // Goes on with `inherited`, a predecessor's; makes a new one where there is none (-1) or it is none of ours: the last
  // figures are not worth a service that does not start. Throws where there is no memory to be had.
  explicit EndedRestores(kj::AutoCloseFd inherited);
  // To be kept for a successor: borrowed. -1 where the inherited one goes on.
  int fresh() const { return fresh_ ? fd_.get() : -1; }

  // Notes an end, instead of what was noted of the same restore before. Never fails: what cannot be noted is logged.
  void note(rpc::EndedRestore::Reader ended, Fds fds);
  // Whether an end of restore `id` is noted, after which nothing of it is needed any more.
  bool givenBack(std::uint64_t id) const;
  // Fills in the restores called `name`, or with an empty name all; the latest first.
  void fill(rpc::Coordinator::EndedResults::Builder results, const std::string& name) const;

 private:
  struct Entry {
    std::uint64_t sequence = 0;  // number of its writing
    std::uint64_t id = 0;        // the restore's
    Fds fds = Fds::givenBack;
    kj::Array<capnp::word> message;
  };
  void read();
  bool write(const Entry& entry);
  void keep(Entry entry);

  kj::AutoCloseFd fd_;
  bool fresh_ = false;
  std::uint64_t lastSequence_ = 0;
  std::deque<Entry> entries_;  // oldest first
};

}  // namespace faultline::coordinator
