// `quern worker KIND`: what the other commands start for work that may crash, hang or eat memory.
// A worker takes its work from the process that started it and reads nothing else.
#include "autotune/device_worker.h"
#include "compiler/compile_worker.h"
#include "model/cli.h"
#include "runtime/base/child_process.h"

namespace quern::cli {
namespace {

void add_kind(CLI::App& worker, const std::string& kind, void (*serve)(ParentChannel&)) {
  worker.add_subcommand(kind)->group("")->callback([serve] {
    ParentChannel parent;
    serve(parent);
  });
}

}  // namespace

void add_worker(CLI::App& app) {
  CLI::App* worker = app.add_subcommand("worker")->group("");
  worker->require_subcommand(1);
  add_kind(*worker, "compile", serve_compiles);
  add_kind(*worker, "measure", [](ParentChannel& parent) {
    serve_device_bench(parent, FamilyRegistry::shipped);
  });
}

}  // namespace quern::cli
