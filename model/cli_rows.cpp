#include "model/cli_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <map>
#include <set>
#include <utility>

#include "autotune/gate.h"
#include "autotune/operands.h"
#include "model/cli_products.h"
#include "model/cli_tune.h"
#include "model/table.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"

namespace quern::cli {
namespace {

FamilyRegistry registry_of(const Common& common, std::unique_ptr<RowFamily> family) {
  FamilyRegistry registry(template_files(templates_of(common)));
  registry.add(std::move(family));
  return registry;
}

/// "rows=16 cols=4096", "T=bf16" and the scalars' part of a problem.
std::string part_of(const dsl::Kernel& kernel, const Params& problem, bool dtypes) {
  Params out = Params::object();
  for (const std::string& name : dtypes ? kernel.dtype_params() : kernel.axes())
    out[name] = problem.at(name);
  return out.empty() ? "-" : to_text(out);
}

struct Check {
  Params problem, config;
  Verdict verdict;
};

/// The same problem with odd extents wherever it can have them.
std::optional<Params> odd_shape(const RowFamily& family, const Params& problem, const Arch& arch) {
  const dsl::Kernel& kernel = family.kernel(problem.at("kernel").get<std::string>());
  const std::vector<std::string>& axes = kernel.axes();
  // Packed elements keep the innermost axis even.
  for (const bool last_too : {true, false}) {
    Params odd = problem;
    for (std::size_t i = 0; i < axes.size(); ++i) {
      const auto extent = problem.at(axes[i]).get<std::int64_t>();
      const bool last = static_cast<int>(i) == kernel.num_iterated_axes() - 1;
      if (extent > 1 && extent % 2 == 0 && (last_too || !last)) odd[axes[i]] = extent - 1;
    }
    if (odd != problem && !family.unsupported(odd, arch)) return odd;
  }
  return std::nullopt;
}

Check check_one(RowSession& session, const Params& problem, const Params& config) {
  const RowFamily& family = session.family();
  const Stream stream;
  Gate gate(session.library(), family, family.check_problem(problem), stream);
  const ReadyKernel kernel = session.library().load(family, problem, config);
  return {gate.problem(), config, gate.check(kernel)};
}

/// Against the LLVM build: the tuned config at its shape, and odd sizes.
std::vector<Check> check(RowSession& session, const Params& problem, const Params& config) {
  std::vector<Check> out{check_one(session, problem, config)};
  const Arch& arch = session.library().arch();
  if (const auto odd = odd_shape(session.family(), problem, arch)) {
    const bool serves = !session.library().refusal(session.family(), *odd, config);
    out.push_back(check_one(
        session, *odd, serves ? config : session.library().default_config(session.family(), *odd)));
  }
  return out;
}

ordered_json to_json(const Check& check) {
  return {{"problem", check.problem},
          {"config", check.config},
          {"status", name(check.verdict.status)},
          {"error", check.verdict.error},
          {"reason", check.verdict.reason}};
}

std::string median_text(const Timing& timing) {
  return fmt::format("{:.2f} us +- {:.2f}", timing.median_us, timing.spread_us);
}

}  // namespace

RowSession::RowSession(const Common& common, int ordinal, std::unique_ptr<RowFamily> family)
    : context_(ordinal),
      family_(*family),
      library_(context_, registry_of(common, std::move(family)),
               // No workers: they would not know a kernel of the user's own.
               {cache_root(common), common.library_dirs, 0, {}, common.system_cache}) {}

std::string row_table(const RowFamily& family, const std::vector<RowBenchResult>& results) {
  Table table({"kernel", "shape", "dtype", "config", "us", "+-", "GB/s", "% of copy", "default us",
               "NVRTC ms"});
  for (const RowBenchResult& r : results) {
    const dsl::Kernel& kernel = family.kernel(r.kernel);
    table.add({r.kernel, part_of(kernel, r.problem, false), part_of(kernel, r.problem, true),
               to_text(r.config) + (r.tuned ? "" : " (default)"),
               fmt::format("{:.2f}", r.timing.median_us), fmt::format("{:.2f}", r.timing.spread_us),
               fmt::format("{:.0f}", r.bytes_per_second() / 1e9),
               fmt::format("{:.1f}", r.percent_of_copy()), fmt::format("{:.2f}", r.default_us),
               fmt::format("{:.0f}", r.nvrtc_ms)});
  }
  return table.text();
}

void run_on_gpu(const Common& common, int ordinal, std::unique_ptr<RowFamily> family,
                const RowRun& run) {
  if (run.bench) RowBench::add_copy_kernel(*family);
  RowSession session(common, ordinal, std::move(family));
  KernelLibrary& library = session.library();
  TuneOptions tuning;
  tuning.budget_seconds = run.budget;
  tuning.force = run.force;
  const TuneReport report = tune_with_progress(common, library, {{"row", run.problem}}, tuning);
  const ProblemReport& tuned = report.problems.front();
  const ReadyKernel kernel = library.get("row", run.problem);
  if (common.strict && !kernel.tuned())
    throw InputError(fmt::format("{} was not tuned: {}", run.kernel,
                                 tuned.reason.empty() ? name(tuned.outcome) : tuned.reason));
  std::vector<Check> checks;
  if (run.check) checks = check(session, run.problem, kernel.config());
  std::vector<RowBenchResult> results;
  if (run.bench) results.push_back(RowBench(library).measure(run.problem));

  ordered_json document = {{"device", session.context().device().name},
                           {"kernel", run.kernel},
                           {"problem", run.problem},
                           {"config", kernel.config()},
                           {"outcome", name(tuned.outcome)}};
  if (!tuned.reason.empty()) document["reason"] = tuned.reason;
  if (kernel.tuned()) {
    document["median_us"] = kernel.record()->median_us;
    document["spread_us"] = kernel.record()->spread_us;
    document["default_us"] = kernel.record()->default_us;
  }
  document["registers"] = kernel.report().registers;
  document["checks"] = ordered_json::array();
  for (const Check& one : checks) document["checks"].push_back(to_json(one));
  document["results"] = ordered_json::array();
  for (const RowBenchResult& one : results) document["results"].push_back(quern::to_json(one));

  std::string text;
  if (!kernel.tuned() && !tuned.reason.empty())
    note("{} runs on its default: {}\n", run.kernel, tuned.reason);
  text += run.bench ? row_table(session.family(), results) : kernel.description() + "\n";
  for (const Check& one : checks)
    text += one.verdict.status == TrialStatus::ok
                ? fmt::format(
                      "checked against the LLVM build, {}: worst error {:.3g} of the "
                      "tolerance\n",
                      to_text(one.problem), one.verdict.error)
                : fmt::format("checked against the LLVM build, {}: {}: {}\n", to_text(one.problem),
                              name(one.verdict.status), one.verdict.reason);
  if (common.json)
    print_json(document);
  else
    print_text(text);
  for (const Check& one : checks)
    if (one.verdict.status != TrialStatus::ok) throw Error(one.verdict.reason);
}

void run_on_cpu(const Common& common, const RowFamily& family, const RowRun& run) {
  using Clock = std::chrono::steady_clock;
  const auto us_since = [](Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  };
  const dsl::Kernel& kernel = family.kernel(run.kernel);
  const Cost cost = family.cost(run.problem);
  std::vector<std::vector<std::byte>> contents;
  std::vector<void*> operands;
  for (const OperandSpec& spec : family.operands(run.problem)) {
    const bool filled = spec.role != OperandSpec::Role::out;
    contents.push_back(filled
                           ? repeat_to(trial_contents(spec, contents.size() + 1), spec.size_bytes())
                           : std::vector<std::byte>(spec.size_bytes()));
    operands.push_back(contents.back().data());
  }
  std::vector<double> scalars;
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    scalars.push_back(run.values.scalars.at(scalar.name));
  std::vector<std::int64_t> extents;
  for (const std::string& axis : kernel.axes()) extents.push_back(run.values.axes.at(axis));
  auto start = Clock::now();
  const dsl::CpuKernel built(kernel, {run.values.dtypes, run.values.axes});
  const double compile_ms = us_since(start) / 1000;
  std::vector<double> samples;
  start = Clock::now();
  constexpr double kEnoughUs = 300'000;
  constexpr std::size_t kMinSamples = 5, kMaxSamples = 1000;
  built.run(operands, scalars, extents);  // faults pages in
  while (samples.size() < kMinSamples ||
         (us_since(start) < kEnoughUs && samples.size() < kMaxSamples)) {
    const auto begin = Clock::now();
    built.run(operands, scalars, extents);
    samples.push_back(us_since(begin));
  }
  const Timing timing = summarize(std::move(samples));
  const double rate = cost.bytes / (std::max(timing.median_us, 1e-3) * 1e-6);
  if (common.json)
    print_json({{"device", "cpu"},
                {"kernel", run.kernel},
                {"problem", run.problem},
                {"median_us", timing.median_us},
                {"spread_us", timing.spread_us},
                {"bytes", cost.bytes},
                {"bytes_per_second", rate},
                {"llvm_ms", compile_ms}});
  else
    print_text(fmt::format("{}: {} on one thread of the CPU, {:.2f} GB/s; LLVM took {:.0f} ms\n",
                           to_text(run.problem), median_text(timing), rate / 1e9, compile_ms));
}

namespace {

struct BenchOptions {
  std::string family = "row", dtype = "bf16";
  std::vector<std::string> kernels;
  std::vector<std::string> shapes = {"32x4096", "4096x4096", "65536x4096", "32x8192", "4096x8192"};
  double budget = 1.5;
  bool tune = true, force = false;
  ProductOptions products;
};

std::pair<std::int64_t, std::int64_t> parse_shape(const std::string& text) {
  const auto fail = [&]() -> std::int64_t {
    throw InputError(fmt::format("'{}' is not a shape such as 32x4096", text));
  };
  const auto number = [&](std::string_view part) -> std::int64_t {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    const bool good = error == std::errc() && end == part.data() + part.size() && value >= 1 &&
                      value <= (std::int64_t{1} << 31);
    return good ? value : fail();
  };
  const std::size_t times = text.find('x');
  if (times == text.npos) fail();
  const std::string_view all = text;
  return {number(all.substr(0, times)), number(all.substr(times + 1))};
}

/// What a model would give this kernel's axes and scalars where its rows have `cols` elements;
/// nothing if it has an axis that is not known here.
std::optional<RowValues> usual_values(const dsl::Kernel& kernel, std::int64_t rows,
                                      std::int64_t cols, DType dtype) {
  constexpr std::int64_t kHeadDim = 128, kGroup = 128;
  const std::set<std::string> axes(kernel.axes().begin(), kernel.axes().end());
  const std::map<std::string, std::int64_t> known{
      {"rows", rows},
      {"tokens", rows},
      {"cols", cols},
      {"groups", std::max<std::int64_t>(1, cols / kGroup)},
      {"lanes", kGroup},
      {"heads", axes.contains("half") ? std::max<std::int64_t>(1, cols / kHeadDim) : 1},
      {"half", kHeadDim / 2},
      {"vocab", 32768},
      {"max_positions", 8192}};
  RowValues values;
  for (const std::string& axis : kernel.axes()) {
    const auto found = known.find(axis);
    if (found == known.end()) return std::nullopt;
    values.axes[axis] = found->second;
  }
  for (const std::string& param : kernel.dtype_params()) values.dtypes[param] = dtype;
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    values.scalars[scalar.name] = scalar.dtype == DType::i32 ? 0
                                  : scalar.name == "eps"     ? 1e-5
                                                             : 0.5;
  return values;
}

void bench_kernels(const Common& common, const BenchOptions& options) {
  if (options.family != "row") {
    ProductOptions products = options.products;
    products.family = options.family;
    return bench_products(common, products);
  }
  const auto dtype = parse_dtype(options.dtype);
  if (!dtype) throw InputError(fmt::format("'{}' is not a dtype", options.dtype));
  auto family = std::make_unique<RowFamily>(template_files(templates_of(common)));
  std::vector<const dsl::Kernel*> kernels;
  for (const std::string& name : options.kernels) kernels.push_back(&family->kernel(name));
  if (kernels.empty())
    for (const auto& [name, kernel] : family->kernels()) kernels.push_back(&kernel);
  std::vector<Params> problems;
  std::vector<std::string> left_out;
  for (const dsl::Kernel* kernel : kernels)
    for (const std::string& shape : options.shapes) {
      const auto [rows, cols] = parse_shape(shape);
      const auto values = usual_values(*kernel, rows, cols, *dtype);
      if (!values) {
        left_out.push_back(kernel->name());
        break;
      }
      Params problem = family->problem(kernel->name(), *values);
      if (const auto reason = family->unsupported(problem, known_archs().back()))
        throw InputError(fmt::format("{}: {}", to_text(problem), *reason));
      problems.push_back(std::move(problem));
    }
  const int ordinal = gpu_to_use(common, "kernels are measured on a GPU: name one with --device");
  if (!left_out.empty())
    note("left out, for their axes have no usual extents: {}\n", fmt::join(left_out, ", "));
  RowBench::add_copy_kernel(*family);
  RowSession session(common, ordinal, std::move(family));
  double tune_seconds = 0;
  if (options.tune) {
    TuneOptions tuning;
    tuning.force = options.force;
    tuning.budget_seconds = options.budget * static_cast<double>(problems.size());
    std::vector<KernelRequest> requests;
    for (const Params& problem : problems) requests.push_back({"row", problem});
    const TuneReport report = tune_with_progress(common, session.library(), requests, tuning);
    tune_seconds = report.seconds;
    for (const ProblemReport& p : report.problems)
      if (p.outcome == ProblemReport::Outcome::failed)
        note("{} could not be tuned: {}\n", to_text(p.problem), p.reason);
  }
  RowBench bench(session.library());
  std::vector<RowBenchResult> results;
  ordered_json rows = ordered_json::array();
  ProgressLine line(common);
  for (const Params& problem : problems) {
    line.update(
        fmt::format("measuring {}/{}  {}", results.size() + 1, problems.size(), to_text(problem)));
    results.push_back(bench.measure(problem));
    rows.push_back(quern::to_json(results.back()));
  }
  line.clear();
  if (common.json)
    print_json({{"device", session.context().device().name},
                {"fingerprint", session.context().device().fingerprint()},
                {"nvrtc", session.library().nvrtc().version()},
                {"tune_seconds", tune_seconds},
                {"results", rows}});
  else
    print_text(fmt::format("{}; % of what our copy kernel moves at the same size, in this run\n{}",
                           session.context().device().name, row_table(session.family(), results)));
}

}  // namespace

void add_bench_kernels(CLI::App& app, Common& common) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* command =
      app.add_subcommand("bench-kernels", "measure kernels against a copy, reading and cuBLASLt");
  command->add_option("--family", options->family, "row, or one of products: gemm")
      ->capture_default_str();
  command->add_option("--model", options->products.model,
                      "products: of this model's layers (default: the bundled model)");
  command->add_option("--rows", options->products.rows, "products: rows of x")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--products", options->products.products, "only these: qkv, o, gate_up, ...")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--sizes", options->products.sizes, "products: n x k, not a model's")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--variant", options->products.variant, "products: w4a16, fp8, swiglu, ...");
  add_search_option(*command, options->products.search,
                    "products: ranked, exhaustive or random candidates");
  command->add_option("--kernels", options->kernels, "only these")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--shapes", options->shapes, "rows x elements of a row")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "of every dtype parameter")->capture_default_str();
  command->add_option("--budget", options->budget, "seconds to tune each problem; 0 = until done")
      ->check(number_between(0, 1e6))
      ->capture_default_str();
  command->add_flag("--tune,!--no-tune", options->tune, "tune first what has not been tuned");
  command->add_flag("--force", options->force, "tune again what has been tuned");
  command->callback([&common, options] { bench_kernels(common, *options); });
}

}  // namespace quern::cli
