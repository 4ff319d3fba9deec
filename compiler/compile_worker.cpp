#include "compiler/compile_worker.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <new>
#include <string_view>
#include <utility>

#include "compiler/resource_report.h"
#include "runtime/base/error.h"
#include "runtime/base/fields.h"

// The messages, as fields:
//   to the worker, first: folder of NVRTC, then name and text of each header
//   its answer:           "ready", version  |  "error", sentence
//   to the worker, then:  name, source, entry, architecture, options...
//   its answers:          "image", cubin, log, milliseconds  |  "compile_error", sentence, log
//                         |  "error", sentence
namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
using Fields = std::vector<std::string>;

// A worker that is killed from outside while it starts says nothing against the next one.
constexpr int kStarts = 3;
// It loads NVRTC, perhaps over a network.
constexpr auto kStartPatience = std::chrono::seconds(60);
// How soon an abandoned compile ends.
constexpr auto kSlice = std::chrono::milliseconds(20);

std::string pack(std::initializer_list<std::string_view> fields) {
  return pack_fields(std::span(fields.begin(), fields.size()));
}

std::string to_message(const CompileRequest& request) {
  const std::string arch = request.arch.name();
  std::vector<std::string_view> fields{request.name, request.source, request.entry, arch};
  fields.insert(fields.end(), request.options.begin(), request.options.end());
  return pack_fields(fields);
}

CompileRequest request_of(const Fields& fields) {
  if (fields.size() < 4) throw Error("the parent process sent nonsense");
  return {.name = fields[0],
          .source = fields[1],
          .entry = fields[2],
          .arch = parse_arch(fields[3]),
          .options = {fields.begin() + 4, fields.end()}};
}

std::string what_became_of(const ChildLost& lost) {
  if (lost.signal() == SIGKILL) return "NVRTC's process was killed (signal 9)";
  if (lost.signal() != 0) return fmt::format("NVRTC crashed (signal {})", lost.signal());
  if (lost.exit_status() >= 0)
    return fmt::format("NVRTC ended its process (status {})", lost.exit_status());
  return lost.what();
}

[[noreturn]] void fail(const CompileRequest& request, const std::string& reason, std::string log) {
  throw CompileError(
      fmt::format("{} did not compile for {}: {}",
                  request.name.empty() ? "the kernel" : request.name, request.arch.name(), reason),
      std::move(log));
}

/// Physical memory of a process in bytes; 0 if it cannot be told.
std::size_t resident_bytes(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/statm", pid));
  std::size_t size = 0, resident = 0;
  if (!(file >> size >> resident)) return 0;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

std::string CompileWorker::greeting(const Nvrtc& nvrtc, const HeaderMap& headers) {
  const std::string folder = nvrtc.library_folder();
  std::vector<std::string_view> fields{folder};
  for (const auto& [name, text] : headers) {
    fields.push_back(name);
    fields.push_back(text);
  }
  return pack_fields(fields);
}

CompileWorker::CompileWorker(CompileWorkerOptions options, const std::string& greeting,
                             std::string version, const std::atomic<bool>& abandoned)
    : options_(std::move(options)),
      greeting_(greeting),
      version_(std::move(version)),
      abandoned_(abandoned) {}

/// Nothing: the process is late.
std::optional<std::string> CompileWorker::wait_for_answer(std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  while (!abandoned_) {
    if (auto answer = process_->receive(std::min(deadline, Clock::now() + kSlice))) return answer;
    if (Clock::now() >= deadline) return std::nullopt;
  }
  process_.reset();
  throw Error("the compile was abandoned");
}

void CompileWorker::try_to_start() {
  process_.emplace(
      ChildOptions{.command = options_.command, .max_memory_bytes = options_.max_memory});
  process_->send(greeting_);
  const auto answer = wait_for_answer(kStartPatience);
  if (!answer) throw WorkerUnavailable("a compile worker does not answer");
  const auto fields = unpack_fields(*answer);
  if (!fields || fields->size() != 2)
    throw WorkerUnavailable("what should be a compile worker is something else");
  if (fields->front() != "ready") throw WorkerUnavailable(fields->back());
  if (fields->back() != version_)
    throw WorkerUnavailable(
        fmt::format("a compile worker found NVRTC {} instead of {}", fields->back(), version_));
}

void CompileWorker::start() {
  for (int left = kStarts;;) {
    try {
      return try_to_start();
    } catch (const ChildLost& lost) {
      process_.reset();
      if (--left == 0)
        throw WorkerUnavailable(fmt::format("a compile worker does not start: {}", lost.what()));
    } catch (const Error& error) {
      process_.reset();
      if (abandoned_) throw;
      throw WorkerUnavailable(error.what());
    }
  }
}

/// False if the process was lost between two compiles, which is no fault of the next one.
bool CompileWorker::is_waiting_for_work() {
  try {
    return !process_->receive(Clock::now());
  } catch (const ChildLost&) {
    return false;
  }
}

/// Whether the process has kept so much that the next compile might lack it.
bool CompileWorker::has_outgrown_its_bound() const {
  return options_.max_memory > 0 && resident_bytes(process_->pid()) > options_.max_memory / 2;
}

KernelImage CompileWorker::compile(const CompileRequest& request) {
  if (process_ && !is_waiting_for_work()) process_.reset();
  if (!process_) start();
  std::optional<Fields> fields;
  try {
    process_->send(to_message(request));
    const auto answer = wait_for_answer(options_.deadline);
    if (!answer) {
      const std::string printed = process_->error_output();
      process_.reset();
      const auto seconds = std::chrono::duration<double>(options_.deadline).count();
      fail(request, fmt::format("NVRTC took longer than {:g} s", seconds), printed);
    }
    fields = unpack_fields(*answer);
  } catch (const ChildLost& lost) {
    const std::string printed = process_->error_output();
    process_.reset();
    fail(request, what_became_of(lost), printed);
  }
  const std::string kind = fields && !fields->empty() ? fields->front() : "";
  const std::size_t count = fields ? fields->size() : 0;
  if (!(kind == "image" && count == 4) && !(kind == "compile_error" && count == 3) &&
      !(kind == "error" && count == 2)) {
    process_.reset();
    fail(request, "NVRTC's process gave a malformed answer", {});
  }
  if (has_outgrown_its_bound()) process_.reset();
  if (kind == "compile_error") throw CompileError((*fields)[1], (*fields)[2]);
  if (kind == "error") fail(request, (*fields)[1], {});
  KernelImage image;
  image.cubin = std::move((*fields)[1]);
  image.log = std::move((*fields)[2]);
  image.compile_ms = std::strtod((*fields)[3].c_str(), nullptr);
  image.report = parse_resource_report(image.log, request.entry);
  return image;
}

void serve_compiles(ParentChannel& parent) {
  serve_compiles(parent, [](const Nvrtc& nvrtc, const CompileRequest& request,
                            const HeaderMap& headers) { return nvrtc.compile(request, headers); });
}

void serve_compiles(ParentChannel& parent, const WorkerCompile& compile) {
  parent.exit_with_parent();
  const auto first = parent.receive();
  if (!first) return;
  const auto greeting = unpack_fields(*first);
  if (!greeting || greeting->size() % 2 != 1) throw Error("the parent process sent nonsense");
  HeaderMap headers;
  for (std::size_t i = 1; i < greeting->size(); i += 2)
    headers.emplace((*greeting)[i], (*greeting)[i + 1]);
  std::optional<Nvrtc> nvrtc;
  try {
    nvrtc.emplace(std::vector<std::string>{greeting->front()});
  } catch (const Error& error) {
    parent.send(pack({"error", error.what()}));
    return;
  }
  parent.send(pack({"ready", nvrtc->version()}));
  while (const auto message = parent.receive()) {
    const auto fields = unpack_fields(*message);
    const CompileRequest request = request_of(fields.value_or(Fields{}));
    std::string answer;
    try {
      const KernelImage image = compile(*nvrtc, request, headers);
      answer = pack({"image", image.cubin, image.log, fmt::format("{}", image.compile_ms)});
    } catch (const CompileError& error) {
      answer = pack({"compile_error", error.what(), error.log()});
    } catch (const std::bad_alloc&) {
      answer = pack({"error", "NVRTC ran out of memory"});
    } catch (const Error& error) {
      answer = pack({"error", error.what()});
    }
    parent.send(answer);
  }
}

}  // namespace quern
