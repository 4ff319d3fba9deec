#include "tests/support/measured_landscape.h"

#include <algorithm>
#include <numeric>

#include "autotune/device_description.h"
#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "templates/embedded.h"

namespace quern::test {

Landscape measured_landscape(const std::filesystem::path& file, const FamilyRegistry& families,
                             const Arch& arch) {
  const ordered_json document = ordered_json::parse(read_file(file.string()));
  const Family& family = families.at(document["family"].get<std::string>());
  const std::vector<std::string> keys = document["keys"];
  const std::vector<Tunable> space = family.space(document["problem"]);
  std::vector<Params> configs;
  std::vector<double> times, estimates;
  for (const ordered_json& row : document["us_and_values"]) {
    Params& config = configs.emplace_back(Params::object());
    for (std::size_t i = 0; i < keys.size(); ++i) config[keys[i]] = row[i + 1];
    // Tunables of kernels that came later begin with the value that means they are not used.
    for (const Tunable& tunable : space)
      if (!config.contains(tunable.name)) config[tunable.name] = tunable.values.front();
    times.push_back(row[0]);
    estimates.push_back(family.estimate_us(document["problem"], config, arch));
  }
  std::vector<std::size_t> order(configs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin() + 1, order.end(),
                   [&](std::size_t a, std::size_t b) { return estimates[a] < estimates[b]; });
  Landscape out;
  out.name = file.stem().string();
  std::vector<Params> ranked;
  std::vector<double> ranked_us;
  for (const std::size_t i : order) {
    ranked.push_back(configs[i]);
    ranked_us.push_back(estimates[i]);
    out.true_us.push_back(times[i]);
  }
  out.fails.resize(order.size());
  out.space = search_space(ranked, std::move(ranked_us));
  return out;
}

std::vector<Landscape> measured_landscapes() {
  const std::filesystem::path data = std::filesystem::path(QUERN_SOURCE_DIR) / "tests/data";
  const Arch arch = parse_device_description(read_file((data / "h200.json").string())).arch;
  const FamilyRegistry families = FamilyRegistry::shipped(embedded_templates());
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(data / "landscapes"))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Landscape> out;
  for (const auto& file : files) out.push_back(measured_landscape(file, families, arch));
  return out;
}

}  // namespace quern::test
