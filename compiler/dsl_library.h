#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/dsl.h"
#include "compiler/dsl_ast.h"
#include "compiler/dsl_diagnostics.h"
#include "compiler/dsl_tree.h"

namespace quern::dsl {

/// The functions and reductions that a file's kernels can use: its own and those of the files that
/// it uses, directly or not.
class Library {
 public:
  explicit Library(Diagnostics& diagnostics) : diagnostics_(diagnostics) {}

  /// Takes over what `file` and the files that it uses define; faults are reported.
  void add(ast::File& file, const Includes& includes);

  /// Null if there is none of this name. `before`: only functions defined earlier than this one
  /// count, so that none can call itself.
  const ast::Let* find_let(std::string_view name, const ast::Let* before = nullptr) const;
  const Combine* find_reduction(std::string_view name) const;
  std::vector<std::string> let_names() const;
  std::vector<std::string> reduction_names() const;

 private:
  void use(std::string_view name, const Includes& includes);
  bool claim(std::string_view name);
  void check_names(const ast::Let& let);
  void define(const ast::Reduction& reduction);

  Diagnostics& diagnostics_;
  std::map<std::string, bool, std::less<>> used_;  // files, by name
  std::map<std::string_view, std::string_view> names_;
  std::vector<std::unique_ptr<ast::Let>> lets_;  // in order of definition
  std::vector<std::unique_ptr<ast::Reduction>> sources_;
  std::vector<std::unique_ptr<Combine>> reductions_;
};

}  // namespace quern::dsl
