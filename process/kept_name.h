// The names of kept fds: what a supervisor, or the service manager above it, keeps for the next coordinator.
//
// A name is KIND.KEY.PART or KIND.KEY.PART.NUMBER; what there is one of in a service is PART alone. The table
// in kept_name.cpp has every form there is; a new thing to keep is a line there and a value of Part. The
// kinds:
//   (service)   control: the listening control socket; counters: of the service; ended: its restores that are
//               over; election: the lock that no two coordinators hold; names.N: what a service manager has
//               stored (supervisor/stored_names.h), never told to a coordinator
//   listener    by its name. listen: the handshake socket, on which the supervisor accepts; conn.N: a target
//               that was accepted and is not yet served; source.N: what its targets are restored from: 0, or
//               of several layers the lowest is 1; spec-...: what its targets are given (rpc::ListenSpec), the
//               part says who made the listener
//   restore     by its id. uffd, source.N, names (what its layers are, where there are several), conn,
//               target (a pidfd), touches, segment: stored last, it makes the restore durable
//               of a layer that is fetched also cache.N and map.N (what was fetched of it) and ring.N (where it is
//               asked for), with the number of its source
//   fetcher     pidfd
//   shard       by its index. pidfd, channel: stored last
//   program     shard, fetcher: of the build that runs. Never dropped, and never given to a service manager
//   failpoint   by what is armed; reached, resume. Tests only
// Names are ASCII, without ':' and control characters, as sd_notify(3) wants them (FDNAME=).
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace faultline::process {

// The maker of a listener. A configuration or a command line that is read anew changes and removes what is its own, never
// another's. A call closes any listener; one of the two others is there again when these are read next.
enum class Origin {
  commandLine,    // an option of `faultline serve`
  configuration,  // a file that the service reads
  call,           // Coordinator.listen, at run time
};

struct KeptName {
  enum class Kind { service, listener, restore, fetcher, shard, program, failpoint };
  enum class Part {
    control,
    counters,
    ended,
    election,
    names,
    listen,
    conn,
    source,
    cache,
    map,
    ring,
    specOfCommandLine,
    specOfConfiguration,
    specOfCall,
    uffd,
    target,
    touches,
    segment,
    pidfd,
    channel,
    shard,
    fetcher,
    reached,
    resume,
  };

  Kind kind;
  std::string key;  // empty for a service
  Part part;
  std::optional<std::uint64_t> number;

  // All throw std::invalid_argument where there is no such form: a mistake of the caller, or a key that no
  // listener or failpoint may have.
  static KeptName service(Part part, std::optional<std::uint64_t> number = {});
  static KeptName listener(const std::string& name, Part part, std::optional<std::uint64_t> number = {});
  // The spec of a listener that `origin` has made.
  static KeptName listenerSpec(const std::string& name, Origin origin);
  static KeptName restore(std::uint64_t id, Part part, std::optional<std::uint64_t> number = {});
  static KeptName shard(std::uint32_t index, Part part);
  static KeptName fetcher();
  static KeptName program();
  static KeptName fetcherProgram();
  static KeptName failpoint(const std::string& armed, Part part);

  // The name of another part of the same thing.
  KeptName with(Part part, std::optional<std::uint64_t> number = {}) const;
  // The name of a layer of its source: the `index`th from the top, of `layers` in all.
  KeptName layer(std::size_t index, std::size_t layers) const;

  std::string text() const;
  // Empty where `text` is none of ours. parse(n.text()) is n, and parse(t)->text() is t.
  static std::optional<KeptName> parse(std::string_view text);

  bool is(Kind ofKind, Part ofPart) const { return kind == ofKind && part == ofPart; }
  // A restore's id or a shard's index.
  std::uint64_t id() const;
  // Whose spec it is; nothing where it is no spec.
  std::optional<Origin> origin() const;

  // By kind, key (as text), part and number. clang-tidy 14 takes the zero of such a comparison for a pointer.
  auto operator<=>(const KeptName&) const = default;  // NOLINT(modernize-use-nullptr)
};

// Every form of a name, with an example of a key and of a number: for tests and for people.
std::vector<KeptName> everyKeptName();

}  // namespace faultline::process
