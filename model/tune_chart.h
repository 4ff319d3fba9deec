#pragma once
#include <cstddef>
#include <string>

#include "model/tune_summary.h"

namespace quern {

/// The search of one problem as an SVG element for an HTML page: candidates in the order tried from
/// left to right, time of a launch on a logarithmic axis, the best so far as a line, the winner and
/// the default marked, lines for the roof and the default, failures as crosses on the axis. Every
/// mark has its config or reason as a tooltip, and the whole a text alternative. Colours come from
/// the page's style sheet (chart_style()). `number` makes ids unique in the page.
///
/// Empty if no candidate was tried.
std::string tune_chart(const ProblemReport& problem, const ProblemFacts& facts, std::size_t number);

/// The rules that tune_chart()'s elements expect, without the <style> around them.
std::string chart_style();

}  // namespace quern
