#include "runtime/memory.h"

#include <fmt/format.h>

#include <cassert>

#include "runtime/base/error.h"
#include "runtime/stream.h"

namespace quern {
namespace {

std::string size_text(std::size_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= std::size_t{1} << 30) return fmt::format("{:.2f} GiB", value / (1 << 30));
  if (bytes >= std::size_t{1} << 20) return fmt::format("{:.2f} MiB", value / (1 << 20));
  return fmt::format("{} bytes", bytes);
}

CUdeviceptr allocate(std::size_t bytes) {
  CUdeviceptr address = 0;
  if (bytes == 0) return address;
  const CUresult status = driver().MemAlloc(&address, bytes);
  if (status == CUDA_ERROR_OUT_OF_MEMORY) {
    std::size_t free = 0, total = 0;
    driver().MemGetInfo(&free, &total);
    throw OutOfMemoryError(fmt::format("out of GPU memory: {} were asked for, {} of {} are free",
                                       size_text(bytes), size_text(free), size_text(total)),
                           status);
  }
  check(status);
  return address;
}

void* allocate_pinned(std::size_t bytes) {
  void* address = nullptr;
  if (bytes == 0) return address;
  const CUresult status =
      driver().MemHostAlloc(&address, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
  if (status == CUDA_ERROR_OUT_OF_MEMORY)
    throw OutOfMemoryError(
        fmt::format("out of page-locked host memory: {} were asked for", size_text(bytes)), status);
  check(status);
  return address;
}

}  // namespace

Buffer::Buffer(std::size_t bytes) : handle_(allocate(bytes)), bytes_(bytes) {}
void Buffer::Free::operator()(CUdeviceptr address) const noexcept { driver().MemFree(address); }

PinnedBuffer::PinnedBuffer(std::size_t bytes) : handle_(allocate_pinned(bytes)), bytes_(bytes) {}
void PinnedBuffer::Free::operator()(void* address) const noexcept { driver().MemFreeHost(address); }

CUdeviceptr PinnedBuffer::device_address() const {
  CUdeviceptr address = 0;
  if (handle_) check(driver().MemHostGetDevicePointer(&address, handle_.get(), 0));
  return address;
}

CUdeviceptr Arena::allocate(std::size_t bytes, std::size_t alignment) {
  assert(alignment > 0 && (alignment & (alignment - 1)) == 0);
  const std::size_t base = buffer_.address();
  const std::size_t begin = ((base + used_ + alignment - 1) & ~(alignment - 1)) - base;
  if (begin > size_bytes() || bytes > size_bytes() - begin)
    throw OutOfMemoryError(fmt::format("the arena of {} is full: {} were asked for, {} are in use",
                                       size_text(size_bytes()), size_text(bytes), size_text(used_)),
                           CUDA_ERROR_OUT_OF_MEMORY);
  used_ = begin + bytes;
  return base + begin;
}

void copy_to_device(CUdeviceptr to, const void* from, std::size_t bytes, const Stream& stream) {
  if (bytes > 0) check(driver().MemcpyHtoDAsync(to, from, bytes, stream.get()));
}

void copy_to_host(void* to, CUdeviceptr from, std::size_t bytes, const Stream& stream) {
  if (bytes > 0) check(driver().MemcpyDtoHAsync(to, from, bytes, stream.get()));
}

void copy_on_device(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, const Stream& stream) {
  if (bytes > 0) check(driver().MemcpyDtoDAsync(to, from, bytes, stream.get()));
}

void fill_bytes(CUdeviceptr to, unsigned char value, std::size_t bytes, const Stream& stream) {
  if (bytes > 0) check(driver().MemsetD8Async(to, value, bytes, stream.get()));
}

}  // namespace quern
