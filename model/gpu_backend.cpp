#include "model/gpu_backend.h"

#include <algorithm>
#include <array>
#include <chrono>

namespace quern {

std::vector<float> GpuBackend::forward(std::span<const std::int32_t> tokens, LogitRows rows) {
  check_tokens(tokens);
  return model_->append(
      0, tokens, rows == LogitRows::all ? GpuModel::Logits::all : GpuModel::Logits::last, false);
}

Generation GpuBackend::generate(std::span<const std::int32_t> prompt,
                                const GenerateOptions& options,
                                const std::function<bool(std::int32_t)>& on_token) {
  using Clock = std::chrono::steady_clock;
  check_tokens(prompt);
  check_sampling(options.sampling);
  Generation out;
  if (options.max_new_tokens < 1) {
    model_->append(0, prompt, GpuModel::Logits::none, false);
    return out;
  }
  const auto began = Clock::now();
  model_->set_sampling(std::span(&options.sampling, 1));
  model_->append(0, prompt, GpuModel::Logits::none, true);
  const int first = model_->length(0);  // position of the first token to come
  // The last token chosen is never run, so that a full context still yields one more.
  const auto last = static_cast<int>(
      std::min<std::int64_t>(first + options.max_new_tokens - 1, model_->max_context()));
  model_->reserve(0, last);  // all pages are there before the first step
  auto first_at = began;
  // Two steps are under way at most: the host reads a token while the next step runs on it.
  std::array<Event, 2> finished;
  for (int position = first;; ++position) {
    const auto slot = static_cast<std::size_t>(position % 2);
    if (position < last) {
      if (options.between_steps) options.between_steps();
      model_->decode(1);  // consumes `position`, chooses the next
      finished[slot ^ 1].record(model_->stream());
    }
    if (position > first) finished[slot].synchronize();
    const std::int32_t token = model_->token_at(0, position);
    if (position == first) first_at = Clock::now();
    out.ids.push_back(token);
    const bool go_on = !on_token || on_token(token);
    const bool stop = std::find(options.stop_ids.begin(), options.stop_ids.end(), token) !=
                      options.stop_ids.end();
    if (go_on && !stop && position < last) continue;
    out.finish_reason = stop     ? FinishReason::stop
                        : !go_on ? FinishReason::cancelled
                                 : FinishReason::length;
    model_->stream().synchronize();
    model_->set_length(0, position);  // a step that ran ahead does not count
    out.prompt_seconds = std::chrono::duration<double>(first_at - began).count();
    out.decode_seconds = std::chrono::duration<double>(Clock::now() - first_at).count();
    return out;
  }
}

}  // namespace quern
