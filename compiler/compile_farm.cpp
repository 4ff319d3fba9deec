#include "compiler/compile_farm.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/error.h"

namespace quern {
namespace {

/// One compile and everybody who asked for it.
struct Job {
  CompileRequest request;
  std::vector<std::size_t> tickets;
};

}  // namespace

struct CompileFarm::Impl {
  const Nvrtc& nvrtc;
  ImageStore* const store;
  const HeaderMap headers;
  const std::string version;

  mutable std::mutex mutex;
  std::condition_variable work_came, outcome_came;
  bool stopping = false;
  std::size_t num_tickets = 0, num_outstanding = 0;
  std::deque<std::string> waiting;  // keys of jobs that no thread has taken
  std::map<std::string, Job> jobs;  // waiting or under way, by image key
  std::deque<CompileOutcome> finished;
  CompileCounts counts;
  std::vector<std::thread> threads;

  Impl(const Nvrtc& nvrtc_, ImageStore* store_, HeaderMap headers_)
      : nvrtc(nvrtc_), store(store_), headers(std::move(headers_)), version(nvrtc.version()) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work_came.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      work_came.wait(lock, [this] { return stopping || !waiting.empty(); });
      if (stopping) return;
      const std::string key = std::move(waiting.front());
      waiting.pop_front();
      const CompileRequest request = jobs.at(key).request;
      lock.unlock();
      const CompileOutcome outcome = compile(request);
      lock.lock();
      hand_over(key, outcome);
    }
  }

  CompileOutcome compile(const CompileRequest& request) const {
    CompileOutcome outcome;
    try {
      outcome.kernel = compile_cached(nvrtc, store, request, headers);
    } catch (const CompileError& error) {
      outcome.error = error.what();
      outcome.log = error.log();
    } catch (const std::exception& error) {
      outcome.error = error.what();
    }
    return outcome;
  }

  /// Call with the mutex held.
  void hand_over(const std::string& key, const CompileOutcome& outcome) {
    bool first = true;
    for (const std::size_t ticket : jobs.at(key).tickets) {
      CompileOutcome& copy = finished.emplace_back(outcome);
      copy.ticket = ticket;
      if (!copy.kernel) {
        ++counts.failed;
        continue;
      }
      if (!std::exchange(first, false)) copy.kernel->from_cache = true;
      ++(copy.kernel->from_cache ? counts.from_cache : counts.compiled);
    }
    jobs.erase(key);
    outcome_came.notify_all();
  }

  /// Call with the mutex held.
  std::optional<CompileOutcome> take() {
    if (finished.empty()) return std::nullopt;
    CompileOutcome outcome = std::move(finished.front());
    finished.pop_front();
    if (--num_outstanding == 0) outcome_came.notify_all();
    return outcome;
  }
};

CompileFarm::CompileFarm(const Nvrtc& nvrtc, ImageStore* store, HeaderMap headers, int num_threads)
    : impl_(std::make_unique<Impl>(nvrtc, store, std::move(headers))) {
  const unsigned count = num_threads > 0 ? static_cast<unsigned>(num_threads)
                                         : std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 0; i < count; ++i)
    impl_->threads.emplace_back([impl = impl_.get()] { impl->work(); });
}

CompileFarm::~CompileFarm() = default;

std::size_t CompileFarm::submit(CompileRequest request) {
  std::string key = image_key(request, impl_->headers, impl_->version);
  const std::lock_guard lock(impl_->mutex);
  const std::size_t ticket = impl_->num_tickets++;
  ++impl_->num_outstanding;
  const auto [job, is_new] = impl_->jobs.try_emplace(key, Job{std::move(request), {}});
  job->second.tickets.push_back(ticket);
  if (is_new) {
    impl_->waiting.push_back(std::move(key));
    impl_->work_came.notify_one();
  }
  return ticket;
}

std::optional<CompileOutcome> CompileFarm::next() {
  std::unique_lock lock(impl_->mutex);
  impl_->outcome_came.wait(
      lock, [this] { return !impl_->finished.empty() || impl_->num_outstanding == 0; });
  return impl_->take();
}

std::optional<CompileOutcome> CompileFarm::try_next() {
  const std::lock_guard lock(impl_->mutex);
  return impl_->take();
}

std::size_t CompileFarm::cancel() {
  const std::lock_guard lock(impl_->mutex);
  std::size_t dropped = 0;
  for (const std::string& key : impl_->waiting) {
    dropped += impl_->jobs.at(key).tickets.size();
    impl_->jobs.erase(key);
  }
  impl_->waiting.clear();
  impl_->num_outstanding -= dropped;
  impl_->outcome_came.notify_all();
  return dropped;
}

std::size_t CompileFarm::num_outstanding() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->num_outstanding;
}

CompileCounts CompileFarm::counts() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->counts;
}

}  // namespace quern
