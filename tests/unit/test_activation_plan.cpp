#include <random>

#include "model/activation_plan.h"
#include "tests/support/support.h"

using quern::ActivationPlan;

TEST_CASE("tensors that live at the same time never share memory") {
  std::mt19937 rng(7);
  for (int round = 0; round < 200; ++round) {
    struct Use {
      std::size_t bytes;
      int first, last;
    };
    ActivationPlan plan;
    std::vector<Use> uses;
    for (int i = 0; i < 12; ++i) {
      const std::size_t bytes = 1 + rng() % 5000;
      const int first = static_cast<int>(rng() % 20), last = first + static_cast<int>(rng() % 6);
      const int id = plan.add(bytes);
      plan.use(id, last);
      plan.use(id, first);
      uses.push_back({bytes, first, last});
    }
    plan.place();
    std::size_t sum = 0;
    for (std::size_t a = 0; a < uses.size(); ++a) {
      const std::size_t begin = plan.offset(static_cast<int>(a));
      sum += uses[a].bytes + 256;
      CHECK_EQ(begin % 256, 0);
      CHECK_LE(begin + uses[a].bytes, plan.total_bytes());
      for (std::size_t b = 0; b < a; ++b) {
        if (uses[a].last < uses[b].first || uses[b].last < uses[a].first) continue;
        const std::size_t other = plan.offset(static_cast<int>(b));
        CHECK((begin + uses[a].bytes <= other || other + uses[b].bytes <= begin));
      }
    }
    CHECK_LE(plan.total_bytes(), sum);
  }
}

TEST_CASE("a chain of tensors needs room for two") {
  ActivationPlan plan;
  for (int i = 0; i < 10; ++i) {
    const int id = plan.add(1024);
    plan.use(id, i);
    plan.use(id, i + 1);
  }
  plan.place();
  CHECK_EQ(plan.total_bytes(), 2048);
}
