#pragma once
// Runs the `quern` binary as a user would, where no GPU can be seen, and checks what it promises:
// exit codes, one JSON document on stdout, one sentence on stderr where something is wrong.
#include <algorithm>
#include <string>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/base/json.h"
#include "tests/support/process.h"
#include "tests/support/support.h"

namespace quern::test {

/// The binary with a cache of its own.
class Quern {
 public:
  ProcessResult operator()(std::vector<std::string> arguments, ProcessOptions options = {}) const {
    arguments.insert(arguments.begin(), QUERN_BINARY);
    // insert() keeps what a test has set.
    options.environment.insert({"QUERN_CACHE", (folder_.path() / "cache").string()});
    options.environment.insert({"QUERN_SYSTEM_CACHE", ""});
    options.environment.insert({"CUDA_VISIBLE_DEVICES", ""});
    return run_process(arguments, options);
  }
  /// Runs with --json; the command must succeed.
  json json_of(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    const ProcessResult result = (*this)(arguments);
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    const json document = json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    REQUIRE(document.is_object());
    return document;
  }
  /// The command must be refused with one sentence that has `fragment` in it, with and without
  /// --json.
  void refuses(const std::vector<std::string>& arguments, int exit_code,
               const std::string& fragment) const {
    for (const bool with_json : {false, true}) {
      auto all = arguments;
      if (with_json) all.push_back("--json");
      check_refusal((*this)(all), exit_code, fragment, arguments);
    }
  }
  static void check_refusal(const ProcessResult& result, int exit_code, const std::string& fragment,
                            const std::vector<std::string>& arguments) {
    std::string shown;
    for (const std::string& word : arguments) shown += word.substr(0, 200) + ' ';
    CAPTURE(shown);
    CAPTURE(result.err);
    CHECK(result.signal == 0);
    CHECK(result.exit_code == exit_code);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("quern: "));
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK(result.err.ends_with('\n'));
    CHECK(result.err.find("internal fault") == std::string::npos);
    CHECK(result.err.find(fragment) != std::string::npos);
  }
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

 private:
  TemporaryFolder folder_;
};

}  // namespace quern::test
