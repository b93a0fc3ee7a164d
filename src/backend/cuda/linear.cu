// Linear layers: shapes checked, kernel chosen; see linear.h.
#include "backend/cuda/linear.h"
#include <algorithm>
#include <optional>
#include <vector>

#include "backend/cuda/sm90/gemm_prefill.h"
#include "backend/cuda/sm90/linear_generic.h"
#include "backend/cuda/sm90/linear_stream.h"

namespace kvasir::cuda {
namespace {

bool scaled(WeightFormat f) { return f == WeightFormat::kFp8Block128 || f == WeightFormat::kFp4Group32; }

// A linear layer as a product; its shapes are checked here.
GroupedProduct product_of(const CudaContext& context, const LinearArgs& a) {
  const int64_t tokens = a.x.shape(0);
  KVASIR_CHECK(a.x.shape(1) == a.w.cols && a.out.shape(0) == tokens && a.out.shape(1) == a.w.rows,
               "x [{}, {}], w [{}, {}], out [{}, {}]", tokens, a.x.shape(1), a.w.rows, a.w.cols, a.out.shape(0), a.out.shape(1));
  KVASIR_CHECK(a.x.dense() && a.out.dense(), "rows of x or out are not dense");
  const bool native = context.numerics == Numerics::kNative;
  GroupedProduct p{a.w, a.x.data(), a.out.data(), tokens, 1, a.w.rows, a.w.cols};
  p.quantise = native && a.kind == LinearKind::kQuantised && scaled(a.w.format);
  p.round = native && a.kind != LinearKind::kFloat;
  p.wide = a.kind != LinearKind::kQuantised;
  return p;
}

GroupedProduct product_of(const CudaContext& context, const GroupedLinearArgs& a) {
  const int64_t tokens = a.x.shape(0), groups = a.x.shape(1), n = a.out.shape(2), k = a.x.shape(2);
  KVASIR_CHECK(a.w.rows == groups * n && a.w.cols == k && a.out.shape(0) == tokens && a.out.shape(1) == groups,
               "w [{}, {}] for {} groups of {} x {}", a.w.rows, a.w.cols, groups, n, k);
  KVASIR_CHECK(a.x.dense() && a.out.dense(), "rows of x or out are not dense");
  GroupedProduct p{a.w, a.x.data(), a.out.data(), tokens, groups, n, k};
  p.round = context.numerics == Numerics::kNative;
  p.wide = true;
  return p;
}

// With `deterministic` every call goes through the kernel for few rows, at most kStreamRows at a time: its bits do not
// depend on the number of rows.
bool multiply_in_blocks(CudaContext& context, std::span<const GroupedProduct> products) {
  if (!context.deterministic || context.numerics != Numerics::kFast) return false;
  const int64_t tokens = products[0].tokens;
  for (int64_t first = 0; first < tokens; first += kStreamRows) {
    std::vector<GroupedProduct> block(products.begin(), products.end());
    for (GroupedProduct& p : block) {
      p.tokens = std::min(kStreamRows, tokens - first);
      p.x += first * p.groups * p.k;
      p.out += first * p.groups * p.n;
    }
    const StreamTuning tuning{.any_rows = true};
    if (stream_takes(context.sm_count, block, tuning)) {
      product_stream(context, block, tuning);
    } else {
      for (const GroupedProduct& p : block) product_generic(context, p);
    }
  }
  return true;
}

// Products of one x, each by the fastest kernel that takes it.
void multiply(CudaContext& context, std::span<const GroupedProduct> products) {
  if (products.empty() || multiply_in_blocks(context, products)) return;
  if (context.numerics == Numerics::kFast && stream_takes(context.sm_count, products)) return product_stream(context, products);
  Scratch::Scope scope(context.scratch);
  std::optional<PreparedRows> rows;
  const GroupedProduct* rows_of = nullptr;
  for (const GroupedProduct& p : products) {
    if (context.numerics != Numerics::kFast) {
      product_generic(context, p);
    } else if (products.size() > 1 && stream_takes(context.sm_count, {&p, 1})) {
      product_stream(context, {&p, 1});
    } else if (prefill_takes(p)) {
      if (!rows || !same_preparation(*rows_of, p)) rows = prepare_rows(context, p), rows_of = &p;
      product_prefill(context, p, *rows);
    } else {
      product_generic(context, p);
    }
  }
}

}  // namespace

void linear(CudaContext& context, const LinearArgs& a) {
  const GroupedProduct p = product_of(context, a);
  multiply(context, {&p, 1});
}

void grouped_linear(CudaContext& context, const GroupedLinearArgs& a) {
  const GroupedProduct p = product_of(context, a);
  multiply(context, {&p, 1});
}

void linear_many(CudaContext& context, std::span<const LinearArgs> args) {
  std::vector<GroupedProduct> products;
  for (const LinearArgs& a : args) {
    KVASIR_CHECK(a.x.data() == args[0].x.data(), "linear_many has more than one x");
    products.push_back(product_of(context, a));
  }
  // Weights of one format side by side, so that x is prepared once for each.
  std::stable_sort(products.begin(), products.end(),
                   [](const GroupedProduct& a, const GroupedProduct& b) { return a.w.format < b.w.format || (a.w.format == b.w.format && a.wide < b.wide); });
  multiply(context, products);
}

}  // namespace kvasir::cuda
