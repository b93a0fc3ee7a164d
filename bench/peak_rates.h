// The most multiply-adds this machine's vector units do, measured on registers alone.
#pragma once

#include "base/thread_pool.h"

namespace kvasir::bench {

// Operations (two per multiply-add) a second of all threads; 0 where AVX-512 with BF16 and VNNI is missing.
double peak_bf16(ThreadPool& pool);
double peak_int8(ThreadPool& pool);

}  // namespace kvasir::bench
