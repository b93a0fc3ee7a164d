// Which section each layer waits for, and what happens where it does not come.
#include "engine/restore_gate.h"

#include <gtest/gtest.h>

#include "model/load.h"

namespace kvasir {
namespace {

// Sections that "arrive" when they are waited for, up to a limit.
class ArrivingRestore : public Restore {
 public:
  explicit ArrivingRestore(int limit) : limit_(limit) {}
  std::vector<int> waits;

  bool done() override { return ready_ == limit_; }
  int sections_ready() const override { return ready_; }
  void wait_section(int section) override {
    waits.push_back(section);
    ready_ = std::min(section + 1, limit_);
  }
  int64_t page_tokens() const override { return 0; }
  CacheTier tier() const override { return CacheTier::kDisk; }
  std::vector<PageId> take_pages() override { return {}; }
  const std::vector<std::byte>* snapshot() override { return nullptr; }

 private:
  int ready_ = 0, limit_;
};

KvLayout nano_layout(Numerics numerics) {
  auto loaded = load_checkpoint(KVASIR_SOURCE_DIR "/models/nano", {});
  EXPECT_TRUE(loaded) << loaded.error().message;
  return KvLayout::make(loaded->model.config, numerics);
}

TEST(RestoreGate, EachLayerWaitsForItsOwnSectionAndWindowsForNone) {
  for (Numerics numerics : {Numerics::kExact, Numerics::kNative}) {
    KvLayout layout = nano_layout(numerics);
    RestoreGate gate(layout);
    ASSERT_EQ(layout.section_bytes().size(), 4u);
    ArrivingRestore restore(4);
    gate.watch(restore);
    // Ratios of the bundled model: 0, 0, 4, 128, 4, 128, 4, 128. All HCA layers are in section 0.
    for (int layer = 0; layer < 8; ++layer) EXPECT_TRUE(gate.open(layer));
    EXPECT_EQ(restore.waits, (std::vector<int>{1, 2, 3}));
    ArrivingRestore hca_first(4);
    gate.watch(hca_first);
    EXPECT_TRUE(gate.open(3));
    EXPECT_EQ(hca_first.waits, (std::vector<int>{0}));
  }
}

TEST(RestoreGate, StaysShutBehindASectionThatIsLost) {
  RestoreGate gate(nano_layout(Numerics::kNative));
  ArrivingRestore restore(2);
  gate.watch(restore);
  EXPECT_TRUE(gate.open(2));
  EXPECT_FALSE(gate.open(4));
  EXPECT_TRUE(gate.failed());
  EXPECT_FALSE(gate.open(0)) << "what follows is worth nothing";
  ArrivingRestore whole(4);
  gate.watch(whole);
  EXPECT_FALSE(gate.failed());
  EXPECT_TRUE(gate.open(6));
}

}  // namespace
}  // namespace kvasir
