// Characters that arrive in pieces are held back until they are whole.
#include "text/detokenizer.h"

#include "text/tokenizer_test_data.h"
#include "text/unicode_class.h"

namespace kvasir {
namespace {

bool is_utf8(std::string_view text) { return replace_malformed_utf8(text) == text; }

TEST(Detokenizer, ChunksAreWholeCharactersAndTogetherTheText) {
  const Tokenizer& v4 = v4_tokenizer();
  const std::string replacement = "\xef\xbf\xbd";
  const nlohmann::json golden = golden_json("golden_ids.json");
  for (const auto& entry : golden.at("cases")) {
    const std::string text = entry.at("text");
    Detokenizer detokenizer(v4);
    std::string chunks;
    for (TokenId id : entry.at("ids").get<std::vector<TokenId>>()) {
      const std::string chunk = detokenizer.push(id);
      ASSERT_TRUE(is_utf8(chunk)) << text;
      ASSERT_TRUE(chunk.find(replacement) == chunk.npos || text.find(replacement) != text.npos) << text;
      chunks += chunk;
    }
    EXPECT_EQ(chunks + detokenizer.finish(), text);
  }
}

TEST(Detokenizer, HoldsACharacterBackUntilItsLastByte) {
  const Tokenizer& v4 = v4_tokenizer();
  Detokenizer detokenizer(v4);
  const std::string thumb = "👍";
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(detokenizer.push(v4.id_of(thumb.substr(i, 1))), "");
  EXPECT_EQ(detokenizer.push(v4.id_of(thumb.substr(3, 1))), thumb);
  EXPECT_EQ(detokenizer.finish(), "");
}

TEST(Detokenizer, GivesUpOnACharacterAsSoonAsItCannotBecomeOne) {
  const Tokenizer& v4 = v4_tokenizer();
  Detokenizer detokenizer(v4);
  EXPECT_EQ(detokenizer.push(v4.id_of("\xe4")), "");
  EXPECT_EQ(detokenizer.push(v4.id_of("a")),
            "\xef\xbf\xbd"
            "a");
  EXPECT_EQ(detokenizer.push(v4.id_of("\xf0")), "");
  EXPECT_EQ(detokenizer.push(v4.added_id("<think>")), "\xef\xbf\xbd<think>");
  EXPECT_EQ(detokenizer.push(v4.id_of("\xf0")), "");
  EXPECT_EQ(detokenizer.finish(), "\xef\xbf\xbd");
  EXPECT_EQ(detokenizer.push(v4.id_of("b")), "b");  // ready for the next answer
}

TEST(Detokenizer, ChunksOfAnyTokensAreTheirTextWithMalformedPartsReplaced) {
  const Tokenizer& v4 = v4_tokenizer();
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    std::vector<TokenId> ids(random() % 12);
    for (TokenId& id : ids) {  // half of them single bytes, where characters break
      id = random() % 2 ? static_cast<TokenId>(3 + random() % 256)
                        : static_cast<TokenId>(random() % static_cast<uint32_t>(v4.vocab_size()));
    }
    Detokenizer detokenizer(v4);
    std::string chunks;
    for (TokenId id : ids) {
      chunks += detokenizer.push(id);
      ASSERT_TRUE(is_utf8(chunks));
    }
    ASSERT_EQ(chunks + detokenizer.finish(), replace_malformed_utf8(v4.decode(ids)));
  }
}

}  // namespace
}  // namespace kvasir
