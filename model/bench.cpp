#include "model/bench.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <span>

#include "autotune/search.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

/// Bytes of keys and values that one token adds, over all layers.
double kv_bytes_per_token(const ModelConfig& config) {
  return 2.0 * 2.0 * static_cast<double>(config.num_layers * config.kv_size());
}

std::vector<std::int32_t> random_tokens(const ModelConfig& config, int count) {
  std::mt19937 rng(11);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int32_t& id : ids)
    id = static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(config.vocab_size));
  return ids;
}

}  // namespace

BenchResult bench_decode(GpuSession& session, GpuModel& model, const ModelConfig& config, int batch,
                         int context, int steps) {
  const int warm = std::max(3, steps / 10);
  const int last = context + warm + steps + 1;
  if (last > model.max_context())
    throw InputError("the context with the generated tokens is more than the model holds");
  model.reset();
  // Whatever an earlier run left in the cache could be NaN, and NaN is slower or faster than data.
  session.fill_random(model.stream(), model.kv_address(), model.kv_bytes() / 2, model.dtype(), 1.0);
  const std::vector<std::int32_t> first = random_tokens(config, batch);
  for (int s = 0; s < batch; ++s) model.reserve(s, last);
  model.set_next(first, context);
  for (int i = 0; i < warm; ++i) model.decode(batch);
  std::vector<Event> marks(static_cast<std::size_t>(steps) + 1);
  marks[0].record(model.stream());
  for (int i = 0; i < steps; ++i) {
    model.decode(batch);
    marks[static_cast<std::size_t>(i) + 1].record(model.stream());
  }
  marks.back().synchronize();
  std::vector<double> samples;
  for (std::size_t i = 0; i + 1 < marks.size(); ++i)
    samples.push_back(static_cast<double>(marks[i + 1].us_since(marks[i])));
  const Timing timing = summarize(std::move(samples));
  BenchResult result;
  result.phase = "decode";
  result.batch = batch;
  result.tokens = steps;
  result.context = context;
  result.ms = timing.median_us / 1e3;
  result.spread_ms = timing.spread_us / 1e3;
  result.tokens_per_second = batch / (timing.median_us * 1e-6);
  result.bytes = static_cast<double>(model.weights().bytes_per_step()) +
                 kv_bytes_per_token(config) * batch * (context + warm + steps / 2.0);
  return result;
}

BenchResult bench_prefill(GpuModel& model, const ModelConfig& config, int tokens, int repeats) {
  const std::vector<std::int32_t> ids = random_tokens(config, tokens);
  std::vector<double> samples;
  for (int i = 0; i < repeats + 2; ++i) {
    model.reset();
    const auto start = std::chrono::steady_clock::now();
    model.append(0, ids, GpuModel::Logits::none, true);
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    if (i >= 2) samples.push_back(took.count());
  }
  const Timing timing = summarize(std::move(samples));
  BenchResult result;
  result.phase = "prefill";
  result.tokens = tokens;
  result.ms = timing.median_us / 1e3;
  result.spread_ms = timing.spread_us / 1e3;
  result.tokens_per_second = tokens / (timing.median_us * 1e-6);
  const auto hidden = static_cast<double>(config.hidden_size);
  const double per_layer = hidden * static_cast<double>(2 * config.q_size() + 2 * config.kv_size() +
                                                        3 * config.intermediate_size);
  const double attention =
      static_cast<double>(config.q_size()) * tokens * (tokens + 1.0);  // QK and PV, half masked
  result.flops = 2.0 * static_cast<double>(config.num_layers) * (per_layer * tokens + attention) +
                 2.0 * hidden * static_cast<double>(config.vocab_size);
  return result;
}

namespace {

Timing time_forward(Backend& backend, std::span<const std::int32_t> ids, int repeats, bool afresh) {
  std::vector<double> samples;
  for (int i = 0; i < repeats; ++i) {
    if (afresh) backend.reset();
    const auto start = std::chrono::steady_clock::now();
    backend.forward(ids, LogitRows::last);
    samples.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
  }
  return summarize(std::move(samples));
}

}  // namespace

BenchResult bench_decode(Backend& backend, int context, int steps) {
  const auto ids = random_tokens(backend.config(), std::max(1, context));
  backend.reset();
  if (context > 0) backend.forward(ids, LogitRows::last);
  const Timing timing = time_forward(backend, std::span(ids).first(1), steps, false);
  return {"decode",
          1,
          steps,
          context,
          timing.median_us / 1e3,
          timing.spread_us / 1e3,
          1e6 / timing.median_us};
}

BenchResult bench_prefill(Backend& backend, int tokens, int repeats) {
  const auto ids = random_tokens(backend.config(), tokens);
  const Timing timing = time_forward(backend, ids, repeats, true);
  return {"prefill",
          1,
          tokens,
          0,
          timing.median_us / 1e3,
          timing.spread_us / 1e3,
          tokens * 1e6 / timing.median_us};
}

}  // namespace quern
