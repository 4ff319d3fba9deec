#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/dtype.h"
#include "runtime/base/file.h"

namespace quern {

/// A named tensor whose elements lie, row-major, in memory that somebody else owns.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;

  std::size_t num_elements() const { return data.size() * 8 / size_bits(dtype); }
  /// The elements as T; the size of T must be that of the dtype.
  template <class T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }
};

/// Tensors by name.
using TensorMap = std::map<std::string, TensorView, std::less<>>;

/// Reads the safetensors format (https://huggingface.co/docs/safetensors): a little-endian u64
/// header length, a JSON header, then the tensors' bytes without gap or overlap. `where` names the
/// bytes in errors. Throws InputError for whatever breaks the format; the views point into `bytes`.
TensorMap parse_safetensors(std::span<const std::byte> bytes, const std::string& where);

/// Writes tensors in the order given. Throws InputError if the file cannot be written.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors);

/// The tensors of one file or of a sharded checkpoint, memory-mapped.
class Checkpoint {
 public:
  /// One .safetensors file; or a folder that holds model.safetensors, or
  /// model.safetensors.index.json and the shards that it names.
  explicit Checkpoint(const std::filesystem::path& path);

  const TensorMap& tensors() const { return tensors_; }
  /// Throws InputError if there is no such tensor.
  const TensorView& at(std::string_view name) const;
  bool contains(std::string_view name) const { return tensors_.contains(name); }

 private:
  void add_file(const std::filesystem::path& path, TensorMap& out);

  std::filesystem::path path_;
  std::vector<MappedFile> files_;
  /// Copies of tensors that a file places at an address unfit for their element type.
  std::vector<std::vector<std::byte>> copies_;
  TensorMap tensors_;
};

}  // namespace quern
