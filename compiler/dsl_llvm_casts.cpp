#include "compiler/dsl_llvm_casts.h"

#include <llvm/IR/Intrinsics.h>

#include <bit>

namespace quern::dsl::ir {
namespace {

using llvm::Value;

Value* f32(Builder& b, double value) { return llvm::ConstantFP::get(b.getFloatTy(), value); }
Value* bits(Builder& b, Value* v) { return b.CreateBitCast(v, b.getInt32Ty()); }
Value* as_f32(Builder& b, Value* v) { return b.CreateBitCast(v, b.getFloatTy()); }

bool is_integer(DType dtype) {
  return dtype == DType::i32 || dtype == DType::i8 || dtype == DType::u8 || dtype == DType::i4;
}

Value* widen(Builder& b, Value* v, DType from) {
  return from == DType::u8 ? b.CreateZExt(v, b.getInt32Ty())
                           : b.CreateSExtOrTrunc(v, b.getInt32Ty());
}

Value* clamp(Builder& b, Value* v, int low, int high) {
  const auto constant = [&](int value) {
    return llvm::ConstantInt::getSigned(v->getType(), value);
  };
  v = b.CreateBinaryIntrinsic(llvm::Intrinsic::smax, v, constant(low));
  return b.CreateBinaryIntrinsic(llvm::Intrinsic::smin, v, constant(high));
}

Value* integer_cast(Builder& b, Value* v, DType from, DType to) {
  v = widen(b, v, from);
  switch (to) {
    case DType::i8:
      v = clamp(b, v, -128, 127);
      break;
    case DType::u8:
      v = clamp(b, v, 0, 255);
      break;
    case DType::i4:
      v = clamp(b, v, -8, 7);
      break;
    default:
      return v;
  }
  return b.CreateTrunc(v, b.getInt8Ty());
}

/// A float of fewer bits: 1 for the sign, `exponent_bits`, `mantissa_bits`.
struct Format {
  unsigned exponent_bits, mantissa_bits;
  std::uint32_t least_special;  // without the sign: infinity, or where there is none NaN
  std::uint32_t quiet_nan;
  std::uint32_t overflow;  // what is too large becomes this
  float least_overflow;    // the least magnitude that does
  unsigned width() const { return 1 + exponent_bits + mantissa_bits; }
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
};
constexpr Format kF16{5, 10, 0x7c00, 0x7e00, 0x7c00, 65520};
constexpr Format kE4m3{4, 3, 0x7f, 0x7f, 0x7e, 448};
constexpr Format kE5m2{5, 2, 0x7c, 0x7f, 0x7b, 57344};

Value* widen_float(Builder& b, Value* v, const Format& format) {
  const unsigned shift = 23 - format.mantissa_bits;
  const std::uint32_t sign_bit = 1u << (format.width() - 1);
  Value* wide = b.CreateZExt(v, b.getInt32Ty());
  Value* sign = b.CreateShl(b.CreateAnd(wide, b.getInt32(sign_bit)), 32 - format.width());
  Value* magnitude = b.CreateShl(b.CreateAnd(wide, b.getInt32(sign_bit - 1)), shift);
  // Multiplying by a power of two moves the exponent's bias; it is exact, for subnormals too.
  const float rebias = std::bit_cast<float>(static_cast<std::uint32_t>(254 - format.bias()) << 23);
  Value* finite = bits(b, b.CreateFMul(as_f32(b, magnitude), f32(b, rebias)));
  Value* special = b.CreateOr(magnitude, b.getInt32(0x7f800000u));
  Value* is_special = b.CreateICmpUGE(magnitude, b.getInt32(format.least_special << shift));
  return as_f32(b, b.CreateOr(b.CreateSelect(is_special, special, finite), sign));
}

Value* narrow_float(Builder& b, Value* v, const Format& format) {
  const unsigned shift = 23 - format.mantissa_bits;
  const auto rebias = static_cast<std::uint32_t>(127 - format.bias());
  Value* u = bits(b, v);
  Value* sign =
      b.CreateAnd(b.CreateLShr(u, 32 - format.width()), b.getInt32(1u << (format.width() - 1)));
  Value* magnitude = b.CreateAnd(u, b.getInt32(0x7fffffffu));
  Value* odd = b.CreateAnd(b.CreateLShr(magnitude, shift), b.getInt32(1));
  Value* rounded = b.CreateAdd(b.CreateAdd(magnitude, b.getInt32((1u << (shift - 1)) - 1)), odd);
  Value* out = b.CreateLShr(b.CreateSub(rounded, b.getInt32(rebias << 23)), shift);
  // Below the least normal number: adding a power of two whose last place is the smallest step
  // rounds to a multiple of that.
  const std::uint32_t magic = (rebias + 24 - format.mantissa_bits) << 23;
  Value* shifted = b.CreateFAdd(as_f32(b, magnitude), f32(b, std::bit_cast<float>(magic)));
  Value* tiny = b.CreateSub(bits(b, shifted), b.getInt32(magic));
  Value* is_tiny = b.CreateICmpULT(magnitude, b.getInt32((rebias + 1) << 23));
  out = b.CreateSelect(is_tiny, tiny, out);
  const auto least_overflow = std::bit_cast<std::uint32_t>(format.least_overflow);
  Value* overflows = b.CreateICmpUGE(magnitude, b.getInt32(least_overflow));
  out = b.CreateSelect(overflows, b.getInt32(format.overflow), out);
  Value* is_nan = b.CreateICmpUGT(magnitude, b.getInt32(0x7f800000u));
  out = b.CreateSelect(is_nan, b.getInt32(format.quiet_nan), out);
  return b.CreateTrunc(b.CreateOr(out, sign), b.getIntNTy(format.width()));
}

Value* to_bf16(Builder& b, Value* v) {
  Value* u = bits(b, v);
  Value* high = b.CreateLShr(u, 16);
  Value* odd = b.CreateAnd(high, b.getInt32(1));
  Value* rounded = b.CreateLShr(b.CreateAdd(b.CreateAdd(u, b.getInt32(0x7fff)), odd), 16);
  Value* quiet = b.CreateOr(high, b.getInt32(0x40));
  return b.CreateTrunc(b.CreateSelect(b.CreateFCmpUNO(v, v), quiet, rounded), b.getInt16Ty());
}

Value* to_f32(Builder& b, Value* v, DType from) {
  switch (from) {
    case DType::bf16:
      return as_f32(b, b.CreateShl(b.CreateZExt(v, b.getInt32Ty()), 16));
    case DType::f16:
      return widen_float(b, v, kF16);
    case DType::e4m3:
      return widen_float(b, v, kE4m3);
    case DType::e5m2:
      return widen_float(b, v, kE5m2);
    case DType::i32:
    case DType::i8:
    case DType::u8:
    case DType::i4:
      return b.CreateSIToFP(widen(b, v, from), b.getFloatTy());
    default:
      return v;
  }
}

/// Rounds to nearest even, saturates, takes NaN to 0.
Value* to_integer(Builder& b, Value* v, DType to) {
  Value* rounded = b.CreateUnaryIntrinsic(llvm::Intrinsic::rint, v);
  Value* out =
      b.CreateIntrinsic(to == DType::u8 ? llvm::Intrinsic::fptoui_sat : llvm::Intrinsic::fptosi_sat,
                        {type_of(b, to), b.getFloatTy()}, {rounded});
  return to == DType::i4 ? clamp(b, out, -8, 7) : out;
}

Value* from_f32(Builder& b, Value* v, DType to) {
  switch (to) {
    case DType::bf16:
      return to_bf16(b, v);
    case DType::f16:
      return narrow_float(b, v, kF16);
    case DType::e4m3:
      return narrow_float(b, v, kE4m3);
    case DType::e5m2:
      return narrow_float(b, v, kE5m2);
    default:
      return is_integer(to) ? to_integer(b, v, to) : v;
  }
}

}  // namespace

llvm::Type* type_of(Builder& b, DType dtype) {
  switch (dtype) {
    case DType::f16:
    case DType::bf16:
      return b.getInt16Ty();
    case DType::i32:
      return b.getInt32Ty();
    case DType::i8:
    case DType::u8:
    case DType::i4:
    case DType::e4m3:
    case DType::e5m2:
      return b.getInt8Ty();
    case DType::boolean:
      return b.getInt1Ty();
    default:
      return b.getFloatTy();
  }
}

Value* cast(Builder& b, Value* value, DType from, DType to) {
  if (from == to) return value;
  if (is_integer(from) && is_integer(to)) return integer_cast(b, value, from, to);
  return from_f32(b, to_f32(b, value, from), to);
}

}  // namespace quern::dsl::ir
