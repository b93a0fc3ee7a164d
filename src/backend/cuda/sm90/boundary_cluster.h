// The boundary between two half blocks as one launch of clusters; see boundary_cluster.cu.
#pragma once

#include "backend/cuda/hyper_connection.h"

namespace kvasir::cuda {

// Four streams of 4096 or 7168.
bool boundary_cluster_serves(const HcBoundaryArgs& args);
// `dependent`: the launch may begin, up to the point where it needs the streams, while the previous kernel
// still runs.
void boundary_cluster(CudaContext& context, const HcBoundaryArgs& args, bool dependent = true);

}  // namespace kvasir::cuda
