#pragma once
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/tune_summary.h"

namespace quern {

/// What the page says of itself, as the caller knows it.
struct TunePageHeader {
  std::string title;  // "Llama-3.1-8B on NVIDIA H200"
  std::string date;   // of the run
  /// Label and value, for people: device, driver, compiler, roofs.
  std::vector<std::pair<std::string, std::string>> facts;
};

/// A tune as one HTML page that needs nothing else: no script, font or picture from elsewhere.
/// Totals, a table of the problems with bars for the share of the roof and the gain over the
/// default, failures by kind, then the search of every problem as a chart (model/tune_chart.h).
/// Light, dark and on paper; well-formed as XML too. Every text is escaped. `facts` as facts_of()
/// gives them.
std::string tune_report_html(const TunePageHeader& header, const TuneReport& report,
                             std::span<const ProblemFacts> facts);

}  // namespace quern
