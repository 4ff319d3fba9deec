// The processes of a tune for tests that kill them:
//   tuner_process tune CACHE SEED JOURNAL [HANG_MS]  tunes four simulated problems and prints JSON
//   tuner_process worker simulated SEED JOURNAL      its bench, over the channel
//   tuner_process worker scale                       trials of ScaleFamily on GPU 0
//   tuner_process worker compile                     NVRTC
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "autotune/bench_server.h"
#include "autotune/device_worker.h"
#include "autotune/remote_bench.h"
#include "autotune/tuner.h"
#include "compiler/compile_worker.h"
#include "runtime/base/error.h"
#include "tests/support/scale_family.h"
#include "tests/support/simulated_bench.h"

using namespace quern;

namespace {

FamilyRegistry scale_registry(HeaderMap templates) {
  FamilyRegistry families(std::move(templates));
  families.add(std::make_unique<test::ScaleFamily>());
  return families;
}

void serve_simulated(std::uint32_t seed, const std::string& journal) {
  ParentChannel channel;
  channel.exit_with_parent();
  test::SimulatedBench bench(
      {.noise = 0.005, .seed = seed, .trial_ms = 2, .journal = journal, .with_faults = true});
  accept_greeting(channel);
  serve_bench(channel, bench);
}

int tune_simulated(const std::string& cache, const std::string& seed, const std::string& journal,
                   int hang_ms) {
  KernelLibraryOptions options;
  options.cache_root = cache;
  options.worker_command = {"/proc/self/exe", "worker"};
  options.compile_threads = 2;
  KernelCatalog catalog(parse_arch("sm_90a"), {{"name", "simulated GPU"}},
                        test::simulated_registry(), options);
  RemoteBenchOptions remote;
  remote.child.command = {"/proc/self/exe", "worker", "simulated", seed, journal};
  remote.trial_deadline = std::chrono::milliseconds(hang_ms);
  RemoteBench bench(std::move(remote));
  TrialBench* const benches[] = {&bench};
  std::vector<KernelRequest> requests;
  for (int i = 0; i < 4; ++i) requests.push_back({"simulated", {{"n", 1 << (2 * i)}}});
  TuneOptions tuning;
  tuning.warm_up_seconds = 0;
  tuning.search.strategy = SearchStrategy::exhaustive;
  std::printf("%s\n", to_json(tune(catalog, benches, requests, tuning)).dump(1).c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  try {
    if (args.size() >= 4 && args[0] == "tune")
      return tune_simulated(args[1], args[2], args[3],
                            args.size() > 4 ? std::atoi(args[4].c_str()) : 300);
    if (args.size() == 4 && args[1] == "simulated") {
      serve_simulated(static_cast<std::uint32_t>(std::atoi(args[2].c_str())), args[3]);
      return 0;
    }
    if (args.size() == 2 && args[1] == "scale") {
      ParentChannel channel;
      serve_device_bench(channel, scale_registry);
      return 0;
    }
    if (args.size() == 2 && args[1] == "compile") {
      ParentChannel channel;
      serve_compiles(channel);
      return 0;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tuner_process: %s\n", error.what());
    return 1;
  }
  std::fprintf(stderr, "tuner_process: what?\n");
  return 2;
}
