#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autotune/kernel_library.h"
#include "model/config.h"
#include "model/device_weights.h"
#include "model/forward.h"
#include "model/fusion_choice.h"
#include "model/kv_cache.h"
#include "model/sampling.h"
#include "runtime/graph.h"
#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

struct GpuModelOptions {
  int max_batch = 1;
  /// Tokens that one sequence may hold; 0: the model's max_position_embeddings. Cut, with a log
  /// line, to what memory holds.
  int max_context = 0;
  int prefill_chunk = 2048;  // tokens that one prefill step takes at most
  int page_size = 64;        // tokens per KV page
  /// Which row kernels products compute; by default what is fastest (choose_fusion()).
  std::optional<StepFusion> fusion = {};
};

/// The forward pass of one model on one GPU: prefill steps launched node by node, decode steps as
/// one CUDA graph per batch size, the sampled token fed back on the device. Sequences are numbered
/// 0 .. max_batch - 1 and own the pages they use. Not thread-safe.
class GpuModel {
 public:
  /// Sizes the activation arena first, then gives the KV cache what the context needs. Throws
  /// OutOfMemoryError with one sentence if not even one page a sequence fits.
  GpuModel(const ModelConfig& config, DType dtype, DeviceWeights weights, const Context& context,
           KernelLibrary& kernels, const GpuModelOptions& options);
  ~GpuModel();

  int max_context() const { return max_context_; }
  DType dtype() const { return dtype_; }
  CUdeviceptr kv_address() const { return kv_cache_.address(); }
  std::size_t kv_bytes() const { return kv_cache_.size_bytes(); }
  const DeviceWeights& weights() const { return weights_; }
  const Stream& stream() const { return stream_; }

  /// Forgets every sequence and frees its pages.
  void reset();
  int length(int sequence) const { return lengths_.at(static_cast<std::size_t>(sequence)); }
  /// Makes room for `tokens` in all in a sequence. Throws InputError if that exceeds max_context,
  /// OutOfMemoryError if the pages have run out.
  void reserve(int sequence, int tokens);

  enum class Logits { none, last, all };
  /// Appends tokens to a sequence and runs them. Returns f32 [n, vocab_size] with n = 0, 1 or all.
  /// With `sample`, the token that follows is chosen on the device and becomes the sequence's next.
  std::vector<float> append(int sequence, std::span<const std::int32_t> tokens, Logits logits,
                            bool sample);

  /// How sequences choose tokens from now on; one entry a sequence, from 0.
  void set_sampling(std::span<const SamplingParams> params);
  /// Enqueues one decode step of sequences 0 .. batch - 1: each takes its next token, and another is
  /// chosen. One graph launch; the graph is made on first use.
  void decode(int batch);
  /// Captures the graph that decode(batch) launches, if that has not been done. Returns how many
  /// nodes a step has.
  std::size_t ensure_graph(int batch);
  /// The decode step of `batch` sequences as a graph of its own, with the kernels that the library
  /// serves now.
  GraphExec capture_decode(int batch) { return std::move(capture_step(batch).exec); }
  /// Makes the next decode() choose and capture anew, with what tuning has found since.
  void forget_graphs();
  /// Token at a position of a sequence, once the step that chose it has finished; -1 before.
  std::int32_t token_at(int sequence, int position) const;
  /// After external control of tokens: what decode takes next for the first sequences, one token
  /// each, all at one position.
  void set_next(std::span<const std::int32_t> tokens, int position);
  /// The host's view of a sequence's length, after decode steps were enqueued or abandoned.
  void set_length(int sequence, int length);

  /// Milliseconds spent binding, capturing and instantiating the graphs that decode() launches.
  double capture_ms() const { return capture_ms_; }
  /// Which row kernels are part of the products of a step of so many tokens, and why. Chosen on first
  /// use, and again after forget_graphs().
  const FusionChoice& fusion(const StepShape& shape);
  /// From now on a step that would run on an untuned default throws InputError, naming the first.
  void set_strict(bool strict) { strict_ = strict; }
  /// "layers.0.qkv  gemm gemv threads=256 ...  tuned": which kernel each node of a decode step got.
  std::vector<std::string> describe(int batch);

 private:
  struct BoundNode {
    Node node;
    ReadyKernel ready;
    BoundKernel kernel;
    std::vector<CUdeviceptr> addresses;
  };
  using Step = std::vector<BoundNode>;
  Step bind(const StepShape& shape, const StepInputs& inputs);
  void run(const Step& step);
  /// The bound step of a prefill chunk; the last few are kept.
  const Step& prefill_step(int sequence, const StepShape& shape);
  StepInputs decode_inputs() const;
  StepInputs prefill_inputs(int sequence) const;
  void upload_block_table(int sequence);

  ModelConfig config_;
  DType dtype_;
  DeviceWeights weights_;
  KernelLibrary& kernels_;
  GpuModelOptions options_;
  Stream stream_;
  ModelAddresses addresses_;
  int max_context_ = 0;
  Buffer rope_table_, kv_cache_, arena_, inputs_, logits_;
  PinnedBuffer log_, staging_;
  Workspace workspace_;
  std::size_t logits_rows_ = 0;
  // Offsets into inputs_, in bytes.
  struct {
    std::size_t next_ids, next_position, next_kv_len, sequence, block_table, sampling;
    std::size_t ids, positions, zeros, kv_len, query_start, logits_rows;
  } at_{};
  std::vector<int> lengths_;
  std::unique_ptr<KvBlockAllocator> pages_;
  std::vector<std::unique_ptr<KvSequence>> sequences_;  // pages reserved, length tokens or more
  struct StepGraph {
    GraphExec exec;
    std::size_t num_nodes = 0;
  };
  StepGraph capture_step(int batch);
  std::map<int, StepGraph> graphs_;  // by batch
  std::map<std::array<int, 4>, Step> prefill_steps_;
  std::map<std::int64_t, FusionChoice> fusions_;  // by bucket of tokens
  double capture_ms_ = 0;
  bool strict_ = false;
};

}  // namespace quern
