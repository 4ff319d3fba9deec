#include "model/cpu_backend.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "model/cpu_math.h"
#include "model/cpu_row_kernels.h"
#include "model/kv_cache.h"
#include "model/rope.h"
#include "runtime/base/error.h"
#include "runtime/base/thread_pool.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

// Tokens that go through the layers together: enough to hide the unpacking of weights, few enough
// for the activations of large models.
constexpr std::int64_t kMaxChunk = 512;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

cpu::Matrix matrix(const Projection& projection) {
  if (const auto* quantised = std::get_if<QuantisedLinear>(&projection))
    return {nullptr, DType::i32, quantised->out_features, quantised->in_features, quantised};
  const auto& view = std::get<TensorView>(projection);
  return {view.data.data(), view.dtype, view.shape[0], view.shape[1]};
}

std::vector<float> to_floats(const TensorView& view) {
  std::vector<float> out(view.num_elements());
  cpu::to_f32(view.data.data(), view.dtype, 0, static_cast<std::int64_t>(out.size()), out.data());
  return out;
}

/// Rotates a head in place: element i pairs with i + d / 2.
void rotate(float* head, const float* cosines, const float* sines, std::int64_t d) {
  const std::int64_t half = d / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosines[i] - b * sines[i];
    head[i + half] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace

struct CpuBackend::Impl {
  /// What a chunk of tokens leaves behind on its way; each is [tokens, ...], grown on demand.
  struct Activations {
    std::vector<float> residual;        // [n, hidden_size]
    std::vector<float> normed;          // [n, hidden_size]
    std::vector<float> projected;       // [n, hidden_size]
    std::vector<float> qkv;             // [n, q_size + 2 kv_size]
    std::vector<float> attended;        // [n, q_size]
    std::vector<float> gate_up;         // [n, 2, intermediate_size]
    std::vector<float> activated;       // [n, intermediate_size]
    std::vector<float> cosines, sines;  // [n, head_dim / 2]
  };
  struct Norms {
    std::vector<float> input, post_attention;  // [hidden_size]
  };

  Impl(const ModelConfig& model_config, ModelWeights model_weights, const CpuOptions& options)
      : config(model_config),
        weights(std::move(model_weights)),
        max_context(options.max_context > 0
                        ? std::min(options.max_context, config.max_position_embeddings)
                        : config.max_position_embeddings),
        pool(options.num_threads),
        kernels(pool, config.rms_norm_eps),
        frequencies(rope_frequencies(config)),
        final_norm(to_floats(weights.final_norm)),
        allocator(static_cast<std::int32_t>((max_context + cpu::kKvBlock - 1) / cpu::kKvBlock),
                  static_cast<std::int32_t>(cpu::kKvBlock)),
        sequence(allocator) {
    for (const LayerWeights& layer : weights.layers)
      norms.push_back({to_floats(layer.input_norm), to_floats(layer.post_attention_norm)});
  }

  // Floats of one layer's keys and values in a block: every head's keys, then every head's values.
  std::int64_t key_floats() const { return cpu::key_block_floats(config.head_dim); }
  std::int64_t value_floats() const { return cpu::value_block_floats(config.head_dim); }
  std::int64_t layer_floats() const {
    return config.num_kv_heads * (key_floats() + value_floats());
  }
  std::int64_t key_offset(std::int64_t layer, std::int64_t head) const {
    return layer * layer_floats() + head * key_floats();
  }
  std::int64_t value_offset(std::int64_t layer, std::int64_t head) const {
    return layer * layer_floats() + config.num_kv_heads * key_floats() + head * value_floats();
  }

  /// Storage of the sequence's blocks, made where it is missing.
  void make_room(std::int64_t num_tokens) {
    if (!sequence.extend(num_tokens)) throw InputError("the context is full");
    block_data.clear();
    for (const std::int32_t block : sequence.blocks()) {
      const auto index = static_cast<std::size_t>(block);
      if (index >= storage.size()) storage.resize(index + 1);
      if (storage[index].empty())
        storage[index].resize(static_cast<std::size_t>(config.num_layers * layer_floats()));
      block_data.push_back(storage[index].data());
    }
  }

  void prepare(std::span<const std::int32_t> tokens, std::int64_t first_position) {
    const std::size_t n = tokens.size();
    const auto size = [&](std::int64_t columns) { return n * static_cast<std::size_t>(columns); };
    act.residual.resize(size(config.hidden_size));
    act.normed.resize(size(config.hidden_size));
    act.projected.resize(size(config.hidden_size));
    act.qkv.resize(size(config.q_size() + 2 * config.kv_size()));
    act.attended.resize(size(config.q_size()));
    act.gate_up.resize(size(2 * config.intermediate_size));
    act.activated.resize(size(config.intermediate_size));
    act.cosines.resize(size(config.head_dim / 2));
    act.sines.resize(size(config.head_dim / 2));
    for (std::size_t i = 0; i < n; ++i) {
      cpu::to_f32(weights.embedding.data.data(), weights.embedding.dtype,
                  tokens[i] * config.hidden_size, config.hidden_size,
                  act.residual.data() + i * static_cast<std::size_t>(config.hidden_size));
      const auto position = static_cast<float>(first_position + static_cast<std::int64_t>(i));
      for (std::size_t k = 0; k < frequencies.size(); ++k) {
        const float angle = position * frequencies[k];
        act.cosines[i * frequencies.size() + k] = std::cos(angle);
        act.sines[i * frequencies.size() + k] = std::sin(angle);
      }
    }
  }

  /// Rotates the chunk's queries and keys, and puts keys and values into the cache.
  void rotate_and_store(std::int64_t layer, std::int64_t n, std::int64_t first_position) {
    const std::int64_t d = config.head_dim;
    const std::int64_t stride = config.q_size() + 2 * config.kv_size();
    const std::int64_t panel = 16;
    const auto one_token = [&](std::size_t index) {
      const auto token = static_cast<std::int64_t>(index);
      float* row = act.qkv.data() + token * stride;
      const float* cosines = act.cosines.data() + token * (d / 2);
      const float* sines = act.sines.data() + token * (d / 2);
      for (std::int64_t head = 0; head < config.num_heads + config.num_kv_heads; ++head)
        rotate(row + head * d, cosines, sines, d);
      const std::int64_t position = first_position + token, slot = position % cpu::kKvBlock;
      float* block = block_data[static_cast<std::size_t>(position / cpu::kKvBlock)];
      for (std::int64_t head = 0; head < config.num_kv_heads; ++head) {
        const float* key = row + config.q_size() + head * d;
        const float* value = key + config.kv_size();
        float* keys = block + key_offset(layer, head);
        float* values = block + value_offset(layer, head);
        for (std::int64_t i = 0; i < d; ++i) {
          keys[i * cpu::kKvBlock + slot] = key[i];
          values[(i / panel * cpu::kKvBlock + slot) * panel + i % panel] = value[i];
        }
      }
    };
    if (n == 1)
      one_token(0);
    else
      pool.parallel_for(static_cast<std::size_t>(n), one_token);
  }

  void attend(std::int64_t layer, std::int64_t n, std::int64_t first_position) {
    const std::int64_t group_size = config.num_heads / config.num_kv_heads;
    const std::int64_t rows = n * group_size;
    const std::int64_t tiles = (rows + cpu::kAttentionRows - 1) / cpu::kAttentionRows;
    pool.parallel_for(static_cast<std::size_t>(tiles * config.num_kv_heads), [&](std::size_t task) {
      const std::int64_t kv_head = static_cast<std::int64_t>(task) / tiles;
      // Late tiles see more keys: the longest tasks go first.
      const std::int64_t tile = tiles - 1 - static_cast<std::int64_t>(task) % tiles;
      const cpu::Attention attention{
          .q = act.qkv.data(),
          .q_stride = config.q_size() + 2 * config.kv_size(),
          .out = act.attended.data(),
          .out_stride = config.q_size(),
          .first_position = first_position,
          .window = config.sliding_window.value_or(config.max_position_embeddings),
          .head_dim = config.head_dim,
          .group_size = group_size,
          .blocks = block_data.data(),
          .key_offset = key_offset(layer, kv_head),
          .value_offset = value_offset(layer, kv_head),
          .first_head = kv_head * group_size,
      };
      cpu::attend(attention, tile * cpu::kAttentionRows,
                  std::min((tile + 1) * cpu::kAttentionRows, rows));
    });
  }

  /// One chunk through all layers; leaves the final norm's output in act.normed.
  void run_layers(std::span<const std::int32_t> tokens, std::int64_t first_position) {
    const auto n = static_cast<std::int64_t>(tokens.size());
    const std::int64_t hidden = config.hidden_size, inner = config.intermediate_size;
    prepare(tokens, first_position);
    kernels.rmsnorm(act.residual.data(), norms[0].input.data(), act.normed.data(), n, hidden);
    for (std::int64_t i = 0; i < config.num_layers; ++i) {
      const auto index = static_cast<std::size_t>(i);
      const LayerWeights& layer = weights.layers[index];
      float* qkv = act.qkv.data();
      const cpu::Product qkv_products[] = {
          {matrix(layer.q_proj), qkv},
          {matrix(layer.k_proj), qkv + config.q_size()},
          {matrix(layer.v_proj), qkv + config.q_size() + config.kv_size()}};
      cpu::multiply(pool, act.normed.data(), n, qkv_products,
                    config.q_size() + 2 * config.kv_size());
      rotate_and_store(i, n, first_position);
      attend(i, n, first_position);
      const cpu::Product o_product[] = {{matrix(layer.o_proj), act.projected.data()}};
      cpu::multiply(pool, act.attended.data(), n, o_product, hidden);
      kernels.add_rmsnorm(act.projected.data(), act.residual.data(),
                          norms[index].post_attention.data(), act.normed.data(), n, hidden);
      const cpu::Product gate_up_products[] = {{matrix(layer.gate_proj), act.gate_up.data()},
                                               {matrix(layer.up_proj), act.gate_up.data() + inner}};
      cpu::multiply(pool, act.normed.data(), n, gate_up_products, 2 * inner);
      kernels.silu_mul(act.gate_up.data(), act.activated.data(), n, inner);
      const cpu::Product down_product[] = {{matrix(layer.down_proj), act.projected.data()}};
      cpu::multiply(pool, act.activated.data(), n, down_product, hidden);
      const bool is_last = i + 1 == config.num_layers;
      const std::vector<float>& next_norm = is_last ? final_norm : norms[index + 1].input;
      kernels.add_rmsnorm(act.projected.data(), act.residual.data(), next_norm.data(),
                          act.normed.data(), n, hidden);
    }
  }

  /// logits: [all ? tokens.size() : 1, vocab_size]
  void forward(std::span<const std::int32_t> tokens, LogitRows rows, float* logits) {
    while (!tokens.empty()) {
      const auto chunk = tokens.first(std::min(tokens.size(), static_cast<std::size_t>(kMaxChunk)));
      tokens = tokens.subspan(chunk.size());
      const auto n = static_cast<std::int64_t>(chunk.size());
      const std::int64_t first_position = sequence.length();
      make_room(n);
      run_layers(chunk, first_position);
      if (rows == LogitRows::last && !tokens.empty()) continue;
      const std::int64_t first_row = rows == LogitRows::last ? n - 1 : 0;
      const cpu::Product product[] = {{matrix(weights.lm_head), logits}};
      cpu::multiply(pool, act.normed.data() + first_row * config.hidden_size, n - first_row,
                    product, config.vocab_size);
      logits += (n - first_row) * config.vocab_size;
    }
  }

  ModelConfig config;
  ModelWeights weights;
  std::int64_t max_context;
  ThreadPool pool;
  cpu::RowKernels kernels;
  std::vector<float> frequencies;  // [head_dim / 2]
  std::vector<Norms> norms;        // [num_layers]
  std::vector<float> final_norm;   // [hidden_size]
  KvBlockAllocator allocator;
  KvSequence sequence;
  std::vector<std::vector<float>> storage;  // by block: [num_layers, layer_floats], or empty
  std::vector<float*> block_data;           // of the sequence's blocks, in order
  Activations act;
};

CpuBackend::CpuBackend(const std::filesystem::path& folder, const CpuOptions& options) {
  const ModelConfig config = load_config(folder);
  impl_ = std::make_unique<Impl>(config, load_weights(folder, config), options);
}

CpuBackend::CpuBackend(const ModelConfig& config, ModelWeights weights, const CpuOptions& options)
    : impl_(std::make_unique<Impl>(config, std::move(weights), options)) {}

CpuBackend::~CpuBackend() = default;

const ModelConfig& CpuBackend::config() const { return impl_->config; }
std::int64_t CpuBackend::max_context() const { return impl_->max_context; }
std::int64_t CpuBackend::context_length() const { return impl_->sequence.length(); }
void CpuBackend::reset() { impl_->sequence.truncate(0); }

std::vector<float> CpuBackend::forward(std::span<const std::int32_t> tokens, LogitRows rows) {
  check_tokens(tokens);
  const std::size_t num_rows = rows == LogitRows::all ? tokens.size() : 1;
  std::vector<float> logits(num_rows * static_cast<std::size_t>(impl_->config.vocab_size));
  impl_->forward(tokens, rows, logits.data());
  return logits;
}

Generation CpuBackend::generate(std::span<const std::int32_t> prompt,
                                const GenerateOptions& options,
                                const std::function<bool(std::int32_t)>& on_token) {
  check_sampling(options.sampling);
  check_tokens(prompt);
  Generation result;
  if (options.max_new_tokens <= 0) return result;
  std::vector<float> logits(static_cast<std::size_t>(impl_->config.vocab_size));
  auto start = Clock::now();
  impl_->forward(prompt, LogitRows::last, logits.data());
  while (true) {
    const std::int64_t length = context_length();
    const std::int32_t token = sample(logits, options.sampling, static_cast<std::uint32_t>(length));
    result.ids.push_back(token);
    if (result.ids.size() == 1) {
      result.prompt_seconds = seconds_since(start);
      start = Clock::now();
    }
    const bool go_on = !on_token || on_token(token);
    const auto num_new = static_cast<std::int64_t>(result.ids.size());
    if (std::ranges::find(options.stop_ids, token) != options.stop_ids.end())
      result.finish_reason = FinishReason::stop;
    else if (!go_on)
      result.finish_reason = FinishReason::cancelled;
    else if (num_new < options.max_new_tokens && length < max_context()) {
      impl_->forward({&token, 1}, LogitRows::last, logits.data());
      continue;
    }
    break;
  }
  result.decode_seconds = seconds_since(start);
  return result;
}

}  // namespace quern
