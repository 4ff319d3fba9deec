#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/nvrtc.h"
#include "templates/family.h"

namespace quern {

/// The kernel families by name, and the template text that their sources include.
class FamilyRegistry {
 public:
  /// No families yet. `templates`: see templates/embedded.h, template_files().
  explicit FamilyRegistry(HeaderMap templates) : templates_(std::move(templates)) {}
  /// Those that Quern ships (autotune/families.cpp).
  static FamilyRegistry shipped(HeaderMap templates);

  /// For families of one's own. Replaces one of the same name.
  void add(std::unique_ptr<const Family> family);
  /// Throws InputError listing the known names.
  const Family& at(std::string_view name) const;
  /// In order of name.
  std::vector<const Family*> all() const;
  const HeaderMap& templates() const { return templates_; }

 private:
  HeaderMap templates_;
  std::map<std::string, std::unique_ptr<const Family>, std::less<>> families_;
};

/// The list behind FamilyRegistry::shipped().
std::vector<std::unique_ptr<const Family>> shipped_families(const HeaderMap& templates);

}  // namespace quern
