// kvasir inspect, from folder to standard output, standard error and exit code.
#include "cli/inspect.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include "cli/error.h"
#include "model/checkpoint_fixture.h"

namespace kvasir {
namespace {

struct Ran {
  int code;
  std::string out, err;
};

Ran inspect(const InspectOptions& options) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Ran ran;
  ran.code = run_inspect(options);
  ran.out = testing::internal::GetCapturedStdout();
  ran.err = testing::internal::GetCapturedStderr();
  return ran;
}

class InspectCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    auto model = make_synthetic(tiny_config(), 3, 1, nullptr);
    ASSERT_TRUE(model) << model.error().message;
    tensors_ = official_tensors(*model);
    dir_.write("config.json", official_config_json(model->config));
  }
  TempDir dir_;
  std::vector<RawTensor> tensors_;
};

TEST_F(InspectCommand, PrintsWhatIsThere) {
  write_shards(dir_, tensors_, 2);
  Ran ran = inspect({dir_.path(), false, false});
  EXPECT_EQ(ran.code, kExitOk);
  EXPECT_EQ(ran.err, "");
  for (const char* text :
       {"0-1 SWA, 2 CSA, 3 HCA", "4 layers, dim 128, 4 heads x 128", "MTP", "chat revision", "2 files",
        "layers.*.attn.wq_a.weight", "F8_E4M3", "[64, 128]", "kvasir can run it: yes"}) {
    EXPECT_NE(ran.out.find(text), std::string::npos) << text << " is not in\n" << ran.out;
  }
  EXPECT_EQ(ran.out.find("verified"), std::string::npos);
}

TEST_F(InspectCommand, PrintsJsonThatAMachineReads) {
  write_tensors(dir_, "model.safetensors", tensors_);
  Ran ran = inspect({dir_.path(), true, true});
  EXPECT_EQ(ran.code, kExitOk);
  simdjson::dom::parser parser;
  simdjson::dom::element json;
  ASSERT_FALSE(parser.parse(ran.out).get(json)) << ran.out;
  bool can_run = false;
  EXPECT_FALSE(json["can_run"].get(can_run));
  EXPECT_TRUE(can_run);
  int64_t bytes = 0, verified = 0, expected = 0, ratio = 0;
  for (const RawTensor& t : tensors_) expected += static_cast<int64_t>(t.bytes.size());
  EXPECT_FALSE(json["bytes"].get(bytes));
  EXPECT_FALSE(json["verification"]["bytes"].get(verified));
  EXPECT_EQ(bytes, expected);
  EXPECT_EQ(verified, expected);
  EXPECT_FALSE(json["layers"].at(3)["compress_ratio"].get(ratio));
  EXPECT_EQ(ratio, 128);
}

TEST_F(InspectCommand, AWrongTensorIsOneLineAndExitCode2) {
  tensor_named(tensors_, "norm.weight") = zeros("norm.weight", DType::kBF16, {64});
  drop_tensor(tensors_, "head.weight");
  write_tensors(dir_, "model.safetensors", tensors_);
  Ran ran = inspect({dir_.path(), false, false});
  EXPECT_EQ(ran.code, kExitBadInput);
  EXPECT_NE(ran.out.find("kvasir can run it: no"), std::string::npos);
  EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  EXPECT_NE(ran.err.find("tensor head.weight: missing, expected BF16 [96, 128] (and 1 more)"),
            std::string::npos)
      << ran.err;
}

TEST_F(InspectCommand, VerifyFindsNanAndSaysSoWithExitCode2) {
  tensor_named(tensors_, "layers.1.ffn.experts.2.w2.scale").bytes[9] = std::byte{255};
  write_tensors(dir_, "model.safetensors", tensors_);
  EXPECT_EQ(inspect({dir_.path(), false, false}).code, kExitOk) << "headers alone cannot tell";
  Ran ran = inspect({dir_.path(), true, false});
  EXPECT_EQ(ran.code, kExitBadInput);
  EXPECT_NE(ran.err.find("tensor layers.1.ffn.experts.2.w2.scale: element 9 is an E8M0 scale of 255"),
            std::string::npos)
      << ran.err;
}

TEST_F(InspectCommand, AFolderThatIsNoCheckpointIsOneLineAndExitCode2) {
  Ran ran = inspect({dir_.path() + "/nothing", false, false});
  EXPECT_EQ(ran.code, kExitBadInput);
  EXPECT_EQ(ran.out, "");
  EXPECT_NE(ran.err.find("nothing/config.json"), std::string::npos) << ran.err;
}

}  // namespace
}  // namespace kvasir
