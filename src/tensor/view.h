// View<T, Rank>: a typed window on memory somebody else owns. Pointer, shape and strides.
//
// Trivially copyable, passed by value. The element type and the rank are in the type; sizes are
// checked where an op receives it. Strides count elements. A default view is empty (null).
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

#include "base/check.h"

namespace kvasir {

template <class T, int Rank>
class View {
 public:
  View() = default;
  // Row-major and dense.
  View(T* data, std::array<int64_t, Rank> shape) : data_(data), shape_(shape) {
    int64_t s = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      stride_[i] = s;
      s *= shape[i];
    }
  }
  View(T* data, std::array<int64_t, Rank> shape, std::array<int64_t, Rank> stride)
      : data_(data), shape_(shape), stride_(stride) {}
  // A view of mutable elements serves where one of const elements is asked for.
  operator View<const T, Rank>() const
    requires(!std::is_const_v<T>)
  {
    return {data_, shape_, stride_};
  }

  T* data() const { return data_; }
  bool empty() const { return data_ == nullptr; }
  int64_t shape(int i) const { return shape_[i]; }
  const std::array<int64_t, Rank>& shape() const { return shape_; }
  int64_t stride(int i) const { return stride_[i]; }
  int64_t count() const {
    int64_t n = 1;
    for (int64_t s : shape_) n *= s;
    return n;
  }
  bool dense() const {
    int64_t s = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      if (shape_[i] != 1 && stride_[i] != s) return false;
      s *= shape_[i];
    }
    return true;
  }

  template <class... Index>
  T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == Rank);
    std::array<int64_t, Rank> at{static_cast<int64_t>(index)...};
    int64_t offset = 0;
    for (int i = 0; i < Rank; ++i) {
      KVASIR_DCHECK(at[i] >= 0 && at[i] < shape_[i], "index {} of dimension {} is outside [0, {})", at[i], i, shape_[i]);
      offset += at[i] * stride_[i];
    }
    return data_[offset];
  }

  // Pointer to the start of row i of the first dimension.
  T* row(int64_t i) const {
    KVASIR_DCHECK(i >= 0 && i <= shape_[0], "row {} of {}", i, shape_[0]);
    return data_ + i * stride_[0];
  }

  // Rows [begin, begin + count) of the first dimension.
  View rows(int64_t begin, int64_t count) const {
    KVASIR_DCHECK(begin >= 0 && count >= 0 && begin + count <= shape_[0], "rows {}+{} of {}", begin, count, shape_[0]);
    auto shape = shape_;
    shape[0] = count;
    return {data_ + begin * stride_[0], shape, stride_};
  }

 private:
  T* data_ = nullptr;
  std::array<int64_t, Rank> shape_{};
  std::array<int64_t, Rank> stride_{};
};

}  // namespace kvasir
