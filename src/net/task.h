// Task: a coroutine of a network thread. `co_await` it, or return one from an HTTP handler.
//
// It runs on its connection's strand: never on two threads at once, and it must not block its thread.
//
// g++ 12 miscompiles two forms, without a warning; both end in a crash. So put what co_await gives into a
// variable of its own before testing it (not `if (!co_await f())` or `a && co_await f()`), and name what is
// made from braces before passing it (not `co_await f({1, "x"})`).
#pragma once

#include <boost/asio/awaitable.hpp>

namespace kvasir {

template <class T = void>
using Task = boost::asio::awaitable<T>;

}  // namespace kvasir
