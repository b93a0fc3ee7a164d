// Result<T> and Status: how a room says that the world (a file, a client, a disk) is at fault.
//
// Spelled like std::expected (`if (!r)`, `*r`, `r->`, `r.error()`), which g++ 12 offers only in
// C++23 and nvcc 13.0 refuses. A message says what was seen, what was expected, and where.
// Our own broken invariants do not come here: they abort through KVASIR_CHECK (check.h).
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace kvasir {

enum class ErrorCode {
  kInvalid,      // the input is wrong: a file's contents, a request, an argument
  kNotFound,     // the thing named does not exist
  kUnsupported,  // recognised, and not something kvasir can do
  kBusy,         // memory or pages are short now; asking again later may succeed
  kIo,           // the operating system refused: read, write, map
  kCancelled,    // the caller asked for it to stop
};

struct Error {
  ErrorCode code = ErrorCode::kInvalid;
  std::string message;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const { return v_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& operator*() & { return std::get<0>(v_); }
  const T& operator*() const& { return std::get<0>(v_); }
  T&& operator*() && { return std::get<0>(std::move(v_)); }
  T* operator->() { return &std::get<0>(v_); }
  const T* operator->() const { return &std::get<0>(v_); }
  const Error& error() const { return std::get<1>(v_); }
  Error& error() { return std::get<1>(v_); }

 private:
  std::variant<T, Error> v_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), ok_(false) {}

  bool has_value() const { return ok_; }
  explicit operator bool() const { return ok_; }
  const Error& error() const { return error_; }

 private:
  Error error_;
  bool ok_ = true;
};

using Status = Result<void>;

#define KVASIR_CONCAT_INNER(a, b) a##b
#define KVASIR_CONCAT(a, b) KVASIR_CONCAT_INNER(a, b)

// KVASIR_TRY(auto x, f()): x is f()'s value, or the enclosing function returns f()'s error.
#define KVASIR_TRY(declaration, expression)                                        \
  auto KVASIR_CONCAT(try_, __LINE__) = (expression);                               \
  if (!KVASIR_CONCAT(try_, __LINE__)) return KVASIR_CONCAT(try_, __LINE__).error(); \
  declaration = *std::move(KVASIR_CONCAT(try_, __LINE__))

// KVASIR_TRY_STATUS(f()): the same for a Status.
#define KVASIR_TRY_STATUS(expression)                        \
  do {                                                       \
    if (auto try_status = (expression); !try_status) return try_status.error(); \
  } while (0)

}  // namespace kvasir
