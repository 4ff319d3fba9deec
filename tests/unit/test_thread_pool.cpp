#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("every iteration of a loop runs exactly once") {
  for (const int num_threads : {0, 1, 2, 5}) {
    ThreadPool pool(num_threads);
    CHECK_GE(pool.size(), 1);
    for (const std::size_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(count);
      pool.parallel_for(count, [&](std::size_t i) { ++runs[i]; });
      for (const auto& run : runs) CHECK_EQ(run.load(), 1);
    }
  }
}

TEST_CASE("many short loops in a row") {
  ThreadPool pool(4);
  std::atomic<int> total = 0;
  for (int i = 0; i < 5000; ++i) pool.parallel_for(3, [&](std::size_t) { ++total; });
  CHECK_EQ(total.load(), 15000);
}

TEST_CASE("an exception reaches the caller and the pool goes on") {
  ThreadPool pool(3);
  for (int i = 0; i < 20; ++i) {
    CHECK_THROWS_AS(pool.parallel_for(100,
                                      [&](std::size_t index) {
                                        if (index == 40) throw std::runtime_error("forty");
                                      }),
                    std::runtime_error);
    std::atomic<int> runs = 0;
    pool.parallel_for(10, [&](std::size_t) { ++runs; });
    CHECK_EQ(runs.load(), 10);
  }
}

TEST_CASE("callers from several threads take turns") {
  ThreadPool pool(3);
  std::atomic<int> total = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) pool.parallel_for(8, [&](std::size_t) { ++total; });
    });
  for (std::thread& caller : callers) caller.join();
  CHECK_EQ(total.load(), 4 * 200 * 8);
}
