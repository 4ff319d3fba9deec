#include "templates/ranked_space.h"

#include <cctype>

namespace quern {

void PruneCount::add(std::string reason) {
  std::string wording;
  for (const char c : reason)
    if (std::isdigit(static_cast<unsigned char>(c)) == 0) wording += c;
  Pruned& entry = by_wording_[std::move(wording)];
  if (entry.count++ == 0) entry.reason = std::move(reason);
}

std::vector<Pruned> PruneCount::take() {
  std::vector<Pruned> out;
  for (auto& [wording, entry] : by_wording_) out.push_back(std::move(entry));
  by_wording_.clear();
  std::stable_sort(out.begin(), out.end(),
                   [](const Pruned& a, const Pruned& b) { return a.count > b.count; });
  return out;
}

}  // namespace quern
