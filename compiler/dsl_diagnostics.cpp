#include "compiler/dsl_diagnostics.h"

#include <fmt/format.h>
#include <llvm/ADT/StringRef.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/SourceMgr.h>
#include <llvm/Support/raw_ostream.h>

#include <deque>
#include <set>
#include <utility>

#include "runtime/base/error.h"

namespace quern::dsl {
namespace {

constexpr int kMaxErrors = 20;

/// The log ends up in terminals and in JSON: bytes that are no printable ASCII become '?', whatever
/// encoding the file was in.
std::string printable(std::string text) {
  for (char& c : text)
    if (c != '\n' && c != '\t' && (c < ' ' || c > '~')) c = '?';
  return text;
}

}  // namespace

struct Diagnostics::Impl {
  std::deque<std::string> texts;
  std::string log, first;
  llvm::SourceMgr sources;
  int errors = 0;
  std::set<std::pair<const char*, std::string>> reported;  // each fault once

  void add(std::string_view at, llvm::SourceMgr::DiagKind kind, const std::string& sentence) {
    const auto begin = llvm::SMLoc::getFromPointer(at.data());
    const auto end = llvm::SMLoc::getFromPointer(at.data() + at.size());
    const llvm::SMDiagnostic message =
        sources.GetMessage(begin, kind, sentence, llvm::SMRange(begin, end));
    llvm::raw_string_ostream out(log);
    sources.PrintMessage(out, message, /*ShowColors=*/false);
    out.flush();
    if (first.empty())
      first = fmt::format("{}:{}:{}: {}", message.getFilename().str(), message.getLineNo(),
                          message.getColumnNo() + 1, sentence);
  }
};

Diagnostics::Diagnostics() : impl_(std::make_unique<Impl>()) {}
Diagnostics::~Diagnostics() = default;

std::string_view Diagnostics::add_file(std::string_view text, std::string_view file_name) {
  const std::string& kept = impl_->texts.emplace_back(text);
  impl_->sources.AddNewSourceBuffer(
      llvm::MemoryBuffer::getMemBuffer(llvm::StringRef(kept.data(), kept.size()),
                                       llvm::StringRef(file_name.data(), file_name.size())),
      llvm::SMLoc());
  return kept;
}

void Diagnostics::error(std::string_view at, const std::string& sentence) {
  if (full() || !impl_->reported.emplace(at.data(), sentence).second) return;
  ++impl_->errors;
  impl_->add(at, llvm::SourceMgr::DK_Error, sentence);
}

void Diagnostics::note(std::string_view at, const std::string& sentence) {
  if (!full()) impl_->add(at, llvm::SourceMgr::DK_Note, sentence);
}

bool Diagnostics::failed() const { return impl_->errors > 0; }
bool Diagnostics::full() const { return impl_->errors >= kMaxErrors; }

void Diagnostics::fail() const {
  throw CompileError(printable(impl_->first), printable(impl_->log), {}, kExitInput);
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  unsigned best_distance = static_cast<unsigned>(name.size() + 2) / 3 + 1;  // exclusive
  for (const std::string& candidate : candidates) {
    const unsigned distance =
        llvm::StringRef(name.data(), name.size())
            .edit_distance(candidate, /*AllowReplacements=*/true, best_distance);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace quern::dsl
