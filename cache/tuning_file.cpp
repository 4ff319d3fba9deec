#include "cache/tuning_file.h"

#include <algorithm>
#include <utility>

#include "cache/files.h"

namespace quern::cache {

std::filesystem::path tuning_file(const std::filesystem::path& root,
                                  const std::string& fingerprint_hash, const char* suffix) {
  return root / "tuning" / (fingerprint_hash + suffix);
}

std::vector<std::string> tuning_file_hashes(const std::filesystem::path& root,
                                            std::string_view suffix) {
  std::vector<std::string> hashes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root / "tuning", error)) {
    std::string name = entry.path().filename().string();
    if (!name.ends_with(suffix)) continue;
    name.resize(name.size() - suffix.size());
    if (is_hash(name)) hashes.push_back(std::move(name));
  }
  std::sort(hashes.begin(), hashes.end());
  return hashes;
}

std::string problem_key(const std::string& family, const ordered_json& problem) {
  return family + " " + json(problem).dump();
}

std::string candidate_key(const std::string& family, const ordered_json& problem,
                          const ordered_json& config, const std::string& template_hash) {
  return problem_key(family, problem) + " " + json(config).dump() + " " + template_hash;
}

}  // namespace quern::cache
