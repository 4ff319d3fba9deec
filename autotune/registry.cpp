#include "autotune/registry.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/base/error.h"

namespace quern {

void FamilyRegistry::add(std::unique_ptr<const Family> family) {
  std::string name(family->name());
  families_.insert_or_assign(std::move(name), std::move(family));
}

const Family& FamilyRegistry::at(std::string_view name) const {
  if (const auto found = families_.find(name); found != families_.end()) return *found->second;
  std::string names;
  for (const auto& [known, family] : families_) names += (names.empty() ? "" : ", ") + known;
  throw InputError(fmt::format("there is no kernel family '{}': known are {}", name,
                               names.empty() ? "none" : names));
}

std::vector<const Family*> FamilyRegistry::all() const {
  std::vector<const Family*> out;
  for (const auto& [name, family] : families_) out.push_back(family.get());
  return out;
}

}  // namespace quern
