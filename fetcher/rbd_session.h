// A snapshot of a Ceph block device, open: librbd, with limits where librados waits for ever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "fetcher/engine.h"
#include "fetcher/rbd_library.h"
#include "rpc/rbd_uri.h"

namespace faultline::fetcher {

// Const methods: any thread.
class RbdSession : public std::enable_shared_from_this<RbdSession> {
 public:
  struct Identity {
    std::string fsid, image;  // the cluster's; the image's
    std::int64_t pool = 0;
    std::uint64_t snapshot = 0, bytes = 0;
    bool operator==(const Identity&) const = default;
  };

  // Connects to the cluster and opens the snapshot, which must be protected. `patience`: ns that an operation waits for the
  // cluster. Throws std::runtime_error for people, at `deadline` (ns, CLOCK_MONOTONIC) at the latest: what waits then is left
  // to itself.
  static std::shared_ptr<const RbdSession> open(const rpc::RbdUri& uri, std::uint64_t patience,
                                                std::uint64_t deadline);
  // Waits for the cluster: where that may matter, by discard().
  ~RbdSession();
  RbdSession(const RbdSession&) = delete;

  const Identity& identity() const { return identity_; }
  // The parts that have no data anywhere, ascending; waits. False: not all could be asked for.
  bool zeros(const std::function<void(Range)>& use) const;
  // Fills `to`. Returns 0 or errno, at `deadline` at the latest (ETIMEDOUT).
  int read(std::uint64_t offset, std::span<std::byte> to, std::uint64_t deadline) const;
  // Whether the snapshot is still what it was, by asking the cluster anew. Waits. Throws std::runtime_error where it does not
  // answer.
  bool stillThere() const;
  // Sessions that there are, those that are being closed included. A program must not run destructors of libraries before they
  // are gone: faultline-fetcher ends without.
  static unsigned count();
  // Lets go of it without waiting.
  static void discard(std::shared_ptr<const RbdSession> session);

 private:
  explicit RbdSession(const rpc::RbdUri& uri);
  void begin(std::uint64_t patience);
  Identity look(rbd_image_t image, bool& isProtected) const;
  std::string imageName() const;
  // `error`: negative, as the library says it.
  std::string whyNotConnected(int error) const;
  void set(const char* option, const std::string& value) const;

  const rpc::RbdUri uri_;
  const RbdLibrary& library_;
  rados_t cluster_ = nullptr;
  rados_ioctx_t pool_ = nullptr;
  rbd_image_t image_ = nullptr;
  std::string fsid_;
  Identity identity_;
};

}  // namespace faultline::fetcher
