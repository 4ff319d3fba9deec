#pragma once
#include <cstdint>

#include "compiler/dsl_passes.h"

namespace quern::dsl {

/// What a schedule comes to for one kernel and binding.
struct CudaShape {
  bool reduces = false;  // threads share a row; otherwise they share all vectors of all rows
  int vector = 1;        // elements that a thread moves at once
  bool keeps = false;    // the row stays in registers between passes
  int chunks = 0;        // with keeps: vectors of a row that each thread holds
};

CudaShape cuda_shape(const Tree& tree, const Binding& binding, const Schedule& schedule);

/// Why no GPU could run this, or nothing: an illegal schedule, a dtype missing, an empty axis.
std::optional<std::string> schedule_reason(const Kernel& kernel, const Binding& binding,
                                           const Schedule& schedule);
/// The same as an InputError.
void check_schedule(const Kernel& kernel, const Binding& binding, const Schedule& schedule);

/// Elements of the last axis, if bound; 0 if not.
std::int64_t bound_row_length(const Tree& tree, const Binding& binding);

/// Elements between neighbours along the last axis: 1 unless fixed axes lie further in; 0 if the
/// operand does not have the last axis.
std::int64_t stride_along_last(const Tree& tree, int operand);

}  // namespace quern::dsl
