#include "compiler/dsl_cuda_helpers.h"

#include <cassert>
#include <vector>

#include "runtime/base/dtype.h"

namespace quern::dsl {
namespace {

struct Helper {
  std::string_view name;
  std::vector<std::string_view> needs;
  std::string_view text;
};

const std::vector<Helper>& all_helpers() {
  static const std::vector<Helper> helpers = {
      {"bf16", {}, "struct bf16 {\n  unsigned short bits;\n};\n"},
      {"f16", {}, "struct f16 {\n  unsigned short bits;\n};\n"},
      {"e4m3", {}, "struct e4m3 {\n  unsigned char bits;\n};\n"},
      {"e5m2", {}, "struct e5m2 {\n  unsigned char bits;\n};\n"},
      {"to_f32 bf16",
       {"bf16"},
       R"(__device__ inline float to_f32(bf16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}
)"},
      {"to_f32 f16",
       {"f16"},
       R"(__device__ inline float to_f32(f16 x) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
}
)"},
      {"to_f32 e4m3",
       {"e4m3", "f16", "to_f32 f16"},
       R"(__device__ inline float to_f32(e4m3 x) {
#if __CUDA_ARCH__ >= 890
  unsigned pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<unsigned short>(x.bits)));
  return to_f32(f16{static_cast<unsigned short>(pair)});
#else
  // An f16 has three more bits in its mantissa and a bias that is larger by 8.
  const unsigned magnitude = x.bits & 0x7f;
  const float value = to_f32(f16{static_cast<unsigned short>(magnitude << 7)}) * 256.0f;
  const unsigned bits = magnitude == 0x7f ? 0x7fffffffu : __float_as_uint(value);
  return __uint_as_float(bits | (x.bits & 0x80u) << 24);
#endif
}
)"},
      {"to_f32 e5m2",
       {"e5m2", "f16", "to_f32 f16"},
       R"(// The upper half of an f16.
__device__ inline float to_f32(e5m2 x) {
  return to_f32(f16{static_cast<unsigned short>(x.bits << 8)});
}
)"},
      {"to_f32 int",
       {},
       "__device__ inline float to_f32(int x) { return static_cast<float>(x); }\n"},
      {"to_bf16",
       {"bf16"},
       R"(__device__ inline bf16 to_bf16(float x) {
  bf16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
}
)"},
      {"to_f16",
       {"f16"},
       R"(__device__ inline f16 to_f16(float x) {
  f16 out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
}
)"},
      {"to_fp8",
       {},
       R"(#if __CUDA_ARCH__ < 890
// Rounds to an 8-bit float whose mantissa has `digits` bits; `tiny` is 2^(23 - n) where 2^-n is the
// smallest step, `normal` the bits of the smallest normal number, `largest` the code of the largest.
__device__ inline unsigned char to_fp8(float x, int digits, float tiny, unsigned normal,
                                       unsigned largest) {
  const unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  const int dropped = 23 - digits;
  const unsigned even = magnitude >> dropped & 1u;
  unsigned out = ((magnitude + (1u << (dropped - 1)) - 1u + even) >> dropped) -
                 ((normal >> dropped) - (1u << digits));
  // Below the normal numbers: adding `tiny` rounds to a multiple of the smallest step.
  if (magnitude < normal)
    out = __float_as_uint(__fadd_rn(__uint_as_float(magnitude), tiny)) - __float_as_uint(tiny);
  return static_cast<unsigned char>((out < largest ? out : largest) | bits >> 24 & 0x80u);
}
#endif
)"},
      {"to_e4m3",
       {"e4m3", "to_fp8"},
       R"(__device__ inline e4m3 to_e4m3(float x) {
#if __CUDA_ARCH__ >= 890
  unsigned short pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return {static_cast<unsigned char>(pair)};
#else
  return {to_fp8(x, 3, 16384.0f, 0x3c800000u, 0x7eu)};
#endif
}
)"},
      {"to_e5m2",
       {"e5m2", "to_fp8"},
       R"(__device__ inline e5m2 to_e5m2(float x) {
#if __CUDA_ARCH__ >= 890
  unsigned short pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return {static_cast<unsigned char>(pair)};
#else
  return {to_fp8(x, 2, 128.0f, 0x38800000u, 0x7bu)};
#endif
}
)"},
      {"to_i32",
       {},
       R"(__device__ inline int to_i32(int x) { return x; }
__device__ inline int to_i32(float x) { return __float2int_rn(x); }
)"},
      {"to_i8",
       {},
       R"(__device__ inline signed char to_i8(int x) {
  return static_cast<signed char>(max(-128, min(127, x)));
}
__device__ inline signed char to_i8(float x) { return to_i8(__float2int_rn(x)); }
)"},
      {"to_u8",
       {},
       R"(__device__ inline unsigned char to_u8(int x) {
  return static_cast<unsigned char>(max(0, min(255, x)));
}
__device__ inline unsigned char to_u8(float x) { return to_u8(__float2int_rn(x)); }
)"},
      {"to_i4",
       {},
       R"(__device__ inline signed char to_i4(int x) {
  return static_cast<signed char>(max(-8, min(7, x)));
}
__device__ inline signed char to_i4(float x) { return to_i4(__float2int_rn(x)); }
)"},
      {"add",
       {},
       R"(__device__ inline int add(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) + static_cast<unsigned>(b));
}
)"},
      {"subtract",
       {},
       R"(__device__ inline int subtract(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) - static_cast<unsigned>(b));
}
)"},
      {"multiply",
       {},
       R"(__device__ inline int multiply(int a, int b) {
  return static_cast<int>(static_cast<unsigned>(a) * static_cast<unsigned>(b));
}
)"},
      {"negate",
       {},
       "__device__ inline int negate(int x) { return static_cast<int>(0u - "
       "static_cast<unsigned>(x)); }\n"},
      {"magnitude",
       {"negate"},
       "__device__ inline int magnitude(int x) { return x < 0 ? negate(x) : x; }\n"},
      {"divide",
       {"negate"},
       R"(// Towards zero; by 0 as by 1.
__device__ inline int divide(int a, int b) {
  return b == 0 ? a : b == -1 ? negate(a) : a / b;
}
)"},
      {"remainder",
       {},
       "__device__ inline int remainder(int a, int b) { return b == 0 || b == -1 ? 0 : a % b; }\n"},
      {"sigmoid",
       {},
       "__device__ inline float sigmoid(float x) {\n  float out;\n  asm(\"rcp.approx.ftz.f32 %0, "
       "%1;\" : \"=f\"(out) : \"f\"(1.0f + expf(-x)));\n  return out;\n}\n"},
      {"within",
       {},
       R"(__device__ inline bool within(int index, long long extent) {
  // As one comparison of unsigned numbers: NVRTC 13.0 drops the lower bound where it takes the index
  // for an absolute value, though that of -2^31 is negative.
  return static_cast<unsigned long long>(index) < static_cast<unsigned long long>(extent);
}
)"},
      {"load",
       {},
       R"(// Elements that move together, in accesses of up to 16 bytes.
template <class T, int N>
struct alignas((sizeof(T) * N & -(sizeof(T) * N)) < 16 ? (sizeof(T) * N & -(sizeof(T) * N)) : 16)
    Vector {
  T at[N];
};

template <int N, class T>
__device__ inline Vector<T, N> load(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <int N, class T>
__device__ inline void store(T* to, const Vector<T, N>& value) {
  *reinterpret_cast<Vector<T, N>*>(to) = value;
}
)"},
      {"accumulate",
       {"load"},
       R"(// Adds to what is in memory, without waiting for it. Nobody else may add to these elements.
template <int N>
__device__ inline void accumulate(float* to, const Vector<float, N>& value) {
#if __CUDA_ARCH__ >= 900
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4)
      asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + i),
                   "f"(value.at[i]), "f"(value.at[i + 1]), "f"(value.at[i + 2]),
                   "f"(value.at[i + 3])
                   : "memory");
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < N; ++i)
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(to + i), "f"(value.at[i]) : "memory");
}
)"},
      {"quotient",
       {},
       R"(// a / b within 2 units in the last place.
__device__ inline float quotient(float a, float b) {
  float out;
  asm("div.full.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
}
)"},
      {"load_up_to",
       {"load"},
       R"(// The same where only `count` of the elements exist, or where they may not be aligned.
template <int N, class T>
__device__ inline Vector<T, N> load_up_to(const T* from, long long count) {
  if (count >= N && reinterpret_cast<unsigned long long>(from) % alignof(Vector<T, N>) == 0)
    return load<N>(from);
  Vector<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.at[i] = i < count ? from[i] : T();
  return out;
}

template <int N, class T>
__device__ inline void store_up_to(T* to, const Vector<T, N>& value, long long count) {
  if (count >= N && reinterpret_cast<unsigned long long>(to) % alignof(Vector<T, N>) == 0)
    return store(to, value);
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < count) to[i] = value.at[i];
}
)"},
      {"load_i4",
       {},
       R"(// One of the two elements of a byte; the one of even index is in the low half.
__device__ inline signed char load_i4(const unsigned char* from, long long index) {
  const int byte = from[index / 2];
  return static_cast<signed char>((index % 2 != 0 ? byte : byte << 4) << 24 >> 28);
}
)"},
      {"unpack_i4",
       {"load"},
       R"(template <int N>
__device__ inline Vector<signed char, N * 2> unpack_i4(const Vector<unsigned char, N>& bytes) {
  Vector<signed char, N * 2> out;
#pragma unroll
  for (int i = 0; i < N * 2; ++i) {
    const int byte = bytes.at[i / 2];
    out.at[i] = static_cast<signed char>((i % 2 != 0 ? byte : byte << 4) << 24 >> 28);
  }
  return out;
}
)"},
      {"pack_i4",
       {"load"},
       R"(template <int N>
__device__ inline Vector<unsigned char, N / 2> pack_i4(const Vector<signed char, N>& values) {
  Vector<unsigned char, N / 2> out;
#pragma unroll
  for (int i = 0; i < N; i += 2)
    out.at[i / 2] = static_cast<unsigned char>((values.at[i] & 15) | values.at[i + 1] << 4);
  return out;
}
)"},
      {"stage",
       {"load"},
       R"(// Starts to copy a vector into shared memory.
template <int N, class T>
__device__ inline void stage(T* to, const T* from) {
  constexpr int unit = alignof(Vector<T, N>);
  if constexpr (unit < 4) {  // less than cp.async can move
    store(to, load<N>(from));
  } else {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    const char* bytes = reinterpret_cast<const char*>(from);
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(T)) * N; i += unit)
      if constexpr (unit == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address + i), "l"(bytes + i)
                     : "memory");
      else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address + i),
                     "l"(bytes + i), "n"(unit)
                     : "memory");
  }
}
)"},
      {"prefetch",
       {},
       R"(// Into L2, where there is an instruction for it.
__device__ inline void prefetch(const void* address, long long bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address),
               "r"(static_cast<unsigned>(bytes < 1 << 24 ? bytes / 16 * 16 : 1 << 24)));
#endif
}
)"},
      {"Indexed",
       {},
       R"(// A value and its position; -1 where there is none yet.
struct Indexed {
  float value;
  int index;
};
)"},
      {"larger",
       {"Indexed"},
       R"(// The first one if they are equal; NaN is passed over.
__device__ inline Indexed larger(Indexed a, Indexed b) {
  const bool before = b.value > a.value || (b.value == a.value && b.index < a.index);
  return b.index >= 0 && b.value == b.value && (a.index < 0 || before) ? b : a;
}
)"},
      {"smaller",
       {"Indexed"},
       R"(// The first one if they are equal; NaN is passed over.
__device__ inline Indexed smaller(Indexed a, Indexed b) {
  const bool before = b.value < a.value || (b.value == a.value && b.index < a.index);
  return b.index >= 0 && b.value == b.value && (a.index < 0 || before) ? b : a;
}
)"},
      {"shuffle float",
       {},
       R"(__device__ inline float shuffle(unsigned lanes, float value, int apart) {
  return __shfl_xor_sync(lanes, value, apart);
}
)"},
      {"shuffle Indexed",
       {"Indexed"},
       R"(__device__ inline Indexed shuffle(unsigned lanes, Indexed value, int apart) {
  return {__shfl_xor_sync(lanes, value.value, apart), __shfl_xor_sync(lanes, value.index, apart)};
}
)"},
      {"cluster",
       {},
       R"(// All threads of a cluster: what was sent before arriving is there after waiting.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
)"},
      {"send",
       {},
       R"(// Writes to the same place in the shared memory of another block of the cluster.
template <class T>
__device__ inline void send(T* place, const T& value, unsigned block) {
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(place));
  asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(block));
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T)) / 4; ++i)
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address + 4 * i),
                 "r"(reinterpret_cast<const unsigned*>(&value)[i])
                 : "memory");
}
)"},
  };
  return helpers;
}

}  // namespace

void Helpers::need(std::string_view wanted) {
  for (const Helper& helper : all_helpers())
    if (helper.name == wanted) {
      if (needed_.insert(helper.name).second)
        for (const std::string_view other : helper.needs) need(other);
      return;
    }
  assert(false);
}

void Helpers::need_type(DType dtype) {
  if (dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::e4m3 || dtype == DType::e5m2)
    need(quern::name(dtype));
}

std::string Helpers::write() const {
  std::string out;
  for (const Helper& helper : all_helpers())
    if (needed_.count(helper.name)) out += std::string(helper.text) + "\n";
  return out;
}

}  // namespace quern::dsl
