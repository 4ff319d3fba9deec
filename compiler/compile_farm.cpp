#include "compiler/compile_farm.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "compiler/compile_worker.h"
#include "runtime/base/available_memory.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {
namespace {

/// Ample for a usual kernel: a worker that has compiled 40 GEMMs holds 75 MB, most of it NVRTC's
/// text, which workers share.
constexpr std::size_t kUsualWorkerMemory = std::size_t{256} << 20;

/// A job's place in the queue: higher priorities first, then first come first served.
struct Place {
  int priority = 0;
  std::size_t ticket = 0;
  friend bool operator<(const Place& a, const Place& b) {
    return std::tuple(-static_cast<long>(a.priority), a.ticket) <
           std::tuple(-static_cast<long>(b.priority), b.ticket);
  }
};

/// One compile and everybody who asked for it.
struct Job {
  CompileRequest request;
  std::vector<std::size_t> tickets;
  Place place;
  bool begun = false;
};

std::size_t most_workers(const CompileFarmOptions& options) {
  if (options.num_workers > 0) return static_cast<std::size_t>(options.num_workers);
  const std::size_t processors = std::max(1u, std::thread::hardware_concurrency());
  return std::clamp<std::size_t>(available_memory_bytes() / kUsualWorkerMemory, 1, processors);
}

}  // namespace

std::vector<std::string> compile_worker_command(std::vector<std::string> worker_command) {
  if (!worker_command.empty()) worker_command.push_back("compile");
  return worker_command;
}

struct CompileFarm::Impl {
  const Nvrtc& nvrtc;
  ImageStore* const store;
  const HeaderMap headers;
  const CompileFarmOptions options;
  const std::string version;
  const std::string greeting;  // of worker processes
  const std::size_t max_threads;

  mutable std::mutex mutex;
  std::condition_variable work_came, outcome_came;
  std::atomic<bool> stopping = false, in_process;
  std::size_t num_tickets = 0, num_outstanding = 0, num_idle = 0;
  std::map<std::string, Job> jobs;  // waiting or under way, by what tells requests apart
  std::map<Place, std::string> waiting;
  std::deque<CompileOutcome> finished;
  CompileCounts counts;
  std::vector<std::thread> threads;

  Impl(const Nvrtc& nvrtc_, ImageStore* store_, HeaderMap headers_, CompileFarmOptions options_)
      : nvrtc(nvrtc_),
        store(store_),
        headers(std::move(headers_)),
        options(std::move(options_)),
        version(nvrtc.version()),
        greeting(options.worker_command.empty() ? "" : CompileWorker::greeting(nvrtc, headers)),
        max_threads(most_workers(options)),
        in_process(options.worker_command.empty()) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work_came.notify_all();
    for (std::thread& thread : threads) thread.join();
  }

  /// Sees to it that somebody can take one job more. Call with the mutex held.
  void make_room() {
    if (waiting.size() < num_idle || threads.size() >= max_threads) return;
    try {
      threads.emplace_back([this] { work(); });
      ++num_idle;  // until it has taken its first job
    } catch (const std::system_error&) {
      if (threads.empty()) throw;  // else those that there are must do
    }
  }

  void work() {
    CompileWorker worker({options.worker_command, options.deadline, options.max_worker_memory},
                         greeting, version, stopping);
    std::unique_lock lock(mutex);
    while (true) {
      work_came.wait(lock, [this] { return stopping || !waiting.empty(); });
      if (stopping) return;
      --num_idle;
      const std::string key = std::move(waiting.begin()->second);
      waiting.erase(waiting.begin());
      Job& job = jobs.at(key);
      job.begun = true;
      const CompileRequest request = job.request;
      lock.unlock();
      const CompileOutcome outcome = compile(request, worker);
      lock.lock();
      hand_over(key, outcome);
      ++num_idle;
    }
  }

  CompileOutcome compile(const CompileRequest& request, CompileWorker& worker) {
    CompileOutcome outcome;
    try {
      outcome.kernel = compile_cached(
          [&](const CompileRequest& missing) { return compile_missing(missing, worker); }, version,
          store, request, headers, &stopping);
    } catch (const CompileError& error) {
      outcome.error = error.what();
      outcome.log = error.log();
    } catch (const std::exception& error) {
      outcome.error = error.what();
    }
    return outcome;
  }

  KernelImage compile_missing(const CompileRequest& request, CompileWorker& worker) {
    try {
      if (!in_process) return worker.compile(request);
    } catch (const WorkerUnavailable& error) {
      if (!in_process.exchange(true))
        log(LogLevel::warning,
            fmt::format("{}: kernels are compiled in this process instead", error.what()));
    }
    return nvrtc.compile(request, headers);
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

CompileFarm::CompileFarm(const Nvrtc& nvrtc, ImageStore* store, HeaderMap headers,
                         CompileFarmOptions options)
    : impl_(std::make_unique<Impl>(nvrtc, store, std::move(headers), std::move(options))) {}

CompileFarm::~CompileFarm() = default;

std::size_t CompileFarm::submit(CompileRequest request, int priority) {
  // The headers are the same for all requests: hashing them too is left to whoever compiles.
  const std::string key = image_key(request, {}, impl_->version);
  const std::lock_guard lock(impl_->mutex);
  const bool is_new = !impl_->jobs.contains(key);
  if (is_new) impl_->make_room();
  const Place place{priority, impl_->num_tickets++};
  ++impl_->num_outstanding;
  Job& job = impl_->jobs[key];
  job.tickets.push_back(place.ticket);
  if (is_new) {
    job.request = std::move(request);
    job.place = place;
    impl_->waiting.emplace(place, key);
    impl_->work_came.notify_one();
  } else if (!job.begun && place < job.place) {
    impl_->waiting.erase(job.place);
    job.place = place;
    impl_->waiting.emplace(place, key);
  }
  return place.ticket;
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
  for (const auto& [place, key] : impl_->waiting) {
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

std::size_t CompileFarm::num_waiting() const {
  const std::lock_guard lock(impl_->mutex);
  std::size_t count = 0;
  for (const auto& [place, key] : impl_->waiting) count += impl_->jobs.at(key).tickets.size();
  return count;
}

CompileCounts CompileFarm::counts() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->counts;
}

}  // namespace quern
