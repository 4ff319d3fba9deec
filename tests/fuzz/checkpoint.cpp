// Fuzz target of quantised checkpoints: whatever the bytes of a safetensors file, it is refused
// with a sentence, or its projections can be read to the last code and brought into the GPU's
// order. The first byte chooses what the config says, the rest is the file.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "model/kernel_order.h"
#include "model/quantised_linear.h"
#include "model/quantised_matrix.h"
#include "runtime/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace quern;

constexpr std::int64_t kOut = 16, kIn = 64;

void require(bool condition) {
  if (!condition) std::abort();
}

Quantization quantization_of(std::uint8_t choice) {
  Quantization out;
  out.group_size = choice & 1 ? 32 : -1;
  if (choice & 2) {
    out.method = QuantMethod::gptq;
    out.bits = choice & 4 ? 8 : 4;
    out.act_order = choice & 8;
    out.zero_points = choice & 16;
    out.zeros_minus_one = choice & 32;
  }
  return out;
}

/// Bytes as a file without a place on a disk.
class MemoryFile {
 public:
  MemoryFile(const std::uint8_t* data, std::size_t size) : handle_(memfd_create("checkpoint", 0)) {
    require(handle_ >= 0);
    require(write(handle_, data, size) == static_cast<ssize_t>(size));
  }
  ~MemoryFile() { close(handle_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(handle_); }

 private:
  int handle_;
};

void read_all(const QuantisedLinear& linear) {
  const std::uint32_t end = 1u << linear.bits;
  for (std::int64_t n = 0; n < kOut; ++n) {
    for (std::int64_t k = 0; k < kIn; ++k) {
      require(linear.code(n, k) < end);
      require(linear.group(k) >= 0 && linear.group(k) < linear.num_groups());
    }
    for (std::int64_t g = 0; g < linear.num_groups(); ++g) {
      require(linear.zero_point(n, g) < end);
      linear.scale(n, g);  // any value, within the tensor
    }
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static ThreadPool pool(1);
  const Quantization quantization = quantization_of(data[0]);
  const MemoryFile bytes(data + 1, size - 1);
  try {
    const Checkpoint file(bytes.path());
    std::vector<QuantisedLinear> linears;
    for (const char* module : {"q", "k"})
      linears.push_back(load_quantised_linear(file, module, kOut, kIn, quantization));
    std::vector<const QuantisedLinear*> parts;
    for (const QuantisedLinear& linear : linears) {
      read_all(linear);
      parts.push_back(&linear);
    }
    if (!can_join(parts)) return 0;
    const QuantisedMatrix matrix = join(parts, pool);
    for (const DType dtype : {DType::f16, DType::bf16}) kernel_order(matrix, dtype, pool);
  } catch (const InputError& error) {
    require(std::string(error.what()).find('\n') == std::string::npos);
  }
  return 0;
}
