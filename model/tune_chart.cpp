#include "model/tune_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <vector>

#include "model/html.h"
#include "model/log_axis.h"

namespace quern {
namespace {

// In units of the picture, which is scaled to the page.
constexpr double kWidth = 900, kHeight = 300;
constexpr double kLeft = 62, kRight = 762, kTop = 16, kBottom = 236;
constexpr double kFailureRow = 251;  // the crosses, below the axis
constexpr double kLineHeight = 15;   // of labels beside the lines
/// A roof further below the best than this would squeeze everything else into a corner.
constexpr double kFarthestRoof = 30;
constexpr std::size_t kLongestTitle = 400;  // bytes of a tooltip

struct Point {
  double x = 0;
  const Trial* trial = nullptr;
  bool is_default = false, is_winner = false;
};

/// Those that were tried, in order; x from left to right.
std::vector<Point> tried(const ProblemReport& problem) {
  std::vector<Point> points;
  for (const Trial& trial : problem.search.trials) {
    const bool timed = trial.verdict.status == TrialStatus::ok && trial.timing.num_samples > 0;
    if (!timed && !has_failed(trial)) continue;
    Point point;
    point.trial = &trial;
    point.is_default = trial.candidate == 0;
    point.is_winner = timed && has_record(problem) &&
                      problem.configs.at(trial.candidate) == problem.record.config;
    points.push_back(point);
  }
  for (std::size_t i = 0; i < points.size(); ++i)
    points[i].x = kLeft + (kRight - kLeft) * (static_cast<double>(i) + 0.5) /
                              static_cast<double>(points.size());
  return points;
}

bool timed(const Point& point) { return !has_failed(*point.trial); }
double us_of(const Point& point) { return std::max(point.trial->timing.median_us, 1e-3); }

/// The winner's time is the final's, which is longer and in company of its rivals.
double y_value(const Point& point, const ProblemReport& problem) {
  return point.is_winner && problem.record.median_us > 0 ? problem.record.median_us : us_of(point);
}

std::string shortened(const std::string& text) {
  return text.size() <= kLongestTitle ? text : text.substr(0, kLongestTitle) + "...";
}

class Chart {
 public:
  Chart(const ProblemReport& problem, const ProblemFacts& facts, std::size_t number)
      : problem_(problem), facts_(facts), number_(number), points_(tried(problem)) {
    double low = 0, high = 0;
    for (const Point& point : points_) {
      if (!timed(point)) continue;
      const double us = y_value(point, problem);
      low = low > 0 ? std::min(low, us) : us;
      high = std::max(high, us);
    }
    if (low <= 0) return;
    best_us_ = low;
    if (facts.roof_us > low / kFarthestRoof) {
      roof_ = facts.roof_us;
      low = std::min(low, facts.roof_us);
      high = std::max(high, facts.roof_us);
    }
    axis_.emplace(low, high, kBottom, kTop);
  }

  std::string text() {
    if (points_.empty()) return {};
    add("<svg class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" aria-labelledby=\"d{}\">\n",
        kWidth, kHeight, number_);
    add("<desc id=\"d{}\">{}</desc>\n", number_, html_text(description()));
    axes();
    if (axis_) {
      lines();
      best_so_far();
    }
    marks();
    out_ += "</svg>\n";
    return std::move(out_);
  }

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }

  std::string description() const {
    std::size_t failures = 0;
    for (const Point& point : points_) failures += !timed(point);
    std::string text =
        fmt::format("Search of {} {}: {} candidates tried, {} failed.", problem_.family,
                    to_text(problem_.problem), points_.size(), failures);
    if (has_record(problem_))
      text += fmt::format(" The winner takes {} us with {}.", us_text(problem_.record.median_us),
                          config_difference(problem_.record.config, facts_.default_config));
    if (problem_.record.default_us > 0)
      text += fmt::format(" The default takes {} us.", us_text(problem_.record.default_us));
    if (facts_.roof_us > 0)
      text += fmt::format(" No kernel can take less than {} us.", us_text(facts_.roof_us));
    return text;
  }

  void axes() {
    if (axis_)
      for (const double tick : axis_->ticks()) {
        const double y = axis_->at(tick);
        add("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft,
            kRight, y, y);
        add("<text class=\"tick\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:.6g}</text>\n",
            kLeft - 8, y + 4, tick);
      }
    add("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>\n", kLeft, kRight, kBottom,
        kBottom);
    const std::size_t count = points_.size();
    std::size_t step = 1;
    for (std::size_t i = 0; count / step > 12; ++i) step = step * (i % 3 == 1 ? 5 : 4) / 2;
    for (std::size_t i = 0; i < count; ++i)
      if (i == 0 || (i + 1) % step == 0)
        add("<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            points_[i].x, kBottom + 36, i + 1);
    add("<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">candidates in the order "
        "tried</text>\n",
        (kLeft + kRight) / 2, kBottom + 56);
    add("<text class=\"label\" transform=\"translate(14 {}) rotate(-90)\" text-anchor=\"middle\">"
        "time of a launch, us</text>\n",
        (kTop + kBottom) / 2);
  }

  /// Roof and default, each with its label on the right; labels are kept apart.
  void lines() {
    struct Line {
      const char* style;
      double us, y, label_y;
      std::string text;
    };
    std::vector<Line> all;
    const auto line = [&](const char* style, const char* what, double us) {
      const double y = axis_->at(us);
      all.push_back({style, us, y, y + 4, fmt::format("{} {} us", what, us_text(us))});
    };
    if (problem_.record.default_us > 0 && has_record(problem_))
      line("default", "default", problem_.record.default_us);
    if (has_record(problem_) && problem_.record.median_us > 0 && best_us_ > 0)
      line("winner", "winner", problem_.record.median_us);
    if (roof_ > 0) line("roof", "roof", roof_);
    std::stable_sort(all.begin(), all.end(),
                     [](const Line& a, const Line& b) { return a.label_y < b.label_y; });
    for (std::size_t i = 1; i < all.size(); ++i)
      all[i].label_y = std::max(all[i].label_y, all[i - 1].label_y + kLineHeight);
    for (std::size_t i = all.size(); i-- > 0;) {  // and above the lower end again
      const double most = i + 1 < all.size() ? all[i + 1].label_y - kLineHeight : kBottom + 4;
      all[i].label_y = std::min(all[i].label_y, most);
    }
    for (const Line& l : all) {
      if (std::string_view(l.style) != "winner")
        add("<line class=\"{}-line\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n", l.style,
            kLeft, kRight, l.y, l.y);
      add("<text class=\"{}-text\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", l.style, kRight + 10,
          l.label_y, l.text);
    }
    if (roof_ <= 0 && facts_.roof_us > 0)
      add("<text class=\"roof-text\" x=\"{}\" y=\"{}\">roof {} us, below</text>\n", kRight + 10,
          kBottom + 22, us_text(facts_.roof_us));
  }

  void best_so_far() {
    std::string path;
    double best = 0;
    for (const Point& point : points_) {
      if (!timed(point)) continue;
      const double us = y_value(point, problem_);
      if (best > 0 && us >= best) continue;
      const double y = axis_->at(us);
      path += path.empty() ? fmt::format("M{:.1f} {:.1f}", point.x, y)
                           : fmt::format("H{:.1f}V{:.1f}", point.x, y);
      best = us;
    }
    if (!path.empty()) add("<path class=\"best\" d=\"{}H{}\"/>\n", path, kRight);
  }

  void marks() {
    const double radius = points_.size() <= 60 ? 4 : points_.size() <= 200 ? 3 : 2;
    const Point *first = nullptr, *winner = nullptr;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      const Point& point = points_[i];
      if (point.is_default && timed(point)) first = &point;
      if (point.is_winner) winner = &point;
      if ((point.is_default || point.is_winner) && timed(point)) continue;
      const std::string title = html_text(shortened(title_of(point, i)));
      if (timed(point))
        add("<circle class=\"trial\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}</title>"
            "</circle>\n",
            point.x, axis_->at(us_of(point)), radius, title);
      else
        add("<path class=\"failure\" d=\"M{:.1f} {:.1f}l{} {}m0 {}l{} {}\"><title>{}</title>"
            "</path>\n",
            point.x - radius, kFailureRow - radius, 2 * radius, 2 * radius, -2 * radius,
            -2 * radius, 2 * radius, title);
    }
    // On top of the others. A default that won is both.
    if (first)
      mark(*first, "default-mark", diamond(first->x, axis_->at(y_value(*first, problem_))));
    if (winner)
      mark(*winner, "winner-mark", star(winner->x, axis_->at(y_value(*winner, problem_))));
  }

  void mark(const Point& point, const char* style, const std::string& path) {
    add("<path class=\"{}\" d=\"{}\"><title>{}</title></path>\n", style, path,
        html_text(shortened(title_of(point, static_cast<std::size_t>(&point - points_.data())))));
  }

  static std::string diamond(double x, double y) {
    return fmt::format("M{:.1f} {:.1f}l7 7l-7 7l-7 -7z", x, y - 7);
  }
  static std::string star(double x, double y) {
    constexpr double kOuter = 10, kInner = 4, kPi = 3.14159265358979;
    std::string path;
    for (int i = 0; i < 10; ++i) {
      const double r = i % 2 == 0 ? kOuter : kInner, angle = kPi * (i / 5.0 - 0.5);
      fmt::format_to(std::back_inserter(path), "{}{:.1f} {:.1f}", i == 0 ? "M" : "L",
                     x + r * std::cos(angle), y + r * std::sin(angle));
    }
    return path + "z";
  }

  std::string title_of(const Point& point, std::size_t index) const {
    const Params& config = problem_.configs.at(point.trial->candidate);
    const std::string changes = point.is_default
                                    ? "default: " + to_text(config)
                                    : config_difference(config, problem_.configs.front());
    std::string text = fmt::format("#{}", index + 1);
    if (point.is_winner) text += ", winner";
    if (!timed(point))
      return fmt::format("{}, {}: {} | {}", text, name(point.trial->verdict.status),
                         point.trial->verdict.reason, changes);
    if (point.is_winner && problem_.record.median_us > 0)
      text += fmt::format(": {} us in the final", us_text(problem_.record.median_us));
    else
      text += fmt::format(": {} us", us_text(us_of(point)));
    return text + " | " + changes;
  }

  const ProblemReport& problem_;
  const ProblemFacts& facts_;
  std::size_t number_;
  std::vector<Point> points_;
  std::optional<LogAxis> axis_;  // none if nothing was timed
  double best_us_ = 0, roof_ = 0;
  std::string out_;
};

}  // namespace

std::string tune_chart(const ProblemReport& problem, const ProblemFacts& facts,
                       std::size_t number) {
  return Chart(problem, facts, number).text();
}

std::string chart_style() {
  return R"(.chart { display: block; width: 100%; height: auto; font-size: 12px; }
.chart text { fill: var(--ink); }
.chart .tick { fill: var(--soft); font-variant-numeric: tabular-nums; }
.chart .label { fill: var(--soft); }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.trial { fill: var(--trial); fill-opacity: .75; stroke: var(--paper); stroke-width: .6; }
.best { fill: none; stroke: var(--trial); stroke-width: 1.2; stroke-opacity: .55; }
.failure { fill: none; stroke: var(--failure); stroke-width: 1.6; }
.roof-line { stroke: var(--roof); stroke-width: 1.6; }
.default-line { stroke: var(--default); stroke-width: 1.4; stroke-dasharray: 6 4; }
.chart .roof-text { fill: var(--roof); }
.chart .default-text { fill: var(--default); }
.chart .winner-text { fill: var(--winner); font-weight: 600; }
.default-mark { fill: var(--paper); stroke: var(--default); stroke-width: 2; }
.winner-mark { fill: var(--winner); stroke: var(--paper); stroke-width: 1; }
)";
}

}  // namespace quern
