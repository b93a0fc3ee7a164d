// Bpe against the definition: find the lowest-ranked pair, merge its leftmost occurrence, repeat.
#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>

namespace kvasir {
namespace {

struct Model {
  std::array<TokenId, 256> bytes;
  std::vector<Bpe::Merge> merges;
  std::map<TokenId, std::string> text;
};

// Random merges over the first letters of the alphabet that keep the rules of bpe.h. Ids are shuffled, so
// that an id says nothing of a rank.
Model random_model(std::mt19937& random, int letters, int merges) {
  Model model;
  std::vector<TokenId> ids(256 + static_cast<size_t>(merges));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(i);
  std::shuffle(ids.begin(), ids.end(), random);
  for (size_t b = 0; b < 256; ++b) {
    model.bytes[b] = ids[b];
    model.text[ids[b]] = std::string(1, static_cast<char>(b));
  }
  std::vector<TokenId> known;
  std::set<std::string> made;
  for (int i = 0; i < letters; ++i) known.push_back(model.bytes[static_cast<size_t>('a' + i)]);
  for (int tries = 0; tries < 50 * merges && model.merges.size() < static_cast<size_t>(merges); ++tries) {
    const TokenId left = known[random() % known.size()];
    const TokenId right = random() % 4 ? known[random() % known.size()] : left;
    const std::string text = model.text[left] + model.text[right];
    if (text.size() > 40 || !made.insert(text).second) continue;
    const TokenId product = ids[256 + model.merges.size()];
    model.merges.push_back({left, right, product});
    model.text[product] = text;
    known.push_back(product);
  }
  return model;
}

std::vector<TokenId> definition(const Model& model, const std::string& text) {
  std::map<std::pair<TokenId, TokenId>, size_t> rank;
  for (size_t r = 0; r < model.merges.size(); ++r) rank[{model.merges[r].left, model.merges[r].right}] = r;
  std::vector<TokenId> out;
  for (char c : text) out.push_back(model.bytes[static_cast<uint8_t>(c)]);
  while (true) {
    size_t best = model.merges.size(), at = 0;
    for (size_t i = 0; i + 1 < out.size(); ++i) {
      const auto found = rank.find({out[i], out[i + 1]});
      if (found != rank.end() && found->second < best) {
        best = found->second;
        at = i;
      }
    }
    if (best == model.merges.size()) return out;
    out[at] = model.merges[best].product;
    out.erase(out.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
}

TEST(Bpe, MergesAsDefinedAtEveryLength) {
  std::mt19937 random(1);
  BpeScratch scratch;
  for (int round = 0; round < 300; ++round) {
    const int letters = 1 + static_cast<int>(random() % 4);
    const Model model = random_model(random, letters, static_cast<int>(random() % 60));
    const Bpe bpe(model.bytes, model.merges);
    for (size_t length : {0u, 1u, 2u, 5u, 20u, 63u, 64u, 65u, 66u, 100u, 129u, 300u, 500u}) {
      std::string text(length, 'a');
      const uint32_t change = 1 + random() % 8;  // few changes make long runs of one letter
      for (size_t i = 1; i < length; ++i) {
        text[i] = random() % change ? text[i - 1] : static_cast<char>('a' + random() % letters);
      }
      std::vector<TokenId> out = {-5};  // encode appends
      bpe.encode(text, scratch, out);
      out.erase(out.begin());
      ASSERT_EQ(out, definition(model, text)) << text << " with " << model.merges.size() << " merges";
    }
  }
}

// A text whose tokens are longer than any first window: the windows must widen to agree.
TEST(Bpe, WidensItsWindowsForLongTokens) {
  Model model = [] {
    std::mt19937 random(3);
    return random_model(random, 1, 0);
  }();
  TokenId last = model.bytes['a'];
  for (int doubling = 0; doubling < 9; ++doubling) {  // up to 512 letters a token
    const TokenId product = 1000 + doubling;
    model.merges.push_back({last, last, product});
    last = product;
  }
  const Bpe bpe(model.bytes, model.merges);
  BpeScratch scratch;
  std::vector<TokenId> out;
  bpe.encode(std::string(512 * 300 + 5, 'a'), scratch, out);
  ASSERT_EQ(out.size(), 302u);
  for (size_t i = 0; i < 300; ++i) ASSERT_EQ(out[i], 1008) << i;
  EXPECT_EQ(out[300], 1001);
  EXPECT_EQ(out[301], model.bytes['a']);
}

// Bytes 0, 1, 2, ... where each joins the next, the later pair first: the end decides the pairs all the way
// back, so what a window made of a beginning is wrong to its first token, and the windows must widen over it.
TEST(Bpe, AgreesWithTheWholeWhenTheEndOfAPieceDecidesItsBeginning) {
  std::mt19937 random(4);
  Model model = random_model(random, 1, 0);
  for (int i = 253; i >= 0; --i) model.merges.push_back({model.bytes[i], model.bytes[i + 1], 1000 + i});
  const Bpe bpe(model.bytes, model.merges);
  BpeScratch scratch;
  for (int length : {200, 201, 254, 255}) {
    std::string text;
    for (int i = 0; i < 4 * length; ++i) text += static_cast<char>(i % length);
    std::vector<TokenId> out;
    bpe.encode(text, scratch, out);
    ASSERT_EQ(out, definition(model, text)) << length;
    ASSERT_EQ(out.front(), length % 2 ? model.bytes[0] : 1000) << length;
  }
}

}  // namespace
}  // namespace kvasir
