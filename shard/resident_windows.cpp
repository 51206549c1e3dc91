#include "shard/resident_windows.h"

namespace faultline::shard {

ResidentWindows::ResidentWindows(std::size_t most) : places_(most) {}

bool ResidentWindows::resident(const Source& source, std::uint64_t offset, std::uint64_t now) {
  const std::uint64_t window = offset / WINDOW;
  if ((window + 1) * WINDOW > source.bytes()) return false;  // no whole window: always read
  Place& place = placeOf(source, window);
  if (place.mappedAt != 0 && now - place.mappedAt > BELIEVED) unmap(place);
  const bool known = place.source == &source && place.window == window;
  if (place.mappedAt != 0) return known;
  if (!known) {
    place = {&source, window};
    return false;
  }
  if (!source.mapWindow(window * WINDOW)) {
    place = {};  // every other fault tries
    return false;
  }
  place.mappedAt = now;
  return true;
}

void ResidentWindows::release(const Source& source, std::uint64_t offset) {
  Place& place = placeOf(source, offset / WINDOW);
  if (place.mappedAt != 0 && place.source == &source && place.window == offset / WINDOW) unmap(place);
}

void ResidentWindows::age(std::uint64_t now) {
  if (now - agedAt_ < BELIEVED / 2) return;
  agedAt_ = now;
  for (Place& place : places_)
    if (place.mappedAt != 0 && now - place.mappedAt > BELIEVED) unmap(place);
}

void ResidentWindows::forget(const Source& source) {
  for (Place& place : places_)
    if (place.source == &source) place = {};
}

// Neighbours in neighbouring places: what is asked for in order does not meet itself. What is as far apart as
// there are places meets others: threads in step with each other may be.
ResidentWindows::Place& ResidentWindows::placeOf(const Source& source, std::uint64_t window) {
  constexpr std::uint64_t APART = 33;
  const std::uint64_t start = reinterpret_cast<std::uintptr_t>(&source) / alignof(Source);
  return places_[(start + window + window / places_.size() * APART) % places_.size()];
}

void ResidentWindows::unmap(Place& place) {
  place.source->releaseWindow(place.window * WINDOW);
  place = {};
}

}  // namespace faultline::shard
