// cuBLASLt behind GroupedProduct; see gemm_library.h.
//
// The library counts columns: out^T [n, tokens] = W^T' [n, k] * x^T [k, tokens], all column-major, is what
// lies in memory. A product's description and algorithm are looked up once for each shape and kept for the
// life of the process.
#include <cublasLt.h>

#include <map>
#include <mutex>
#include <tuple>

#include "backend/cuda/sm90/gemm_library.h"

namespace kvasir::cuda {
namespace {

constexpr int64_t kWorkspace = int64_t{32} << 20;

struct Product {
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, rows = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;
};

struct Library {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;
  std::map<std::tuple<int64_t, int64_t, int64_t>, Product> products;  // by tokens, n, k
};

Library& library() {
  static Library l;
  if (l.handle == nullptr) cublasLtCreate(&l.handle);
  return l;
}

// Every call here only fills host structures; one that fails leaves `found` false.
Product describe(cublasLtHandle_t handle, int64_t tokens, int64_t n, int64_t k) {
  Product p;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const cudaDataType_t type = CUDA_R_16BF;
  const uint64_t workspace = kWorkspace;
  cublasLtMatmulPreference_t preference = nullptr;
  auto ok = [](cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS; };
  bool good = ok(cublasLtMatmulDescCreate(&p.description, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
              ok(cublasLtMatmulDescSetAttribute(p.description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                                sizeof transposed));
  good = good && ok(cublasLtMatrixLayoutCreate(&p.weights, type, k, n, k)) &&
         ok(cublasLtMatrixLayoutCreate(&p.rows, type, k, tokens, k)) &&
         ok(cublasLtMatrixLayoutCreate(&p.out, CUDA_R_32F, n, tokens, n)) &&
         ok(cublasLtMatmulPreferenceCreate(&preference)) &&
         ok(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace, sizeof workspace));
  const uint32_t alignment = 16;
  for (auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    good =
        good && ok(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment));
  if (!good) return p;
  cublasLtMatmulHeuristicResult_t result;
  int count = 0;
  p.found = ok(cublasLtMatmulAlgoGetHeuristic(handle, p.description, p.weights, p.rows, p.out, p.out,
                                              preference, 1, &result, &count)) &&
            count == 1;
  if (p.found) p.algorithm = result.algo;
  cublasLtMatmulPreferenceDestroy(preference);
  return p;
}

}  // namespace

bool product_library(CudaContext& context, const GroupedProduct& p, const PreparedRows& x) {
  // `deterministic` promises bits that depend on no other row; the library promises nothing of the kind.
  // Whole tiles only: every other number of tokens would be a shape of its own to look up.
  if (!x.bf16 || p.groups != 1 || p.tokens % 256 != 0 || p.n % 128 != 0 || context.deterministic)
    return false;
  Library& l = library();
  std::lock_guard lock(l.mutex);
  const auto key = std::make_tuple(p.tokens, p.n, p.k);
  auto it = l.products.find(key);
  if (it == l.products.end()) it = l.products.emplace(key, describe(l.handle, p.tokens, p.n, p.k)).first;
  Product& product = it->second;
  if (!product.found) return false;

  Scratch::Scope scope(context.scratch);
  const float one = 1.f, zero = 0.f;
  void* workspace = context.scratch.take<std::byte>(kWorkspace);
  cublasStatus_t status = cublasLtMatmul(
      l.handle, product.description, &one, p.w.data, product.weights, x.values, product.rows, &zero, p.out,
      product.out, p.out, product.out, &product.algorithm, workspace, kWorkspace, context.stream);
  KVASIR_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt, [{}, {}] x [{}, {}]: status {}", p.tokens, p.k,
               p.n, p.k, static_cast<int>(status));
  return true;
}

}  // namespace kvasir::cuda
