#include "autotune/remote_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "autotune/bench_messages.h"
#include "runtime/base/error.h"

namespace quern {

class RemoteBench::Lost : public Error {
 public:
  Lost(TrialStatus status, const std::string& sentence, bool killed)
      : Error(sentence), status_(status), killed_(killed) {}
  TrialStatus status() const { return status_; }
  /// By somebody else.
  bool killed() const { return killed_; }

 private:
  TrialStatus status_;
  bool killed_;
};

namespace {

constexpr int kMaxKilled = 5;  // processes in a row before a trial is given up

/// The last line of what a process printed.
std::string last_words(const std::string& printed) {
  const auto end = printed.find_last_not_of('\n');
  if (end == std::string::npos) return {};
  const auto line_break = printed.find_last_of('\n', end);
  const std::size_t start = line_break == std::string::npos ? 0 : line_break + 1;
  return printed.substr(start, end - start + 1);
}

}  // namespace

RemoteBench::RemoteBench(RemoteBenchOptions options) : options_(std::move(options)) {}
RemoteBench::~RemoteBench() = default;

void RemoteBench::lose(TrialStatus status, const std::string& reason, bool killed) {
  child_.reset();
  is_open_ = false;
  ++num_lost_;
  throw Lost(status, reason, killed);
}

ordered_json RemoteBench::ask(const ordered_json& request, std::chrono::milliseconds deadline) {
  std::optional<std::string> reply;
  try {
    child_->send(bench::pack(request));
    reply = child_->receive(std::chrono::steady_clock::now() + deadline);
  } catch (const ChildLost& lost) {
    // What it printed last says more than how it died, where it said anything.
    const std::string words = last_words(child_->error_output());
    lose(TrialStatus::faulted,
         words.empty() ? lost.what() : fmt::format("{}: {}", lost.what(), words),
         lost.signal() == SIGKILL);
  }
  if (!reply)
    lose(TrialStatus::timed_out,
         fmt::format("it did not end within {:.1f} s", static_cast<double>(deadline.count()) / 1e3));
  ordered_json answer = bench::unpack(*reply);
  if (const auto lost = answer.find("lost"); lost != answer.end())
    lose(TrialStatus::faulted, lost->get<std::string>());
  if (const auto broken = answer.find("broken"); broken != answer.end())
    throw Error(broken->get<std::string>());
  return answer;
}

void RemoteBench::start() {
  if (child_) return;
  try {
    start_child();
  } catch (const Lost&) {  // open() tries again
  }
}

void RemoteBench::start_child() {
  child_ = std::make_unique<ChildProcess>(options_.child);
  is_open_ = false;
  const ordered_json answer = ask(options_.hello, options_.open_deadline);
  if (const auto refused = answer.find("refused"); refused != answer.end()) {
    child_.reset();
    throw DeviceError(refused->get<std::string>());
  }
}

void RemoteBench::open_child() {
  if (!child_) start_child();
  if (is_open_) return;
  std::fill(is_loaded_.begin(), is_loaded_.end(), false);
  const ordered_json answer = ask(problem_, options_.open_deadline);
  if (const auto refused = answer.find("refused"); refused != answer.end())
    throw Error(refused->get<std::string>());
  is_open_ = true;
}

void RemoteBench::ensure_open() {
  // A process may die of something that happened before it was asked.
  for (int lives = kMaxKilled, faults = 0;;) {
    try {
      return open_child();
    } catch (const Lost& lost) {
      faults += lost.killed() ? 0 : 1;
      if (--lives == 0 || faults == 2)
        throw Error(fmt::format("no process for trials stays alive: {}", lost.what()));
    }
  }
}

void RemoteBench::open(const std::string& family, const Params& problem,
                       std::span<const Params> configs) {
  ordered_json list = ordered_json::array();
  for (const Params& config : configs) list.push_back(config);
  problem_ = {{"do", "open"}, {"family", family}, {"problem", problem}, {"configs", list}};
  images_.assign(configs.size(), ordered_json());
  is_loaded_.assign(configs.size(), false);
  is_open_ = false;
  ensure_open();
}

ordered_json RemoteBench::load_message(std::size_t candidate) const {
  ordered_json message = {{"do", "load"}, {"candidate", candidate}};
  if (!images_[candidate].empty()) message["image"] = images_[candidate];
  return message;
}

ordered_json RemoteBench::attempt_once(std::size_t candidate, const ordered_json& request) {
  if (!is_loaded_[candidate]) {
    ordered_json answer = ask(load_message(candidate), options_.trial_deadline);
    is_loaded_[candidate] = bench::verdict_from(answer).status == TrialStatus::ok;
    if (!is_loaded_[candidate] || request.is_null()) return answer;
  }
  return ask(request, options_.trial_deadline);
}

ordered_json RemoteBench::attempt(std::size_t candidate, const ordered_json& request) {
  for (int killed = 1;; ++killed) {
    ensure_open();
    try {
      return attempt_once(candidate, request);
    } catch (const Lost& lost) {
      if (!lost.killed() || killed == kMaxKilled)
        return bench::to_message(Verdict{lost.status(), lost.what(), 0});
    }
  }
}

Verdict RemoteBench::load(std::size_t candidate, const CompiledKernel* image) {
  // An empty object stands for a vendor's routine, which has no image.
  images_.at(candidate) = image ? bench::to_message(*image) : ordered_json::object();
  is_loaded_[candidate] = false;
  return bench::verdict_from(attempt(candidate, nullptr));
}

Verdict RemoteBench::gate(std::size_t candidate) {
  return bench::verdict_from(attempt(candidate, {{"do", "gate"}, {"candidate", candidate}}));
}

Verdict RemoteBench::measure(std::size_t candidate, int num_samples,
                             std::vector<double>& samples_us) {
  const ordered_json answer = attempt(
      candidate, {{"do", "measure"}, {"candidate", candidate}, {"samples", num_samples}});
  if (const auto samples = answer.find("samples_us"); samples != answer.end())
    for (const ordered_json& sample : *samples) samples_us.push_back(sample.get<double>());
  return bench::verdict_from(answer);
}

void RemoteBench::close() {
  problem_ = ordered_json();
  images_.clear();
  is_open_ = false;
  try {
    if (child_) ask({{"do", "close"}}, options_.trial_deadline);
  } catch (const Lost&) {
  }
}

}  // namespace quern
