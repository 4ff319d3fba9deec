#include "autotune/device_worker.h"

#include <memory>
#include <mutex>
#include <utility>

#include "autotune/bench_messages.h"
#include "autotune/bench_server.h"
#include "autotune/device_bench.h"
#include "autotune/shared_gpu_bench.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

struct Served {
  Context context;
  KernelLibrary library;
  DeviceBench bench;
  Served(const ordered_json& hello, FamilyRegistry (*make_families)(HeaderMap))
      : context(hello.at("ordinal").get<int>()),
        library(context, make_families(hello.at("templates").get<HeaderMap>()),
                {hello.at("cache_root").get<std::string>(),
                 hello.at("library_dirs").get<std::vector<std::string>>(), 1, {},
                 hello.at("system_cache_root").get<std::string>()}),
        bench(library) {}
};

}  // namespace

RemoteBenchOptions device_worker(std::vector<std::string> command, int ordinal,
                                 const KernelLibraryOptions& options, const HeaderMap& templates) {
  RemoteBenchOptions out;
  out.child.command = std::move(command);
  out.hello = {{"ordinal", ordinal},
               {"cache_root", options.cache_root.string()},
               {"system_cache_root", options.system_cache_root.string()},
               {"library_dirs", options.library_dirs},
               {"templates", templates}};
  return out;
}

std::vector<std::unique_ptr<TrialBench>> device_benches(KernelLibrary& library, int max_gpus,
                                                        int per_gpu) {
  std::vector<std::unique_ptr<TrialBench>> benches;
  std::vector<std::string> command = library.options().worker_command;
  if (command.empty()) {
    benches.push_back(std::make_unique<DeviceBench>(library));
    return benches;
  }
  command.push_back("measure");
  const DeviceInfo& own = library.context().device();
  std::vector<int> ordinals{own.ordinal};
  for (const DeviceInfo& other : devices()) {
    if (max_gpus > 0 && ordinals.size() >= static_cast<std::size_t>(max_gpus)) break;
    if (other.ordinal != own.ordinal && other.fingerprint() == own.fingerprint())
      ordinals.push_back(other.ordinal);
  }
  std::vector<std::shared_ptr<std::mutex>> turns;
  for (std::size_t i = 0; i < ordinals.size(); ++i) turns.push_back(std::make_shared<std::mutex>());
  for (int i = 0; i < per_gpu; ++i)  // the first bench of every GPU before the second of any
    for (std::size_t gpu = 0; gpu < ordinals.size(); ++gpu)
      benches.push_back(std::make_unique<SharedGpuBench>(
          std::make_unique<RemoteBench>(device_worker(command, ordinals[gpu], library.options(),
                                                      library.families().templates())),
          turns[gpu]));
  return benches;
}

void serve_device_bench(ParentChannel& channel, FamilyRegistry (*make_families)(HeaderMap)) {
  channel.exit_with_parent();
  const auto first = channel.receive();
  if (!first) return;
  std::unique_ptr<Served> served;
  ordered_json reply = ordered_json::object();
  try {
    served = std::make_unique<Served>(bench::unpack(*first), make_families);
  } catch (const std::exception& error) {
    reply = {{"refused", error.what()}};
  }
  channel.send(bench::pack(reply));
  if (served) serve_bench(channel, served->bench);
}

}  // namespace quern
