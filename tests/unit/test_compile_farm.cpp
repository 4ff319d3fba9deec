#include <algorithm>
#include <set>

#include "compiler/compile_farm.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "tests/support/nvrtc.h"
#include "tests/support/support.h"

using namespace quern;
using test::kNoNvrtc;
using test::nvrtc;
using test::scale_by;
using test::scale_headers;

namespace {

CompileRequest broken() {
  CompileRequest request = scale_by(1);
  request.name = "broken";
  request.source += "int x = nonsense;\n";
  return request;
}

}  // namespace

TEST_CASE("a kernel is compiled once and found ever after") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const test::TemporaryFolder folder;
  CompiledKernel first;
  {
    ImageStore store(folder.path());
    first = compile_cached(*nvrtc(), &store, scale_by(3), scale_headers());
    CHECK_FALSE(first.from_cache);
    CHECK_GT(first.image.compile_ms, 0);
  }
  ImageStore store(folder.path());  // as another process would
  const CompiledKernel second = compile_cached(*nvrtc(), &store, scale_by(3), scale_headers());
  CHECK(second.from_cache);
  CHECK_EQ(second.key, first.key);
  CHECK(second.image.cubin == first.image.cubin);
  CHECK_EQ(second.image.log, first.image.log);
  CHECK_EQ(second.image.report.registers, first.image.report.registers);
  CHECK_EQ(second.image.compile_ms, 0);
  const auto stored = store.find(first.key);
  REQUIRE(stored);
  CHECK_EQ(stored->source, scale_by(3).source);
  CHECK_EQ(stored->report.at("arch"), "sm_90a");

  HeaderMap edited = scale_headers();
  edited["scale.cuh"] = "constexpr float kScale = 4;\n";
  CHECK_FALSE(compile_cached(*nvrtc(), &store, scale_by(3), edited).from_cache);
  CHECK_THROWS_AS(compile_cached(*nvrtc(), &store, broken(), scale_headers()), CompileError);
  CHECK_FALSE(compile_cached(*nvrtc(), nullptr, scale_by(3), scale_headers()).from_cache);
}

TEST_CASE("a store that holds nonsense or cannot be written costs only time") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const test::TemporaryFolder folder;
  ImageStore store(folder.path() / "store");
  const std::string key = image_key(scale_by(2), scale_headers(), nvrtc()->version());
  store.put(key, {"source", "image", {{"registers", "many"}}, "log"});
  const CompiledKernel kernel = compile_cached(*nvrtc(), &store, scale_by(2), scale_headers());
  CHECK_FALSE(kernel.from_cache);
  CHECK_NE(kernel.image.cubin, "image");
}

TEST_CASE("the farm delivers every request, failures included") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  for (const bool second_run : {false, true}) {
    CAPTURE(second_run);
    CompileFarm farm(*nvrtc(), &store, scale_headers(), {.num_workers = 2});
    for (int factor = 0; factor < 6; ++factor)
      CHECK_EQ(farm.submit(scale_by(factor)), static_cast<std::size_t>(factor));
    const std::size_t bad = farm.submit(broken());
    const std::size_t twin = farm.submit(scale_by(5));
    CHECK_EQ(farm.num_outstanding(), 8);
    std::set<std::size_t> tickets;
    while (const auto outcome = farm.next()) {
      tickets.insert(outcome->ticket);
      if (outcome->ticket == bad) {
        CHECK_FALSE(outcome->kernel);
        CHECK_NE(outcome->error.find("broken did not compile"), std::string::npos);
        CHECK_NE(outcome->log.find("nonsense"), std::string::npos);
      } else {
        REQUIRE(outcome->kernel);
        CHECK(outcome->error.empty());
        CHECK_FALSE(outcome->kernel->image.cubin.empty());
        if (second_run || outcome->ticket == twin) CHECK(outcome->kernel->from_cache);
      }
    }
    CHECK_EQ(tickets.size(), 8);
    CHECK_EQ(farm.num_outstanding(), 0);
    CHECK_EQ(farm.counts().compiled, second_run ? 0 : 6);
    CHECK_EQ(farm.counts().from_cache, second_run ? 7 : 1);
    CHECK_EQ(farm.counts().failed, 1);
    CHECK_FALSE(farm.next());
    CHECK_FALSE(farm.try_next());
  }
}

TEST_CASE("a cancelled farm hands over what had begun and no more") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  CompileFarm farm(*nvrtc(), nullptr, scale_headers(), {.num_workers = 1});
  for (int factor = 0; factor < 20; ++factor) farm.submit(scale_by(factor));
  REQUIRE(farm.next());
  const std::size_t dropped = farm.cancel();
  CHECK_GT(dropped, 0);
  std::size_t delivered = 1;
  while (farm.next()) ++delivered;
  CHECK_EQ(delivered + dropped, 20);
  farm.submit(scale_by(1));
  CHECK(farm.next());
  farm.submit(scale_by(2));  // abandoned with the farm
}
