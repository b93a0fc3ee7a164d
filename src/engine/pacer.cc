// Running estimates of step times; see pacer.h.
#include "engine/pacer.h"

#include <algorithm>
#include <cmath>

namespace kvasir {
namespace {

// Follows a changing value; a single disturbed step moves it little.
void follow(double& estimate, double value) {
  estimate = estimate == 0 ? value : estimate + 0.2 * (value - estimate);
}

}  // namespace

void ChunkPacer::record(int64_t decode_rows, int64_t prefill_rows, double seconds) {
  if (prefill_rows == 0) {
    follow(decode_seconds_, seconds);
  } else if (prefill_rows >= kSmallest) {
    double own = seconds - (decode_rows > 0 ? decode_seconds_ : 0);
    follow(seconds_per_token_, std::max(own, 0.1 * seconds) / static_cast<double>(prefill_rows));
  }
}

int64_t ChunkPacer::chunk_tokens() const {
  if (seconds_per_token_ == 0) return std::min(step_tokens_, 4 * kSmallest);
  double allowed = std::max(gap_seconds_, 2 * decode_seconds_) - decode_seconds_;
  double tokens = std::min(allowed / seconds_per_token_, static_cast<double>(step_tokens_));
  return std::clamp(static_cast<int64_t>(tokens) / kSmallest * kSmallest, kSmallest,
                    std::max(kSmallest, step_tokens_));
}

void DraftPacer::turn(bool drafting) {
  drafting_ = drafting;
  steps_ = 0;
}

void DraftPacer::record(bool drafted, int64_t tokens, double seconds) {
  if (drafted != drafting_) return;
  ++steps_;
  Rate& rate = rates_[drafted];
  if (steps_ == kWarmUp) rate = {};
  if (steps_ > kWarmUp) {
    rate.tokens += static_cast<double>(tokens);
    rate.seconds += seconds;
  }
  if (steps_ == kWarmUp + kTrial && !compared_) {
    bool both = rates_[0].seconds > 0 && rates_[1].seconds > 0;
    if (!both) return turn(!drafting_);
    compared_ = true;
    bool better = rates_[1].value() > rates_[0].value();
    if (better != drafting_) turn(better);
  } else if (steps_ >= kStay && compared_) {
    compared_ = false;
    rates_[!drafting_] = {};
    turn(!drafting_);
  }
}

}  // namespace kvasir
