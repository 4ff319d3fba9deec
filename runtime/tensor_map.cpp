#include "runtime/tensor_map.h"

#include <fmt/format.h>

#include <cstring>

#include "runtime/base/error.h"
#include "runtime/driver.h"

namespace quern {
namespace {

static_assert(sizeof(CUtensorMap) == TensorMapSpec::kBytes);

CUtensorMapDataType type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case DType::f16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case DType::f32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case DType::i8:
    case DType::u8:
    case DType::e4m3:
    case DType::e5m2:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
    default:
      throw InputError(fmt::format("a tensor map of {} elements is not supported", name(dtype)));
  }
}

}  // namespace

void encode_tensor_map(std::byte* to, const TensorMapSpec& spec, CUdeviceptr address) {
  const std::size_t element = size_bits(spec.dtype) / 8;
  const cuuint64_t extents[2] = {static_cast<cuuint64_t>(spec.columns),
                                 static_cast<cuuint64_t>(spec.rows)};
  const cuuint64_t row_bytes = extents[0] * element;
  if (row_bytes % 16 != 0 || address % 16 != 0)
    throw InputError(fmt::format("a tensor map has rows of whole 16 bytes, not of {}", row_bytes));
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(spec.box_columns),
                             static_cast<cuuint32_t>(spec.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap map;
  check(driver().TensorMapEncodeTiled(
      &map, type_of(spec.dtype), 2, reinterpret_cast<void*>(address), extents, &row_bytes, box,
      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
  std::memcpy(to, &map, sizeof map);
}

}  // namespace quern
