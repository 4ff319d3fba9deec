#pragma once
#include <set>
#include <string>
#include <string_view>

#include "runtime/base/dtype.h"

namespace quern::dsl {

/// The device functions and types that generated source calls; only what it does call is written.
/// Conversions to floats round to nearest even; those to integers also saturate and take NaN to 0.
class Helpers {
 public:
  /// Asks for a helper and what it needs itself: "load", "to_e4m3", "to_f32 bf16", ...
  void need(std::string_view helper);
  /// Asks for the type of elements of this dtype, if it has to be declared.
  void need_type(DType dtype);
  std::string write() const;

 private:
  std::set<std::string_view> needed_;
};

}  // namespace quern::dsl
