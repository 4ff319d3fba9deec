// Vector loads and stores, and the asynchronous copies of sm_80 and later.
//
// Sources: PTX ISA 9.0, "ld", "cp.async".
#pragma once
#include "common/types.cuh"

namespace quern {

/// N bytes that move in one access.
template <int N>
struct Bytes;
template <>
struct Bytes<2> {
  u16 word[1];
};
template <>
struct Bytes<4> {
  u32 word[1];
};
template <>
struct alignas(8) Bytes<8> {
  u32 word[2];
};
template <>
struct alignas(16) Bytes<16> {
  u32 word[4];
};

/// `count` elements of T as one access; the address is aligned to its size.
template <class T, int count>
struct alignas(sizeof(T) * count) Vec {
  T element[count];
};

template <class T, int count>
__device__ __forceinline__ Vec<T, count> load_vec(const T* from) {
  return *reinterpret_cast<const Vec<T, count>*>(from);
}
template <class T, int count>
__device__ __forceinline__ void store_vec(T* to, const Vec<T, count>& value) {
  *reinterpret_cast<Vec<T, count>*>(to) = value;
}

/// 16 bytes of read-once data (weights): no L1 line is spent on them.
__device__ __forceinline__ Bytes<16> load_streaming(const void* from) {
  Bytes<16> v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(from));
  return v;
}

/// `bytes` (2, 4, 8 or 16) of read-once data, aligned to their size.
template <int bytes>
__device__ __forceinline__ Bytes<bytes> load_read_once(const void* from) {
  Bytes<bytes> v;
  if constexpr (bytes == 16)
    v = load_streaming(from);
  else if constexpr (bytes == 8)
    asm volatile("ld.global.nc.L1::no_allocate.v2.b32 {%0, %1}, [%2];"
                 : "=r"(v.word[0]), "=r"(v.word[1])
                 : "l"(from));
  else if constexpr (bytes == 4)
    asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(v.word[0]) : "l"(from));
  else
    asm volatile("ld.global.nc.L1::no_allocate.b16 %0, [%1];" : "=h"(v.word[0]) : "l"(from));
  return v;
}

/// A value of 4, 8 or 16 bytes that another block of the same kernel wrote: read from L2, past this
/// SM's own L1.
template <class V>
__device__ __forceinline__ V load_from_l2(const void* from) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16, "one access");
  V v;
  u32* word = reinterpret_cast<u32*>(&v);
  if constexpr (sizeof(V) == 16)
    asm volatile("ld.global.cg.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                 : "l"(from)
                 : "memory");
  else if constexpr (sizeof(V) == 8)
    asm volatile("ld.global.cg.v2.b32 {%0, %1}, [%2];"
                 : "=r"(word[0]), "=r"(word[1])
                 : "l"(from)
                 : "memory");
  else
    asm volatile("ld.global.cg.b32 %0, [%1];" : "=r"(word[0]) : "l"(from) : "memory");
  return v;
}

/// Begins to fetch the 128 bytes around an address into L2.
__device__ __forceinline__ void prefetch_l2(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

/// Address in the shared window, as PTX wants it.
__device__ __forceinline__ u32 shared_address(const void* p) {
  return static_cast<u32>(__cvta_generic_to_shared(p));
}

/// Four floats from a shared address.
__device__ __forceinline__ void load_shared(u32 from_shared, float (&v)[4]) {
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
               : "r"(from_shared)
               : "memory");
}
/// Stores a float to a shared address.
__device__ __forceinline__ void store_shared(u32 to_shared, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to_shared), "f"(x) : "memory");
}
/// Stores a byte to a shared address.
__device__ __forceinline__ void store_shared(u32 to_shared, u8 bits) {
  asm volatile("st.shared.u8 [%0], %1;" ::"r"(to_shared), "r"(static_cast<u32>(bits)) : "memory");
}
/// Stores two bytes to a shared address.
__device__ __forceinline__ void store_shared(u32 to_shared, u16 bits) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(to_shared), "h"(bits) : "memory");
}

/// Stores floats to a shared address that is aligned to the size of all.
__device__ __forceinline__ void store_shared(u32 to_shared, const Vec<float, 2>& v) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to_shared), "f"(v.element[0]),
               "f"(v.element[1])
               : "memory");
}
__device__ __forceinline__ void store_shared(u32 to_shared, const Vec<float, 4>& v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to_shared), "f"(v.element[0]),
               "f"(v.element[1]), "f"(v.element[2]), "f"(v.element[3])
               : "memory");
}
__device__ __forceinline__ float load_shared(u32 from_shared) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(from_shared) : "memory");
  return v;
}

/// Copies 4, 8 or 16 bytes global to shared; where `valid` is false the destination is zero-filled
/// and nothing is read. There is no L2 policy on purpose: ptxas 13.0 encodes cp.async with
/// `.L2::cache_hint` and a uniform shared address on sm_90a as an instruction that the H200
/// refuses.
template <int bytes>
__device__ __forceinline__ void copy_async(u32 to_shared, const void* from, bool valid = true) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async moves 4, 8 or 16 bytes");
  const int size = valid ? bytes : 0;
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to_shared), "l"(from),
                 "r"(size)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to_shared), "l"(from),
                 "n"(bytes), "r"(size)
                 : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `pending` of this thread's newest groups are still under way.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace quern
