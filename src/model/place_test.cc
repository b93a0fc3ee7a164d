// A model copied to where a backend computes: every tensor, the experts' tables, and what is said when it does not fit.
#include "model/place.h"

#include <gtest/gtest.h>

#include <cstring>

#include "model/load.h"
#include "model/tensor_table.h"

namespace kvasir {
namespace {

// The host's memory with a limit, and synthetic weights drawn as a device would draw them.
class LimitedMemory final : public Memory {
 public:
  explicit LimitedMemory(int64_t limit, bool host = true) : limit_(limit), on_host_(host) {}
  Result<Buffer> allocate(int64_t bytes, const char* what) override { return host_memory().allocate(bytes, what); }
  void write(void* to, const void* from, int64_t bytes) override { host_memory().write(to, from, bytes); }
  void read(void* to, const void* from, int64_t bytes) override { host_memory().read(to, from, bytes); }
  void copy(void* to, const void* from, int64_t bytes) override { host_memory().copy(to, from, bytes); }
  void draw(const RandomDraw& draw) override { host_memory().draw(draw); }
  bool on_host() const override { return on_host_; }
  Result<int64_t> available() override { return limit_; }

 private:
  int64_t limit_;
  bool on_host_;
};

ModelConfig tiny() {
  ModelConfig c = with_layers(flash_config(), 4);
  c.dim = 256;
  c.num_heads = 4;
  c.q_rank = 128;
  c.o_groups = 2;
  c.o_rank = 128;
  c.expert_dim = 128;
  c.num_experts = 8;
  c.vocab_size = 512;
  c.num_hash_layers = 1;
  return c;
}

Model drawn(Memory& memory = host_memory()) {
  auto model = make_synthetic(tiny(), 3, 1, nullptr, memory);
  KVASIR_CHECK(model, "{}", model.error().message);
  return std::move(*model);
}

// Where a tensor of the model lies, and its scales.
struct Bytes {
  const void* data;
  int64_t size;
};
std::vector<Bytes> bytes_of(const TensorEntry& e) {
  if (auto* w = std::get_if<WeightMatrix*>(&e.slot)) {
    const WeightMatrix& m = **w;
    std::vector<Bytes> parts = {{m.data, m.rows * m.data_row_bytes()}};
    if (m.scale) parts.push_back({m.scale, m.bytes() - m.rows * m.data_row_bytes()});
    return parts;
  }
  if (auto* v = std::get_if<View<const float, 1>*>(&e.slot)) return {{(*v)->data(), (*v)->count() * 4}};
  if (auto* v = std::get_if<View<const float, 2>*>(&e.slot)) return {{(*v)->data(), (*v)->count() * 4}};
  auto* table = std::get_if<View<const int32_t, 2>*>(&e.slot);
  return {{(*table)->data(), (*table)->count() * 4}};
}

void expect_equal_copies(Model& a, Model& b) {
  std::vector<TensorEntry> left = list_tensors(a), right = list_tensors(b);
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    std::vector<Bytes> x = bytes_of(left[i]), y = bytes_of(right[i]);
    ASSERT_EQ(x.size(), y.size()) << left[i].name;
    for (size_t part = 0; part < x.size(); ++part) {
      ASSERT_EQ(x[part].size, y[part].size) << left[i].name;
      EXPECT_EQ(std::memcmp(x[part].data, y[part].data, static_cast<size_t>(x[part].size)), 0) << left[i].name;
      EXPECT_NE(x[part].data, y[part].data) << left[i].name;
    }
  }
}

TEST(PlaceModel, CopiesEveryTensorAndTheExpertsTables) {
  Model model = drawn();
  auto placed = place_model(model, host_memory(), nullptr);
  ASSERT_TRUE(placed) << placed.error().message;
  expect_equal_copies(model, *placed);
  for (const LayerWeights& layer : placed->layers) {
    ASSERT_EQ(layer.moe.table.shape(0), 8);
    for (int64_t e = 0; e < 8; ++e) EXPECT_EQ(layer.moe.table(e).w2.data, layer.moe.experts[static_cast<size_t>(e)].w2.data) << e;
    EXPECT_EQ(std::memcmp(layer.inv_freq.data(), model.layers[static_cast<size_t>(&layer - placed->layers.data())].inv_freq.data(),
                          static_cast<size_t>(layer.inv_freq.count()) * 4),
              0);
  }
}

TEST(PlaceModel, SaysWhatIsMissingAndWhatWouldFit) {
  Model model = drawn();
  int64_t needed = placed_bytes(model);
  LimitedMemory memory(needed - 1);
  auto placed = place_model(model, memory, nullptr);
  ASSERT_FALSE(placed);
  EXPECT_EQ(placed.error().code, ErrorCode::kBusy);
  EXPECT_NE(placed.error().message.find("3 of 4 layers would fit"), std::string::npos) << placed.error().message;
  LimitedMemory enough(needed);
  EXPECT_TRUE(place_model(model, enough, nullptr));
}

TEST(PlaceModel, RefusesExpertsOfTwoFormatsInOneLayer) {
  Model model = drawn();
  model.layers[2].moe.experts[5].w1.format = WeightFormat::kFp8Block128;
  auto placed = place_model(model, host_memory(), nullptr);
  ASSERT_FALSE(placed);
  EXPECT_EQ(placed.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(placed.error().message.find("layer 2: expert 5"), std::string::npos) << placed.error().message;
}

TEST(PlaceModel, SyntheticWeightsAreTheSameWhereverTheyAreDrawn) {
  LimitedMemory device(int64_t{1} << 40, /*host=*/false);
  Model here = drawn(), there = drawn(device);
  expect_equal_copies(here, there);
}

}  // namespace
}  // namespace kvasir
