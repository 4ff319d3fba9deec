#include "runtime/base/thread_pool.h"

#include <algorithm>

namespace quern {
namespace {

// About 20 us on current CPUs: longer than the gaps within a forward pass.
constexpr int kSpins = 1000;

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
void spin_until(const Condition& condition) {
  for (int i = 0; i < kSpins && !condition(); ++i) pause_briefly();
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  if (num_threads <= 0)
    num_threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    generation_.fetch_add(1);
  }
  begun_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(std::size_t count, const std::function<void(std::size_t)>& task) {
  if (workers_.empty() || count <= 1) {
    for (std::size_t i = 0; i < count; ++i) task(i);
    return;
  }
  const std::lock_guard one_at_a_time(callers_);
  Loop loop{&task, count, {}, {}};
  {
    const std::lock_guard lock(mutex_);
    loop_ = &loop;
    generation_.fetch_add(1);
  }
  begun_.notify_all();
  run(loop);
  {
    // From here on no worker may enter. Those that never woke up are not waited for.
    const std::lock_guard lock(mutex_);
    loop_ = nullptr;
  }
  spin_until([&] { return num_inside_.load() == 0; });
  {
    std::unique_lock lock(mutex_);
    left_.wait(lock, [&] { return num_inside_.load() == 0; });
  }
  if (loop.error) std::rethrow_exception(loop.error);
}

void ThreadPool::run(Loop& loop) {
  for (std::size_t i; (i = loop.next.fetch_add(1)) < loop.count;) {
    try {
      (*loop.task)(i);
    } catch (...) {
      loop.next.store(loop.count);
      const std::lock_guard lock(mutex_);
      if (!loop.error) loop.error = std::current_exception();
    }
  }
}

void ThreadPool::work() {
  std::uint64_t seen = 0;
  while (true) {
    spin_until([&] { return generation_.load() != seen; });
    Loop* loop = nullptr;
    {
      std::unique_lock lock(mutex_);
      begun_.wait(lock, [&] { return generation_.load() != seen; });
      seen = generation_.load();
      if (stopping_) return;
      loop = loop_;
      if (!loop) continue;  // woke up after the loop was over
      num_inside_.fetch_add(1);
    }
    run(*loop);
    {
      const std::lock_guard lock(mutex_);
      num_inside_.fetch_sub(1);
    }
    left_.notify_one();
  }
}

}  // namespace quern
