// Pieces of work on all CPUs, whose results are used in order.
#pragma once

#include <tbb/parallel_pipeline.h>
#include <tbb/task_arena.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "threads/hand_over.h"

namespace faultline::packed {

// Has `next` fill a piece until it returns false; calls `work` with each, on as many threads as this process may use CPUs;
// then `use`, in the order of `next`. `next` and `use` are called by one thread at a time, not always the same. An
// exception of any of them ends the work and is thrown here. A few pieces for each CPU are under way at once; a piece is filled
// again after it was used.
template <typename Piece>
void inOrder(const std::function<bool(Piece&)>& next, const std::function<void(Piece&)>& work,
             const std::function<void(Piece&)>& use) {
  using threads::handOver, threads::takeOver;
  // Pieces end in the order in which they begin, so that the oldest place is free for the next one.
  std::vector<Piece> pieces(static_cast<std::size_t>(3 * tbb::this_task_arena::max_concurrency()));
  std::size_t filled = 0;
  int used = 0;  // stands for what calls of `use` leave to each other
  const auto fill = [&](tbb::flow_control& flow) -> Piece* {
    takeOver(&filled);
    Piece* piece = &pieces[filled++ % pieces.size()];
    takeOver(piece);
    if (!next(*piece)) flow.stop();
    handOver(&filled);
    handOver(piece);
    return piece;
  };
  const auto change = [&](Piece* piece) {
    takeOver(piece);
    work(*piece);
    handOver(piece);
    return piece;
  };
  const auto end = [&](Piece* piece) {
    takeOver(piece);
    takeOver(&used);
    use(*piece);
    handOver(&used);
    handOver(piece);
  };
  handOver(&filled);
  handOver(&used);
  tbb::parallel_pipeline(pieces.size(),
                         tbb::make_filter<void, Piece*>(tbb::filter_mode::serial_in_order, fill) &
                             tbb::make_filter<Piece*, Piece*>(tbb::filter_mode::parallel, change) &
                             tbb::make_filter<Piece*, void>(tbb::filter_mode::serial_in_order, end));
  takeOver(&filled);
  takeOver(&used);
}

}  // namespace faultline::packed
