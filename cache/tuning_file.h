#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/json.h"

/// Names of what is kept under ROOT/tuning. Private to cache/.
namespace quern::cache {

/// ROOT/tuning/<fingerprint hash><suffix>, with suffix ".jsonl" for the records themselves.
std::filesystem::path tuning_file(const std::filesystem::path& root,
                                  const std::string& fingerprint_hash, const char* suffix);
/// The fingerprint hashes of the files of this suffix that are there, in order.
std::vector<std::string> tuning_file_hashes(const std::filesystem::path& root,
                                            std::string_view suffix);

/// The same text for the same values whatever the order of their keys.
std::string problem_key(const std::string& family, const ordered_json& problem);
std::string candidate_key(const std::string& family, const ordered_json& problem,
                          const ordered_json& config, const std::string& template_hash);

}  // namespace quern::cache
