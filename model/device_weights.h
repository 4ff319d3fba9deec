#pragma once
#include <functional>
#include <span>

#include "model/config.h"
#include "model/weight_layout.h"
#include "model/weights.h"
#include "runtime/memory.h"
#include "runtime/stream.h"
#include "templates/params.h"

namespace quern {

/// Fills `elements` elements at a device address with random contents: floating-point types with
/// normal values of this standard deviation, i32 with random bits.
using RandomFill =
    std::function<void(std::uint64_t address, std::size_t elements, DType dtype, double stddev)>;
/// Enqueues the kernel that brings codes of a checkpoint into kernel order: a problem of the family
/// wna16_repack and its operands' addresses.
using Repack = std::function<void(const Params& problem, std::span<const std::uint64_t> operands)>;
/// Called with the bytes placed so far and in all.
using LoadProgress = std::function<void(std::size_t done, std::size_t total)>;

/// A model's weights in device memory, in one allocation, as weight_layout() has them: elements of
/// one 16-bit type; codes in the order of templates/gemm_wna16 with scales of that type.
class DeviceWeights {
 public:
  /// Uploads from a checkpoint, converting to `dtype` (bf16 or f16) with rounding to nearest even.
  /// Codes of 4 bits are sent as the checkpoint has them and repacked on the device, by kernels
  /// that `repack` enqueues on `stream`; codes of 8 bits are repacked on the host. Either
  /// interleaves what the layout says.
  DeviceWeights(const ModelConfig& config, DType dtype, const ModelWeights& weights,
                const Stream& stream, const Repack& repack, const LoadProgress& progress = {});
  /// Random contents made on the device, scaled so that activations keep their size.
  DeviceWeights(const ModelConfig& config, DType dtype, const Stream& stream,
                const RandomFill& fill);

  const ModelAddresses& addresses() const { return addresses_; }
  /// Bytes that one decode step reads: everything but the embedding table's unused rows.
  std::size_t bytes_per_step() const { return bytes_per_step_; }
  std::size_t total_bytes() const { return buffer_.size_bytes(); }

 private:
  ModelAddresses addresses_;
  Buffer buffer_;
  std::size_t bytes_per_step_ = 0;
};

}  // namespace quern
