#include "model/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "model/json_reader.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr std::size_t kPrefixBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

constexpr std::array<std::pair<std::string_view, DType>, 12> kNames{{
    {"F32", DType::f32},
    {"F16", DType::f16},
    {"BF16", DType::bf16},
    {"F64", DType::f64},
    {"I64", DType::i64},
    {"I32", DType::i32},
    {"I16", DType::i16},
    {"I8", DType::i8},
    {"U8", DType::u8},
    {"BOOL", DType::boolean},
    {"F8_E4M3", DType::e4m3},
    {"F8_E5M2", DType::e5m2},
}};

DType parse_file_dtype(const std::string& text, const std::string& where) {
  for (const auto& [spelling, dtype] : kNames)
    if (spelling == text) return dtype;
  throw InputError(fmt::format("{} has the data type \"{}\", which is not supported", where, text));
}

std::string_view file_name(DType dtype) {
  for (const auto& [spelling, candidate] : kNames)
    if (candidate == dtype) return spelling;
  throw InputError(fmt::format("safetensors files cannot hold {} elements", name(dtype)));
}

std::uint64_t unsigned_at(const json& list, std::size_t index, const std::string& where) {
  const json& value = list[index];
  if (!value.is_number_unsigned())
    throw InputError(fmt::format("{} has a shape or offset that is not a count", where));
  return value.get<std::uint64_t>();
}

/// One header entry. `begin` and `end` are checked against `data` and against each other.
TensorView parse_entry(const std::string& tensor_name, const json& entry, const std::string& file,
                       std::span<const std::byte> data) {
  const std::string where = fmt::format("tensor \"{}\" of {}", tensor_name, file);
  const JsonReader in(entry, where);
  TensorView view{tensor_name, parse_file_dtype(in.text("dtype"), where), {}, {}};
  const json& shape = in.array("shape");
  const json& offsets = in.array("data_offsets");
  if (offsets.size() != 2) throw InputError(fmt::format("{} needs two data_offsets", where));
  const std::uint64_t begin = unsigned_at(offsets, 0, where);
  const std::uint64_t end = unsigned_at(offsets, 1, where);
  if (begin > end || end > data.size())
    throw InputError(fmt::format("{} lies outside the file", where));
  std::uint64_t bytes = size_bits(view.dtype) / 8;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::uint64_t extent = unsigned_at(shape, i, where);
    constexpr std::uint64_t kMaxExtent = std::uint64_t{1} << 62;
    if (extent > kMaxExtent || __builtin_mul_overflow(bytes, extent, &bytes))
      throw InputError(fmt::format("{} has an absurdly large shape", where));
    view.shape.push_back(static_cast<std::int64_t>(extent));
  }
  if (bytes != end - begin)
    throw InputError(
        fmt::format("{} has {} bytes, but its shape needs {}", where, end - begin, bytes));
  view.data = data.subspan(begin, end - begin);
  return view;
}

/// The tensors must cover the data exactly: a gap or an overlap means a damaged header.
void check_coverage(const TensorMap& tensors, std::span<const std::byte> data,
                    const std::string& where) {
  std::vector<std::span<const std::byte>> spans;
  for (const auto& [unused, view] : tensors)
    if (!view.data.empty()) spans.push_back(view.data);
  std::ranges::sort(spans, {}, [](auto span) { return span.data(); });
  const std::byte* next = data.data();
  for (const auto span : spans) {
    if (span.data() != next)
      throw InputError(fmt::format("the tensors of {} overlap or leave a gap", where));
    next = span.data() + span.size();
  }
  if (next != data.data() + data.size())
    throw InputError(fmt::format("{} has bytes that belong to no tensor", where));
}

}  // namespace

TensorMap parse_safetensors(std::span<const std::byte> bytes, const std::string& where) {
  std::uint64_t header_bytes = 0;
  if (bytes.size() < kPrefixBytes)
    throw InputError(fmt::format("{} is too short to be a safetensors file", where));
  std::memcpy(&header_bytes, bytes.data(), kPrefixBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kPrefixBytes)
    throw InputError(
        fmt::format("{} is not a safetensors file, or it was cut off in its header", where));
  const std::string_view header_text(reinterpret_cast<const char*>(bytes.data()) + kPrefixBytes,
                                     header_bytes);
  const auto data = bytes.subspan(kPrefixBytes + header_bytes);
  const json header = parse_json(header_text, fmt::format("the header of {}", where));
  if (!header.is_object())
    throw InputError(fmt::format("the header of {} is not a JSON object", where));
  TensorMap tensors;
  for (const auto& [key, entry] : header.items())
    if (key != "__metadata__") tensors.emplace(key, parse_entry(key, entry, where, data));
  check_coverage(tensors, data, where);
  return tensors;
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors) {
  ordered_json header = ordered_json::object();
  std::size_t offset = 0;
  for (const TensorView& tensor : tensors) {
    header[tensor.name] = {{"dtype", file_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.data.size()}}};
    offset += tensor.data.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // keeps the data aligned for its readers
  const std::uint64_t header_bytes = text.size();
  std::string file(kPrefixBytes, '\0');
  std::memcpy(file.data(), &header_bytes, kPrefixBytes);
  file.reserve(kPrefixBytes + text.size() + offset);
  file += text;
  for (const TensorView& tensor : tensors)
    file.append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
  write_file_atomically(path, file);
}

Checkpoint::Checkpoint(const std::filesystem::path& path) : path_(path) {
  namespace fs = std::filesystem;
  const fs::path index_path = path / "model.safetensors.index.json";
  std::error_code ignored;
  if (!fs::exists(index_path, ignored)) {
    add_file(fs::is_directory(path, ignored) ? path / "model.safetensors" : path, tensors_);
    return;
  }
  const json index = read_json_file(index_path);
  const JsonReader in(index, index_path.string());
  const JsonReader check = in.object("weight_map");
  const json& weight_map = index["weight_map"];
  std::map<std::string, TensorMap> shards;
  for (const auto& [tensor, file] : weight_map.items()) {
    if (!file.is_string())
      throw InputError(fmt::format("{} must map \"{}\" to a file name", check.where(), tensor));
    const auto shard_name = file.get<std::string>();
    // A shard lies beside its index; anything else is an attempt to read elsewhere.
    if (shard_name.empty() || shard_name == "." || shard_name == ".." ||
        shard_name.find('/') != std::string::npos || shard_name.find('\0') != std::string::npos)
      throw InputError(fmt::format("{} names the shard \"{}\", which is not a plain file name",
                                   check.where(), shard_name));
    if (!shards.contains(shard_name)) add_file(path / shard_name, shards[shard_name]);
    const TensorMap& shard = shards[shard_name];
    const auto found = shard.find(tensor);
    if (found == shard.end())
      throw InputError(fmt::format("{} says that \"{}\" is in {}, but it is not there",
                                   index_path.string(), tensor, shard_name));
    tensors_.insert(*found);
  }
}

void Checkpoint::add_file(const std::filesystem::path& path, TensorMap& out) {
  files_.emplace_back(path);
  out = parse_safetensors(files_.back().bytes(), path.string());
  for (auto& [unused, view] : out) {
    const auto address = reinterpret_cast<std::uintptr_t>(view.data.data());
    if (view.data.empty() || address % (size_bits(view.dtype) / 8) == 0) continue;
    copies_.emplace_back(view.data.begin(), view.data.end());
    view.data = copies_.back();
  }
}

const TensorView& Checkpoint::at(std::string_view tensor) const {
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end())
    throw InputError(fmt::format("{} lacks the tensor \"{}\"", path_.string(), tensor));
  return found->second;
}

}  // namespace quern
