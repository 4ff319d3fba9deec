#include "model/gpu_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>

#include "model/rope.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace quern {
namespace {

constexpr std::size_t kAlignment = 256;
/// Logits of all prompt tokens are kept for at most this many bytes a step.
constexpr std::size_t kMaxLogitsBytes = std::size_t{256} << 20;
/// Left free for the driver, cuBLASLt and modules.
constexpr std::size_t kHeadroomBytes = std::size_t{512} << 20;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

/// cos and sin of every pair at every position, [positions, head_dim / 2, 2].
std::vector<float> rope_table(const ModelConfig& config, int positions) {
  const std::vector<float> frequencies = rope_frequencies(config);
  std::vector<float> table;
  table.reserve(2 * frequencies.size() * static_cast<std::size_t>(positions));
  for (int p = 0; p < positions; ++p)
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(p) * frequency;
      table.push_back(std::cos(angle));
      table.push_back(std::sin(angle));
    }
  return table;
}

}  // namespace

GpuModel::GpuModel(const ModelConfig& config, DType dtype, DeviceWeights weights,
                   const Context& context, KernelLibrary& kernels, const GpuModelOptions& options)
    : config_(config),
      dtype_(dtype),
      weights_(std::move(weights)),
      kernels_(kernels),
      options_(options),
      addresses_(weights_.addresses()) {
  if (options_.max_batch < 1) throw InputError("the batch size must be at least 1");
  const auto batch = static_cast<std::size_t>(options_.max_batch);
  const auto longest = static_cast<int>(config_.max_position_embeddings);
  max_context_ = options_.max_context > 0 ? options_.max_context : longest;
  if (max_context_ > longest)
    throw InputError(fmt::format("a context of {} tokens is more than the model's {}", max_context_,
                                 longest));

  // What does not depend on the context comes first: then memory left is the KV cache's.
  const auto vocab_bytes = static_cast<std::size_t>(config_.vocab_size) * sizeof(float);
  options_.prefill_chunk = std::min(options_.prefill_chunk, max_context_);
  logits_rows_ = std::max(
      batch, std::min(static_cast<std::size_t>(options_.prefill_chunk),
                      std::max<std::size_t>(1, kMaxLogitsBytes / vocab_bytes)));
  logits_ = Buffer(logits_rows_ * vocab_bytes);
  std::size_t arena_bytes = 0;
  const auto measure = [&](const StepShape& shape) {
    for (const StepFusion& fusion : step_fusions(dtype_, addresses_, shape.num_tokens))
      arena_bytes =
          std::max(arena_bytes, plan_forward(config_, dtype_, addresses_, shape, {}, fusion)
                                    .activations.total_bytes());
  };
  measure({.num_tokens = options_.max_batch, .batch = options_.max_batch,
           .num_logits = options_.max_batch});
  measure({.num_tokens = options_.prefill_chunk, .max_query_len = options_.prefill_chunk});
  arena_ = Buffer(std::max(arena_bytes, kAlignment));

  const std::size_t page_bytes = static_cast<std::size_t>(config_.num_kv_heads) *
                                 static_cast<std::size_t>(options_.page_size) *
                                 static_cast<std::size_t>(config_.head_dim) * 2;
  const std::size_t bytes_per_page = 2 * static_cast<std::size_t>(config_.num_layers) * page_bytes;
  const std::size_t free = context.free_bytes();
  const std::size_t budget = free > 2 * kHeadroomBytes ? free - kHeadroomBytes : free / 2;
  const std::size_t fitting = budget / bytes_per_page;
  const std::size_t wanted =
      batch * static_cast<std::size_t>(ceil_div(max_context_, options_.page_size));
  if (fitting < batch)
    throw OutOfMemoryError(
        fmt::format("the KV cache of {} sequences needs at least {} MB and the GPU has {} MB left",
                    batch, batch * bytes_per_page >> 20, free >> 20),
        CUDA_ERROR_OUT_OF_MEMORY);
  const std::size_t num_pages = std::min(wanted, fitting);
  if (num_pages < wanted) {
    max_context_ = static_cast<int>(num_pages / batch) * options_.page_size;
    log(LogLevel::warning, fmt::format("the context is cut to {} tokens by the GPU's memory",
                                       max_context_));
  }
  kv_cache_ = Buffer(num_pages * bytes_per_page);
  addresses_.page_size = options_.page_size;
  addresses_.num_pages = static_cast<int>(num_pages);
  addresses_.max_blocks = ceil_div(max_context_, options_.page_size);
  addresses_.max_positions = max_context_;
  std::uint64_t cache = kv_cache_.address();
  for (LayerAddresses& layer : addresses_.layers) {
    layer.k_cache = cache;
    layer.v_cache = cache + num_pages * page_bytes;
    cache += 2 * num_pages * page_bytes;
  }

  const std::vector<float> table = rope_table(config_, max_context_);
  rope_table_ = Buffer(table.size() * sizeof(float));
  copy_to_device(rope_table_.address(), table.data(), rope_table_.size_bytes(), stream_);
  stream_.synchronize();
  addresses_.rope_table = rope_table_.address();

  std::size_t used = 0;
  const auto place = [&](std::size_t words) {
    const std::size_t offset = used;
    used += (4 * words + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  };
  const auto chunk = static_cast<std::size_t>(options_.prefill_chunk);
  at_.next_ids = place(batch);
  at_.next_position = place(batch);
  at_.next_kv_len = place(batch);
  at_.sequence = place(batch);
  at_.block_table = place(batch * static_cast<std::size_t>(addresses_.max_blocks));
  at_.sampling = place(batch * 8);
  at_.ids = place(chunk);
  at_.positions = place(chunk);
  at_.zeros = place(chunk);
  at_.kv_len = place(1);
  at_.query_start = place(2);
  at_.logits_rows = place(chunk);
  inputs_ = Buffer(used);
  fill_bytes(inputs_.address(), 0, used, stream_);
  staging_ = PinnedBuffer(4 * (3 * chunk + 64) + 4 * static_cast<std::size_t>(addresses_.max_blocks) +
                          64 * batch);
  std::vector<std::int32_t> iota(batch);
  std::iota(iota.begin(), iota.end(), 0);
  copy_to_device(inputs_.address() + at_.sequence, iota.data(), 4 * batch, stream_);
  stream_.synchronize();
  log_ = PinnedBuffer(4 * batch * static_cast<std::size_t>(max_context_ + 1));
  pages_ = std::make_unique<KvBlockAllocator>(static_cast<std::int32_t>(num_pages),
                                              options_.page_size);
  for (std::size_t i = 0; i < batch; ++i)
    sequences_.push_back(std::make_unique<KvSequence>(*pages_));
  lengths_.assign(batch, 0);
  reset();
}

GpuModel::~GpuModel() = default;

void GpuModel::reset() {
  stream_.synchronize();
  for (const auto& sequence : sequences_) sequence->truncate(0);
  std::fill(lengths_.begin(), lengths_.end(), 0);
  std::fill_n(log_.as<std::int32_t>(), log_.size_bytes() / 4, -1);
  const std::vector<SamplingParams> greedy(lengths_.size());
  set_sampling(greedy);
}

void GpuModel::reserve(int sequence, int tokens) {
  if (tokens > max_context_)
    throw InputError(fmt::format("{} tokens are more than the context of {} holds", tokens,
                                 max_context_));
  KvSequence& pages = *sequences_.at(static_cast<std::size_t>(sequence));
  if (tokens <= pages.length()) return;
  const std::size_t before = pages.blocks().size();
  if (!pages.extend(tokens - pages.length()))
    throw OutOfMemoryError(
        fmt::format("the KV cache has {} pages of {} tokens left, too few for a sequence of {}",
                    pages_->num_free(), options_.page_size, tokens),
        CUDA_ERROR_OUT_OF_MEMORY);
  if (pages.blocks().size() == before) return;
  upload_block_table(sequence);
}

void GpuModel::upload_block_table(int sequence) {
  stream_.synchronize();  // the staging area may still be read
  const auto pages = sequences_[static_cast<std::size_t>(sequence)]->blocks();
  auto* row = staging_.as<std::int32_t>();
  std::copy(pages.begin(), pages.end(), row);
  copy_to_device(inputs_.address() + at_.block_table +
                     4 * static_cast<std::size_t>(sequence) *
                         static_cast<std::size_t>(addresses_.max_blocks),
                 row, 4 * pages.size(), stream_);
  stream_.synchronize();
}

void GpuModel::set_sampling(std::span<const SamplingParams> params) {
  if (params.size() > lengths_.size())
    throw InputError(fmt::format("sampling parameters for {} sequences of {}", params.size(),
                                 lengths_.size()));
  stream_.synchronize();
  auto* words = staging_.as<std::uint32_t>();
  for (const SamplingParams& p : params) {
    *words++ = std::bit_cast<std::uint32_t>(p.temperature);
    *words++ = static_cast<std::uint32_t>(p.top_k);
    *words++ = std::bit_cast<std::uint32_t>(p.top_p);
    *words++ = std::bit_cast<std::uint32_t>(p.min_p);
    *words++ = static_cast<std::uint32_t>(p.seed);
    *words++ = static_cast<std::uint32_t>(p.seed >> 32);
    *words++ = 0;
    *words++ = 0;
  }
  copy_to_device(inputs_.address() + at_.sampling, staging_.as(), 32 * params.size(), stream_);
  stream_.synchronize();
}

StepInputs GpuModel::decode_inputs() const {
  const std::uint64_t base = inputs_.address();
  StepInputs in;
  in.next_ids = in.ids = base + at_.next_ids;
  in.next_position = in.positions = base + at_.next_position;
  in.next_kv_len = in.kv_len = base + at_.next_kv_len;
  in.sequence = base + at_.sequence;
  in.block_table = base + at_.block_table;
  in.logits = logits_.address();
  in.sampling = base + at_.sampling;
  in.log = log_.device_address();
  in.log_capacity = max_context_ + 1;
  return in;
}

StepInputs GpuModel::prefill_inputs(int sequence) const {
  const std::uint64_t base = inputs_.address();
  const auto s = static_cast<std::uint64_t>(sequence);
  StepInputs in = decode_inputs();
  in.ids = base + at_.ids;
  in.positions = base + at_.positions;
  in.sequence = base + at_.zeros;
  in.block_table += 4 * s * static_cast<std::uint64_t>(addresses_.max_blocks);
  in.kv_len = base + at_.kv_len;
  in.query_start = base + at_.query_start;
  in.logits_rows = base + at_.logits_rows;
  in.sampling += 32 * s;
  in.next_ids += 4 * s;
  in.next_position += 4 * s;
  in.next_kv_len += 4 * s;
  in.log += 4 * s * static_cast<std::uint64_t>(in.log_capacity);
  return in;
}

const FusionChoice& GpuModel::fusion(const StepShape& shape) {
  const std::int64_t tokens = bucket(shape.num_tokens);
  if (const auto found = fusions_.find(tokens); found != fusions_.end()) return found->second;
  FusionChoice choice;
  if (options_.fusion) {
    choice.fusion = served(*options_.fusion, shape.num_tokens);
  } else {
    choice = choose_fusion(kernels_, config_, dtype_, addresses_, shape);
  }
  return fusions_.emplace(tokens, choice).first->second;
}

GpuModel::Step GpuModel::bind(const StepShape& shape, const StepInputs& inputs) {
  ForwardPlan plan =
      plan_forward(config_, dtype_, addresses_, shape, inputs, fusion(shape).fusion);
  std::vector<KernelRequest> wanted;
  for (const Node& node : plan.nodes) wanted.push_back({node.family, node.tuned_as});
  kernels_.prepare(wanted);
  Step step;
  for (Node& node : plan.nodes) {
    ReadyKernel ready = kernels_.get(node.family, node.tuned_as);
    if (strict_ && !ready.tuned())
      throw InputError(fmt::format("{} would run on an untuned default ({} {}): run quern tune first",
                                   node.name, node.family, to_text(node.tuned_as)));
    std::vector<CUdeviceptr> addresses;
    for (const NodeOperand& operand : node.operands)
      addresses.push_back(operand.tensor < 0
                              ? operand.address
                              : arena_.address() + plan.activations.offset(operand.tensor));
    BoundKernel kernel = ready.bind(node.problem);
    workspace_.reserve(kernel.workspace_bytes(), stream_);
    step.push_back(
        {std::move(node), std::move(ready), std::move(kernel), std::move(addresses)});
  }
  return step;
}

void GpuModel::run(const Step& step) {
  for (const BoundNode& bound : step) bound.kernel.enqueue(stream_, bound.addresses, workspace_);
}

const GpuModel::Step& GpuModel::prefill_step(int sequence, const StepShape& shape) {
  const std::array<int, 4> key{sequence, shape.num_tokens, shape.num_logits, shape.sample};
  if (const auto found = prefill_steps_.find(key); found != prefill_steps_.end())
    return found->second;
  constexpr std::size_t kept = 32;
  if (prefill_steps_.size() >= kept) prefill_steps_.clear();
  return prefill_steps_.emplace(key, bind(shape, prefill_inputs(sequence))).first->second;
}

std::vector<float> GpuModel::append(int sequence, std::span<const std::int32_t> tokens,
                                    Logits logits, bool sample) {
  if (tokens.empty()) throw InputError("there are no tokens to process");
  for (const std::int32_t id : tokens)
    if (id < 0 || id >= config_.vocab_size)
      throw InputError(fmt::format("token id {} is outside the vocabulary of {}", id,
                                   config_.vocab_size));
  int& length = lengths_.at(static_cast<std::size_t>(sequence));
  if (tokens.size() > static_cast<std::size_t>(max_context_ - length))
    throw InputError(fmt::format("{} tokens after {} are more than the context of {} holds",
                                 tokens.size(), length, max_context_));
  reserve(sequence, length + static_cast<int>(tokens.size()));
  const StepInputs inputs = prefill_inputs(sequence);
  const auto vocab = static_cast<std::size_t>(config_.vocab_size);
  std::vector<float> out;
  const std::size_t chunk = logits == Logits::all
                                ? std::min(static_cast<std::size_t>(options_.prefill_chunk),
                                           logits_rows_)
                                : static_cast<std::size_t>(options_.prefill_chunk);
  for (std::size_t first = 0; first < tokens.size(); first += chunk) {
    const std::size_t count = std::min(chunk, tokens.size() - first);
    const bool final_chunk = first + count == tokens.size();
    stream_.synchronize();
    auto* ids = staging_.as<std::int32_t>();
    auto* positions = ids + count;
    auto* rest = positions + count;  // kv_len, query_start, logits row, next position, next kv_len
    std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(first), count, ids);
    std::iota(positions, positions + count, length);
    const auto n = static_cast<std::int32_t>(count);
    const std::int32_t values[] = {length + n, 0, n, n - 1, length + n - 1, length + n};
    std::copy(std::begin(values), std::end(values), rest);
    copy_to_device(inputs.ids, ids, 4 * count, stream_);
    copy_to_device(inputs.positions, positions, 4 * count, stream_);
    copy_to_device(inputs.kv_len, rest, 4, stream_);
    copy_to_device(inputs.query_start, rest + 1, 8, stream_);
    copy_to_device(inputs.logits_rows, rest + 3, 4, stream_);
    copy_to_device(inputs.next_position, rest + 4, 4, stream_);
    copy_to_device(inputs.next_kv_len, rest + 5, 4, stream_);
    const int num_logits = logits == Logits::all ? n : 1;
    // A single token is served by prefill attention too: its inputs lie in the prefill buffers.
    run(prefill_step(sequence, {.num_tokens = n, .max_query_len = std::max(2, n),
                                .num_logits = num_logits, .sample = sample && final_chunk}));
    length += n;
    if (logits == Logits::all || (logits == Logits::last && final_chunk)) {
      const std::size_t at = out.size();
      out.resize(at + static_cast<std::size_t>(num_logits) * vocab);
      copy_to_host(out.data() + at, logits_.address(), (out.size() - at) * sizeof(float), stream_);
    }
  }
  stream_.synchronize();
  return out;
}

GpuModel::StepGraph GpuModel::capture_step(int batch) {
  const Step step = bind(decode_shape(batch), decode_inputs());
  const Graph captured = Graph::capture(stream_, [&] { run(step); });
  return {GraphExec(captured), captured.num_nodes()};
}

std::size_t GpuModel::ensure_graph(int batch) {
  auto found = graphs_.find(batch);
  if (found == graphs_.end()) {
    const auto start = std::chrono::steady_clock::now();
    found = graphs_.emplace(batch, capture_step(batch)).first;
    capture_ms_ +=
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }
  return found->second.num_nodes;
}

void GpuModel::forget_graphs() {
  stream_.synchronize();
  graphs_.clear();
  prefill_steps_.clear();
  fusions_.clear();
}

void GpuModel::decode(int batch) {
  if (batch < 1 || batch > options_.max_batch)
    throw InputError(fmt::format("a batch of {} does not fit a model opened for {}", batch,
                                 options_.max_batch));
  ensure_graph(batch);
  for (int s = 0; s < batch; ++s) reserve(s, lengths_[static_cast<std::size_t>(s)] + 1);
  graphs_.at(batch).exec.launch(stream_);
  for (int s = 0; s < batch; ++s) ++lengths_[static_cast<std::size_t>(s)];
}

std::int32_t GpuModel::token_at(int sequence, int position) const {
  const volatile std::int32_t* row =
      log_.as<std::int32_t>() + static_cast<std::size_t>(sequence) *
                                    static_cast<std::size_t>(max_context_ + 1);
  return row[position];
}

void GpuModel::set_next(std::span<const std::int32_t> tokens, int position) {
  stream_.synchronize();
  const std::size_t count = tokens.size(), bytes = 4 * count;
  auto* words = staging_.as<std::int32_t>();
  std::copy(tokens.begin(), tokens.end(), words);
  std::fill_n(words + count, count, position);
  std::fill_n(words + 2 * count, count, position + 1);
  copy_to_device(inputs_.address() + at_.next_ids, words, bytes, stream_);
  copy_to_device(inputs_.address() + at_.next_position, words + count, bytes, stream_);
  copy_to_device(inputs_.address() + at_.next_kv_len, words + 2 * count, bytes, stream_);
  stream_.synchronize();
  for (std::size_t s = 0; s < count; ++s) set_length(static_cast<int>(s), position);
}

void GpuModel::set_length(int sequence, int length) {
  lengths_.at(static_cast<std::size_t>(sequence)) = length;
}

std::vector<std::string> GpuModel::describe(int batch) {
  std::vector<std::string> lines;
  const FusionChoice& chosen = fusion(decode_shape(batch));
  lines.push_back(fmt::format("{:<24} {}", "fused", to_text(chosen)));
  const Step step = bind(decode_shape(batch), decode_inputs());
  for (const BoundNode& bound : step)
    lines.push_back(fmt::format("{:<24} {}", bound.node.name, bound.ready.description()));
  return lines;
}

}  // namespace quern
