#include "autotune/compile_queue.h"

#include <utility>

#include "runtime/base/error.h"

namespace quern {

CompileQueue::CompileQueue(KernelCatalog& catalog)
    : catalog_(catalog), farm_(catalog.make_farm()), collector_([this] { collect(); }) {}

CompileQueue::~CompileQueue() {
  farm_.cancel();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (collector_.joinable()) collector_.join();
}

void CompileQueue::collect() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || num_waiting_ > 0; });
    if (stopping_ && num_waiting_ == 0) return;
    lock.unlock();
    std::optional<CompileOutcome> outcome = farm_.next();
    lock.lock();
    if (outcome) {
      --num_waiting_;
      outcomes_.emplace(outcome->ticket, *std::move(outcome));
    } else {
      num_waiting_ = farm_.num_outstanding();  // the rest was cancelled
    }
    changed_.notify_all();
  }
}

std::size_t CompileQueue::submit(CompileRequest request, int priority) {
  const std::lock_guard lock(mutex_);
  ++num_waiting_;
  const std::size_t ticket = farm_.submit(std::move(request), priority);
  changed_.notify_all();
  return ticket;
}

CompileOutcome CompileQueue::take(std::size_t ticket) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return outcomes_.contains(ticket) || num_waiting_ == 0; });
  const auto found = outcomes_.find(ticket);
  if (found == outcomes_.end()) throw Error("a compile was lost");
  CompileOutcome outcome = std::move(found->second);
  outcomes_.erase(found);
  if (outcome.kernel) catalog_.count(*outcome.kernel);
  return outcome;
}

std::size_t CompileQueue::num_waiting() const {
  const std::lock_guard lock(mutex_);
  return num_waiting_;
}

void CompileQueue::finish() {
  farm_.cancel();
  std::unique_lock lock(mutex_);
  changed_.notify_all();
  changed_.wait(lock, [this] { return num_waiting_ == 0; });
  for (const auto& [ticket, outcome] : outcomes_)
    if (outcome.kernel) catalog_.count(*outcome.kernel);
  outcomes_.clear();
}

}  // namespace quern
