// Threads that may wait for one source, so that no other thread has to.
//
// A source has threads of its own: a store that does not answer holds them up, and with them its own pages,
// and nothing else. Threads are started as they are needed and end when they have had nothing to do for a
// while.
#pragma once

#include <functional>
#include <memory>

namespace faultline::shard {

// Any thread.
class Readers {
 public:
  // The reason of a read. Reads for faults go first, and population never takes all threads.
  enum class For { fault, population };
  // Threads at once, and how many of them populate.
  static constexpr unsigned MOST = 32, MOST_POPULATING = 8;

  // Something to be done in a reader thread. Work must keep alive what it uses: this object, the source and
  // the caller may be gone by then.
  class Work {
   public:
    virtual void run() = 0;

   protected:
    ~Work() = default;
  };

  Readers();
  // Does not wait. Work that is under way or queued is still done.
  ~Readers();
  Readers(const Readers&) = delete;

  // Queues `work`. False where no thread could be started for it (EAGAIN: a limit of threads or of memory);
  // it is then not done.
  [[nodiscard]] bool run(For purpose, Work& work);
  [[nodiscard]] bool run(For purpose, std::function<void()> work);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace faultline::shard
