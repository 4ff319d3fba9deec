#include "autotune/bench_server.h"

#include <cmath>

#include "autotune/bench_messages.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

ordered_json answer(TrialBench& bench, const ordered_json& request) {
  const auto what = request.at("do").get<std::string>();
  if (what == "open") {
    std::vector<Params> configs;
    for (const ordered_json& config : request.at("configs")) configs.push_back(config);
    try {
      bench.open(request.at("family").get<std::string>(), request.at("problem"), configs);
    } catch (const OutOfMemoryError& error) {
      return {{"refused", error.what()}};
    } catch (const CudaError&) {
      throw;
    } catch (const Error& error) {  // the oracle did not compile or gave no numbers
      return {{"refused", error.what()}};
    }
    return ordered_json::object();
  }
  if (what == "close") {
    bench.close();
    return ordered_json::object();
  }
  const auto candidate = request.at("candidate").get<std::size_t>();
  if (what == "load") {
    if (!request.contains("image")) return bench::to_message(bench.load(candidate, nullptr));
    const CompiledKernel image = bench::image_from(request.at("image"));
    return bench::to_message(bench.load(candidate, &image));
  }
  if (what == "gate") return bench::to_message(bench.gate(candidate));
  if (what == "measure") {
    std::vector<double> samples;
    ordered_json reply =
        bench::to_message(bench.measure(candidate, request.at("samples").get<int>(), samples));
    reply["samples_us"] = samples;
    return reply;
  }
  throw Error("a message between processes is damaged");
}

}  // namespace

void accept_greeting(ParentChannel& channel) {
  if (channel.receive()) channel.send(bench::pack(ordered_json::object()));
}

void serve_bench(ParentChannel& channel, TrialBench& bench) {
  while (const auto message = channel.receive()) {
    const ordered_json request = bench::unpack(*message);
    ordered_json reply;
    bool lost = false;
    try {
      reply = answer(bench, request);
    } catch (const OutOfMemoryError& error) {
      reply = {{"broken", error.what()}};
    } catch (const CudaError& error) {
      reply = {{"lost", error.what()}};
      lost = true;
    } catch (const std::exception& error) {
      reply = {{"broken", error.what()}};
    }
    channel.send(bench::pack(reply));
    if (lost) return;
  }
}

}  // namespace quern
