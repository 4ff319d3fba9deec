#include "cache/grade.h"

namespace quern {
namespace {

/// The fingerprint without what may change while the chip stays, its keys in order.
json chip(const ordered_json& fingerprint) {
  json out = fingerprint;
  if (out.is_object()) {
    out.erase("driver");
    out.erase("power_limit_w");
  }
  return out;
}

const ordered_json* compute_capability(const ordered_json& fingerprint) {
  if (!fingerprint.is_object()) return nullptr;
  const auto found = fingerprint.find("compute_capability");
  return found != fingerprint.end() && found->is_string() ? &*found : nullptr;
}

}  // namespace

std::string_view name(DeviceMatch match) {
  switch (match) {
    case DeviceMatch::same_device:
      return "same_device";
    case DeviceMatch::same_architecture:
      return "same_architecture";
    case DeviceMatch::other:
      return "other";
  }
  return "unknown";
}

DeviceMatch grade(const ordered_json& own, const ordered_json& other) {
  const ordered_json* mine = compute_capability(own);
  const ordered_json* theirs = compute_capability(other);
  if (chip(own) == chip(other)) return DeviceMatch::same_device;
  return mine && theirs && *mine == *theirs ? DeviceMatch::same_architecture : DeviceMatch::other;
}

}  // namespace quern
