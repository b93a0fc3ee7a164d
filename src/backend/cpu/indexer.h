// The lightning indexer; contracts in ops/indexer.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/indexer.h"

namespace kvasir::cpu {

void index_query(CpuContext& context, const IndexQueryArgs& args);
void index_select(CpuContext& context, const IndexSelectSequence& args);

}  // namespace kvasir::cpu
