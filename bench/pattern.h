// In which order a target touches its memory, and how much of it.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace faultline::bench {

enum class Pattern {
  random,      // every page, in random order
  sequential,  // every page, in order
  clusters,    // every page: 64 KiB after 64 KiB in random order, in order inside
  sparse,      // a page in 16, at a random place of each 64 KiB, in random order
  scattered,   // 5 % of the pages, one by one, at random
  runs,  // 5 % of the pages in runs of 8 to 64, at random, in order inside: made up, not recorded of a guest
};

std::string nameOf(Pattern pattern);

// Numbers of the pages to be touched, of `pages` in all, none twice; 64 KiB are 16 pages, whatever their
// size.
std::vector<std::uint32_t> orderOf(Pattern pattern, std::uint64_t pages, std::mt19937_64& random);

}  // namespace faultline::bench
