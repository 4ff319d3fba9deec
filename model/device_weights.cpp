#include "model/device_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <span>
#include <string_view>

#include "model/kernel_order.h"
#include "model/row_interleave.h"
#include "model/staged_upload.h"
#include "runtime/base/error.h"
#include "runtime/base/half.h"

namespace quern {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t padded(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// What stands at one place: elements, or the codes of a linear layer with what belongs to them.
struct Piece {
  std::vector<std::string> tensors;  // of elements, one after another
  bool interleaved = false;          // two of these tensors, 8 rows of each in turn
  std::size_t elements = 0;
  std::uint64_t* address = nullptr;
  LinearWeight* codes = nullptr;  // instead of all of the above
  double stddev = 0;              // of random contents; 0: all ones
  bool read_every_step = true;

  KernelOrderBytes code_bytes() const {
    return kernel_order_bytes(codes->out_features(), codes->in_features, codes->bits,
                              codes->group_size, codes->zero_points);
  }
  std::size_t order_bytes() const {
    return codes->reordered ? 4 * static_cast<std::size_t>(codes->in_features) : 0;
  }
  /// Bytes without padding.
  std::size_t bytes() const {
    if (!codes) return 2 * elements;
    const KernelOrderBytes parts = code_bytes();
    return parts.codes + parts.scales + parts.zeros + order_bytes();
  }
  /// Notes the addresses of what is placed from here on; returns where that ends.
  std::uint64_t place(std::uint64_t at) const {
    if (!codes) {
      *address = at;
      return at + padded(2 * elements);
    }
    const KernelOrderBytes parts = code_bytes();
    codes->weight = at;
    codes->scales = codes->weight + padded(parts.codes);
    codes->zeros = codes->scales + padded(parts.scales);
    codes->order = codes->zeros + padded(parts.zeros);
    return codes->order + padded(order_bytes());
  }
};

std::vector<Piece> pieces(const ModelConfig& c, ModelAddresses& to) {
  // 1/sqrt(fan-in) keeps the scale of activations.
  const auto scale = [](std::int64_t fan_in) {
    return 1.0 / std::sqrt(static_cast<double>(fan_in));
  };
  std::vector<Piece> out;
  const auto vector = [&](const std::string& tensor, std::uint64_t& address) {
    out.push_back(
        {{tensor}, false, static_cast<std::size_t>(c.hidden_size), &address, nullptr, 0, true});
  };
  const auto linear = [&](LinearWeight& w) {
    Piece piece;
    piece.stddev = scale(w.in_features);
    if (w.quantised()) {
      piece.codes = &w;
    } else {
      for (const std::string& module : w.modules) piece.tensors.push_back(module + ".weight");
      piece.interleaved = w.interleaved;
      piece.elements =
          static_cast<std::size_t>(w.out_features()) * static_cast<std::size_t>(w.in_features);
      piece.address = &w.weight;
    }
    out.push_back(std::move(piece));
  };
  out.push_back({{"model.embed_tokens.weight"},
                 false,
                 static_cast<std::size_t>(c.vocab_size) * static_cast<std::size_t>(c.hidden_size),
                 &to.embedding,
                 nullptr,
                 scale(c.hidden_size),
                 c.tie_word_embeddings});
  for (std::size_t i = 0; i < to.layers.size(); ++i) {
    LayerAddresses& layer = to.layers[i];
    const std::string at = fmt::format("model.layers.{}.", i);
    vector(at + "input_layernorm.weight", layer.input_norm);
    for (LinearWeight& w : layer.qkv) linear(w);
    linear(layer.o);
    vector(at + "post_attention_layernorm.weight", layer.post_norm);
    for (LinearWeight& w : layer.gate_up) linear(w);
    linear(layer.down);
  }
  vector("model.norm.weight", to.final_norm);
  if (!c.tie_word_embeddings) linear(to.lm_head);
  return out;
}

/// Allocates all pieces as one and places them.
Buffer place_all(const std::vector<Piece>& all) {
  std::uint64_t end = 0;
  for (const Piece& piece : all) end = piece.place(end);
  Buffer buffer(end);
  std::uint64_t at = buffer.address();
  for (const Piece& piece : all) at = piece.place(at);
  return buffer;
}

float element(const TensorView& view, std::size_t i) {
  if (view.dtype == DType::f32) {
    float value;
    std::memcpy(&value, view.data.data() + 4 * i, 4);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, view.data.data() + 2 * i, 2);
  return view.dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

/// Converts elements [first, first + count) of the view to 16 bits.
void convert(const TensorView& view, std::size_t first, std::size_t count, DType dtype,
             std::byte* out) {
  if (view.dtype == dtype) {
    std::memcpy(out, view.data.data() + 2 * first, 2 * count);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const float value = element(view, first + i);
    const std::uint16_t bits = dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

/// Sends two matrices of equal shape, their rows interleaved.
void send_interleaved(const Piece& piece, const Checkpoint& file, DType dtype,
                      StagedUpload& upload) {
  const TensorView* const parts[] = {&file.at(piece.tensors.at(0)), &file.at(piece.tensors.at(1))};
  const auto cols = static_cast<std::size_t>(parts[0]->shape.at(1));
  upload.send(*piece.address, 2 * piece.elements,
              [&](std::size_t first, std::size_t bytes, std::byte* out) {
                for (std::size_t at = first / 2, end = (first + bytes) / 2; at < end;) {
                  const InterleavedRun run = interleaved_run(at, cols);
                  const std::size_t count = std::min(run.count, end - at);
                  convert(*parts[run.matrix], run.first, count, dtype, out);
                  out += 2 * count;
                  at += count;
                }
              });
}

/// Sends tensors one after another.
void send_elements(const Piece& piece, const Checkpoint& file, DType dtype, StagedUpload& upload) {
  if (piece.interleaved) return send_interleaved(piece, file, dtype, upload);
  std::uint64_t to = *piece.address;
  for (const std::string& tensor : piece.tensors) {
    const TensorView& view = file.at(tensor);
    const std::size_t bytes = 2 * view.num_elements();
    upload.send(to, bytes, [&](std::size_t first, std::size_t count, std::byte* out) {
      convert(view, first / 2, count / 2, dtype, out);
    });
    to += bytes;
  }
}

/// Quantised projections by the names of their modules.
using LinearsByName = std::map<std::string_view, const QuantisedLinear*>;

LinearsByName quantised_linears(const ModelWeights& weights) {
  LinearsByName out;
  const auto add = [&](const Projection& projection) {
    if (const auto* linear = std::get_if<QuantisedLinear>(&projection)) out[linear->name] = linear;
  };
  for (const LayerWeights& layer : weights.layers)
    for (const auto member : {&LayerWeights::q_proj, &LayerWeights::k_proj, &LayerWeights::v_proj,
                              &LayerWeights::o_proj, &LayerWeights::gate_proj,
                              &LayerWeights::up_proj, &LayerWeights::down_proj})
      add(layer.*member);
  add(weights.lm_head);
  return out;
}

using Projections = std::vector<const QuantisedLinear*>;

Projections projections(const LinearWeight& weight, const LinearsByName& linears) {
  Projections out;
  for (const std::string& module : weight.modules) out.push_back(linears.at(module));
  return out;
}

/// How many of the projections are repacked as one matrix of kernel order.
std::size_t repacked_at_once(const LinearWeight& to) {
  return to.interleaved ? to.modules.size() : 1;
}

/// Whether the device can repack the codes: 4 bits, and rows in whole tiles of kernel order.
bool repacks_on_device(const LinearWeight& to, const Projections& parts) {
  const auto at_once = static_cast<std::int64_t>(repacked_at_once(to));
  return std::ranges::all_of(parts, [&](const QuantisedLinear* part) {
    return part->bits == 4 && at_once * part->out_features % 16 == 0 && part->in_features % 64 == 0;
  });
}

/// What sending quantised projections takes besides themselves.
struct CodeSender {
  const LinearsByName& linears;
  DType dtype;
  const Repack& repack;
  ThreadPool& pool;
  StagedUpload& upload;
  const Buffer& scratch;  // codes as the checkpoint has them, scratch_bytes()

  void send(const LinearWeight& to) const {
    const Projections parts = projections(to, linears);
    const bool on_device = repacks_on_device(to, parts);
    const QuantisedMatrix matrix =
        join(parts, pool, on_device ? JoinParts::without_codes : JoinParts::all,
             to.interleaved ? JoinRows::interleaved : JoinRows::in_order);
    const KernelOrder ordered = kernel_order(matrix, dtype, pool);
    upload.send(to.scales, ordered.scales.data(), 2 * ordered.scales.size());
    upload.send(to.zeros, ordered.zeros.data(), ordered.zeros.size());
    upload.send(to.order, matrix.order.data(), 4 * matrix.order.size());
    if (on_device)
      send_packed(to, parts);
    else
      upload.send(to.weight, ordered.codes.data(), 4 * ordered.codes.size());
  }

 private:
  /// One projection after another through the scratch buffer, or both that are interleaved: what is
  /// enqueued on one stream takes turns.
  void send_packed(const LinearWeight& to, std::span<const QuantisedLinear* const> parts) const {
    std::uint64_t out = to.weight;
    for (; !parts.empty(); parts = parts.subspan(repacked_at_once(to))) {
      const QuantisedLinear& first = *parts.front();
      std::int64_t rows = 0;
      std::size_t bytes = 0;
      for (const QuantisedLinear* part : parts.first(repacked_at_once(to))) {
        upload.send(scratch.address() + bytes, part->qweight.data(), part->qweight.size_bytes());
        rows += part->out_features;
        bytes += part->qweight.size_bytes();
      }
      const Params problem = {{"part", "codes"},
                              {"source", first.method == QuantMethod::awq ? "awq" : "gptq_v2"},
                              {"n", rows},
                              {"k", first.in_features},
                              {"group_size", first.group_size},
                              {"act_order", to.reordered},
                              {"interleaved", to.interleaved}};
      std::vector<std::uint64_t> operands = {scratch.address()};
      if (to.reordered) operands.push_back(to.order);
      operands.push_back(out);
      repack(problem, operands);
      out += bytes;
    }
  }
};

/// Bytes of the most codes that the device repacks at once.
std::size_t scratch_bytes(const std::vector<Piece>& pieces, const LinearsByName& linears) {
  std::size_t out = 0;
  for (const Piece& piece : pieces) {
    if (!piece.codes) continue;
    const Projections parts = projections(*piece.codes, linears);
    if (!repacks_on_device(*piece.codes, parts)) continue;
    for (const QuantisedLinear* part : parts)
      out = std::max(out, repacked_at_once(*piece.codes) * part->qweight.size_bytes());
  }
  return out;
}

void require_16_bits(DType dtype) {
  if (dtype != DType::bf16 && dtype != DType::f16)
    throw InputError(fmt::format("weights on the GPU are bf16 or f16, not {}", name(dtype)));
}

}  // namespace

DeviceWeights::DeviceWeights(const ModelConfig& config, DType dtype, const ModelWeights& weights,
                             const Stream& stream, const Repack& repack,
                             const LoadProgress& progress)
    : addresses_(weight_layout(config, &weights)) {
  require_16_bits(dtype);
  const std::vector<Piece> all = pieces(config, addresses_);
  buffer_ = place_all(all);
  constexpr std::size_t half_bytes = std::size_t{16} << 20;
  StagedUpload upload(std::clamp(padded(buffer_.size_bytes() / 2), kAlignment, half_bytes), stream);
  const LinearsByName linears = quantised_linears(weights);
  const Buffer scratch(scratch_bytes(all, linears));
  ThreadPool pool(linears.empty() ? 1 : 0);
  const CodeSender sender{linears, dtype, repack, pool, upload, scratch};
  std::size_t done = 0;
  for (const Piece& piece : all) {
    if (piece.codes)
      sender.send(*piece.codes);
    else
      send_elements(piece, weights.checkpoint, dtype, upload);
    done += piece.bytes();
    if (piece.read_every_step) bytes_per_step_ += piece.bytes();
    if (progress) progress(done, buffer_.size_bytes());
  }
  stream.synchronize();
  if (progress) progress(buffer_.size_bytes(), buffer_.size_bytes());
  if (config.tie_word_embeddings) addresses_.lm_head.weight = addresses_.embedding;
}

DeviceWeights::DeviceWeights(const ModelConfig& config, DType dtype, const Stream& stream,
                             const RandomFill& fill)
    : addresses_(weight_layout(config)) {
  require_16_bits(dtype);
  const std::vector<Piece> all = pieces(config, addresses_);
  buffer_ = place_all(all);
  for (const Piece& piece : all) {
    if (piece.read_every_step) bytes_per_step_ += piece.bytes();
    const double stddev = piece.stddev > 0 ? piece.stddev : 1.0;
    if (!piece.codes) {
      fill(*piece.address, piece.elements, dtype, stddev);
      continue;
    }
    const LinearWeight& w = *piece.codes;
    const KernelOrderBytes bytes = piece.code_bytes();
    fill(w.weight, bytes.codes / 4, DType::i32, 1.0);
    // Even codes about the middle one have a standard deviation of 2^bits / sqrt(12).
    fill(w.scales, bytes.scales / 2, dtype, stddev * std::sqrt(12.0) / (1 << w.bits));
    fill_bytes(w.zeros, static_cast<unsigned char>(1 << (w.bits - 1)), bytes.zeros, stream);
    if (!w.reordered) continue;
    std::vector<std::int32_t> order(static_cast<std::size_t>(w.in_features));
    std::iota(order.begin(), order.end(), 0);
    copy_to_device(w.order, order.data(), 4 * order.size(), stream);
    stream.synchronize();
  }
  if (config.tie_word_embeddings) addresses_.lm_head.weight = addresses_.embedding;
}

}  // namespace quern
