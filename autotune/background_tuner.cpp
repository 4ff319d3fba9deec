#include "autotune/background_tuner.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "autotune/device_worker.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

/// Ends a tune from within a trial; no Error, because those end a problem only.
struct Stopped {};

/// Hands the GPU to and fro. The tuner's thread asks for turns, the server's grants them.
class Turns {
 public:
  explicit Turns(double share) : share_(share) {}

  /// Tuner: runs `timed` while the server waits. Throws Stopped.
  template <class Timed>
  auto take(Timed&& timed) {
    {
      std::unique_lock lock(mutex_);
      wanted_ = true;
      changed_.wait(lock, [this] { return granted_ || stopping_; });
      wanted_ = false;
      if (stopping_) throw Stopped{};
    }
    struct Return {
      Turns& turns;
      ~Return() {
        const std::lock_guard lock(turns.mutex_);
        turns.granted_ = false;
        turns.changed_.notify_all();
      }
    } give_back{*this};
    return timed();
  }

  /// Tuner: throws Stopped if it should end.
  void check() {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw Stopped{};
  }

  /// Server: lets waiting turns be taken within the share.
  void grant() {
    std::unique_lock lock(mutex_);
    while (wanted_ && !stopping_ && spent_ <= share_ * seconds(Clock::now() - start_)) {
      const auto begin = Clock::now();
      granted_ = true;
      changed_.notify_all();
      changed_.wait(lock, [this] { return !granted_ || stopping_; });
      spent_ += seconds(Clock::now() - begin);
    }
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }

 private:
  static double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false, granted_ = false, stopping_ = false;
  const double share_;
  const Clock::time_point start_ = Clock::now();
  double spent_ = 0;  // seconds
};

/// A bench that times only in its turn.
class TurnBench : public TrialBench {
 public:
  TurnBench(TrialBench& bench, Turns& turns) : bench_(bench), turns_(turns) {}
  void open(const std::string& family, const Params& problem,
            std::span<const Params> configs) override {
    turns_.check();
    bench_.open(family, problem, configs);
  }
  Verdict load(std::size_t candidate, const CompiledKernel* image) override {
    turns_.check();
    return bench_.load(candidate, image);
  }
  Verdict gate(std::size_t candidate) override {
    turns_.check();
    return bench_.gate(candidate);
  }
  Verdict measure(std::size_t candidate, int num_samples,
                  std::vector<double>& samples_us) override {
    return turns_.take([&] { return bench_.measure(candidate, num_samples, samples_us); });
  }
  void close() override { bench_.close(); }

 private:
  TrialBench& bench_;
  Turns& turns_;
};

}  // namespace

struct BackgroundTuner::Impl {
  std::unique_ptr<KernelCatalog> catalog;
  std::unique_ptr<TrialBench> bench;
  std::vector<KernelRequest> requests;
  BackgroundTuneOptions options;
  Turns turns;
  mutable std::mutex mutex;  // of what follows
  std::vector<TuningRecord> found;
  bool done = false;
  std::string failure;
  std::thread thread;

  Impl(std::unique_ptr<KernelCatalog> catalog_, std::unique_ptr<TrialBench> bench_,
       std::vector<KernelRequest> requests_, BackgroundTuneOptions options_)
      : catalog(std::move(catalog_)),
        bench(std::move(bench_)),
        requests(std::move(requests_)),
        options(std::move(options_)),
        turns(options.share) {}

  void run() {
    options.tune.warm_up_seconds = 0;
    options.tune.progress = {};
    options.tune.on_record = [this](const TuningRecord& record) {
      const std::lock_guard lock(mutex);
      found.push_back(record);
    };
    std::string reason;
    try {
      TurnBench in_turn(*bench, turns);
      TrialBench* const benches[] = {&in_turn};
      tune(*catalog, benches, requests, options.tune);
    } catch (const Stopped&) {
    } catch (const std::exception& error) {
      reason = error.what();
    }
    const std::lock_guard lock(mutex);
    failure = std::move(reason);
    done = true;
  }
};

BackgroundTuner::BackgroundTuner(std::unique_ptr<KernelCatalog> catalog,
                                 std::unique_ptr<TrialBench> bench,
                                 std::vector<KernelRequest> requests,
                                 BackgroundTuneOptions options)
    : impl_(std::make_unique<Impl>(std::move(catalog), std::move(bench), std::move(requests),
                                   std::move(options))) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

BackgroundTuner::~BackgroundTuner() {
  impl_->turns.stop();
  impl_->thread.join();
}

std::vector<TuningRecord> BackgroundTuner::yield() {
  impl_->turns.grant();
  const std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->found, {});
}

bool BackgroundTuner::done() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->done;
}

std::string BackgroundTuner::failure() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->failure;
}

std::unique_ptr<BackgroundTuner> tune_in_background(KernelLibrary& library,
                                                    FamilyRegistry (*make_families)(HeaderMap),
                                                    std::vector<KernelRequest> requests,
                                                    BackgroundTuneOptions options) {
  if (library.options().worker_command.empty()) return nullptr;
  auto benches = device_benches(library, 1, 1);
  return std::make_unique<BackgroundTuner>(
      std::make_unique<KernelCatalog>(library.arch(), library.fingerprint(),
                                      make_families(library.families().templates()),
                                      library.options()),
      std::move(benches.front()), std::move(requests), std::move(options));
}

}  // namespace quern
