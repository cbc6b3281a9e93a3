// The bytes of a tokenizer.json may be anything: what is no tokenizer is an exception, and what is
// one encodes and decodes. Half of the inputs are changes to a small file that is one.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>

#include "tokenizers/tokenizer_json.hpp"

namespace {

/// A tokenizer of few tokens, with one of everything.
constexpr std::string_view kSmall =
    R"({"added_tokens":[{"id":6,"content":"<e>","special":true,"lstrip":true,"rstrip":true},)"
    R"({"id":7,"content":"n","normalized":true,"single_word":true}],)"
    R"("normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"}]},)"
    R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits",)"
    R"("individual_digits":true},{"type":"Split","pattern":{"Regex":" ?\\p{L}+|\\s+(?!\\S)|."},)"
    R"("behavior":"Removed","invert":true},{"type":"ByteLevel","add_prefix_space":true,)"
    R"("use_regex":true}]},"post_processor":{"type":"TemplateProcessing","single":)"
    R"([{"SpecialToken":{"id":"<e>"}},{"Sequence":{"id":"A"}}],"special_tokens":)"
    R"({"<e>":{"ids":[6]}}},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE",)"
    R"("unk_token":"a","fuse_unk":true,"ignore_merges":true,)"
    R"("vocab":{"a":0,"b":1,"ab":2,"Ġ":3,"abb":4,"1":5},"merges":["a b",["ab","b"]]}})";

void read(std::string_view bytes) {
  try {
    const auto tokenizer = tokenizers::TokenizerJson::parse(bytes);
    const auto ids = tokenizer.encode("abb a1 <e>  n\xc3\xa9\n\xf0\x9f\x98\x80");
    if (tokenizer.decode(ids).empty() && tokenizer.encode_continuation(bytes).empty()) {
      return;  // only to use both results
    }
  } catch (const std::exception&) {
    return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto kUnchanged = tokenizers::TokenizerJson::parse(kSmall);  // it is one
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  if (size < 3) {
    return 0;
  }
  // Two bytes say where, one how many bytes go, the others come in their place.
  std::string changed(kSmall);
  const std::size_t at = (data[0] * std::size_t{256} + data[1]) % changed.size();
  changed.replace(at, data[2] % 32, bytes.substr(3));
  read(changed);
  return 0;
}
