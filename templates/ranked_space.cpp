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

RankedSpace narrowed(RankedSpace all,
                     const std::function<std::optional<std::string>(const Params&)>& refuse) {
  RankedSpace out;
  out.num_points = all.num_points;
  PruneCount refused;
  for (std::size_t i = 0; i < all.configs.size(); ++i) {
    if (auto why = refuse(all.configs[i])) {
      refused.add(*std::move(why));
    } else {
      out.configs.push_back(std::move(all.configs[i]));
      out.estimates_us.push_back(all.estimates_us[i]);
    }
  }
  out.pruned = std::move(all.pruned);
  for (Pruned& pruned : refused.take()) out.pruned.push_back(std::move(pruned));
  std::stable_sort(out.pruned.begin(), out.pruned.end(),
                   [](const Pruned& a, const Pruned& b) { return a.count > b.count; });
  return out;
}

}  // namespace quern
