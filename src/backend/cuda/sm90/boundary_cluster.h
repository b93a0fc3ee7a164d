// The boundary between two half blocks as one launch of clusters; see boundary_cluster.cu.
#pragma once

#include "backend/cuda/hyper_connection.h"

namespace kvasir::cuda {

// Four streams of 4096 or 7168.
bool boundary_cluster_serves(const HcBoundaryArgs& args);
void boundary_cluster(CudaContext& context, const HcBoundaryArgs& args);

}  // namespace kvasir::cuda
