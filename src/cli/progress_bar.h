// ProgressBar: a ProgressSink that draws one line on a terminal: what, share done, amount, rate, time left.
//
//   loading  34% [######..............]  54.3 GB of 160 GB  1.90 GB/s  0:55 left
//
// Draws nothing when standard error is no terminal, nothing during a job's first second, at most ten times
// a second after that, and removes its line when the job ends. Threading: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/progress.h"

namespace kvasir {

class ProgressBar final : public ProgressSink {
 public:
  // On standard error, if that is a terminal.
  ProgressBar();
  // For tests: `seconds` is the clock, `draw` receives what the terminal would; a null `draw` is "no
  // terminal".
  ProgressBar(std::function<double()> seconds, std::function<void(const std::string&)> draw);
  ~ProgressBar() override { end(); }

  // `total` <= 0: not known; the bar then shows amount and rate only.
  void begin(std::string_view what, ProgressUnit unit, int64_t total) override;
  void tick(int64_t done) override;
  void end() override;

 private:
  std::string line(double elapsed, int64_t done) const;

  std::function<double()> seconds_;
  std::function<void(const std::string&)> draw_;
  std::string what_;
  ProgressUnit unit_ = ProgressUnit::kBytes;
  int64_t total_ = 0;
  double begun_ = 0;
  double next_draw_ = 0;
  bool active_ = false;
  bool drawn_ = false;
};

}  // namespace kvasir
