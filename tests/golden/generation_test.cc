// Generation with the bundled model: what drafts, seeds, snapshots, stops and Ctrl-C may and may not change.
#include "engine/generator.h"

#include "oracle_fixture.h"

namespace kvasir {
namespace {

const Model& nano() {
  static auto* loaded = new Result<LoadedModel>(load_checkpoint(KVASIR_SOURCE_DIR "/models/nano", {}));
  if (!*loaded) ADD_FAILURE() << loaded->error().message;
  return (*loaded)->model;
}

std::vector<int32_t> some_prompt(int64_t tokens) {
  std::vector<int32_t> ids(tokens);
  for (int64_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>(300 + i * i % 97);
  return ids;
}

struct Answer {
  std::vector<int32_t> ids;
  GenerationResult result;
};

Answer answer(Runner& runner, Sequence& sequence, std::span<const int32_t> prompt, const GenerationOptions& options) {
  Answer out;
  auto result = generate(runner, sequence, prompt, options, [&](const SampledToken& token) {
    out.ids.push_back(token.id);
    return true;
  });
  EXPECT_TRUE(result) << result.error().message;
  if (result) out.result = *result;
  return out;
}

Answer fresh_answer(Runner& runner, std::span<const int32_t> prompt, const GenerationOptions& options) {
  auto sequence = runner.make_sequence();
  EXPECT_TRUE(sequence);
  return answer(runner, *sequence, prompt, options);
}

class Generation : public testing::TestWithParam<Numerics> {};

TEST_P(Generation, DraftsNeverChangeWhatASeedSamples) {
  auto runner = make_runner(nano(), best_backend(), GetParam(), 64);
  std::vector<int32_t> prompt = some_prompt(150);
  for (uint64_t seed : {1, 2, 3}) {
    GenerationOptions options;
    options.max_tokens = 40;
    options.sampling.seed = seed;
    options.sampling.temperature = seed == 3 ? 0.0f : 0.9f;
    options.sampling.top_p = seed == 2 ? 0.9f : 1.0f;
    Answer plain = fresh_answer(*runner, prompt, options);
    ASSERT_EQ(plain.ids.size(), 40u);
    for (int drafts : {1, 3}) {
      options.draft_tokens = drafts;
      Answer drafted = fresh_answer(*runner, prompt, options);
      EXPECT_EQ(drafted.ids, plain.ids) << "seed " << seed << ", " << drafts << " drafts";
      EXPECT_GT(drafted.result.stats.drafted, 0);
      EXPECT_LE(drafted.result.stats.accepted, drafted.result.stats.drafted);
    }
  }
}

TEST_P(Generation, OneThreadAndManySampleTheSame) {
  GenerationOptions options;
  options.max_tokens = 30;
  options.sampling.seed = 5;
  std::vector<int32_t> prompt = some_prompt(200);
  Answer first = fresh_answer(*make_runner(nano(), best_backend(), GetParam(), 64, 1), prompt, options);
  for (int threads : {2, 5}) {
    EXPECT_EQ(fresh_answer(*make_runner(nano(), best_backend(), GetParam(), 64, threads), prompt, options).ids, first.ids) << threads << " threads";
  }
}

TEST_P(Generation, ASnapshotResumesWithTheSameTokens) {
  auto runner = make_runner(nano(), best_backend(), GetParam(), 64);
  auto sequence = runner->make_sequence();
  ASSERT_TRUE(sequence);
  std::vector<int32_t> prompt = some_prompt(333);
  Snapshot snapshot;
  GenerationOptions options;
  options.max_tokens = 150;  // beyond the window, so that the rings have been overwritten
  options.sampling.temperature = 0;
  options.snapshot = &snapshot;
  options.snapshot_after = 332;
  Answer first = answer(*runner, *sequence, prompt, options);
  ASSERT_EQ(snapshot.length, 332);
  sequence->restore(snapshot);
  options.snapshot = nullptr;
  EXPECT_EQ(answer(*runner, *sequence, std::span(prompt).subspan(332), options).ids, first.ids);
}

INSTANTIATE_TEST_SUITE_P(AllNumerics, Generation, testing::Values(Numerics::kExact, Numerics::kNative, Numerics::kFast),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

TEST(GenerationEnds, EndsBeforeAStopIdAndHoldsEveryTokenShown) {
  auto runner = make_runner(nano(), best_backend(), Numerics::kFast, 64);
  std::vector<int32_t> prompt = some_prompt(20);
  GenerationOptions options;
  options.max_tokens = 30;
  options.sampling.temperature = 0;
  Answer whole = fresh_answer(*runner, prompt, options);
  EXPECT_EQ(whole.result.end, GenerationEnd::kLength);
  for (int drafts : {0, 1, 3}) {
    auto sequence = runner->make_sequence();
    ASSERT_TRUE(sequence);
    options.draft_tokens = drafts;
    options.stop_ids = {whole.ids[12]};
    auto first = std::find(whole.ids.begin(), whole.ids.end(), whole.ids[12]);
    Answer cut = answer(*runner, *sequence, prompt, options);
    EXPECT_EQ(cut.ids, std::vector<int32_t>(whole.ids.begin(), first));
    EXPECT_EQ(cut.result.end, GenerationEnd::kStop);
    EXPECT_EQ(cut.result.stats.generated_tokens, static_cast<int64_t>(cut.ids.size()));
    int64_t shown = 20 + static_cast<int64_t>(cut.ids.size());
    EXPECT_GE(sequence->length(), shown - 1);
    EXPECT_LE(sequence->length(), shown);
  }
}

// A progress sink that presses Ctrl-C once `after` tokens of the prompt are in.
class InterruptingProgress : public ProgressSink {
 public:
  explicit InterruptingProgress(int64_t after) : after_(after) {}
  void begin(std::string_view, ProgressUnit, int64_t) override {}
  void tick(int64_t done) override { interrupted = interrupted || done >= after_; }
  void end() override {}

  std::atomic<bool> interrupted{false};

 private:
  int64_t after_;
};

TEST(GenerationEnds, ACancelledPromptCountsOnlyWhatWasComputed) {
  auto runner = make_runner(nano(), best_backend(), Numerics::kFast, 64);
  auto sequence = runner->make_sequence();
  ASSERT_TRUE(sequence);
  InterruptingProgress progress(128);
  GenerationOptions options;
  options.progress = &progress;
  options.interrupted = &progress.interrupted;
  Answer none = answer(*runner, *sequence, some_prompt(1000), options);
  EXPECT_EQ(none.result.end, GenerationEnd::kCancelled);
  EXPECT_TRUE(none.ids.empty());
  EXPECT_EQ(none.result.stats.prompt_tokens, 128);
  EXPECT_EQ(sequence->length(), 128);
}

TEST(GenerationEnds, RefusesAnEmptyPromptAndOneThatFillsTheContext) {
  auto runner = make_runner(nano(), best_backend(), Numerics::kFast, 64);
  auto sequence = runner->make_sequence();
  ASSERT_TRUE(sequence);
  auto nothing = [](const SampledToken&) { return true; };
  EXPECT_EQ(generate(*runner, *sequence, {}, {}, nothing).error().code, ErrorCode::kInvalid);
  auto full = generate(*runner, *sequence, std::vector<int32_t>(nano().config.max_context, 300), {}, nothing);
  ASSERT_FALSE(full);
  EXPECT_NE(full.error().message.find("1048576 tokens"), std::string::npos) << full.error().message;
  EXPECT_EQ(sequence->length(), 0) << "nothing was computed";
}

}  // namespace
}  // namespace kvasir
