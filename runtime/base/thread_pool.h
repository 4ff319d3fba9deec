#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quern {

/// Threads that share out the iterations of a loop. A worker that has just finished a loop waits
/// awake for some microseconds before it sleeps: a forward pass is a train of short loops, and
/// waking a thread costs more than many of them.
class ThreadPool {
 public:
  /// `num_threads` includes the caller's own; 0 means one for each hardware thread.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls task(i) once for each i < count, the caller's thread helping, and returns when all are
  /// done. The first exception is rethrown, after the iterations already begun; those not begun are
  /// dropped. Concurrent calls take turns. A task must not call parallel_for of the same pool.
  void parallel_for(std::size_t count, const std::function<void(std::size_t)>& task);

 private:
  struct Loop {
    const std::function<void(std::size_t)>* task;
    std::size_t count;
    std::atomic<std::size_t> next{0};
    std::exception_ptr error;
  };

  void work();
  void run(Loop& loop);

  std::mutex callers_;  // held by the one caller whose loop is running
  std::mutex mutex_;    // guards what follows
  std::condition_variable begun_, left_;
  Loop* loop_ = nullptr;
  std::atomic<std::uint64_t> generation_{0};  // grows with each loop; read without the mutex too
  std::atomic<int> num_inside_{0};            // workers in the loop; read without the mutex too
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace quern
