// Drawing of the progress line; see progress_bar.h for when it appears.
#include "cli/progress_bar.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "cli/table.h"

namespace kvasir {
namespace {

constexpr double kQuietSeconds = 1, kSecondsPerDraw = 0.1;
constexpr int kBarWidth = 20;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::function<void(const std::string&)> terminal() {
  if (!isatty(STDERR_FILENO)) return nullptr;
  return [](const std::string& text) {
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
  };
}

std::string amount(ProgressUnit unit, double value) {
  return unit == ProgressUnit::kBytes ? human_bytes(value) : with_commas(std::llround(value));
}

std::string duration(double seconds) {
  auto s = static_cast<int64_t>(std::ceil(seconds));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

ProgressBar::ProgressBar() : ProgressBar(steady_seconds, terminal()) {}

ProgressBar::ProgressBar(std::function<double()> seconds, std::function<void(const std::string&)> draw)
    : seconds_(std::move(seconds)), draw_(std::move(draw)) {}

void ProgressBar::begin(std::string_view what, ProgressUnit unit, int64_t total) {
  end();
  what_ = what;
  unit_ = unit;
  total_ = total;
  begun_ = seconds_();
  next_draw_ = begun_ + kQuietSeconds;
  active_ = draw_ != nullptr;
}

void ProgressBar::tick(int64_t done) {
  if (!active_) return;
  double now = seconds_();
  if (now < next_draw_) return;
  next_draw_ = now + kSecondsPerDraw;
  draw_("\r\033[K" + line(now - begun_, done));  // erase to the end of the line: the new text may be shorter
  drawn_ = true;
}

void ProgressBar::end() {
  if (drawn_) draw_("\r\033[K");
  active_ = drawn_ = false;
}

std::string ProgressBar::line(double elapsed, int64_t done) const {
  double rate = static_cast<double>(done) / elapsed;
  std::string speed = unit_ == ProgressUnit::kBytes
                          ? human_bytes(rate) + "/s"
                          : fmt::format("{:.{}f} tokens/s", rate, rate < 100 ? 1 : 0);
  std::string value = amount(unit_, static_cast<double>(done));
  if (total_ <= 0)
    return fmt::format("{}  {}{}  {}", what_, value, unit_ == ProgressUnit::kTokens ? " tokens" : "", speed);

  double share = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0);
  auto filled = static_cast<size_t>(share * kBarWidth);
  std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  std::string left =
      done > 0 ? duration(static_cast<double>(std::max<int64_t>(total_ - done, 0)) / rate) + " left" : "";
  return fmt::format("{} {:3.0f}% [{}]  {} of {}{}  {}  {}", what_, std::floor(100 * share), bar, value,
                     amount(unit_, static_cast<double>(total_)),
                     unit_ == ProgressUnit::kTokens ? " tokens" : "", speed, left);
}

}  // namespace kvasir
