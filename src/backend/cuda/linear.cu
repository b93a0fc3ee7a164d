// Linear layers: shapes checked, kernel chosen; see linear.h.
#include "backend/cuda/linear.h"
#include <vector>

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
  return p;
}

GroupedProduct product_of(const CudaContext& context, const GroupedLinearArgs& a) {
  const int64_t tokens = a.x.shape(0), groups = a.x.shape(1), n = a.out.shape(2), k = a.x.shape(2);
  KVASIR_CHECK(a.w.rows == groups * n && a.w.cols == k && a.out.shape(0) == tokens && a.out.shape(1) == groups,
               "w [{}, {}] for {} groups of {} x {}", a.w.rows, a.w.cols, groups, n, k);
  KVASIR_CHECK(a.x.dense() && a.out.dense(), "rows of x or out are not dense");
  GroupedProduct p{a.w, a.x.data(), a.out.data(), tokens, groups, n, k};
  p.round = context.numerics == Numerics::kNative;
  return p;
}

void multiply(CudaContext& context, const GroupedProduct& p) {
  if (context.numerics == Numerics::kFast && stream_takes({&p, 1})) return product_stream(context, {&p, 1});
  product_generic(context, p);
}

}  // namespace

void linear(CudaContext& context, const LinearArgs& a) { multiply(context, product_of(context, a)); }

void grouped_linear(CudaContext& context, const GroupedLinearArgs& a) { multiply(context, product_of(context, a)); }

void linear_many(CudaContext& context, std::span<const LinearArgs> args) {
  std::vector<GroupedProduct> products;
  for (const LinearArgs& a : args) products.push_back(product_of(context, a));
  if (context.numerics == Numerics::kFast && stream_takes(products)) return product_stream(context, products);
  for (const GroupedProduct& p : products) multiply(context, p);
}

}  // namespace kvasir::cuda
