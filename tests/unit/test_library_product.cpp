#include "templates/utility/library_product.h"

#include "tests/support/support.h"

using namespace quern;

namespace {

Params problem(DType dtype, DType out, int n = 64) {
  LibraryProductProblem p;
  p.m = 17, p.n = n, p.k = 128, p.dtype = dtype, p.out_dtype = out;
  return to_params(p);
}

bool mentions(const std::optional<std::string>& reason, const std::string& words) {
  return reason && reason->find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("a product that cuBLASLt makes for less than is asked") {
  const auto family = make_library_product_family();
  const Arch hopper = parse_arch("sm_90a"), ampere = parse_arch("sm_80");
  const Params config = {{"algorithm", 2}};
  CHECK(family->is_library(config));

  const Params integers = problem(DType::i8, DType::i32);
  CHECK_FALSE(family->reject_reason(integers, config, ampere));
  const LibraryMatmul sums = family->library_matmul(integers, config);
  CHECK_FALSE(sums.scaled);
  CHECK_FALSE(sums.fast_sums);
  CHECK(sums.output == DType::i32);
  CHECK_EQ(sums.rank, 2);
  CHECK_EQ(family->operands(integers).size(), 3);

  const Params floats = problem(DType::e4m3, DType::bf16);
  CHECK_FALSE(family->reject_reason(floats, config, hopper));
  CHECK(family->library_matmul(floats, config).scaled);
  CHECK(family->library_matmul(floats, config).fast_sums);
  CHECK_EQ(family->operands(floats).size(), 5);

  CHECK(mentions(family->unsupported(floats, ampere), "need sm_89 or later"));
  CHECK(mentions(family->unsupported(problem(DType::i8, DType::f32), hopper), "not of i8 to f32"));
  CHECK(mentions(family->unsupported(problem(DType::i8, DType::i32, 40), hopper),
                 "multiples of 16, not for 40 and 128"));
  CHECK(
      mentions(family->reject_reason(integers, {{"algorithm", 8}}, hopper), "not between 0 and 7"));
  CHECK_THROWS_AS(family->source(integers, config, hopper), InputError);
}
