// Numbers: JSON numbers within bounds, and multiples, as automata over their digits.
//
// Exact: bounds are compared digit by digit in decimal, never as doubles. A number without bounds may have an
// exponent as far as the value fits a double, and an integer 300 digits; one with bounds is written without
// exponent. An integer is written
// without fraction (1.0 is the same value as 1, so nothing is lost). Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "grammar/byte_dfa.h"

namespace kvasir {

// A decimal number: digits without leading zeros ("0" for none) and without trailing ones after the point.
struct Decimal {
  bool negative = false;
  std::string whole = "0";
  std::string fraction = {};

  // kUnsupported: the number has more than 400 digits written out. `text` is a JSON number.
  static Result<Decimal> parse(std::string_view text);
  bool is_zero() const { return whole == "0" && fraction.empty(); }
};

// Below zero, zero or above zero as a is less than, equal to or greater than b.
int compare(const Decimal& a, const Decimal& b);

struct NumberBounds {
  bool integer = false;
  std::optional<Decimal> min = {};
  std::optional<Decimal> max = {};
  bool above_min = false;  // and not equal to it
  bool below_max = false;
  std::optional<Decimal> multiple_of = {};  // positive

  bool empty() const { return !min && !max && !multiple_of; }
};

// Adds `other`, so that both hold. kUnsupported: their common multiple is too large.
Status tighten(NumberBounds& bounds, const NumberBounds& other);

bool admits(const NumberBounds& bounds, const Decimal& value);

// Null: no number is within the bounds. kUnsupported: too many states.
Result<SharedDfa> number_dfa(const NumberBounds& bounds);

}  // namespace kvasir
