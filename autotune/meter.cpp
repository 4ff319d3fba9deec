#include "autotune/meter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr std::size_t kMaxNodes = 2048;
constexpr std::size_t kMaxMemory = std::size_t{8} << 30;
constexpr double kWarmUpUs = 5000;  // replays longer than this need no warm-up before a sample
/// Replays longer than this average over so many launches that a third of the samples will do.
constexpr double kLongUs = 2000;

}  // namespace

Meter::Meter(const Context& context, Gate& gate, const Stream& stream)
    : gate_(gate), stream_(stream) {
  const std::size_t set_bytes = OperandSet::size_bytes(gate.specs());
  const auto l2_bytes = static_cast<std::size_t>(std::max(0L, context.device().l2_bytes));
  const std::size_t cold = 2 * l2_bytes / set_bytes + 1;
  const std::size_t affordable = std::min(context.free_bytes() / 2, kMaxMemory) / set_bytes;
  std::size_t count = std::min({cold, kMaxSets, 1 + affordable}) - 1;
  // One piece of memory, since each piece costs as much time as a small kernel's whole trial.
  while (count > 0) {
    try {
      memory_ = Buffer(count * set_bytes);
      break;
    } catch (const OutOfMemoryError&) {  // free memory may be in pieces
      count /= 2;
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    more_.emplace_back(gate.specs(), memory_.address() + i * set_bytes);
    more_.back().copy_from(gate.operands(), stream_);
  }
  stream_.synchronize();
}

Meter::Replay Meter::capture(const ReadyKernel& kernel, std::size_t num_nodes) {
  const BoundKernel bound = kernel.bind(gate_.problem());
  gate_.workspace().reserve(bound.workspace_bytes(), stream_);
  const Graph graph = Graph::capture(stream_, [&] {
    for (std::size_t i = 0; i < num_nodes; ++i) {
      const std::size_t set = i % num_sets();
      bound.enqueue(stream_, set == 0 ? gate_.operands().addresses() : more_[set - 1].addresses(),
                    gate_.workspace());
    }
  });
  return {GraphExec(graph), num_nodes, 0};
}

double Meter::time_us(const Replay& replay) {
  const Event start, end;
  replay.graph.launch(stream_);
  start.record(stream_);
  replay.graph.launch(stream_);
  end.record(stream_);
  end.synchronize();
  return end.us_since(start);
}

/// Whole rounds of the sets, so that one replay leaves the cache as the next one finds it.
std::size_t Meter::nodes_for(double us_per_node) const {
  const double us = us_per_node * static_cast<double>(num_sets());
  const auto rounds =
      static_cast<std::size_t>(std::clamp(std::ceil(kReplayUs / std::max(us, 1e-3)), 1.0, 1e6));
  return num_sets() * std::min(rounds, std::max<std::size_t>(1, kMaxNodes / num_sets()));
}

void Meter::prepare(std::size_t id, const ReadyKernel& kernel) {
  if (num_nodes_ > 0 && !replays_.contains(id)) replays_.emplace(id, capture(kernel, num_nodes_));
}

/// All kernels of a problem get graphs of the same length, which the first one's time decides; it
/// grows where that one turns out to have been slow.
Meter::Replay& Meter::replay_of(std::size_t id, const ReadyKernel& kernel) {
  if (num_nodes_ == 0) {
    const Replay first = capture(kernel, num_sets());
    num_nodes_ = nodes_for(time_us(first) / static_cast<double>(first.num_nodes));
  }
  auto found = replays_.find(id);
  if (found != replays_.end() && found->second.us > 0 && found->second.us < kReplayUs / 2) {
    const std::size_t wanted =
        nodes_for(found->second.us / static_cast<double>(found->second.num_nodes));
    if (wanted > found->second.num_nodes) {
      num_nodes_ = std::max(num_nodes_, wanted);
      replays_.erase(found);
      found = replays_.end();
    }
  }
  if (found == replays_.end()) found = replays_.emplace(id, capture(kernel, num_nodes_)).first;
  return found->second;
}

void Meter::measure(std::size_t id, const ReadyKernel& kernel, int num_samples,
                    std::vector<double>& samples_us) {
  Replay& replay = replay_of(id, kernel);
  if (replay.us > kLongUs && num_samples > 2) num_samples = (num_samples + 2) / 3;
  // Everything is enqueued at once: with the device busy from the first replay on, no event waits
  // for the host.
  std::vector<Event> events(static_cast<std::size_t>(num_samples) + 1);
  if (replay.us < kWarmUpUs) replay.graph.launch(stream_);
  events.front().record(stream_);
  for (std::size_t i = 1; i < events.size(); ++i) {
    replay.graph.launch(stream_);
    events[i].record(stream_);
  }
  events.back().synchronize();
  if (num_samples > 0)
    replay.us = static_cast<double>(events.back().us_since(events.front())) / num_samples;
  for (std::size_t i = 1; i < events.size(); ++i)
    samples_us.push_back(static_cast<double>(events[i].us_since(events[i - 1])) /
                         static_cast<double>(replay.num_nodes));
}

std::size_t Meter::run(std::size_t id, const ReadyKernel& kernel, double us) {
  Replay& replay = replay_of(id, kernel);
  if (replay.us == 0) replay.us = time_us(replay);
  const auto count =
      static_cast<std::size_t>(std::clamp(std::ceil(us / std::max(replay.us, 1.0)), 1.0, 1e5));
  for (std::size_t i = 0; i < count; ++i) replay.graph.launch(stream_);
  stream_.synchronize();
  return count * replay.num_nodes;
}

std::vector<Timing> time_in_turns(KernelLibrary& library, std::span<const Contender> contenders,
                                  int rounds) {
  constexpr int kSamples = 3;  // of one contender in a round
  struct Place {               // of one problem
    Gate operands;
    Meter meter;
    Place(KernelLibrary& kernels, const Contender& first, const Stream& stream)
        : operands(kernels, *first.family, first.problem, stream, Gate::Use::operands_only),
          meter(kernels.context(), operands, stream) {}
  };
  const Stream stream;
  std::map<std::string, std::unique_ptr<Place>> places;
  std::vector<Meter*> meters;
  std::vector<ReadyKernel> kernels;
  for (const Contender& c : contenders) {
    auto& place = places[fmt::format("{} {}", c.family->name(), to_key(c.problem))];
    if (!place) place = std::make_unique<Place>(library, c, stream);
    meters.push_back(&place->meter);
    kernels.push_back(library.load(*c.family, c.problem, c.config));
  }
  std::vector<std::vector<double>> samples(kernels.size());
  for (int round = -1; round < rounds; ++round)
    for (std::size_t i = 0; i < kernels.size(); ++i) {
      if (round == 0) samples[i].clear();
      meters[i]->measure(i, kernels[i], kSamples, samples[i]);
    }
  std::vector<Timing> timings;
  for (std::vector<double>& some : samples) timings.push_back(summarize(std::move(some)));
  return timings;
}

std::vector<Timing> time_configs(KernelLibrary& library, const Family& family,
                                 const Params& problem, std::span<const Params> configs,
                                 int rounds) {
  std::vector<Contender> contenders;
  for (const Params& config : configs) contenders.push_back({&family, problem, config});
  return time_in_turns(library, contenders, rounds);
}

}  // namespace quern
