#pragma once
#include <string>

#include "cache/record_store.h"

namespace quern::test {

inline const ordered_json kFingerprint = {
    {"name", "NVIDIA H200"}, {"num_sms", 132}, {"driver", "580.95"}};

/// A record that every reader takes.
inline TuningRecord sample(int m = 16, double median_us = 38.25) {
  TuningRecord r;
  r.family = "gemm";
  r.problem = {{"m", m}, {"n", 4096}, {"dtype", "bf16"}, {"eps", 1e-5}, {"bias", false}};
  r.config = {{"tile_m", 16}, {"stages", 4}};
  r.template_hash = std::string(32, 'a');
  r.fingerprint = kFingerprint;
  r.median_us = median_us;
  r.spread_us = 0.4;
  r.num_samples = 31;
  r.default_us = 41.0;
  r.error = 0.25;
  r.measured_at = "2026-01-31T12:00:00Z";
  return r;
}

}  // namespace quern::test
