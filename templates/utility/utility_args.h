#pragma once
// Kernel parameters of the utility families, shared by host and device.
namespace quern {

struct FillArgs {
  void* out;                     // [count]
  unsigned long long count;      // elements
  unsigned long long seed;
  float stddev;                  // of normal values
  int magnitude;                 // not 0: their magnitudes
  float least, most;             // bounds of uniform values
};

struct CompareArgs {
  const void* out;               // [count]
  const void* reference;         // [count]
  unsigned long long count;      // elements
  double abs, rel;               // tolerance: |out - reference| <= abs + rel * |reference|
  unsigned long long* worst;     // [1]; bits of the worst error / tolerance (f64), never lowered
  unsigned long long* unequal;   // [1]; elements whose bits differ are added
};

struct StreamArgs {
  const void* in;                // 16-byte words
  float* out;                    // [1]; written only if a sum is NaN, so that no load is dead
  unsigned long long words;      // 16-byte words to read
};

}  // namespace quern
