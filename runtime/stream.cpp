#include "runtime/stream.h"

namespace quern {
namespace {

CUstream new_stream() {
  CUstream stream = nullptr;
  check(driver().StreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  return stream;
}

CUevent new_event() {
  CUevent event = nullptr;
  check(driver().EventCreate(&event, CU_EVENT_DEFAULT));
  return event;
}

}  // namespace

Stream::Stream() : own_(new_stream()), stream_(own_.get()) {}
Stream Stream::borrow(CUstream stream) { return Stream(stream); }
void Stream::Destroy::operator()(CUstream stream) const noexcept { driver().StreamDestroy(stream); }
void Stream::synchronize() const { check(driver().StreamSynchronize(get())); }

Event::Event() : handle_(new_event()) {}
void Event::Destroy::operator()(CUevent event) const noexcept { driver().EventDestroy(event); }
void Event::record(const Stream& stream) const { check(driver().EventRecord(get(), stream.get())); }
void Event::synchronize() const { check(driver().EventSynchronize(get())); }

bool Event::ready() const {
  const CUresult status = driver().EventQuery(get());
  if (status == CUDA_ERROR_NOT_READY) return false;
  check(status);
  return true;
}

float Event::us_since(const Event& start) const {
  float ms = 0;
  check(driver().EventElapsedTime(&ms, start.get(), get()));
  return ms * 1000;
}

}  // namespace quern
