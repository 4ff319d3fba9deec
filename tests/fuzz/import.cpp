// Fuzz target of imported tuning records: whatever the text, records are refused with a sentence or
// are plain data, whose kernels' source is what their family writes and nothing else. What is
// accepted can be exported and is accepted again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "autotune/fingerprint.h"
#include "autotune/import.h"
#include "cache/exchange.h"
#include "cache/merge.h"
#include "runtime/base/error.h"
#include "templates/attention/decode_attention.h"
#include "templates/attention/prefill_attention.h"
#include "templates/embedding/embedding.h"
#include "templates/gemm/gemm.h"
#include "templates/rope/rope_append.h"
#include "templates/sampling/sampling.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace quern;

/// Those whose kernels are not written in the kernel language, which has a target of its own.
const FamilyRegistry& families() {
  static const FamilyRegistry registry = [] {
    FamilyRegistry out({});
    out.add(std::make_unique<GemmFamily>());
    out.add(std::make_unique<EmbeddingFamily>());
    out.add(std::make_unique<RopeAppendFamily>());
    out.add(std::make_unique<DecodeAttentionFamily>());
    out.add(std::make_unique<PrefillAttentionFamily>());
    out.add(std::make_unique<SamplingFamily>());
    return out;
  }();
  return registry;
}

void require(bool condition) {
  if (!condition) std::abort();
}

bool is_plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '#';
  });
}

void check_plain(const ordered_json& object) {
  for (const auto& [key, value] : object.items()) {
    require(is_plain(key));
    if (value.is_string()) require(is_plain(value.get_ref<const std::string&>()));
  }
}

void check(const TuningRecord& record) {
  check_plain(record.problem);
  check_plain(record.config);
  check_plain(record.fingerprint);
  require(is_plain(record.family) && is_plain(record.template_hash) && is_plain(record.nvrtc));
  require(record.imported);
  if (distrust(record, families())) return;
  const Family& family = families().at(record.family);
  if (family.is_library(record.config)) return;
  const Arch arch = arch_of_fingerprint(record.fingerprint);
  // Only the templates' own names are included.
  const std::string source = family.source(record.problem, record.config, arch).source;
  for (std::size_t at = source.find('#'); at != std::string::npos; at = source.find('#', at + 1)) {
    const std::string line = source.substr(at, source.find('\n', at) - at);
    require(line.starts_with("#include \"") && line.ends_with(".cuh\""));
    require(line.find("..") == std::string::npos && line[10] != '/');
  }
  family.plan(record.problem, record.config, arch);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const ImportResult result = parse_import(text, ImageImport::take);
    for (const TuningRecord& record : result.accepted) check(record);
    for (const std::string& sentence : result.refused) require(is_plain(sentence));
    const ImportResult again =
        parse_import(export_text(result.accepted, result.images), ImageImport::take);
    require(again.refused.empty());
    require(again.accepted.size() == merge_records(result.accepted).size());
    require(again.images.size() == result.images.size());
  } catch (const InputError&) {
  }
  return 0;
}
