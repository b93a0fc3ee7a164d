// The small endpoints' bodies.
#include "api/models.h"

#include "api/api_fixture_test.h"

namespace kvasir {
namespace {

TEST(Models, AreListedForBothKindsOfReaders) {
  EXPECT_EQ(
      models_body({{.id = "m", .created = 1700000000, .max_context = 1048576}}),
      R"({"object":"list","data":[{"id":"m","object":"model","created":1700000000,"owned_by":"kvasir",)"
      R"("type":"model","display_name":"m","created_at":"2023-11-14T22:13:20Z","max_model_len":1048576}],)"
      R"("has_more":false,"first_id":"m","last_id":"m"})");
  EXPECT_EQ(models_body({}),
            R"({"object":"list","data":[],"has_more":false,"first_id":null,"last_id":null})");
}

TEST(Tokenize, ReadsATextOrAChatRequest) {
  for (const char* key : {"content", "prompt", "text"}) {
    auto r = parse_tokenize(R"({")" + std::string(key) + R"(":"Hello, world!"})", {});
    ASSERT_TRUE(r) << r.error().message;
    EXPECT_EQ(tokenize_text(*r, v4_tokenizer()), (std::vector<int32_t>{19923, 14, 2058, 3}));
  }
  auto chat = parse_tokenize(R"({"messages":[{"role":"user","content":"q"}]})", {});
  ASSERT_TRUE(chat && chat->chat);
  EXPECT_EQ(prompt_text(*chat->chat), "<｜begin▁of▁sentence｜><｜User｜>q<｜Assistant｜><think>");
  EXPECT_EQ(parse_tokenize("{}", {}).error().message,
            "content: expected a text here, in \"prompt\" or in \"text\", or \"messages\", saw nothing");
}

TEST(Tokenize, SpecialTokensCountUnlessSwitchedOff) {
  auto on = parse_tokenize(R"({"content":"<think>","add_special":true})", {});
  EXPECT_EQ(tokenize_text(*on, v4_tokenizer()), (std::vector<int32_t>{0, 128821}));
  auto off = parse_tokenize(R"({"content":"<think>","parse_special":false})", {});
  EXPECT_GT(tokenize_text(*off, v4_tokenizer()).size(), 1u);
  EXPECT_EQ(tokenize_body({1, 2}, 9), R"({"count":2,"max_model_len":9,"tokens":[1,2]})");
}

TEST(Detokenize, GivesTextBackAndRefusesStrangeIds) {
  auto ids = parse_detokenize(R"({"tokens":[19923,14,2058,3]})", {}, v4_tokenizer().vocab_size());
  ASSERT_TRUE(ids);
  EXPECT_EQ(detokenize_body(*ids, v4_tokenizer()), R"({"content":"Hello, world!","prompt":"Hello, world!"})");
  EXPECT_EQ(parse_detokenize(R"({"tokens":[5,10]})", {}, 10).error().message,
            "tokens[1]: expected a token id from 0 to 9, saw 10");
  EXPECT_EQ(parse_detokenize(R"({})", {}, 10).error().message,
            "tokens: expected an array of token ids, saw nothing");
}

TEST(Health, IsASentenceForProbes) {
  EXPECT_EQ(health_body(Health::kOk, 2, 1), R"({"status":"ok","running":2,"waiting":1})");
  EXPECT_EQ(health_status(Health::kOk), 200);
  EXPECT_EQ(health_status(Health::kDraining), 503);
}

}  // namespace
}  // namespace kvasir
