// The automaton reads the digits once and keeps, for each bound, how the digits so far compare with the
// bound's: shorter, longer, or equally long and less, equal or greater.
#include "grammar/number_dfa.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <vector>

namespace kvasir {
namespace {

constexpr int64_t kMaxDigits = 400;
constexpr uint64_t kMaxModulus = 5000;
constexpr size_t kMaxStates = 20000;
constexpr int kMaxIntegerDigits = 300;  // a double holds a little more

uint64_t power_of_ten(size_t n) {
  uint64_t out = 1;
  for (size_t i = 0; i < n; ++i) out *= 10;
  return out;
}

int compare_magnitude(const Decimal& a, const Decimal& b) {
  if (a.whole.size() != b.whole.size()) return a.whole.size() < b.whole.size() ? -1 : 1;
  const int by_whole = a.whole.compare(b.whole);
  const int order = by_whole != 0 ? by_whole : a.fraction.compare(b.fraction);
  return order < 0 ? -1 : order > 0 ? 1 : 0;
}

// The number times 10^places, if that is an integer of moderate size.
std::optional<uint64_t> scaled(const Decimal& d, size_t places) {
  if (d.fraction.size() > places || d.whole.size() + places > 18) return std::nullopt;
  std::string digits = d.whole + d.fraction;
  digits.append(places - d.fraction.size(), '0');
  return std::stoull(digits);
}

// value % modulus of a number of any length times 10^places.
uint64_t remainder(const Decimal& d, size_t places, uint64_t modulus) {
  std::string digits = d.whole + d.fraction;
  digits.append(places - d.fraction.size(), '0');
  uint64_t rem = 0;
  for (char c : digits) rem = (rem * 10 + static_cast<uint64_t>(c - '0')) % modulus;
  return rem;
}

}  // namespace

Result<Decimal> Decimal::parse(std::string_view text) {
  Decimal out;
  out.negative = text.starts_with('-');
  if (out.negative) text.remove_prefix(1);
  int64_t exponent = 0;
  if (const size_t e = text.find_first_of("eE"); e != std::string_view::npos) {
    const std::string digits(text.substr(e + 1));
    if (digits.size() > 6) return Error{ErrorCode::kUnsupported, "a number with an exponent this large"};
    exponent = std::stoll(digits);
    text = text.substr(0, e);
  }
  const size_t point = std::min(text.find('.'), text.size());
  std::string digits(text.substr(0, point));
  if (point < text.size()) digits += text.substr(point + 1);
  int64_t whole = static_cast<int64_t>(point) + exponent;  // digits before the point
  if (std::max<int64_t>(whole, static_cast<int64_t>(digits.size())) - std::min<int64_t>(whole, 0) >
      kMaxDigits) {
    return Error{ErrorCode::kUnsupported, fmt::format("a number of more than {} digits", kMaxDigits)};
  }
  if (whole < 0) {
    digits = std::string(static_cast<size_t>(-whole), '0') + digits;
    whole = 0;
  }
  if (static_cast<size_t>(whole) > digits.size())
    digits.append(static_cast<size_t>(whole) - digits.size(), '0');
  out.whole = digits.substr(0, static_cast<size_t>(whole));
  out.fraction = digits.substr(static_cast<size_t>(whole));
  const size_t zeros = std::min(out.whole.find_first_not_of('0'), out.whole.size());
  out.whole = zeros < out.whole.size() ? out.whole.substr(zeros) : "0";
  while (out.fraction.ends_with('0')) out.fraction.pop_back();
  if (out.is_zero()) out.negative = false;
  return out;
}

int compare(const Decimal& a, const Decimal& b) {
  if (a.negative != b.negative) return a.negative ? -1 : 1;
  return a.negative ? compare_magnitude(b, a) : compare_magnitude(a, b);
}

Status tighten(NumberBounds& bounds, const NumberBounds& other) {
  bounds.integer = bounds.integer || other.integer;
  if (other.min) {
    const int order = bounds.min ? compare(*other.min, *bounds.min) : 1;
    if (order > 0) bounds.above_min = false;
    if (order >= 0) bounds.above_min = bounds.above_min || other.above_min;
    if (order > 0) bounds.min = other.min;
  }
  if (other.max) {
    const int order = bounds.max ? compare(*other.max, *bounds.max) : -1;
    if (order < 0) bounds.below_max = false;
    if (order <= 0) bounds.below_max = bounds.below_max || other.below_max;
    if (order < 0) bounds.max = other.max;
  }
  if (!other.multiple_of) return {};
  if (!bounds.multiple_of) {
    bounds.multiple_of = other.multiple_of;
    return {};
  }
  const size_t places = std::max(bounds.multiple_of->fraction.size(), other.multiple_of->fraction.size());
  const auto a = scaled(*bounds.multiple_of, places), b = scaled(*other.multiple_of, places);
  if (!a || !b || *a / std::gcd(*a, *b) > UINT64_MAX / *b) {
    return Error{ErrorCode::kUnsupported, "multipleOf with that many digits"};
  }
  const std::string digits = std::to_string(std::lcm(*a, *b));
  KVASIR_TRY(bounds.multiple_of, Decimal::parse(fmt::format("{}e-{}", digits, places)));
  return {};
}

bool admits(const NumberBounds& bounds, const Decimal& value) {
  if (bounds.integer && !value.fraction.empty()) return false;
  if (bounds.min && compare(value, *bounds.min) < (bounds.above_min ? 1 : 0)) return false;
  if (bounds.max && compare(value, *bounds.max) > (bounds.below_max ? -1 : 0)) return false;
  if (!bounds.multiple_of) return true;
  const size_t places = bounds.multiple_of->fraction.size();
  if (value.fraction.size() > places) return false;
  const auto modulus = scaled(*bounds.multiple_of, places);
  return modulus && remainder(value, places, *modulus) == 0;
}

namespace {

// How the digits read so far compare with a bound of the magnitude.
struct Comparison {
  uint32_t read = 0;  // digits of the part that is being read; no more than one beyond the bound's
  int order = 0;      // of the digits so far

  auto operator<=>(const Comparison&) const = default;

  void whole_digit(const std::string& bound, char digit) {
    if (read < bound.size() && order == 0) order = digit < bound[read] ? -1 : digit > bound[read] ? 1 : 0;
    if (read <= bound.size()) ++read;
    if (read > bound.size()) order = 1;
  }
  // After the last digit of the whole part.
  int whole_order(const std::string& bound) const { return read < bound.size() ? -1 : order; }
  void fraction_digit(const std::string& bound, char digit) {
    if (order != 0) return;
    const char other = read < bound.size() ? bound[read] : '0';
    order = digit < other ? -1 : digit > other ? 1 : 0;
    if (read < bound.size()) ++read;
    if (order != 0) read = 0;
  }
  int fraction_order(const std::string& bound) const {
    return order == 0 && read < bound.size() ? -1 : order;
  }
};

// What one sign may be: low <= magnitude <= high.
struct Magnitudes {
  std::optional<Decimal> low, high;
  bool above = false, below = false;
  bool none = false;
};

Magnitudes magnitudes(const NumberBounds& b, bool negative) {
  Magnitudes m{negative ? b.max : b.min, negative ? b.min : b.max, negative ? b.below_max : b.above_min,
               negative ? b.above_min : b.below_max};
  if (m.low && m.low->negative == !negative && !m.low->is_zero()) m.low.reset();
  m.none = m.high && m.high->negative == !negative && !m.high->is_zero();
  return m;
}

enum class Part { kStart, kMinus, kZero, kWhole, kPoint, kFraction };

struct NumberState {
  Part part = Part::kStart;
  bool negative = false;
  Comparison low, high;
  uint32_t places = 0;  // digits after the point, while they count for multipleOf
  uint64_t rem = 0;

  auto operator<=>(const NumberState&) const = default;
};

class NumberBuilder {
 public:
  NumberBuilder(const NumberBounds& bounds, uint64_t modulus)
      : bounds_(bounds), modulus_(modulus), sides_{magnitudes(bounds, false), magnitudes(bounds, true)} {
    if (bounds_.multiple_of) places_ = bounds_.multiple_of->fraction.size();
  }

  Result<SharedDfa> build() {
    id_of({});
    for (size_t i = 0; i < states_.size(); ++i) {
      if (states_.size() > kMaxStates) {
        return Error{ErrorCode::kUnsupported, "the bounds of a number need too many states"};
      }
      const NumberState state = states_[i];
      if (accepts(state)) builder_.set_label(static_cast<int32_t>(i), 0);
      for (char c : std::string_view("-.0123456789")) {
        const auto to = step(state, c);
        if (!to) continue;
        const int32_t id = id_of(*to);
        builder_.set(static_cast<int32_t>(i), static_cast<uint8_t>(c), id);
      }
    }
    return builder_.finish();
  }

 private:
  int32_t id_of(const NumberState& state) {
    const auto [at, added] = ids_.try_emplace(state, static_cast<int32_t>(states_.size()));
    if (added) {
      states_.push_back(state);
      builder_.add_state();
    }
    return at->second;
  }
  const Magnitudes& side(const NumberState& s) const { return sides_[s.negative ? 1 : 0]; }

  std::optional<NumberState> step(NumberState s, char c) const {
    if (c == '-') {
      if (s.part != Part::kStart || sides_[1].none) return std::nullopt;
      s.part = Part::kMinus;
      s.negative = true;
      return s;
    }
    if (c == '.') {
      if ((s.part != Part::kZero && s.part != Part::kWhole) || bounds_.integer) return std::nullopt;
      if (bounds_.multiple_of && places_ == 0) return std::nullopt;
      s.part = Part::kPoint;
      if (side(s).low) s.low = {0, s.low.whole_order(side(s).low->whole)};
      if (side(s).high) s.high = {0, s.high.whole_order(side(s).high->whole)};
      return s;
    }
    if (s.part == Part::kZero || (s.part == Part::kStart && sides_[0].none)) return std::nullopt;
    return digit(s, c);
  }

  std::optional<NumberState> digit(NumberState s, char c) const {
    const Magnitudes& m = side(s);
    if (s.part < Part::kPoint) {
      s.part = c == '0' && s.part != Part::kWhole ? Part::kZero : Part::kWhole;
      if (m.low) s.low.whole_digit(m.low->whole, c);
      if (m.high) s.high.whole_digit(m.high->whole, c);
    } else {
      s.part = Part::kFraction;
      if (m.low) s.low.fraction_digit(m.low->fraction, c);
      if (m.high) s.high.fraction_digit(m.high->fraction, c);
      if (bounds_.multiple_of && s.places++ == places_) return std::nullopt;
    }
    if (bounds_.multiple_of) s.rem = (s.rem * 10 + static_cast<uint64_t>(c - '0')) % modulus_;
    return s;
  }

  bool accepts(const NumberState& s) const {
    if (s.part != Part::kZero && s.part != Part::kWhole && s.part != Part::kFraction) return false;
    const Magnitudes& m = side(s);
    const auto order = [&](const Comparison& c, const Decimal& bound) {
      if (s.part == Part::kFraction) return c.fraction_order(bound.fraction);
      const int whole = c.whole_order(bound.whole);
      return whole == 0 && !bound.fraction.empty() ? -1 : whole;
    };
    if (m.low && order(s.low, *m.low) < (m.above ? 1 : 0)) return false;
    if (m.high && order(s.high, *m.high) > (m.below ? -1 : 0)) return false;
    if (!bounds_.multiple_of) return true;
    return s.rem * (power_of_ten(places_ - s.places) % modulus_) % modulus_ == 0;
  }

  const NumberBounds& bounds_;
  uint64_t modulus_;
  Magnitudes sides_[2];
  size_t places_ = 0;
  std::map<NumberState, int32_t> ids_;
  std::vector<NumberState> states_;
  ByteDfaBuilder builder_;
};

// Digits after the one that leads to `before`, the `from`th: a bounded number, so that any reader can hold
// the value.
void add_more_digits(ByteDfaBuilder& b, int32_t before, int from) {
  for (int i = from; i < kMaxIntegerDigits; ++i) {
    const int32_t digit = b.add_state(0);
    b.set_range(before, '0', '9', digit);
    before = digit;
  }
}

// Any number whose value fits a double: at most 100 digits before a point or an exponent, and exponents up to
// 199, or 307 after a single digit.
SharedDfa make_any_number() {
  ByteDfaBuilder b;
  constexpr int kWholeDigits = 100;
  const int32_t start = b.add_state(), minus = b.add_state(), zero = b.add_state(0);
  b.set(start, '-', minus);
  const int32_t point = b.add_state(), fraction = b.add_state(0), point1 = b.add_state(),
                fraction1 = b.add_state(0);
  b.set_range(point, '0', '9', fraction);
  b.set_range(fraction, '0', '9', fraction);
  b.set_range(point1, '0', '9', fraction1);
  b.set_range(fraction1, '0', '9', fraction1);
  const auto add_exponent = [&](std::initializer_list<int32_t> from, int hundreds) {
    const int32_t e = b.add_state(), sign = b.add_state(), one = b.add_state(0), two = b.add_state(0);
    const int32_t last = b.add_state(0), any2 = b.add_state(0), tens3 = b.add_state(0),
                  last7 = b.add_state(0);
    for (int32_t f : from) {
      for (char c : {'e', 'E'}) b.set(f, static_cast<uint8_t>(c), e);
    }
    b.set(e, '+', sign);
    b.set(e, '-', sign);
    for (int32_t s : {e, sign}) {
      b.set_range(s, '0', '9', one);
      b.set_range(s, '1', static_cast<uint8_t>('0' + std::min(hundreds, 2)), any2);
      if (hundreds == 3) b.set(s, '3', tens3);
    }
    b.set_range(one, '0', '9', two);  // two digits at most
    b.set_range(any2, '0', '9', last);
    b.set_range(last, '0', '9', two);
    b.set_range(tens3, '0', '9', two);
    b.set(tens3, '0', last7);
    b.set_range(last7, '0', '7', two);
  };
  int32_t before = ByteDfa::kNone;
  std::vector<int32_t> digits;
  for (int i = 0; i < kWholeDigits; ++i) {
    const int32_t digit = b.add_state(0);
    for (int32_t from : i == 0 ? std::vector<int32_t>{start, minus} : std::vector<int32_t>{before}) {
      b.set_range(from, i == 0 ? '1' : '0', '9', digit);
    }
    b.set(digit, '.', i == 0 ? point1 : point);
    digits.push_back(digit);
    before = digit;
  }
  add_more_digits(b, before, kWholeDigits);
  b.set(start, '0', zero);
  b.set(minus, '0', zero);
  b.set(zero, '.', point1);
  add_exponent({zero, digits[0], fraction1}, 3);
  add_exponent({fraction}, 1);
  const int32_t e = b.next(fraction, 'e');
  for (size_t i = 1; i < digits.size(); ++i) {
    b.set(digits[i], 'e', e);
    b.set(digits[i], 'E', e);
  }
  return b.finish();
}

SharedDfa make_any_integer() {
  ByteDfaBuilder b;
  const int32_t start = b.add_state(), minus = b.add_state(), zero = b.add_state(0), first = b.add_state(0);
  b.set(start, '-', minus);
  for (int32_t from : {start, minus}) {
    b.set(from, '0', zero);
    b.set_range(from, '1', '9', first);
  }
  add_more_digits(b, first, 1);
  return b.finish();
}

}  // namespace

Result<SharedDfa> number_dfa(const NumberBounds& bounds) {
  static const SharedDfa number = make_any_number(), integer = make_any_integer();
  if (bounds.empty()) return bounds.integer ? integer : number;
  uint64_t modulus = 1;
  if (bounds.multiple_of) {
    const auto scaled_up = scaled(*bounds.multiple_of, bounds.multiple_of->fraction.size());
    if (!scaled_up || *scaled_up > kMaxModulus) {
      return Error{ErrorCode::kUnsupported, fmt::format("multipleOf of more than {} steps", kMaxModulus)};
    }
    modulus = *scaled_up;
  }
  return NumberBuilder(bounds, modulus).build();
}

}  // namespace kvasir
