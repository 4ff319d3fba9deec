#pragma once
#include "runtime/driver.h"
#include "runtime/handle.h"

namespace quern {

/// A non-blocking stream.
class Stream {
 public:
  Stream();
  /// Somebody else's stream, which is not destroyed with this object; null is the default stream.
  static Stream borrow(CUstream stream);
  CUstream get() const { return stream_; }
  void synchronize() const;

 private:
  struct Destroy {
    void operator()(CUstream) const noexcept;
  };
  explicit Stream(CUstream stream) : stream_(stream) {}
  Unique<CUstream, Destroy> own_;
  CUstream stream_ = nullptr;
};

/// A timing event.
class Event {
 public:
  Event();
  CUevent get() const { return handle_.get(); }
  void record(const Stream& stream) const;
  void synchronize() const;
  /// True once everything recorded before it has finished.
  bool ready() const;
  /// Microseconds from `start` to this event; both must have completed.
  float us_since(const Event& start) const;

 private:
  struct Destroy {
    void operator()(CUevent) const noexcept;
  };
  Unique<CUevent, Destroy> handle_;
};

}  // namespace quern
