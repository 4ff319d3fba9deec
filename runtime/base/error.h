#pragma once
#include <stdexcept>
#include <string>
#include <utility>

namespace quern {

/// Exit codes of the `quern` binary.
enum ExitCode : int { kExitDone = 0, kExitFault = 1, kExitInput = 2, kExitNoDevice = 3 };

/// Base of everything the library throws. `what()` is one sentence for the user, with no trailing
/// newline. Split by who is at fault, so that a caller can tell a bad file from a broken machine.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& sentence, int exit_code = kExitFault)
      : std::runtime_error(sentence), exit_code_(exit_code) {}
  int exit_code() const noexcept { return exit_code_; }

 private:
  int exit_code_;
};

/// The user's input or usage is at fault: a malformed file, an impossible config, a bad option.
class InputError : public Error {
 public:
  explicit InputError(const std::string& sentence) : Error(sentence, kExitInput) {}
};

/// This machine lacks what the request needs: no driver, no GPU, no NVRTC.
class DeviceError : public Error {
 public:
  explicit DeviceError(const std::string& sentence) : Error(sentence, kExitNoDevice) {}
};

/// A CUDA, cuBLAS or NVML call failed. `code` is the library's own status.
class CudaError : public Error {
 public:
  CudaError(const std::string& sentence, int code) : Error(sentence), code_(code) {}
  int code() const noexcept { return code_; }

 private:
  int code_;
};

/// Device memory ran out; carries what was asked for in the sentence.
class OutOfMemoryError : public CudaError {
 public:
  using CudaError::CudaError;
};

/// Source did not compile. `log` is the compiler's whole log, `source_path` where the source is kept
/// (empty if nowhere). For DSL files `log` is the rendered diagnostic with caret and the fault is
/// the user's, hence exit code 2; for generated CUDA it is ours.
class CompileError : public Error {
 public:
  CompileError(const std::string& sentence, std::string log, std::string source_path = {},
               int exit_code = kExitFault)
      : Error(sentence, exit_code), log_(std::move(log)), source_path_(std::move(source_path)) {}
  const std::string& log() const noexcept { return log_; }
  const std::string& source_path() const noexcept { return source_path_; }

 private:
  std::string log_, source_path_;
};

}  // namespace quern
