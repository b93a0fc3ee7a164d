// Malformed tokenizer.json files: each is refused in one line that names the file, the place, what was
// seen and what was expected. Each case is tiny.json with one change.
#include "text/tokenizer_file.h"

#include <filesystem>
#include <functional>

#include "text/tokenizer_test_data.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;

Json tiny() { return Json::parse(golden_text("tiny.json")); }

std::string error_of(std::string_view json) {
  const Result<TokenizerFile> file = parse_tokenizer_file(json, "DIR/tokenizer.json");
  return file ? "" : file.error().message;
}

std::string error_after(const std::function<void(Json&)>& change) {
  Json json = tiny();
  change(json);
  return error_of(json.dump());
}

void expect_error(const std::string& message, const std::string& place, const std::string& detail) {
  EXPECT_EQ(message.rfind("DIR/tokenizer.json: " + place + ": seen ", 0), 0u) << message;
  EXPECT_NE(message.find(", expected "), message.npos) << message;
  EXPECT_NE(message.find(detail), message.npos) << message << "\nlacks: " << detail;
  EXPECT_EQ(message.find('\n'), message.npos) << message;
  EXPECT_LT(message.size(), 400u) << message;
}

#define EXPECT_ERROR(change, place, detail) expect_error(error_after([](Json& j) { change; }), place, detail)

TEST(TokenizerFile, LoadsWhatIsWell) {
  EXPECT_EQ(error_after([](Json&) {}), "");
  EXPECT_EQ(error_after([](Json& j) { j["post_processor"] = nullptr; }), "");
  EXPECT_EQ(error_after([](Json& j) { j["post_processor"] = {{"type", "TemplateProcessing"}}; }), "");
  EXPECT_EQ(error_after([](Json& j) { j["normalizer"] = nullptr; }), "");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["ignore_merges"] = false; }), "");
}

TEST(TokenizerFile, ReadsMergesAsPairsToo) {
  Json json = tiny();
  for (auto& merge : json["model"]["merges"]) {
    const std::string text = merge;
    const size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  const auto pairs = Tokenizer::parse(json.dump(), "pairs"),
             strings = Tokenizer::parse(tiny().dump(), "strings");
  ASSERT_TRUE(pairs) << pairs.error().message;
  EXPECT_EQ(pairs->encode(" the thing in a tin"), strings->encode(" the thing in a tin"));
}

TEST(TokenizerFile, RefusesWhatIsNotJson) {
  expect_error(error_of(""), "$", "JSON");
  expect_error(error_of("{\"model\": "), "$", "JSON");
  expect_error(error_of("{\"a\": \"\xff\"}"), "$", "JSON");
  expect_error(error_of("[1]"), "$", "an object");
  expect_error(error_of("\"model\""), "$", "an object");
}

TEST(TokenizerFile, RefusesAJsonBomb) {
  expect_error(error_of(std::string(50000, '[') + std::string(50000, ']')), "$", "at most 32 levels");
  std::string nested = "{\"a\":";
  for (int i = 0; i < 40; ++i) nested += "{\"a\":";
  expect_error(error_of(nested + "1" + std::string(41, '}')), "$", "at most 32 levels");
  expect_error(error_of(std::string(TokenizerFile::kMaxBytes + 1, ' ')), "$", "at most 67108864");
}

TEST(TokenizerFile, RefusesMissingKeysAndWrongTypes) {
  EXPECT_ERROR(j.erase("model"), "$.model", "seen nothing");
  EXPECT_ERROR(j.erase("added_tokens"), "$.added_tokens", "seen nothing");
  EXPECT_ERROR(j.erase("pre_tokenizer"), "$.pre_tokenizer", "seen nothing");
  EXPECT_ERROR(j.erase("decoder"), "$.decoder", "seen nothing");
  EXPECT_ERROR(j["model"].erase("vocab"), "$.model.vocab", "seen nothing");
  EXPECT_ERROR(j["model"].erase("merges"), "$.model.merges", "seen nothing");
  EXPECT_ERROR(j["model"].erase("type"), "$.model.type", "\"BPE\"");
  EXPECT_ERROR(j["model"] = 7, "$.model", "seen 7");
  EXPECT_ERROR(j["model"]["vocab"] = Json::array({1, 2}), "$.model.vocab", "seen an array of 2");
  EXPECT_ERROR(j["model"]["merges"] = "no", "$.model.merges", "seen \"no\"");
  EXPECT_ERROR(j["added_tokens"] = Json::object(), "$.added_tokens", "seen an object");
  EXPECT_ERROR(j["added_tokens"][1] = nullptr, "$.added_tokens[1]", "seen null");
  EXPECT_ERROR(j["added_tokens"][1].erase("id"), "$.added_tokens[1].id", "seen nothing");
  EXPECT_ERROR(j["added_tokens"][1].erase("content"), "$.added_tokens[1].content", "seen nothing");
  EXPECT_ERROR(j["added_tokens"][1]["special"] = "yes", "$.added_tokens[1].special", "true or false");
}

TEST(TokenizerFile, RefusesWrongIds) {
  EXPECT_ERROR(j["model"]["vocab"]["in"] = -1, "$.model.vocab[\"in\"]", "seen -1");
  EXPECT_ERROR(j["model"]["vocab"]["in"] = 1 << 20, "$.model.vocab[\"in\"]", "a token id from 0 to 1048575");
  EXPECT_ERROR(j["model"]["vocab"]["in"] = 1.5, "$.model.vocab[\"in\"]", "seen 1.5");
  EXPECT_ERROR(j["model"]["vocab"]["in"] = "x", "$.model.vocab[\"in\"]", "seen \"x\"");
  EXPECT_ERROR(j["model"]["vocab"]["in"] = 0, "$.model.vocab[\"in\"]", "an id of its own");
  EXPECT_ERROR(j["model"]["vocab"]["in"] = 320, "$.model.vocab[\"in\"]",
               "other than that of the added token");
  EXPECT_ERROR(j["model"]["vocab"]["<think>"] = 300, "$.model.vocab[\"<think>\"]",
               "its id among added_tokens");
  EXPECT_ERROR(j["added_tokens"][0]["id"] = 1 << 20, "$.added_tokens[0].id", "from 0 to 1048575");
  EXPECT_ERROR(j["added_tokens"][0]["id"] = "0", "$.added_tokens[0].id", "seen \"0\"");
  EXPECT_ERROR(j["added_tokens"][1]["id"] = 320, "$.added_tokens[1].id", "seen 320");
  EXPECT_ERROR(j["added_tokens"][1]["id"] = 5, "$.model.vocab[\"&\"]", "other than that of the added token");
}

TEST(TokenizerFile, RefusesWrongAddedTokens) {
  EXPECT_ERROR(j["added_tokens"][0]["content"] = "", "$.added_tokens[0].content", "seen 0 bytes");
  EXPECT_ERROR(j["added_tokens"][0]["content"] = std::string(1025, 'x'), "$.added_tokens[0].content",
               "1 to 1024");
  EXPECT_ERROR(j["added_tokens"][1]["content"] = j["added_tokens"][0]["content"], "$.added_tokens[1].content",
               "no added token before it");
  for (const char* key : {"lstrip", "rstrip", "single_word"}) {
    Json json = tiny();
    json["added_tokens"][2][key] = true;
    expect_error(error_of(json.dump()), std::string("$.added_tokens[2].") + key, "seen true");
  }
}

TEST(TokenizerFile, RefusesAVocabularyThatIsNotByteLevel) {
  EXPECT_ERROR(j["model"]["vocab"]["▁the"] = 400, "$.model.vocab[\"▁the\"]",
               "outside the byte-level alphabet");
  EXPECT_ERROR(j["model"]["vocab"]["a b"] = 400, "$.model.vocab[\"a b\"]", "outside the byte-level alphabet");
  EXPECT_ERROR(j["model"]["vocab"][""] = 400, "$.model.vocab", "an empty token");
  EXPECT_ERROR(j["model"]["vocab"].erase("Ġ"), "$.model.vocab", "no token for byte 0x20");
  EXPECT_ERROR(j["model"]["vocab"][std::string(1025, 'x')] = 400,
               "$.model.vocab[\"" + std::string(60, 'x') + "\"...]", "at most 1024");
  EXPECT_ERROR(j["decoder"]["type"] = "Metaspace", "$.decoder.type", "\"ByteLevel\"");
}

TEST(TokenizerFile, RefusesASecondEntryOfAToken) {
  std::string json = tiny().dump();
  const size_t at = json.find("\"vocab\":{") + 9;
  json.insert(at, "\"in\":900,");  // nlohmann cannot write a key twice
  expect_error(error_of(json), "$.model.vocab[\"in\"]", "one entry a token");
}

TEST(TokenizerFile, RefusesWrongMerges) {
  EXPECT_ERROR(j["model"]["merges"][3] = "zq zq", "$.model.merges[3]",
               "\"zq\", expected a token of the vocabulary");
  EXPECT_ERROR(j["model"]["merges"][3] = "z q", "$.model.merges[3]", "that make a token of the vocabulary");
  EXPECT_ERROR(j["model"]["merges"][3] = "▁ q", "$.model.merges[3]", "a token of the vocabulary");
  for (const Json& bad : {Json("ab"), Json(" b"), Json("a "), Json(""), Json(3), Json({"a"}),
                          Json({"a", "b", "c"}), Json({"a", 1}), Json({"a", ""})}) {
    Json json = tiny();
    json["model"]["merges"][3] = bad;
    expect_error(error_of(json.dump()), "$.model.merges[3]", "two tokens");
  }
  EXPECT_ERROR(j["model"]["merges"][3] = "a b c", "$.model.merges[3]", "a token of the vocabulary");
  EXPECT_ERROR(j["model"]["merges"].push_back(j["model"]["merges"][0]), "$.model.merges[64]",
               "merges[0] makes");
  EXPECT_ERROR(j["model"]["merges"].erase(0), "$.model.merges[10]", "that an earlier merge makes");
}

TEST(TokenizerFile, RefusesAnotherModel) {
  EXPECT_ERROR(j["model"]["type"] = "Unigram", "$.model.type", "seen \"Unigram\"");
  EXPECT_ERROR(j["model"]["dropout"] = 0.1, "$.model.dropout", "seen 0.1");
  EXPECT_ERROR(j["model"]["unk_token"] = "<unk>", "$.model.unk_token", "null, as in V4");
  EXPECT_ERROR(j["model"]["end_of_word_suffix"] = "</w>", "$.model.end_of_word_suffix", "null, as in V4");
  EXPECT_ERROR(j["model"]["byte_fallback"] = true, "$.model.byte_fallback", "false, as in V4");
  EXPECT_ERROR(j["model"]["ignore_merges"] = true, "$.model.ignore_merges", "false, as in V4");
}

std::string step_path(int i) { return "$.pre_tokenizer.pretokenizers[" + std::to_string(i) + "]"; }

TEST(TokenizerFile, RefusesAnotherWayToCutText) {
  EXPECT_ERROR(j["pre_tokenizer"] = nullptr, "$.pre_tokenizer", "seen null");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"].erase(0), "$.pre_tokenizer.pretokenizers", "seen 3 steps");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][1] = 4, "$.pre_tokenizer.pretokenizers[1]", "seen 4");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][1]["type"] = "Digits", step_path(1) + ".type",
               "\"Split\"");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\p{N}",
               step_path(0) + ".pattern.Regex", "V4's: \"\\p{N}{1,3}\"");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = (Json{{"String", "1"}}),
               step_path(0) + ".pattern.Regex", "seen nothing");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][2]["behavior"] = "Removed", step_path(2) + ".behavior",
               "Isolated");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][2]["invert"] = true, step_path(2) + ".invert",
               "seen true");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][3]["use_regex"] = true, step_path(3) + ".use_regex",
               "seen true");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][3].erase("use_regex"), step_path(3) + ".use_regex",
               "seen nothing");
  EXPECT_ERROR(j["pre_tokenizer"]["pretokenizers"][3]["add_prefix_space"] = true,
               step_path(3) + ".add_prefix_space", "seen true");
  EXPECT_ERROR(j["normalizer"] = (Json{{"type", "NFC"}}), "$.normalizer", "V4 does not change text");
  EXPECT_ERROR(j["post_processor"] = (Json{{"type", "BertProcessing"}}), "$.post_processor.type",
               "seen \"BertProcessing\"");
  EXPECT_ERROR(j["post_processor"] = 3, "$.post_processor", "seen 3");
}

TEST(TokenizerFile, NamesControlCharactersWithoutWritingThem) {
  EXPECT_ERROR(j["model"]["type"] = "a\nb\x1b[2J", "$.model.type", "\"a\\x0ab\\x1b[2J\"");
}

TEST(TokenizerFile, NamesTheFileThatIsAbsentOrTooLarge) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "kvasir_tokenizer_file_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const std::string file = (folder / "tokenizer.json").string();
  auto absent = Tokenizer::load(folder);
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, ErrorCode::kNotFound);
  EXPECT_NE(absent.error().message.find(file), std::string::npos);

  std::ofstream(file) << golden_text("tiny.json");
  EXPECT_TRUE(Tokenizer::load(folder));
  fs::resize_file(file, TokenizerFile::kMaxBytes + 1);  // a hole: no disk is used
  auto large = Tokenizer::load(folder);
  ASSERT_FALSE(large);
  EXPECT_NE(large.error().message.find(file + ": seen 67108865 bytes"), std::string::npos)
      << large.error().message;
  fs::remove_all(folder);
}

}  // namespace
}  // namespace kvasir
