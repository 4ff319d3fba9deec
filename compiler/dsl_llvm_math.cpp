#include "compiler/dsl_llvm_math.h"

#include <llvm/IR/GlobalVariable.h>
#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/Module.h>

#include <initializer_list>
#include <limits>

namespace quern::dsl::ir {
namespace {

using llvm::Value;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Value* f32(Builder& b, double value) { return llvm::ConstantFP::get(b.getFloatTy(), value); }
Value* bits(Builder& b, Value* v) { return b.CreateBitCast(v, b.getInt32Ty()); }
Value* as_f32(Builder& b, Value* v) { return b.CreateBitCast(v, b.getFloatTy()); }
Value* is_nan(Builder& b, Value* x) { return b.CreateFCmpUNO(x, x); }
Value* abs(Builder& b, Value* x) { return b.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, x); }
Value* with_sign_of(Builder& b, Value* magnitude, Value* x) {
  return b.CreateBinaryIntrinsic(llvm::Intrinsic::copysign, magnitude, x);
}

/// Coefficients of the highest power first.
Value* polynomial(Builder& b, Value* x, std::initializer_list<double> coefficients) {
  Value* p = nullptr;
  for (const double c : coefficients)
    p = p ? b.CreateFAdd(b.CreateFMul(p, x), f32(b, c)) : f32(b, c);
  return p;
}

/// Nearest whole number of |x| < 2^22, as f32 and as i32.
struct Whole {
  Value *value, *number;
};
Whole nearest(Builder& b, Value* x) {
  constexpr double magic = 12582912;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  Value* shifted = b.CreateFAdd(x, f32(b, magic));
  return {b.CreateFSub(shifted, f32(b, magic)),
          b.CreateSub(bits(b, shifted), b.getInt32(0x4b400000u))};
}

/// y 2^n. In two factors: n reaches from -152 to 129, beyond what one exponent field holds.
Value* scale(Builder& b, Value* y, Value* n) {
  const auto power = [&](Value* exponent) {
    return as_f32(b, b.CreateShl(b.CreateAdd(exponent, b.getInt32(127)), b.getInt32(23)));
  };
  Value* half = b.CreateAShr(n, b.getInt32(1));
  return b.CreateFMul(b.CreateFMul(y, power(half)), power(b.CreateSub(n, half)));
}

Value* clamp(Builder& b, Value* x, double low, double high) {
  return b.CreateMinNum(b.CreateMaxNum(x, f32(b, low)), f32(b, high));
}

/// x = (1 + fraction) 2^exponent with sqrt(1/2) <= 1 + fraction < sqrt(2), and
/// log(1 + fraction) = fraction + rest by the polynomial of Cephes' logf.
struct Logarithm {
  Value *exponent, *fraction, *rest;
};
Logarithm logarithm(Builder& b, Value* x) {
  Value* is_small = b.CreateFCmpOLT(x, f32(b, 0x1p-126));  // subnormals, scaled up exactly
  Value* normal = b.CreateSelect(is_small, b.CreateFMul(x, f32(b, 0x1p23)), x);
  // Counting from the bits of sqrt(1/2), the exponent field is that of the interval wanted.
  constexpr std::uint32_t root_half = 0x3f3504f3u;
  Value* above = b.CreateSub(bits(b, normal), b.getInt32(root_half));
  Value* exponent = b.CreateAShr(above, b.getInt32(23));
  Value* mantissa =
      as_f32(b, b.CreateAdd(b.CreateAnd(above, b.getInt32(0x7fffffu)), b.getInt32(root_half)));
  exponent = b.CreateSub(exponent, b.CreateSelect(is_small, b.getInt32(23), b.getInt32(0)));
  Value* z = b.CreateFSub(mantissa, f32(b, 1));
  Value* square = b.CreateFMul(z, z);
  Value* p = polynomial(
      b, z,
      {7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
       -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1});
  Value* rest =
      b.CreateFSub(b.CreateFMul(b.CreateFMul(p, z), square), b.CreateFMul(square, f32(b, 0.5)));
  return {b.CreateSIToFP(exponent, b.getFloatTy()), z, rest};
}

/// What logarithms are of 0, negative numbers, infinity and NaN.
Value* logarithm_or_special(Builder& b, Value* x, Value* y) {
  y = b.CreateSelect(b.CreateFCmpOLT(x, f32(b, kInfinity)), y, x);
  y = b.CreateSelect(b.CreateFCmpOEQ(x, f32(b, 0)), f32(b, -kInfinity), y);
  return b.CreateSelect(b.CreateFCmpOLT(x, f32(b, 0)),
                        f32(b, std::numeric_limits<double>::quiet_NaN()), y);
}

/// Windows of 32 bits into 2/pi, each 8 bits further on, of which the first begins 32 bits before
/// the point.
llvm::GlobalVariable* two_over_pi(Builder& b) {
  llvm::Module& module = *b.GetInsertBlock()->getModule();
  constexpr const char* name = "quern.two_over_pi";
  if (llvm::GlobalVariable* known = module.getNamedGlobal(name)) return known;
  constexpr unsigned char digits[] = {0xa2, 0xf9, 0x83, 0x6e, 0x4e, 0x44, 0x15, 0x29, 0xfc,
                                      0x27, 0x57, 0xd1, 0xf5, 0x34, 0xdd, 0xc0, 0xdb, 0x62,
                                      0x95, 0x99, 0x3c, 0x43, 0x90, 0x41, 0xfe, 0x51};
  std::vector<std::uint32_t> windows;
  std::uint32_t window = 0;
  for (const unsigned char digit : digits) {
    windows.push_back(window);
    window = window << 8 | digit;
  }
  llvm::Constant* data = llvm::ConstantDataArray::get(b.getContext(), windows);
  return new llvm::GlobalVariable(module, data->getType(), /*isConstant=*/true,
                                  llvm::GlobalValue::PrivateLinkage, data, name);
}

/// |x| = quadrant * pi/2 + r with |r| <= pi/4.
struct Angle {
  Value *quadrant, *r;
};

/// By Payne and Hanek: x as a whole number of 24 bits times those bits of 2/pi that matter, in
/// fixed point with two bits before the point; as in Arm's optimized-routines, sinf.
Angle reduce_angle(Builder& b, Value* magnitude) {
  llvm::Type *i32 = b.getInt32Ty(), *i64 = b.getInt64Ty();
  Value* u = bits(b, magnitude);
  Value* exponent = b.CreateLShr(u, b.getInt32(23));
  // Of the fields from 120 (x >= 2^-7) on; what is smaller needs no reduction, and 255 is not
  // finite.
  Value* field = b.CreateBinaryIntrinsic(llvm::Intrinsic::umax, exponent, b.getInt32(120));
  Value* first = b.CreateSub(b.CreateLShr(field, b.getInt32(3)), b.getInt32(15));
  Value* whole =
      b.CreateShl(b.CreateOr(b.CreateAnd(u, b.getInt32(0x7fffffu)), b.getInt32(0x800000u)),
                  b.CreateAnd(field, b.getInt32(7)));
  llvm::GlobalVariable* table = two_over_pi(b);
  const auto window = [&](unsigned number) {
    Value* index = b.CreateZExt(b.CreateAdd(first, b.getInt32(number)), i64);
    return b.CreateLoad(i32, b.CreateInBoundsGEP(i32, table, index));
  };
  const auto times = [&](unsigned number) {
    return b.CreateMul(b.CreateZExt(whole, i64), b.CreateZExt(window(number), i64));
  };
  Value* high = b.CreateShl(b.CreateZExt(b.CreateMul(whole, window(0)), i64), b.getInt64(32));
  Value* product = b.CreateAdd(b.CreateOr(b.CreateLShr(times(8), b.getInt64(32)), high), times(4));
  Value* quadrant =
      b.CreateLShr(b.CreateAdd(product, b.getInt64(std::uint64_t{1} << 61)), b.getInt64(62));
  product = b.CreateSub(product, b.CreateShl(quadrant, b.getInt64(62)));
  constexpr double half_pi_2_62 = 0x1.921fb54442d18p-62;
  Value* r = b.CreateFPTrunc(b.CreateFMul(b.CreateSIToFP(product, b.getDoubleTy()),
                                          llvm::ConstantFP::get(b.getDoubleTy(), half_pi_2_62)),
                             b.getFloatTy());
  Value* is_small = b.CreateFCmpOLT(magnitude, f32(b, 0.78));  // below pi/4
  return {b.CreateSelect(is_small, b.getInt32(0), b.CreateTrunc(quadrant, i32)),
          b.CreateSelect(is_small, magnitude, r)};
}

/// sin(r) or cos(r) by the polynomials of Cephes' sinf, as the quadrant says; NaN where x is not
/// finite.
Value* sine_of(Builder& b, Value* x, Value* quadrant, Value* r) {
  Value* z = b.CreateFMul(r, r);
  Value* sine = polynomial(b, z, {-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1});
  sine = b.CreateFAdd(b.CreateFMul(b.CreateFMul(sine, z), r), r);
  Value* cosine =
      polynomial(b, z, {2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2});
  cosine = b.CreateFMul(b.CreateFMul(cosine, z), z);
  cosine = b.CreateFAdd(b.CreateFSub(cosine, b.CreateFMul(z, f32(b, 0.5))), f32(b, 1));
  Value* is_odd = b.CreateICmpNE(b.CreateAnd(quadrant, b.getInt32(1)), b.getInt32(0));
  Value* sign = b.CreateShl(b.CreateAnd(quadrant, b.getInt32(2)), b.getInt32(30));
  Value* y = as_f32(b, b.CreateXor(bits(b, b.CreateSelect(is_odd, cosine, sine)), sign));
  Value* is_finite = b.CreateFCmpOLT(abs(b, x), f32(b, kInfinity));
  return b.CreateSelect(is_finite, y, f32(b, std::numeric_limits<double>::quiet_NaN()));
}

}  // namespace

/// e^x = 2^n e^r with |r| <= ln(2)/2, and the polynomial of Cephes' expf.
Value* exp(Builder& b, Value* x) {
  // Past these the result is 0 or infinity; NaN is put back at the end.
  Value* clamped = clamp(b, x, -104, 89);
  const Whole n = nearest(b, b.CreateFMul(clamped, f32(b, 1.44269504088896341)));
  // ln 2 in two parts, so that n times the first is exact.
  Value* r = b.CreateFSub(clamped, b.CreateFMul(n.value, f32(b, 0.693359375)));
  r = b.CreateFSub(r, b.CreateFMul(n.value, f32(b, -2.12194440e-4)));
  Value* p = polynomial(b, r,
                        {1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                         1.6666665459e-1, 5.0000001201e-1});
  Value* y = b.CreateFAdd(b.CreateFAdd(b.CreateFMul(p, b.CreateFMul(r, r)), r), f32(b, 1));
  return b.CreateSelect(is_nan(b, x), x, scale(b, y, n.number));
}

/// 2^x = 2^n 2^r with |r| <= 1/2, and the polynomial of Cephes' exp2f.
Value* exp2(Builder& b, Value* x) {
  Value* clamped = clamp(b, x, -152, 129);
  const Whole n = nearest(b, clamped);
  Value* r = b.CreateFSub(clamped, n.value);
  Value* p = polynomial(b, r,
                        {1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3,
                         5.550332471162809e-2, 2.402264791363012e-1, 6.931472028550421e-1});
  Value* y = b.CreateFAdd(b.CreateFMul(p, r), f32(b, 1));
  return b.CreateSelect(is_nan(b, x), x, scale(b, y, n.number));
}

/// By e^-|x|, which cannot overflow.
Value* sigmoid(Builder& b, Value* x) {
  Value* power = exp(b, b.CreateFNeg(abs(b, x)));
  Value* above = b.CreateSelect(b.CreateFCmpOLT(x, f32(b, 0)), power, f32(b, 1));
  return b.CreateFDiv(above, b.CreateFAdd(f32(b, 1), power));
}

Value* log(Builder& b, Value* x) {
  const Logarithm parts = logarithm(b, x);
  // ln 2 in two parts, so that the exponent times the first is exact.
  Value* y = b.CreateFAdd(parts.rest, b.CreateFMul(parts.exponent, f32(b, -2.12194440e-4)));
  y = b.CreateFAdd(parts.fraction, y);
  y = b.CreateFAdd(y, b.CreateFMul(parts.exponent, f32(b, 0.693359375)));
  return logarithm_or_special(b, x, y);
}

Value* log2(Builder& b, Value* x) {
  const Logarithm parts = logarithm(b, x);
  Value* above_1 = f32(b, 0.44269504088896341);  // log2(e) - 1, which loses less than log2(e)
  Value* y = b.CreateFMul(parts.rest, above_1);
  y = b.CreateFAdd(y, b.CreateFMul(parts.fraction, above_1));
  y = b.CreateFAdd(b.CreateFAdd(y, parts.rest), parts.fraction);
  return logarithm_or_special(b, x, b.CreateFAdd(y, parts.exponent));
}

/// The polynomial of Cephes' tanhf near 0, else 1 - 2 / (e^2x + 1).
Value* tanh(Builder& b, Value* x) {
  Value* magnitude = abs(b, x);
  Value* z = b.CreateFMul(x, x);
  Value* near = polynomial(b, z,
                           {-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2,
                            1.33314422036e-1, -3.33332819422e-1});
  near = b.CreateFAdd(b.CreateFMul(b.CreateFMul(near, z), x), x);
  Value* power = exp(b, b.CreateFAdd(magnitude, magnitude));
  Value* far = b.CreateFSub(f32(b, 1), b.CreateFDiv(f32(b, 2), b.CreateFAdd(power, f32(b, 1))));
  Value* is_near = b.CreateFCmpOLT(magnitude, f32(b, 0.625));
  return with_sign_of(b, b.CreateSelect(is_near, near, far), x);  // of zero, too
}

/// Near 0 a polynomial, else 1 - e^p; both by N. Juffa's minimax approximations.
Value* erf(Builder& b, Value* x) {
  Value* t = b.CreateMinNum(abs(b, x), f32(b, 4));  // from where on it is 1
  Value* z = b.CreateFMul(t, t);
  Value* near = polynomial(b, z,
                           {-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1,
                            -3.76125336e-1, 1.28379166e-1});
  near = b.CreateFAdd(b.CreateFMul(near, x), x);
  Value* p = polynomial(b, t,
                        {-1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2,
                         -1.06777877e-1, -6.34846687e-1, -1.28717512e-1});
  p = b.CreateFSub(b.CreateFMul(p, t), t);
  Value* far = with_sign_of(b, b.CreateFSub(f32(b, 1), exp(b, p)), x);
  Value* y = b.CreateSelect(b.CreateFCmpOGT(t, f32(b, 0.927734375)), far, near);
  return b.CreateSelect(is_nan(b, x), x, y);
}

Value* sin(Builder& b, Value* x) {
  const Angle angle = reduce_angle(b, abs(b, x));
  Value* sign = b.CreateAnd(bits(b, x), b.getInt32(0x80000000u));
  return as_f32(b, b.CreateXor(bits(b, sine_of(b, x, angle.quadrant, angle.r)), sign));
}

Value* cos(Builder& b, Value* x) {
  const Angle angle = reduce_angle(b, abs(b, x));
  return sine_of(b, x, b.CreateAdd(angle.quadrant, b.getInt32(1)), angle.r);
}

}  // namespace quern::dsl::ir
