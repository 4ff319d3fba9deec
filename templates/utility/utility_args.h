#pragma once
// Kernel parameters of the utility families, shared by host and device.
namespace quern {

struct FillArgs {
  void* out;                     // [count]
  unsigned long long count;      // elements
  unsigned long long seed;
  float stddev;
};

struct StreamArgs {
  const void* in;                // 16-byte words
  float* out;                    // [1]; written only if a sum is NaN, so that no load is dead
  unsigned long long words;      // 16-byte words to read
};

}  // namespace quern
