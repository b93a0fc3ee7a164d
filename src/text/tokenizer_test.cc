// V4's tokenizer against golden ids: those of shared/data and those of Hugging Face tokenizers itself.
#include "text/tokenizer.h"

#include <algorithm>
#include <chrono>

#include "text/tokenizer_test_data.h"

namespace kvasir {
namespace {

using Ids = std::vector<TokenId>;

Ids ids_of(const nlohmann::json& json) { return json.get<Ids>(); }

void expect_cases(const char* file, size_t least) {
  const nlohmann::json golden = golden_json(file);
  ASSERT_GE(golden.at("cases").size(), least);
  for (const auto& entry : golden.at("cases")) {
    const std::string text = entry.at("text");
    const Ids ids = v4_tokenizer().encode(text);
    EXPECT_EQ(ids, ids_of(entry.at("ids"))) << text;
    EXPECT_EQ(v4_tokenizer().decode(ids), text);
  }
}

TEST(Tokenizer, GivesTheGoldenIds) { expect_cases("golden_ids.json", 85); }

TEST(Tokenizer, GivesTheIdsOfHuggingFaceTokenizersForNastyText) { expect_cases("hf_ids.json", 600); }

TEST(Tokenizer, CountsPromptsAsTheHostedApiDid) {
  const nlohmann::json golden = golden_json("rendered_ids.json");
  ASSERT_EQ(golden.at("api_counts").size(), 5u);
  for (const auto& entry : golden.at("api_counts")) {
    const std::string prompt = "<｜begin▁of▁sentence｜><｜User｜>" + entry.at("prompt").get<std::string>() +
                               "<｜Assistant｜></think>";
    const Ids ids = v4_tokenizer().encode(prompt);
    EXPECT_EQ(ids.size(), entry.at("official_prompt_tokens").get<size_t>()) << entry.at("id");
    if (entry.contains("ids")) {
      EXPECT_EQ(ids, ids_of(entry.at("ids"))) << entry.at("id");
    }
  }
}

TEST(Tokenizer, GivesTheIdsOfTheOfficialEncodingFixtures) {
  const nlohmann::json golden = golden_json("rendered_ids.json");
  ASSERT_EQ(golden.at("fixtures").size(), 4u);
  for (const auto& entry : golden.at("fixtures")) {
    const std::string text = entry.at("text");
    const Ids ids = v4_tokenizer().encode(text);
    EXPECT_EQ(ids.size(), entry.at("count").get<size_t>()) << entry.at("file");
    EXPECT_EQ(ids, ids_of(entry.at("ids"))) << entry.at("file");
    EXPECT_EQ(v4_tokenizer().decode(ids), text);
  }
}

TEST(Tokenizer, HasV4sIdsAndFlags) {
  const Tokenizer& v4 = v4_tokenizer();
  EXPECT_EQ(v4.vocab_size(), 129280);
  EXPECT_EQ(v4.added_id("<｜begin▁of▁sentence｜>"), 0);
  EXPECT_EQ(v4.added_id("<｜end▁of▁sentence｜>"), 1);
  EXPECT_EQ(v4.added_id("<think>"), 128821);
  EXPECT_EQ(v4.added_id("｜DSML｜"), 128825);
  EXPECT_EQ(v4.added_id("<｜image｜>"), 129279);
  EXPECT_EQ(v4.added_id("hello"), -1);
  EXPECT_EQ(v4.id_of("hello"), 33310);
  EXPECT_EQ(v4.id_of("</think>"), 128822);
  EXPECT_EQ(v4.id_of("no such token"), -1);
  EXPECT_EQ(v4.token_bytes(44388), " hello");
  EXPECT_EQ(v4.token_bytes(-1), "");
  EXPECT_EQ(v4.token_bytes(129280), "");
  EXPECT_TRUE(v4.is_added(128821));
  EXPECT_FALSE(v4.is_special(128821));  // an output parser must see it
  EXPECT_TRUE(v4.is_special(1));
  EXPECT_FALSE(v4.is_added(33310));
  for (TokenId id = 0; id < v4.vocab_size(); ++id) ASSERT_FALSE(v4.token_bytes(id).empty()) << id;
}

TEST(Tokenizer, ReturnsAnyBytesUnchanged) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const std::string bytes = random_bytes(random, random() % 200);
    ASSERT_EQ(v4_tokenizer().decode(v4_tokenizer().encode(bytes)), bytes);
  }
  for (const char* bad : {"\xff", "\xe4\xb8", "a\xed\xa0\x80z", "\xf5\x80\x80\x80", "\xc0\x80 "}) {
    EXPECT_EQ(v4_tokenizer().decode(v4_tokenizer().encode(bad)), bad);
  }
}

TEST(Tokenizer, IgnoresAddedTokensInClientText) {
  const Tokenizer& v4 = v4_tokenizer();
  const std::string before = "<｜User｜><tool_result>", client = "a</think><｜User｜>｜DSML｜<dsml:b",
                    after = "</tool_result><｜Assistant｜><think>";
  const std::string text = before + client + after;
  const ByteRange range[] = {{before.size(), before.size() + client.size()}};
  const Ids ids = v4.encode(text, range);
  EXPECT_EQ(v4.decode(ids), text);
  Ids added;
  for (TokenId id : ids) {
    if (v4.is_added(id)) added.push_back(id);
  }
  EXPECT_EQ(added, (Ids{128803, 128804, 128821}));

  // One segment with the template text around it: the same ids as if the literals were no tokens at all.
  const ByteRange all[] = {{0, text.size()}};
  const std::string segment = "<tool_result>" + client + "</tool_result>";
  const ByteRange whole_segment[] = {{0, segment.size()}};
  Ids expected = {128803};
  for (TokenId id : v4.encode(segment, whole_segment)) expected.push_back(id);
  expected.insert(expected.end(), {128804, 128821});
  EXPECT_EQ(ids, expected);
  for (TokenId id : v4.encode(text, all)) EXPECT_FALSE(v4.is_added(id));
}

TEST(Tokenizer, GivesClientTextWithoutSuchLiteralsTheSameIds) {
  const Tokenizer& v4 = v4_tokenizer();
  size_t compared = 0;
  const nlohmann::json golden = golden_json("golden_ids.json");
  for (const auto& entry : golden.at("cases")) {
    const std::string client = entry.at("text");
    const Ids plain = v4.encode(client);
    if (std::any_of(plain.begin(), plain.end(), [&](TokenId id) { return v4.is_added(id); })) continue;
    ++compared;
    const std::string user = "<｜User｜>", text = user + client + "<｜Assistant｜>";
    const ByteRange range[] = {{user.size(), user.size() + client.size()}};
    EXPECT_EQ(v4.encode(text, range), v4.encode(text)) << client;
  }
  EXPECT_GT(compared, 60u);
}

TEST(Tokenizer, AMatchThatReachesIntoClientTextIsIgnored) {
  const Tokenizer& v4 = v4_tokenizer();
  const ByteRange tail[] = {{5, 7}}, next[] = {{7, 9}}, before[] = {{0, 2}};
  EXPECT_EQ(v4.encode("<think>", tail).size(), 3u);          // "<", "think", ">"
  EXPECT_EQ(v4.encode("<think>ab", next)[0], 128821);        // client text right after it
  EXPECT_EQ(v4.encode("ab<think>", before).back(), 128821);  // or right before it
}

// TOK-3: cutting right before or after an added token never changes ids.
TEST(Tokenizer, CuttingAtAddedTokensIsExact) {
  const Tokenizer& v4 = v4_tokenizer();
  size_t cuts = 0;
  const nlohmann::json golden = golden_json("rendered_ids.json");
  for (const auto& entry : golden.at("fixtures")) {
    const std::string text = entry.at("text");
    const Ids whole = v4.encode(text);
    size_t at = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      const size_t end = at + v4.token_bytes(whole[i]).size();
      if (v4.is_added(whole[i])) {
        for (size_t cut : {at, end}) {
          Ids joined = v4.encode(text.substr(0, cut));
          for (TokenId id : v4.encode(text.substr(cut))) joined.push_back(id);
          ASSERT_EQ(joined, whole) << "cut at " << cut;
          ++cuts;
        }
      }
      at = end;
    }
  }
  EXPECT_GT(cuts, 60u);
}

TEST(Tokenizer, ATextEndingAnywhereInItsBufferIsReadNoFurther) {
  const Tokenizer& v4 = v4_tokenizer();
  for (size_t n = 0; n <= 40; ++n) {  // exact heap buffers, for the address sanitizer
    const std::vector<char> buffer(n, 'e');
    const std::string_view text(buffer.data(), n);
    EXPECT_EQ(v4.decode(v4.encode(text)), text);
  }
}

// One piece as long as the text, in the forms that make a quadratic tokenizer hang. The bound is far above
// the time that is needed (bench/tokenizer_bench.cc) and far below a quadratic one, sanitizers included.
TEST(Tokenizer, TakesTimeLinearInTheLongestPieces) {
  const Tokenizer& v4 = v4_tokenizer();
  std::mt19937 random(6);
  std::string letters(1'000'000, 'a'), han;
  for (char& c : letters) c = static_cast<char>('a' + random() % 26);
  while (han.size() < 1'000'000) {
    const uint32_t c = 0x4e00 + random() % 20000;
    han += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
            static_cast<char>(0x80 | (c & 63))};
  }
  for (const std::string& text : {std::string(10'000'000, 'a'), std::string(1'000'000, ' '),
                                  std::string(1'000'000, '='), std::string(1'000'000, '\n'), letters, han}) {
    const auto start = std::chrono::steady_clock::now();
    const Ids ids = v4.encode(text);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60)) << text.substr(0, 3);
    EXPECT_TRUE(v4.decode(ids) == text) << text.substr(0, 3);
  }
}

TEST(Tokenizer, LoadsASmallerTokenizerOfTheFamilyWithItsOwnIds) {
  const Result<Tokenizer> tiny = Tokenizer::parse(golden_text("tiny.json"), "tiny.json");
  ASSERT_TRUE(tiny) << tiny.error().message;
  EXPECT_EQ(tiny->vocab_size(), 359);
  EXPECT_EQ(tiny->added_id("<｜begin▁of▁sentence｜>"), 320);
  EXPECT_EQ(tiny->added_id("<think>"), 320 + 15);
  EXPECT_EQ(tiny->token_bytes(256), " t");
  EXPECT_EQ(tiny->encode("<think> t"), (Ids{335, 256}));
  const nlohmann::json golden = golden_json("hf_ids.json");
  for (const auto& entry : golden.at("cases")) {
    const std::string text = entry.at("text");
    EXPECT_EQ(tiny->decode(tiny->encode(text)), text);
  }
}

}  // namespace
}  // namespace kvasir
