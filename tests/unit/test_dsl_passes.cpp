#include <algorithm>

#include "compiler/dsl_passes.h"
#include "tests/support/dsl_generator.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::dsl;

namespace {

Kernel kernel(const std::string& text) { return parse(text, "test.qk").at(0); }

std::size_t count(const Tree& tree, const std::vector<int>& nodes, Op op) {
  return static_cast<std::size_t>(std::count_if(nodes.begin(), nodes.end(), [&](int n) {
    return tree.nodes[static_cast<std::size_t>(n)].op == op;
  }));
}

/// Everything is computed before it is used: walks may use values of the row, of their segment, and
/// what they computed or kept themselves.
void check_order(const Tree& tree, const Passes& plan, Reuse reuse) {
  std::vector<bool> row(tree.nodes.size()), kept(tree.nodes.size());
  std::vector<bool> segments_before(tree.nodes.size());
  const auto at = [](int n) { return static_cast<std::size_t>(n); };
  for (const Pass& pass : plan.passes) {
    const auto args_are = [&](int n, const auto& known) {
      for (const int arg : tree.nodes[at(n)].args)
        if (arg >= 0) CHECK(known(arg));
    };
    for (const int n : pass.row_nodes) {
      args_are(n, [&](int arg) { return row[at(arg)]; });
      row[at(n)] = true;
    }
    std::vector<bool> segment =
        reuse == Reuse::all ? segments_before : std::vector<bool>(tree.nodes.size());
    std::vector<int> row_reductions;
    for (const Walk& walk : pass.walks) {
      for (const int n : walk.segment_nodes) {
        args_are(n, [&](int arg) { return row[at(arg)] || segment[at(arg)]; });
        CHECK_FALSE(segment[at(n)]);
        segment[at(n)] = true;
      }
      std::vector<bool> element(tree.nodes.size());
      for (const int n : walk.kept_before) {
        CHECK(kept[at(n)]);
        element[at(n)] = true;
      }
      const auto known = [&](int arg) {
        return row[at(arg)] || segment[at(arg)] || element[at(arg)];
      };
      for (const int n : walk.element_nodes) {
        args_are(n, known);
        element[at(n)] = true;
        if (std::count(plan.kept.begin(), plan.kept.end(), n)) kept[at(n)] = true;
      }
      for (const int n : walk.reductions) {
        args_are(n, known);
        if (tree.level(n) == Level::row)
          row_reductions.push_back(n);
        else
          segment[at(n)] = true;
      }
      if (&pass == &plan.passes.back() && &walk == &pass.walks.back())
        for (const Store& store : tree.stores)
          CHECK((known(store.value) ||
                 std::count(row_reductions.begin(), row_reductions.end(), store.value)));
    }
    for (const int n : row_reductions) row[at(n)] = true;
    segments_before = segment;
  }
}

}  // namespace

TEST_CASE("a pass for each reduction that depends on another") {
  const Kernel softmax = kernel(
      "kernel k(x: bf16[rows, cols]) -> (y: bf16[rows, cols]) {"
      " h = f32(x)  e = exp(h - max[cols](h))  y = bf16(e / sum[cols](e)) }");
  const Tree& tree = softmax.tree();
  for (const Reuse reuse : {Reuse::none, Reuse::loads, Reuse::all}) {
    const Passes plan = plan_passes(tree, reuse);
    check_order(tree, plan, reuse);
    REQUIRE_EQ(plan.passes.size(), 3);
    for (const Pass& pass : plan.passes) CHECK_EQ(pass.walks.size(), 1);
    std::size_t loads = 0, exps = 0;
    for (const Pass& pass : plan.passes) {
      loads += count(tree, pass.walks[0].element_nodes, Op::load);
      exps += count(tree, pass.walks[0].element_nodes, Op::exp);
    }
    CHECK_EQ(loads, reuse == Reuse::none ? 3 : 1);
    CHECK_EQ(exps, reuse == Reuse::all ? 1 : 2);
    CHECK_EQ(plan.kept.empty(), reuse == Reuse::none);
    if (reuse == Reuse::loads) CHECK_EQ(count(tree, plan.kept, Op::load), plan.kept.size());
  }
}

TEST_CASE("loads are hoisted into the first walk where they wait") {
  const Kernel norm = kernel(
      "kernel k(x: f32[rows, cols], w: f32[cols]) -> (y: f32[rows, cols]) {"
      " y = x * mean[cols](x) * w }");
  for (const Reuse reuse : {Reuse::none, Reuse::loads, Reuse::all}) {
    const Passes plan = plan_passes(norm.tree(), reuse);
    CHECK_EQ(count(norm.tree(), plan.passes[0].walks[0].element_nodes, Op::load),
             reuse == Reuse::all ? 2 : 1);
  }
}

TEST_CASE("an element that is gathered by what a reduction found is not hoisted") {
  const Kernel gather = kernel(
      "kernel k(x: f32[rows, cols], t: f32[vocab, cols]) -> (y: f32[rows, cols]) {"
      " y = x + t[vocab = argmax[cols](x)] }");
  for (const Reuse reuse : {Reuse::none, Reuse::loads, Reuse::all}) {
    const Passes plan = plan_passes(gather.tree(), reuse);
    check_order(gather.tree(), plan, reuse);
    CHECK_EQ(count(gather.tree(), plan.passes[0].walks[0].element_nodes, Op::load), 1);
  }
}

TEST_CASE("a walk for each reduction over a segment that depends on another") {
  const Kernel grouped = kernel(
      "kernel k(x: f32[rows, groups, lanes]) -> (y: f32[rows, groups, lanes], s: f32[rows, "
      "groups]) {"
      " n = x * rsqrt(mean[groups, lanes](x * x))"
      " e = exp(n - max[lanes](n))"
      " t = sum[lanes](e)"
      " s = t"
      " y = e / t }");
  const Tree& tree = grouped.tree();
  for (const Reuse reuse : {Reuse::none, Reuse::loads, Reuse::all}) {
    const Passes plan = plan_passes(tree, reuse);
    check_order(tree, plan, reuse);
    REQUIRE_EQ(plan.passes.size(), 2);
    CHECK_EQ(plan.passes[0].walks.size(), 1);
    REQUIRE_EQ(plan.passes[1].walks.size(), 3);
    CHECK_EQ(count(tree, plan.passes[1].walks[0].reductions, Op::reduce_max), 1);
    CHECK_EQ(count(tree, plan.passes[1].walks[1].reductions, Op::reduce_sum), 1);
    CHECK(plan.passes[1].walks[2].reductions.empty());
  }
}

TEST_CASE("segments that an earlier pass has reduced are kept with Reuse::all alone") {
  const Kernel nested = kernel(
      "kernel k(x: f32[rows, groups, lanes]) -> (y: f32[rows, groups, lanes]) {"
      " m = max[lanes](x)"
      " y = x * m / sum[groups, lanes](x * m) + max[groups](m) }");
  for (const Reuse reuse : {Reuse::none, Reuse::loads, Reuse::all}) {
    const Passes plan = plan_passes(nested.tree(), reuse);
    check_order(nested.tree(), plan, reuse);
    REQUIRE_EQ(plan.passes.size(), 2);
    CHECK_EQ(plan.passes[0].walks.size(), 2);
    CHECK_EQ(plan.passes[1].walks.size(), reuse == Reuse::all ? 1 : 2);
  }
}

TEST_CASE("plans of generated kernels compute everything before it is used") {
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    const std::string text = test::generate_program(seed).text;
    CAPTURE(text);
    const Kernel generated = kernel(text);
    for (const Reuse reuse : {Reuse::none, Reuse::loads, Reuse::all})
      check_order(generated.tree(), plan_passes(generated.tree(), reuse), reuse);
  }
}
