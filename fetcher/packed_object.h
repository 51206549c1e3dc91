// A packed image that is an object of a server: its table and its frames are read by ranges.
#pragma once

#include <memory>

#include "fetcher/engine_counters.h"
#include "fetcher/http_object.h"
#include "packed/bytes.h"

namespace faultline::fetcher {

class PackedObject final : public packed::Bytes {
 public:
  // `counters`: of what goes over the network; must outlive it.
  PackedObject(std::shared_ptr<const HttpObject> object, EngineCounters& counters)
      : object_(std::move(object)), counters_(counters) {}

  const std::string& name() const override { return object_->name(); }
  std::uint64_t size() const override { return object_->bytes(); }
  void read(std::uint64_t offset, std::span<std::byte> to) const override;

 private:
  const std::shared_ptr<const HttpObject> object_;
  EngineCounters& counters_;
};

}  // namespace faultline::fetcher
