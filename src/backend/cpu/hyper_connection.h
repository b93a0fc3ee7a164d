// Manifold-constrained hyper-connections; contracts in ops/hyper_connection.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/hyper_connection.h"

namespace kvasir::cpu {

void hc_pre(CpuContext& context, const HcPreArgs& args);
void hc_post(CpuContext& context, const HcPostArgs& args);
void hc_head(CpuContext& context, const HcHeadArgs& args);
void mtp_join(CpuContext& context, const MtpJoinArgs& args);

}  // namespace kvasir::cpu
