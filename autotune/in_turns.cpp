#include "autotune/in_turns.h"

#include <list>
#include <utility>

#include "autotune/meter.h"

namespace quern {
namespace {

/// Operands of one problem and the graphs of those who compute it.
struct Course {
  Course(KernelLibrary& library, const Contestant& first, const Stream& stream)
      : family(first.family),
        problem(first.problem),
        operands(library, *family, problem, stream, Gate::Use::operands_only),
        meter(library.context(), operands, stream) {}

  const Family* family;
  Params problem;
  Gate operands;
  Meter meter;
};

struct Runner {
  Course* course;
  ReadyKernel kernel;
  std::vector<double> samples_us;
};

}  // namespace

std::vector<Timing> time_in_turns(KernelLibrary& library, std::span<const Contestant> contestants,
                                  int rounds) {
  constexpr int kSamples = 3;  // of one kernel in a round
  const Stream stream;
  std::list<Course> courses;  // a meter keeps a reference to its operands
  std::vector<Runner> runners;
  for (const Contestant& c : contestants) {
    Course* course = nullptr;
    for (Course& known : courses)
      if (known.family == c.family && known.problem == c.problem) course = &known;
    if (course == nullptr) course = &courses.emplace_back(library, c, stream);
    runners.push_back({course, library.load(*c.family, c.problem, c.config), {}});
  }
  for (int round = -1; round < rounds; ++round)
    for (std::size_t i = 0; i < runners.size(); ++i) {
      Runner& runner = runners[i];
      if (round == 0) runner.samples_us.clear();
      runner.course->meter.measure(i, runner.kernel, kSamples, runner.samples_us);
    }
  std::vector<Timing> timings;
  for (Runner& runner : runners) timings.push_back(summarize(std::move(runner.samples_us)));
  return timings;
}

std::vector<Timing> time_configs(KernelLibrary& library, const Family& family,
                                 const Params& problem, std::span<const Params> configs,
                                 int rounds) {
  std::vector<Contestant> contestants;
  for (const Params& config : configs) contestants.push_back({&family, problem, config});
  return time_in_turns(library, contestants, rounds);
}

}  // namespace quern
