#include "common/parallel.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace pysr {
namespace {

struct Job {
  const int64_t items;
  const ParallelBody body;
  void* const context;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;
  std::fenv_t environment;  // the caller's: whether denormals are flushed to zero, for one

  Job(int64_t items_, ParallelBody body_, void* context_)
      : items(items_), body(body_), context(context_) {
    std::fegetenv(&environment);
  }

  void work(int worker) {
    while (step(worker)) {
    }
  }

  // Does one item; false when none is left.
  bool step(int worker) {
    try {
      const int64_t item = next.fetch_add(1);
      if (item >= items) return false;
      body(context, item, worker);
      return true;
    } catch (...) {
      next.store(items);
      std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
      return false;
    }
  }
};

class Pool {
 public:
  // False when another call holds the pool.
  bool run(Job& job, int helpers) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn.owns_lock()) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < helpers && spawn()) ++workers_;
      job_ = &job;
      wanted_ = helpers;
      joined_ = 0;
    }
    wake_.notify_all();
    job.work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;  // whoever wakes only now finds nothing and sleeps on
    done_.wait(lock, [&] { return active_ == 0; });
    return true;
  }

 private:
  bool spawn() {
    try {
      std::thread([this] { serve(); }).detach();
      return true;
    } catch (const std::system_error&) {
      return false;  // the machine grants no more threads: go on with those there are
    }
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ != nullptr && joined_ < wanted_; });
      Job& job = *job_;
      const int worker = ++joined_;
      ++active_;
      lock.unlock();
      std::fesetenv(&job.environment);
      job.work(worker);
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  int workers_ = 0, wanted_ = 0, joined_ = 0, active_ = 0;
};

// Never destroyed: detached workers may still wait on it while the process ends.
std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
#ifndef _WIN32
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); });
  (void)registered;
#endif
  Pool* existing = current_pool.load();
  if (existing != nullptr) return *existing;
  Pool* fresh = new Pool;
  if (current_pool.compare_exchange_strong(existing, fresh)) return *fresh;
  delete fresh;
  return *existing;
}

}  // namespace

void parallel_for(int64_t items, int threads, ParallelBody body, void* context) {
  const int helpers = static_cast<int>(std::min<int64_t>(items, threads)) - 1;
  Job job(items, body, context);
  if (helpers < 1) {
    job.work(0);
  } else {  // while another call holds the pool alone, then with helpers
    while (!pool().run(job, helpers) && job.step(0)) {
    }
  }
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace pysr
