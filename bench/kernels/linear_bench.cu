// Linear layers on the device at the model's real shapes: few rows against the bytes of the weights, many rows against
// the rate of the tensor cores, cuBLASLt beside.
//
//   linear_bench [stream|variants|many|prefill]...     (none: all)
#include <cublasLt.h>

#include <cstring>
#include <memory>
#include <optional>
#include <random>

#include "backend/cuda/linear.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/sm90/gemm_prefill.h"
#include "backend/cuda/sm90/linear_stream.h"
#include "bench/kernels/kernel_bench.h"

namespace kvasir::bench {
namespace {

using cuda::CudaContext;
using cuda::GroupedProduct;
using cuda::StreamTuning;

constexpr double kCopy = 4248e9, kFp8 = 1398e12, kBf16 = 781e12;  // measured ceilings of gpu-kernels.md section 1
constexpr int64_t kPool = int64_t{3} << 30;

// Random codes: any e4m3 but NaN, or bf16 of moderate size.
__global__ void fill(uint32_t* p, int64_t count, bool bf16) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t h = (i + 1) * 0x9e3779b97f4a7c15ull;
    h ^= h >> 29, h *= 0xbf58476d1ce4e5b9ull, h ^= h >> 32;
    uint32_t u = static_cast<uint32_t>(h);
    p[i] = bf16 ? (u & 0x83ff83ffu) | 0x3c003c00u : u & 0xf7f7f7f7u;
  }
}
__global__ void fill_floats(float* p, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t h = (i + 77) * 0x9e3779b97f4a7c15ull;
    h ^= h >> 29, h *= 0xbf58476d1ce4e5b9ull, h ^= h >> 32;
    p[i] = static_cast<float>(static_cast<int32_t>(h)) * 0x1p-31f;
  }
}

struct Bench {
  cudaStream_t stream;
  std::byte *pool, *scales;
  float *x, *out;
  std::byte* workspace;
  cuda::Scratch& scratch;
  int sm_count;
  bool pool_bf16 = true;

  CudaContext context() { return {stream, Numerics::kFast, sm_count, false, scratch}; }
  void fill_pool(bool bf16) {
    if (bf16 == pool_bf16) return;
    fill<<<1024, 256, 0, stream>>>(reinterpret_cast<uint32_t*>(pool), kPool / 4, bf16);
    pool_bf16 = bf16;
    BENCH_CUDA(cudaStreamSynchronize(stream));
  }
};

struct Shape {
  const char* name;
  int64_t n, k;
  bool bf16;
  int64_t groups = 1;
};

GroupedProduct product(Bench& b, const Shape& s, int64_t tokens, int64_t offset) {
  WeightMatrix w;
  w.format = s.bf16 ? WeightFormat::kBf16 : WeightFormat::kFp8Block128;
  w.rows = s.n * s.groups, w.cols = s.k;
  w.data = b.pool + offset;
  w.scale = reinterpret_cast<const uint8_t*>(b.scales);
  return {w, b.x, b.out, tokens, s.groups, s.n, s.k};
}

int64_t weight_bytes(const Shape& s) { return s.n * s.groups * s.k * (s.bf16 ? 2 : 1); }
double floor_us(const Shape& s, int64_t tokens) {
  double bytes = static_cast<double>(weight_bytes(s)) * (s.bf16 ? 1 : 1 + 1.0 / 16384) + 4.0 * tokens * s.groups * (s.k + s.n);
  double flop = 2.0 * tokens * s.n * s.groups * s.k;
  return 1e6 * std::max(bytes / kCopy, flop / (s.bf16 ? kBf16 : kFp8));
}

double stream_us(Bench& b, const Shape& s, int64_t tokens, const StreamTuning& tuning) {
  b.fill_pool(s.bf16);
  const int64_t bytes = (weight_bytes(s) + 255) / 256 * 256;
  const int calls = static_cast<int>(std::clamp<int64_t>((int64_t{1} << 29) / bytes, 2, 64));
  CudaContext c = b.context();
  return replay_us(b.stream, calls, [&] {
    for (int i = 0; i < calls; ++i) {
      GroupedProduct p = product(b, s, tokens, i * bytes);
      cuda::product_stream(c, {&p, 1}, tuning);
    }
  });
}

std::string format(const char* f, auto... args) {
  char text[400];
  std::snprintf(text, sizeof text, f, args...);
  return text;
}

const Shape kStream[] = {
    {"wq_b", 32768, 1024, false},        {"wo_a", 1024, 4096, false, 8},      {"wo_b", 4096, 8192, false},
    {"shared up", 4096, 4096, false},    {"shared down", 4096, 2048, false},  {"wq_a", 1024, 4096, false},
    {"compressor", 1024, 4096, true},    {"gate", 256, 4096, true},           {"head", 129280, 4096, true},
    {"pro wq_b", 65536, 1536, false},    {"pro wo_a", 1024, 4096, false, 16}, {"pro wo_b", 7168, 16384, false},
    {"pro shared up", 6144, 7168, false}, {"pro compressor", 1024, 7168, true},
};

void line(Report& report, const char* what, const Shape& s, int64_t m, double us) {
  double floor = floor_us(s, m), bytes = static_cast<double>(weight_bytes(s));
  report.add(format("%-16s m=%-4d %-16s %9.2f us %6.0f GB/s %6.0f TFLOP/s floor %8.2f ratio %.3f", s.name, static_cast<int>(m), what, us,
                    bytes / us * 1e-3, 2e-6 * m * s.n * s.groups * s.k / us, floor, floor / us),
             format("{\"case\":\"%s\",\"m\":%d,\"variant\":\"%s\",\"us\":%.3f,\"floor_us\":%.3f,\"ratio\":%.4f}", s.name, static_cast<int>(m), what,
                    us, floor, floor / us));
}

void stream_cases(Bench& b, Report& report) {
  for (const Shape& s : kStream)
    for (int64_t m : {1, 8, 16, 32}) line(report, "stream", s, m, stream_us(b, s, m, {}));
}

void variants(Bench& b, Report& report) {
  for (int at : {0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12}) {
    const Shape& s = kStream[at];
    for (int64_t m : {1, 8}) {
      for (int split : {1, 2, 4, 8}) {
        if (weight_bytes(s) / s.n / s.groups > split * 4096 || (s.groups > 1 && split == 1) || weight_bytes(s) / s.n / s.groups < split * 512) continue;
        line(report, format("split %d", split).c_str(), s, m, stream_us(b, s, m, {.split = split}));
      }
      line(report, "no dependent", s, m, stream_us(b, s, m, {.dependent = false}));
    }
  }
}

// All projections of a CSA layer's hidden state, and of qa, in one launch each.
void many_cases(Bench& b, Report& report) {
  struct Set {
    const char* name;
    std::vector<Shape> shapes;
  };
  const Set sets[] = {
      {"csa x", {{"", 1024, 4096, false}, {"", 512, 4096, false}, {"", 1024, 4096, true}, {"", 1024, 4096, true}, {"", 256, 4096, true}, {"", 256, 4096, true}, {"", 64, 4096, true}}},
      {"hca x", {{"", 1024, 4096, false}, {"", 512, 4096, false}, {"", 512, 4096, true}, {"", 512, 4096, true}}},
      {"csa qa", {{"", 32768, 1024, false}, {"", 8192, 1024, false}}},
      {"pro csa x", {{"", 1536, 7168, false}, {"", 512, 7168, false}, {"", 1024, 7168, true}, {"", 1024, 7168, true}, {"", 256, 7168, true}, {"", 256, 7168, true}, {"", 64, 7168, true}}},
  };
  b.fill_pool(true);  // moderate as bf16; as e4m3 no NaN either (bytes 0x3c..0x3f, 0xbc..0xbf and any)
  for (const Set& set : sets) {
    for (int64_t m : {1, 8}) {
      int64_t bytes = 0;
      for (const Shape& s : set.shapes) bytes += (weight_bytes(s) + 255) / 256 * 256;
      const int calls = static_cast<int>(std::clamp<int64_t>((int64_t{1} << 29) / bytes, 2, 64));
      CudaContext c = b.context();
      double us = replay_us(b.stream, calls, [&] {
        for (int i = 0; i < calls; ++i) {
          int64_t at = i * bytes;
          float* out = b.out;
          std::vector<GroupedProduct> products;
          for (const Shape& s : set.shapes) {
            products.push_back(product(b, s, m, at));
            products.back().out = out;
            out += m * s.n;
            at += (weight_bytes(s) + 255) / 256 * 256;
          }
          cuda::product_stream(c, products);
        }
      });
      double floor = static_cast<double>(bytes) / kCopy * 1e6;
      report.add(format("%-16s m=%-4d %-16s %9.2f us %6.0f GB/s floor %8.2f ratio %.3f", set.name, static_cast<int>(m), "many", us, bytes / us * 1e-3, floor, floor / us),
                 format("{\"case\":\"%s\",\"m\":%d,\"variant\":\"many\",\"us\":%.3f,\"floor_us\":%.3f,\"ratio\":%.4f}", set.name, static_cast<int>(m), us, floor, floor / us));
    }
  }
}

// One plain call of each, for a profiler.
void profile(Bench& b) {
  CudaContext c = b.context();
  struct Call {
    int at;
    int64_t m;
  };
  for (Call call : {Call{0, 1}, Call{0, 8}, Call{3, 1}, Call{8, 1}}) {
    b.fill_pool(kStream[call.at].bf16);
    GroupedProduct p = product(b, kStream[call.at], call.m, 0);
    cuda::product_stream(c, {&p, 1});
  }
  b.fill_pool(false);
  cuda::Scratch::Scope scope(b.scratch);
  GroupedProduct p = product(b, kStream[2], 4096, 0);
  cuda::product_prefill(c, p, cuda::prepare_rows(c, p));
  BENCH_CUDA(cudaStreamSynchronize(b.stream));
}

// --- cuBLASLt ---

enum class Blas { kBlock, kTensor, kBf16 };

#define BLAS_TRY(call)                                                    \
  do {                                                                    \
    if (cublasStatus_t status = (call); status != CUBLAS_STATUS_SUCCESS) { \
      std::printf("  %s: status %d\n", #call, static_cast<int>(status));  \
      return -1;                                                          \
    }                                                                     \
  } while (0)

// out[M,N] (f32 or bf16) = x[M,K] * W[N,K]^T, groups as a strided batch. Negative: the library has no such product.
double blas_us(Bench& b, cublasLtHandle_t handle, const Shape& s, int64_t m, Blas kind, cudaDataType_t out_type) {
  b.fill_pool(kind == Blas::kBf16);
  cublasLtMatmulDesc_t op;
  BLAS_TRY(cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  cublasOperation_t t = CUBLAS_OP_T;
  BLAS_TRY(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t));
  const float* scales = reinterpret_cast<const float*>(b.x);
  if (kind != Blas::kBf16) {
    cublasLtMatmulMatrixScale_t a_mode = kind == Blas::kBlock ? CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    cublasLtMatmulMatrixScale_t b_mode = kind == Blas::kBlock ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F : CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F;
    BLAS_TRY(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &a_mode, sizeof a_mode));
    BLAS_TRY(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &b_mode, sizeof b_mode));
    BLAS_TRY(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scales, sizeof scales));
    BLAS_TRY(cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scales, sizeof scales));
  }
  cudaDataType_t in_type = kind == Blas::kBf16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
  const int64_t size = kind == Blas::kBf16 ? 2 : 1;
  cublasLtMatrixLayout_t la, lb, ld;
  BLAS_TRY(cublasLtMatrixLayoutCreate(&la, in_type, s.k, s.n, s.k));
  BLAS_TRY(cublasLtMatrixLayoutCreate(&lb, in_type, s.k, m, s.k * s.groups));
  BLAS_TRY(cublasLtMatrixLayoutCreate(&ld, out_type, s.n, m, s.n * s.groups));
  if (s.groups > 1) {
    int32_t count = static_cast<int32_t>(s.groups);
    int64_t strides[3] = {s.n * s.k, s.k, s.n};
    cublasLtMatrixLayout_t all[3] = {la, lb, ld};
    for (int i = 0; i < 3; ++i) {
      BLAS_TRY(cublasLtMatrixLayoutSetAttribute(all[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
      BLAS_TRY(cublasLtMatrixLayoutSetAttribute(all[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &strides[i], sizeof(int64_t)));
    }
  }
  cublasLtMatmulPreference_t preference;
  BLAS_TRY(cublasLtMatmulPreferenceCreate(&preference));
  uint64_t workspace = 32 << 20;
  BLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
  cublasLtMatmulHeuristicResult_t found[4];
  int count = 0;
  BLAS_TRY(cublasLtMatmulAlgoGetHeuristic(handle, op, la, lb, ld, ld, preference, 4, found, &count));
  if (count == 0) return -1;
  const int64_t bytes = weight_bytes(s);
  const int calls = static_cast<int>(std::clamp<int64_t>((int64_t{1} << 28) / bytes, 2, 16));
  const float one = 1.f, zero = 0.f;
  double best = 1e30;
  for (int i = 0; i < count; ++i) {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    double us = replay_us(b.stream, calls, [&] {
      for (int j = 0; j < calls; ++j) {
        cublasStatus_t r = cublasLtMatmul(handle, op, &one, b.pool + j * bytes, la, b.pool + kPool / 2, lb, &zero, b.out, ld, b.out, ld, &found[i].algo,
                                          b.workspace, workspace, b.stream);
        if (r != CUBLAS_STATUS_SUCCESS) status = r;
      }
    }, 7);
    if (status == CUBLAS_STATUS_SUCCESS) best = std::min(best, us);
  }
  (void)size;
  return best;
}

// The own product, with and without preparing x.
void own_prefill(Bench& b, Report& report, const Shape& s, int64_t m, bool wide) {
  b.fill_pool(s.bf16);
  const int64_t bytes = (weight_bytes(s) + 255) / 256 * 256;
  const int calls = static_cast<int>(std::clamp<int64_t>((int64_t{1} << 28) / bytes, 2, 8));
  CudaContext c = b.context();
  GroupedProduct first = product(b, s, m, 0);
  first.wide = wide;
  if (!cuda::prefill_takes(first)) return;
  cuda::Scratch::Scope scope(b.scratch);
  cuda::PreparedRows rows = cuda::prepare_rows(c, first);
  double us = replay_us(b.stream, calls, [&] {
    for (int i = 0; i < calls; ++i) cuda::product_prefill(c, product(b, s, m, i * bytes), rows);
  }, 7);
  line(report, wide ? "own wide" : "own", s, m, us);
  us = replay_us(b.stream, calls, [&] {
    for (int i = 0; i < calls; ++i) {
      cuda::Scratch::Scope inner(b.scratch);
      GroupedProduct p = product(b, s, m, i * bytes);
      p.wide = wide;
      cuda::product_prefill(c, p, cuda::prepare_rows(c, p));
    }
  }, 7);
  line(report, wide ? "own wide + x" : "own + x", s, m, us);
}

void prefill(Bench& b, Report& report) {
  for (int at : {0, 1, 2, 3, 5, 6, 7, 9, 11, 12, 13}) own_prefill(b, report, kStream[at], kStream[at].n > 40000 ? 2048 : 4096, kStream[at].groups > 1);
  for (int64_t m : {64, 128, 512}) own_prefill(b, report, kStream[2], m, false);
  cublasLtHandle_t handle;
  if (cublasLtCreate(&handle) != CUBLAS_STATUS_SUCCESS) return;
  for (int at : {0, 1, 2, 3, 5, 9, 11, 12}) {
    const Shape& s = kStream[at];
    int64_t m = s.n > 40000 ? 2048 : 4096;
    line(report, "lt block f32", s, m, blas_us(b, handle, s, m, Blas::kBlock, CUDA_R_32F));
    line(report, "lt block bf16", s, m, blas_us(b, handle, s, m, Blas::kBlock, CUDA_R_16BF));
    line(report, "lt tensor f32", s, m, blas_us(b, handle, s, m, Blas::kTensor, CUDA_R_32F));
  }
  for (int at : {6, 7, 13}) line(report, "lt bf16 f32", kStream[at], 4096, blas_us(b, handle, kStream[at], 4096, Blas::kBf16, CUDA_R_32F));
  cublasLtDestroy(handle);
}

int run(int argc, char** argv) {
  auto wanted = [&](const char* what) {
    for (int i = 1; i < argc; ++i)
      if (std::strcmp(argv[i], what) == 0) return true;
    return argc == 1;
  };
  std::byte *pool, *scales, *x, *out, *workspace;
  BENCH_CUDA(cudaMalloc(&pool, kPool));
  BENCH_CUDA(cudaMalloc(&scales, 1 << 20));
  BENCH_CUDA(cudaMemset(scales, 120, 1 << 20));
  BENCH_CUDA(cudaMalloc(&x, int64_t{512} << 20));
  BENCH_CUDA(cudaMalloc(&out, int64_t{1} << 30));
  BENCH_CUDA(cudaMalloc(&workspace, 32 << 20));
  fill_floats<<<1024, 256>>>(reinterpret_cast<float*>(x), int64_t{128} << 20);
  BENCH_CUDA(cudaDeviceSynchronize());
  cudaStream_t stream;
  BENCH_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaDeviceProp props;
  BENCH_CUDA(cudaGetDeviceProperties(&props, 0));
  auto memory = cuda::CudaMemory::make(stream);
  if (!memory) return std::fprintf(stderr, "%s\n", memory.error().message.c_str()), 1;
  cuda::Scratch scratch(**memory);
  Bench b{stream, pool, scales, reinterpret_cast<float*>(x), reinterpret_cast<float*>(out), workspace, scratch, props.multiProcessorCount};
  Report report("linear_bench");
  b.fill_pool(false);
  const bool profiling = argc > 1 && wanted("profile");
  double copy = profiling ? 0 : copy_rate(stream, pool, int64_t{1} << 30);
  report.add(format("copy %.0f GB/s (ratios below are against 4248), %s, %d SMs", copy, props.name, props.multiProcessorCount),
             format("{\"case\":\"copy\",\"gbs\":%.1f}", copy));
  if (profiling) profile(b);
  if (wanted("prefill")) prefill(b, report);
  if (wanted("variants")) variants(b, report);
  if (wanted("many")) many_cases(b, report);
  if (wanted("stream")) stream_cases(b, report);
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) { return kvasir::bench::run(argc, argv); }
