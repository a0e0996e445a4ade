// A loop over independent items on several threads.
//
// Own threads rather than OpenMP: torch brings its own OpenMP runtime, a second one beside it would
// keep a second set of spinning workers. Items are handed out one by one, and a kernel's result
// never depends on which thread took an item, so the number of threads cannot change a single bit.
// A forked child starts with no workers and makes its own; a call made while another is running
// (from a second Python thread) works on its own thread alone until that one ends.
#pragma once

#include <cstdint>
#include <type_traits>

namespace pysr {

using ParallelBody = void (*)(void* context, int64_t item, int worker);

// Calls body(context, item, worker) for every item below `items`, with worker in [0, threads). The
// first exception thrown by the body is thrown again here, once every worker has stopped.
void parallel_for(int64_t items, int threads, ParallelBody body, void* context);

template <class F>
void parallel_for(int64_t items, int threads, F&& body) {
  using Body = std::remove_reference_t<F>;
  parallel_for(
      items, threads,
      [](void* context, int64_t item, int worker) { (*static_cast<Body*>(context))(item, worker); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace pysr
