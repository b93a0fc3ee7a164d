// See fingerprint.h.
#include "model/fingerprint.h"

#include <xxhash.h>

#include <algorithm>
#include <memory>

#include "io/file.h"
#include "model/checkpoint.h"

namespace kvasir {
namespace {

constexpr int64_t kReadWhole = int64_t{256} << 20;
constexpr int64_t kSampleBytes = 4096;
constexpr int64_t kMaxConfigBytes = 16 << 20;

}  // namespace

Result<Fingerprint> checkpoint_fingerprint(const std::string& dir) {
  std::vector<std::string> notes;
  KVASIR_TRY(Checkpoint checkpoint, Checkpoint::open(dir, notes));
  KVASIR_TRY(std::string config, read_text_file(dir + "/config.json", kMaxConfigBytes));
  int64_t total = 0;
  for (const Checkpoint::Tensor& tensor : checkpoint.tensors()) total += tensor.info->bytes;

  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  XXH3_128bits_reset(state.get());
  auto add = [&](const void* data, int64_t bytes) {
    XXH3_128bits_update(state.get(), data, static_cast<size_t>(bytes));
  };
  add(config.data(), static_cast<int64_t>(config.size()));
  for (const Checkpoint::Tensor& tensor : checkpoint.tensors()) {
    const TensorInfo& info = *tensor.info;
    add(info.name.data(), static_cast<int64_t>(info.name.size()) + 1);
    add(&info.dtype, sizeof(info.dtype));
    add(info.shape.data(), static_cast<int64_t>(info.shape.size() * sizeof(info.shape[0])));
    int64_t size = info.bytes;
    int64_t sample = total <= kReadWhole ? size : std::min(size, kSampleBytes);
    add(tensor.file->data(info) + (size - sample) / 2, sample);
  }
  XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return Fingerprint{hash.high64, hash.low64};
}

}  // namespace kvasir
