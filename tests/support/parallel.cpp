#include "tests/support/parallel.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/base/thread_pool.h"
#include "tests/support/support.h"

namespace quern::test {

void check_in_parallel(std::size_t count, const std::function<std::string(std::size_t)>& fault_of) {
  std::mutex mutex;
  std::vector<std::string> faults;
  ThreadPool pool(static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u)));
  pool.parallel_for(count, [&](std::size_t i) {
    if (std::string fault = fault_of(i); !fault.empty()) {
      const std::lock_guard lock(mutex);
      faults.push_back(std::move(fault));
    }
  });
  for (const std::string& fault : faults) FAIL_CHECK(fault);
}

}  // namespace quern::test
