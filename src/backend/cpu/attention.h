// The window's rows and attention over them and the compressed entries; contracts in ops/attention.h.
#pragma once

#include "backend/cpu/context.h"
#include "ops/attention.h"

namespace kvasir::cpu {

void store_window(CpuContext& context, const StoreWindowArgs& args);
void attend(CpuContext& context, const AttendSequence& args);
void commit_window(CpuContext& context, const CommitWindowSequence& args);

}  // namespace kvasir::cpu
