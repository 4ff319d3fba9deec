#include "model/tune_progress_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "autotune/tuner.h"

namespace quern {
namespace {

constexpr std::size_t kLeastProblem = 24;  // columns; with fewer its text says nothing
constexpr std::string_view kBetween = " | ";

/// A time in microseconds and what was gained over the default.
std::string time_text(double us, double default_us) {
  if (us <= 0) return {};
  std::string text = fmt::format("{:.{}f} us", us, us < 10 ? 2 : 1);
  if (default_us > 0) text += fmt::format(", {:.2f}x the default", default_us / us);
  return text;
}

std::string shortened(const std::string& text, std::size_t width) {
  if (text.size() <= width) return text;
  return width < 3 ? text.substr(0, width) : text.substr(0, width - 3) + "...";
}

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<long>(std::lround(std::clamp(seconds, 0.0, 1e9)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string progress_text(const TuneProgress& progress, std::size_t width) {
  const std::string head = fmt::format("tuning {}/{}", progress.done, progress.total);
  const std::string problem = progress.family + " " + to_text(progress.problem);
  // From the most to the least needed, each with its place in the line.
  struct Piece {
    int place;
    std::string text;
  };
  std::vector<Piece> pieces;
  if (progress.seconds_left) pieces.push_back({4, duration_text(*progress.seconds_left) + " left"});
  if (progress.candidates > 0)
    pieces.push_back({1, fmt::format("{}/{} tried", progress.tried, progress.candidates)});
  if (progress.best_us > 0)
    pieces.push_back({3, "best " + time_text(progress.best_us, progress.default_us)});
  if (progress.compile_queue > 0)
    pieces.push_back({2, fmt::format("{} to compile", progress.compile_queue)});
  std::size_t used = head.size() + kBetween.size() + std::min(problem.size(), kLeastProblem);
  std::vector<Piece> shown;
  for (Piece& piece : pieces) {
    if (used + kBetween.size() + piece.text.size() > width) break;
    used += kBetween.size() + piece.text.size();
    shown.push_back(std::move(piece));
  }
  std::sort(shown.begin(), shown.end(),
            [](const Piece& a, const Piece& b) { return a.place < b.place; });
  const std::size_t room = width > used ? width - used : 0;
  std::string line = head;
  line += kBetween;
  line += shortened(problem, std::min(problem.size(), kLeastProblem) + room);
  for (const Piece& piece : shown) {
    line += kBetween;
    line += piece.text;
  }
  return shortened(line, width);
}

std::string finished_text(const TuneProgress& progress) {
  const ProblemReport& problem = *progress.finished;
  std::string text = fmt::format("tuned {}/{}: {} {}: ", progress.done, progress.total,
                                 problem.family, to_text(problem.problem));
  if (problem.outcome == ProblemReport::Outcome::tuned)
    text += time_text(problem.record.median_us, problem.record.default_us);
  else if (problem.outcome == ProblemReport::Outcome::failed)
    text += "failed: " + problem.reason;
  else
    text += "out of time, the default will run";
  if (progress.candidates > 0)
    text += fmt::format("; {} of {} candidates tried", progress.tried, progress.candidates);
  text += fmt::format("; {:.1f} s", problem.seconds);
  if (progress.seconds_left && progress.done < progress.total)
    text += fmt::format(", {} left", duration_text(*progress.seconds_left));
  return text;
}

}  // namespace quern
