// The rules of tensor_match.h, per kind of tensor.
#include "model/tensor_match.h"

#include <fmt/core.h>

#include <algorithm>

namespace kvasir {
namespace {

std::string text(const StoredShape& s) {
  return fmt::format("{} {}", dtype_name(s.dtype), shape_text({s.size.data(), static_cast<size_t>(s.rank)}));
}

bool same(const StoredTensor& seen, const StoredShape& expected) {
  return seen.dtype == expected.dtype &&
         std::equal(seen.shape.begin(), seen.shape.end(), expected.size.begin(),
                    expected.size.begin() + expected.rank);
}

Error mismatch(const StoredTensor& seen, const std::string& expected) {
  std::string part = seen.bytes != seen.info->bytes ? " (its part for one expert)" : "";
  return Error{ErrorCode::kInvalid,
               fmt::format("{}: {} {}{}, expected {}", seen.where(), dtype_name(seen.dtype),
                           shape_text(seen.shape), part, expected)};
}

Error missing(const std::string& name, const Checkpoint& checkpoint, const std::string& expected) {
  return Error{ErrorCode::kInvalid,
               fmt::format("{}: tensor {}: missing, expected {}", checkpoint.listing(), name, expected)};
}

// The same values in another dtype, where that is allowed.
StoredShape as(StoredShape shape, DType dtype, const TensorEntry& entry) {
  if (shape.rank == 2) shape.size = {entry.rows, entry.cols};
  shape.dtype = dtype;
  return shape;
}

Status match_scale(const TensorEntry& entry, const Checkpoint& checkpoint, const StoredShape& expected,
                   MatchedTensor& out) {
  std::string name = scale_name(entry.name);
  out.scale = checkpoint.find(name);
  if (!out.scale) return missing(name, checkpoint, text(expected));
  if (!same(*out.scale, expected)) return mismatch(*out.scale, text(expected));
  return {};
}

// BF16 and F32 matrices, which have no scale.
bool match_plain(const TensorEntry& entry, const StoredShape& official, bool any_float, MatchedTensor& out) {
  for (auto [dtype, format] :
       {std::pair{DType::kBF16, WeightFormat::kBf16}, std::pair{DType::kF32, WeightFormat::kF32}}) {
    if ((any_float || official.dtype == dtype) && same(out.weight, as(official, dtype, entry))) {
      out.format = format;
      return true;
    }
  }
  return false;
}

}  // namespace

Result<MatchedTensor> match_tensor(const TensorEntry& entry, const Checkpoint& checkpoint) {
  const StoredShape official = official_weight(entry);
  std::string expected = text(official);
  std::optional<StoredTensor> found = checkpoint.find(entry.name);
  if (!found) return missing(entry.name, checkpoint, expected);
  MatchedTensor out;
  out.weight = std::move(*found);
  const bool any_float = out.weight.info->name != entry.name;

  switch (entry.kind) {
    case TensorKind::kTokenTable:
      if (same(out.weight, official)) return out;
      break;
    case TensorKind::kBf16Vector:
    case TensorKind::kF32Vector:
    case TensorKind::kF32Matrix:
    case TensorKind::kBf16Matrix:
      if (match_plain(entry, official, any_float, out)) return out;
      break;
    case TensorKind::kExpertMatrix:
      if (same(out.weight, official)) {
        out.format = WeightFormat::kFp4Group32;
        KVASIR_TRY_STATUS(match_scale(entry, checkpoint, group_scale(entry), out));
        return out;
      }
      expected += fmt::format(" or {}", text(as(official, DType::kF8E4M3, entry)));
      [[fallthrough]];
    case TensorKind::kFp8Matrix:
      if (same(out.weight, as(official, DType::kF8E4M3, entry))) {
        out.format = WeightFormat::kFp8Block128;
        KVASIR_TRY_STATUS(match_scale(entry, checkpoint, tile_scale(entry), out));
        return out;
      }
      if (any_float && match_plain(entry, official, any_float, out)) return out;
      break;
  }
  return mismatch(out.weight, expected);
}

}  // namespace kvasir
