#pragma once
#include <cmath>
#include <initializer_list>

#include "runtime/base/arch.h"

// What the families' analytic models share: a GPU as a few limits, each a time in microseconds. The
// models only have to rank configs of one problem; measurement decides. Numbers without a source in
// a datasheet were measured on an H200.

namespace quern {

constexpr double kLaunchUs = 0.6;       // of a kernel in a graph, its start overlapping with PDL
constexpr double kNoPdlUs = 0.9;        // what a launch without it adds
constexpr double kDramLatencyUs = 0.6;  // of a load that misses both caches, on a busy GPU
constexpr double kBarrierUs = 0.03;     // of a block, each further warp adding a little
constexpr double kBlocksPerUs = 820;    // that the GPU can start

/// Several limits that overlap, but never perfectly: the highest, and a part of the others.
double overlapped(std::initializer_list<double> limits_us);

/// Blocks of so many threads, registers a thread and bytes of shared memory that an SM holds at
/// once; 0 if none.
int resident_blocks(const Arch& arch, int threads, int registers, int smem_bytes);

/// How the blocks of a grid come to lie on the SMs.
struct Waves {
  double resident = 1;  // blocks that an SM works on at once, on average over the busy SMs
  double busy_sms = 1;  // SMs that have a block
  double rounds = 1;    // blocks that the busiest place on an SM goes through, one after the other
};
/// `max_resident` as from resident_blocks().
Waves waves_of(double blocks, int max_resident, const Arch& arch);

/// Bytes per microsecond from DRAM if each of `busy_sms` keeps `in_flight_bytes` on their way:
/// Little's law below, the peak above, a soft knee between.
double dram_rate(const Arch& arch, double busy_sms, double in_flight_bytes);

/// Bytes per microsecond that one SM can take in from L2.
inline double sm_rate(const Arch& arch) { return 60 * arch.clock_ghz * 1e3; }

/// Microseconds of `instructions` of single lanes on one SM.
inline double lanes_us(const Arch& arch, double instructions) {
  return instructions / (128 * arch.clock_ghz * 1e3);
}

inline double ceil_ratio(double a, double b) { return std::ceil(a / b); }

/// A kernel whose threads each move some bytes, without anything to share: elementwise kernels and
/// gathers.
struct StreamingKernel {
  double bytes = 0;           // in all
  double blocks = 1;          // in the grid
  int threads = 256;          // of a block
  int registers = 32;         // of a thread
  int smem_bytes = 0;         // of a block
  double loads_at_once = 16;  // bytes that a thread has in flight
  double steps = 1;           // loads of a thread, one after the other
  double step_us = 0.3;       // of such a step, where it waits for nothing else
  double instructions = 10;   // of a thread, in all steps
  bool pdl = true;
};
double streaming_us(const StreamingKernel& kernel, const Arch& arch);

}  // namespace quern
