#include "shard/resident_windows.h"

namespace faultline::shard {

ResidentWindows::ResidentWindows(std::size_t most) : places_(most) {}

bool ResidentWindows::resident(const Source& source, std::uint64_t offset, std::uint64_t now) {
  const std::uint64_t window = offset / WINDOW;
  if ((window + 1) * WINDOW > source.bytes()) return false;  // no whole window: always read
  Place& place = placeOf(source, window);
  if (place.mapped && now - place.since > BELIEVED) unmap(place);
  const bool known = place.source == &source && place.window == window;
  if (place.mapped) return known;
  if (!known) {
    place = {&source, window, now};
    return false;
  }
  if (!source.mapIfCached(window * WINDOW, WINDOW)) {
    place = {};  // every other fault tries
    return false;
  }
  place.since = now;
  place.mapped = true;
  return true;
}

void ResidentWindows::release(const Source& source, std::uint64_t offset) {
  Place& place = placeOf(source, offset / WINDOW);
  if (place.mapped && place.source == &source && place.window == offset / WINDOW) unmap(place);
}

void ResidentWindows::forget(const Source& source) {
  for (Place& place : places_)
    if (place.source == &source) place = {};
}

// Neighbours in neighbouring places: what is asked for in order does not meet itself.
ResidentWindows::Place& ResidentWindows::placeOf(const Source& source, std::uint64_t window) {
  const std::uint64_t start = reinterpret_cast<std::uintptr_t>(&source) / alignof(Source);
  return places_[(start + window) % places_.size()];
}

void ResidentWindows::unmap(Place& place) {
  place.source->release(place.window * WINDOW, WINDOW);
  place = {};
}

}  // namespace faultline::shard
