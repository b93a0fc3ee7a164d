// Row kernels. Each row is summed in one fixed order, so its bits depend on nothing but itself.
#include "backend/cpu/row_kernels.h"

#include "backend/cpu/simd_attention.h"
#include "backend/cpu/simd_codec.h"

namespace kvasir::cpu::KVASIR_ISA {
namespace {

// The last, partial vector of a row: missing lanes read as `fill` and are not written.
F32 load_some(const float* p, int64_t count, float fill) {
  float v[kLanes];
  for (int i = 0; i < kLanes; ++i) v[i] = i < count ? p[i] : fill;
  return load(v);
}
F32 load_up_to(const float* p, int64_t count, float fill = 0.f) {
  return count >= kLanes ? load(p) : load_some(p, count, fill);
}
void store_up_to(float* p, F32 v, int64_t count) {
  if (count >= kLanes) {
    store(p, v);
    return;
  }
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}

F32 rounded_if(bool round, F32 v) { return round ? round_bf16(v) : v; }

void rms_norm(const float* x, const float* weight, float eps, int64_t n, bool round, float* out) {
  F32 squares[4] = {splat(0.f), splat(0.f), splat(0.f), splat(0.f)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      F32 v = load(x + i + j * kLanes);
      squares[j] = fma(v, v, squares[j]);
    }
  }
  for (; i < n; i += kLanes) {
    F32 v = load_up_to(x + i, n - i);
    squares[0] = fma(v, v, squares[0]);
  }
  float mean = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / static_cast<float>(n);
  F32 scale = splat(1.f / __builtin_sqrtf(mean + eps));
  for (i = 0; i < n; i += kLanes) {
    F32 v = load_up_to(x + i, n - i) * scale;
    if (weight != nullptr) v = load_up_to(weight + i, n - i) * v;
    store_up_to(out + i, rounded_if(round, v), n - i);
  }
}

void bf16_norm(float* x, float eps, int64_t n) {
  F32 squares[2] = {splat(0.f), splat(0.f)};
  for (int64_t i = 0; i < n; i += kLanes) {
    F32 v = load_up_to(x + i, n - i);
    squares[i / kLanes % 2] = squares[i / kLanes % 2] + rounded_if(true, v * v);
  }
  auto rounded = [](float v) {
    float out[kLanes];
    store_up_to(out, rounded_if(true, splat(v)), kLanes);
    return out[0];
  };
  float mean = rounded(sum(squares[0] + squares[1]) / static_cast<float>(n));
  F32 scale = splat(rounded(1.f / __builtin_sqrtf(rounded(mean + eps))));
  for (int64_t i = 0; i < n; i += kLanes)
    store_up_to(x + i, rounded_if(true, load_up_to(x + i, n - i) * scale), n - i);
}

void rope(float* x, const float* table, int64_t n, float sin_sign, bool round) {
  // Even lanes: a cos - b sin; odd lanes: b cos + a sin.
  I32 odd = lane_numbers() & 1;
  F32 sign = select(odd == 1, splat(sin_sign), splat(-sin_sign));
  for (int64_t i = 0; i < n; i += kLanes) {
    F32 v = load_up_to(x + i, n - i), t = load_up_to(table + i, n - i);
    F32 turned = v * dup_even(t) + swap_pairs(v) * (dup_odd(t) * sign);
    store_up_to(x + i, rounded_if(round, turned), n - i);
  }
}

void hadamard(float* x, int64_t n, bool round) {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t i = 0; i < n; i += 2 * half) {
      if (half >= kLanes) {
        for (int64_t j = i; j < i + half; j += kLanes) {
          F32 a = load(x + j), b = load(x + j + half);
          store(x + j, a + b);
          store(x + j + half, a - b);
        }
      } else {
        for (int64_t j = i; j < i + half; ++j) {
          float a = x[j], b = x[j + half];
          x[j] = a + b;
          x[j + half] = a - b;
        }
      }
    }
  }
  F32 scale = splat(1.f / __builtin_sqrtf(static_cast<float>(n)));
  for (int64_t i = 0; i < n; i += kLanes)
    store_up_to(x + i, rounded_if(round, load_up_to(x + i, n - i) * scale), n - i);
}

void pool(const PoolRow* rows, int64_t count, int64_t dim, bool round, float* out) {
  for (int64_t e = 0; e < dim; e += kLanes) {
    int64_t left = dim - e;
    auto score = [&](const PoolRow& r) {
      F32 z = load_up_to(r.score + e, left);
      return r.ape == nullptr ? z : z + load_up_to(r.ape + e, left);
    };
    F32 top = score(rows[0]);
    for (int64_t i = 1; i < count; ++i) top = max(top, score(rows[i]));
    F32 total = splat(0.f), pooled = splat(0.f);
    for (int64_t i = 0; i < count; ++i) {
      F32 p = exp(score(rows[i]) - top);
      total += p;
      pooled = fma(p, load_up_to(rows[i].kv + e, left), pooled);
    }
    store_up_to(out + e, rounded_if(round, pooled / total), left);
  }
}

void encode(const KvRowFormat& f, const float* values, std::byte* data, std::byte* scale) {
  auto* bytes = reinterpret_cast<uint8_t*>(data);
  auto* scales = reinterpret_cast<uint8_t*>(scale);
  if (!f.quantised) {
    __builtin_memcpy(data, values, sizeof(float) * f.dim);
  } else if (f.rope_dim == 0) {
    encode_key(values, f.dim, bytes, scales);
  } else {
    encode_entry(values, f.dim - f.rope_dim, f.rope_dim, f.scale_bytes, bytes, scales);
  }
}

void round_trip_fp4(float* x, int64_t n) {
  for (int64_t b = 0; b < n; b += 32) {
    uint8_t codes[16], scale;
    encode_key(x + b, 32, codes, &scale);
    decode_key(codes, &scale, 32, x + b);
  }
}

// log(1 + t) for t in [0, 1]: 2 atanh(u), u = t / (2 + t) <= 1/3; the ninth term is below 2^-24 of the first.
F32 log1p_unit(F32 t) {
  F32 u = t / (t + splat(2.f)), s = u * u;
  F32 p = splat(1.f / 17);
  for (int k = 15; k >= 1; k -= 2) p = fma(p, s, splat(1.f / static_cast<float>(k)));
  return u * p * splat(2.f);
}

F32 square_root(F32 v) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) r[i] = __builtin_sqrtf(v[i]);
  return r;
}

void gate_scores(const float* logits, int64_t n, float* scores) {
  for (int64_t i = 0; i < n; i += kLanes) {
    F32 z = load_up_to(logits + i, n - i);
    // softplus(z) = max(z, 0) + log(1 + e^-|z|)
    F32 s = max(splat(0.f), z) + log1p_unit(exp(-abs(z)));
    store_up_to(scores + i, square_root(s), n - i);
  }
}

void add(const float* a, const float* b, int64_t n, bool round, float* out) {
  for (int64_t i = 0; i < n; i += kLanes)
    store_up_to(out + i, rounded_if(round, load_up_to(a + i, n - i) + load_up_to(b + i, n - i)), n - i);
}

}  // namespace

extern const RowKernels row_kernels;
const RowKernels row_kernels = {rms_norm, bf16_norm,      rope,        hadamard, pool,
                                encode,   round_trip_fp4, gate_scores, add};

}  // namespace kvasir::cpu::KVASIR_ISA
