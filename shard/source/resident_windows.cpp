#include "shard/source/resident_windows.h"

#include <algorithm>

namespace faultline::shard {

ResidentWindows::ResidentWindows(std::size_t most) : places_(most) {}

bool ResidentWindows::resident(const PageSource& source, std::uint64_t offset, std::uint64_t now) {
  const std::uint64_t start = offset / WINDOW * WINDOW;
  if (start + WINDOW > source.bytes()) return false;  // not a whole window: always read
  const std::uint32_t bit = bitOf(offset);
  Place& place = placeOf(source, offset);
  if (place.aged(now)) unmap(place);
  if (!place.holds(source, offset)) {
    if (place.mapped == 0) place = {&source, offset / PIECE, bit};
    return false;
  }
  if ((place.mapped & bit) != 0) return true;
  place.asked ^= bit;  // every other fault tries, where the window is not to be had
  if ((place.asked & bit) != 0 || source.tryView(start, WINDOW).kind != Staged::Kind::bytes) return false;
  if (place.mapped == 0) place.mappedAt = now;
  place.mapped |= bit;
  return true;
}

bool ResidentWindows::maps(const PageSource& source, std::uint64_t offset) {
  const Place& place = placeOf(source, offset);
  return place.holds(source, offset) && (place.mapped & bitOf(offset)) != 0;
}

void ResidentWindows::release(const PageSource& source, std::uint64_t offset) {
  if (!maps(source, offset)) return;
  Place& place = placeOf(source, offset);
  place.mapped &= ~bitOf(offset);
  if (place.mapped == 0) unmap(place);
}

void ResidentWindows::age(std::uint64_t now) {
  for (Place& place : places_)
    if (place.aged(now)) unmap(place);
}

void ResidentWindows::forget(const PageSource& source) {
  for (Place& place : places_)
    if (place.source == &source) place = {};
}

// Direct-mapped: consecutive 2 MiB pieces take consecutive places, so a scan has no conflicts. The skew
// separates pieces size() apart.
ResidentWindows::Place& ResidentWindows::placeOf(const PageSource& source, std::uint64_t offset) {
  const std::uint64_t piece = offset / PIECE;
  const std::uint64_t first = reinterpret_cast<std::uintptr_t>(&source) / alignof(PageSource);
  return places_[(first + piece + piece / places_.size()) % places_.size()];
}

void ResidentWindows::unmap(Place& place) {
  const std::uint64_t start = place.piece * PIECE;
  place.source->release(start, std::min(PIECE, place.source->bytes() - start));
  place = {};
}

}  // namespace faultline::shard
