// Which class answers to which kind; see backend.h.
#include "backend/backend.h"

#include <fmt/core.h>

#include "backend/cpu/cpu_ops.h"
#include "backend/reference/reference_ops.h"
#if KVASIR_CUDA
#include "backend/cuda/cuda_ops.h"
#endif

namespace kvasir {

Result<std::unique_ptr<Ops>> make_ops(const BackendOptions& options) {
  if (options.kind == BackendKind::kReference) {
    if (options.numerics == Numerics::kFast) {
      return Error{ErrorCode::kInvalid, "the reference backend has no fast numerics: ask for exact or native"};
    }
    return std::unique_ptr<Ops>(std::make_unique<ReferenceOps>(options.numerics));
  }
  if (options.kind == BackendKind::kCuda) {
#if KVASIR_CUDA
    return cuda::make_cuda_ops({options.numerics, options.cuda_device, options.deterministic});
#else
    return Error{ErrorCode::kUnsupported, "this kvasir was built without CUDA: build it with cmake --preset cuda, or use --backend cpu"};
#endif
  }
  cpu::Isa isa = options.cpu_isa.value_or(cpu::detect_isa());
  if (!cpu::isa_available(isa)) {
    return Error{ErrorCode::kUnsupported, fmt::format("this machine cannot run {} kernels; the best it can run is {}", cpu::isa_name(isa),
                                                      cpu::isa_name(cpu::detect_isa()))};
  }
  return cpu::make_cpu_ops({options.numerics, isa, options.threads});
}

}  // namespace kvasir
