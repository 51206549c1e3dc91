#include "bench/pattern.h"

#include <algorithm>
#include <numeric>

namespace faultline::bench {

namespace {

constexpr std::uint32_t CLUSTER = 16;
constexpr std::uint32_t SHORTEST_RUN = 8, LONGEST_RUN = 64;
constexpr std::uint64_t ONE_IN = 20;  // share for `scattered` and `runs`: 5 %

using Order = std::vector<std::uint32_t>;

Order shuffled(std::uint64_t count, std::mt19937_64& random) {
  Order order(count);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), random);
  return order;
}

std::uint32_t between(std::uint32_t least, std::uint32_t most, std::mt19937_64& random) {
  return std::uniform_int_distribution<std::uint32_t>(least, most)(random);
}

Order clusters(std::uint32_t pages, std::mt19937_64& random) {
  Order order;
  for (const std::uint32_t cluster : shuffled((pages + CLUSTER - 1) / CLUSTER, random))
    for (std::uint32_t page = cluster * CLUSTER; page < std::min(pages, (cluster + 1) * CLUSTER); page++)
      order.push_back(page);
  return order;
}

Order sparse(std::uint32_t pages, std::mt19937_64& random) {
  Order order;
  for (const std::uint32_t cluster : shuffled(pages / CLUSTER, random))
    order.push_back(cluster * CLUSTER + between(0, CLUSTER - 1, random));
  return order;
}

// The memory is cut into equal pieces, each with one run at a random place of it: none overlap.
Order runs(std::uint32_t pages, std::mt19937_64& random) {
  constexpr std::uint32_t PIECE = ONE_IN * (SHORTEST_RUN + LONGEST_RUN) / 2;
  Order order;
  for (const std::uint32_t piece : shuffled(std::max(1u, pages / PIECE), random)) {
    const std::uint32_t room = std::min(PIECE, pages);
    const std::uint32_t length = std::min(between(SHORTEST_RUN, LONGEST_RUN, random), room);
    const std::uint32_t first = piece * PIECE + between(0, room - length, random);
    for (std::uint32_t page = first; page < first + length; page++) order.push_back(page);
  }
  return order;
}

}  // namespace

std::string nameOf(Pattern pattern) {
  switch (pattern) {
    case Pattern::random:
      return "random";
    case Pattern::sequential:
      return "sequential";
    case Pattern::clusters:
      return "clusters of 64 KiB";
    case Pattern::sparse:
      return "one page in 16";
    case Pattern::scattered:
      return "5 % one by one";
    case Pattern::runs:
      break;
  }
  return "5 % in runs of 8 to 64";
}

std::vector<std::uint32_t> orderOf(Pattern pattern, std::uint64_t pages, std::mt19937_64& random) {
  const auto all = static_cast<std::uint32_t>(pages);
  Order order;
  switch (pattern) {
    case Pattern::random:
      return shuffled(pages, random);
    case Pattern::sequential:
      order.resize(pages);
      std::iota(order.begin(), order.end(), 0u);
      return order;
    case Pattern::clusters:
      return clusters(all, random);
    case Pattern::sparse:
      return sparse(all, random);
    case Pattern::scattered:
      order = shuffled(pages, random);
      order.resize(pages / ONE_IN);
      return order;
    case Pattern::runs:
      break;
  }
  return runs(all, random);
}

}  // namespace faultline::bench
