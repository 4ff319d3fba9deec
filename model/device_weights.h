#pragma once
#include <functional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/forward.h"
#include "model/weights.h"
#include "runtime/memory.h"
#include "runtime/stream.h"

namespace quern {

/// Fills `elements` elements at a device address with random contents of this standard deviation.
using RandomFill = std::function<void(std::uint64_t address, std::size_t elements, double stddev)>;
/// Called with the bytes placed so far and in all.
using LoadProgress = std::function<void(std::size_t done, std::size_t total)>;

/// A model's weights in device memory in one 16-bit type, in one allocation: q, k and v of a layer
/// are one matrix, gate and up are one matrix.
class DeviceWeights {
 public:
  /// Uploads from a checkpoint, converting to `dtype` (bf16 or f16) with rounding to nearest even.
  DeviceWeights(const ModelConfig& config, DType dtype, const ModelWeights& weights,
                const Stream& stream, const LoadProgress& progress = {});
  /// Random contents made on the device, scaled so that activations keep their size.
  DeviceWeights(const ModelConfig& config, DType dtype, const RandomFill& fill);

  const ModelAddresses& addresses() const { return addresses_; }
  /// Bytes that one decode step reads: everything but the embedding table's unused rows.
  std::size_t bytes_per_step() const { return bytes_per_step_; }
  std::size_t total_bytes() const { return buffer_.size_bytes(); }

  /// Bytes that the weights of this model take in this type, without allocating them.
  static std::size_t required_bytes(const ModelConfig& config, DType dtype);

 private:
  Buffer buffer_;
  ModelAddresses addresses_;
  std::size_t bytes_per_step_ = 0;
};

}  // namespace quern
