#pragma once
#include <utility>

namespace quern {

/// Owns one driver handle. Move-only; the destructor ignores errors because the driver may already
/// be shut down. `Release` is a function object: void operator()(T) const noexcept.
template <class T, class Release>
class Unique {
 public:
  Unique() = default;
  explicit Unique(T handle) : handle_(handle) {}
  Unique(Unique&& other) noexcept : handle_(std::exchange(other.handle_, T{})) {}
  Unique& operator=(Unique&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Unique() {
    if (handle_ != T{}) Release{}(handle_);
  }
  T get() const { return handle_; }
  explicit operator bool() const { return handle_ != T{}; }

 private:
  T handle_{};
};

}  // namespace quern
