#include "autotune/problem.h"

#include "autotune/registry.h"
#include "runtime/base/error.h"
#include "tests/support/scale_family.h"
#include "tests/support/support.h"

using namespace quern;
using test::ScaleFamily;

namespace {

const Arch kArch = parse_arch("sm_90a");
const Params kProblem = {{"n", 1000}, {"scale", 3}};
const Params kConfig = {{"threads", 128}, {"fault", 0}};

}  // namespace

TEST_CASE("sizes are rounded up to powers of two") {
  CHECK_EQ(bucket(1), 1);
  CHECK_EQ(bucket(2), 2);
  CHECK_EQ(bucket(3), 4);
  CHECK_EQ(bucket(16), 16);
  CHECK_EQ(bucket(17), 32);
  CHECK_EQ(bucket(2048), 2048);
  CHECK_EQ(bucket(0), 0);
  CHECK_EQ(bucket(-5), -5);
  CHECK_EQ(bucket(std::int64_t{1} << 62), std::int64_t{1} << 30);
}

TEST_CASE("only dynamic fields are rounded") {
  const ScaleFamily family;
  CHECK_EQ(bucketed(family, kProblem).dump(), R"({"n":1024,"scale":3})");
  CHECK_EQ(bucketed(family, bucketed(family, kProblem)), bucketed(family, kProblem));
}

TEST_CASE("a refusal is a sentence, also for parameters that make no sense") {
  const ScaleFamily family;
  CHECK_FALSE(refusal(family, kProblem, kConfig, kArch).has_value());
  CHECK_EQ(refusal(family, kProblem, {{"threads", 1024}, {"fault", 0}}, kArch),
           "threads exceed 512");
  CHECK_EQ(refusal(family, {{"n", 0}, {"scale", 3}}, kConfig, kArch), "n should be positive");
  for (const Params& odd :
       {Params(), Params(7), Params::array(), Params{{"threads", "x"}, {"fault", 0}},
        Params{{"threads", 128}}, Params{{"threads", 128}, {"fault", 0}, {"more", 1}}}) {
    CHECK(refusal(family, kProblem, odd, kArch).has_value());
    CHECK(refusal(family, odd, kConfig, kArch).has_value());
  }
}

TEST_CASE("a config outside the declared space is named") {
  const ScaleFamily family;
  CHECK_FALSE(outside_space(family, kProblem, kConfig).has_value());
  CHECK_EQ(outside_space(family, kProblem, {{"threads", 100}, {"fault", 0}}),
           "threads=100 lies outside the space of scale");
  CHECK_EQ(outside_space(family, kProblem, {{"threads", 128}}), "the tunable 'fault' is missing");
  CHECK_EQ(outside_space(family, kProblem, {{"threads", 128}, {"fault", 0}, {"x", 1}}),
           "'x' is not a tunable of scale");
  CHECK(outside_space(family, kProblem, {{"threads", 128.0}, {"fault", 0}}).has_value());
  CHECK(outside_space(family, kProblem, {{"threads", "128"}, {"fault", 0}}).has_value());
  CHECK(outside_space(family, kProblem, {{"threads", 128}, {"fault", false}}).has_value());
  CHECK(outside_space(family, kProblem, Params()).has_value());
}

TEST_CASE("a template's hash follows its text and its source, not the request") {
  const ScaleFamily family;
  HeaderMap templates = ScaleFamily::templates();
  const std::string hash = template_hash(family, kProblem, kConfig, kArch, templates);
  CHECK_EQ(template_hash(family, {{"n", 5}, {"scale", 3}}, kConfig, kArch, templates), hash);
  CHECK_NE(template_hash(family, kProblem, {{"threads", 64}, {"fault", 0}}, kArch, templates),
           hash);
  templates["unrelated.cuh"] = "x";
  CHECK_EQ(template_hash(family, kProblem, kConfig, kArch, templates), hash);
  templates["test/scale.cuh"] += " ";
  CHECK_NE(template_hash(family, kProblem, kConfig, kArch, templates), hash);
}

TEST_CASE("families are found by name") {
  FamilyRegistry families(ScaleFamily::templates());
  CHECK_THROWS_AS(families.at("scale"), InputError);
  families.add(std::make_unique<ScaleFamily>());
  CHECK_EQ(families.at("scale").name(), "scale");
  CHECK_EQ(families.all().size(), 1);
  CHECK_THROWS_WITH_AS(families.at("../scale"),
                       "there is no kernel family '../scale': known are scale", InputError);
}
