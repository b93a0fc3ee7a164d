// libFuzzer: any bytes as tokenizer.json. What loads must return every text unchanged.
//
// The input is the file, then optionally a 0xff byte (never part of JSON) and a text to encode. Start
// from tests/golden/tokenizer/tiny.json:
//   build-fuzz/src/text/fuzz_tokenizer_json CORPUS -dict=tests/golden/tokenizer/tokenizer_json.dict
//   -max_len=32768
#include "base/check.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/unicode_class.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvasir;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t split = input.find('\xff');
  const std::string_view json = input.substr(0, split);
  const std::string_view text = split == input.npos ? json : input.substr(split + 1);

  const Result<Tokenizer> tokenizer = Tokenizer::parse(json, "fuzz/tokenizer.json");
  if (!tokenizer) {
    KVASIR_CHECK(tokenizer.error().message.find('\n') == std::string::npos, "{}", tokenizer.error().message);
    return 0;
  }
  const ByteRange client_text[] = {{text.size() / 4, text.size() / 2}};
  const std::vector<TokenId> ids = tokenizer->encode(text);
  KVASIR_CHECK(tokenizer->decode(ids) == text, "{} bytes do not come back", text.size());
  KVASIR_CHECK(tokenizer->decode(tokenizer->encode(text, client_text)) == text, "{} bytes, protected",
               text.size());

  Detokenizer detokenizer(*tokenizer);
  std::string chunks;
  for (TokenId id : ids) chunks += detokenizer.push(id);
  chunks += detokenizer.finish();
  KVASIR_CHECK(chunks == replace_malformed_utf8(text), "chunks differ from the text");
  for (TokenId id : {-1, 0, tokenizer->vocab_size() - 1, tokenizer->vocab_size()}) {
    KVASIR_CHECK(tokenizer->is_added(id) || !tokenizer->is_special(id), "token {}", id);
    if (!tokenizer->token_bytes(id).empty()) KVASIR_CHECK(tokenizer->id_of(tokenizer->token_bytes(id)) >= 0);
  }
  return 0;
}
