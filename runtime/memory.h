#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/driver.h"
#include "runtime/handle.h"

namespace quern {

class Stream;

/// A device allocation (plain cuMemAlloc, 256-byte aligned). Throws OutOfMemoryError with sizes.
/// Zero bytes allocate nothing and have address 0.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);
  CUdeviceptr address() const { return handle_.get(); }
  template <class T = void>
  T* as() const {
    return reinterpret_cast<T*>(handle_.get());
  }
  std::size_t size_bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(CUdeviceptr) const noexcept;
  };
  Unique<CUdeviceptr, Free> handle_;
  std::size_t bytes_ = 0;
};

/// Page-locked host memory that the device can read and write. Throws OutOfMemoryError.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::size_t bytes);
  template <class T = std::byte>
  T* as() const {
    return static_cast<T*>(handle_.get());
  }
  CUdeviceptr device_address() const;
  std::size_t size_bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void*) const noexcept;
  };
  Unique<void*, Free> handle_;
  std::size_t bytes_ = 0;
};

/// One allocation handed out in aligned pieces; nothing is returned until reset().
class Arena {
 public:
  explicit Arena(std::size_t bytes) : buffer_(bytes) {}
  /// `alignment` is a power of two. Throws OutOfMemoryError if the piece does not fit.
  CUdeviceptr allocate(std::size_t bytes, std::size_t alignment = 256);
  void reset() { used_ = 0; }
  std::size_t used_bytes() const { return used_; }
  std::size_t size_bytes() const { return buffer_.size_bytes(); }

 private:
  Buffer buffer_;
  std::size_t used_ = 0;
};

// Asynchronous on `stream`; host memory must outlive the copy. Zero bytes are nothing to do.
void copy_to_device(CUdeviceptr to, const void* from, std::size_t bytes, const Stream& stream);
void copy_to_host(void* to, CUdeviceptr from, std::size_t bytes, const Stream& stream);
void copy_on_device(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, const Stream& stream);
void fill_bytes(CUdeviceptr to, unsigned char value, std::size_t bytes, const Stream& stream);

}  // namespace quern
