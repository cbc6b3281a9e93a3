// Ids of texts, for comparison with other tokenizers: one JSON text a line on standard input, one
// list of ids a line on standard output. The first argument is a tokenizer.json; with a second one,
// --words, the words come out beside the ids, as the pre-tokenizer cuts them.
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "tokenizers/tokenizer_json.hpp"

int main(int argc, char** argv) {
  try {
    const bool words = argc == 3 && std::string(argv[2]) == "--words";
    if (argc != 2 && !words) {
      throw std::runtime_error("tokenize_lines: expected a tokenizer.json, and --words at most");
    }
    std::ifstream file(argv[1], std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    const auto tokenizer = tokenizers::TokenizerJson::parse(bytes, argv[1]);
    const auto document = tokenizers::parse_json(bytes, argv[1]);
    const tokenizers::PreTokenizer pre_tokenizer(
        tokenizers::JsonField(document, argv[1])["pre_tokenizer"]);
    std::ios::sync_with_stdio(false);
    for (std::string line; std::getline(std::cin, line);) {
      const auto text = nlohmann::json::parse(line).get<std::string>();
      nlohmann::json out = tokenizer.encode(text);
      if (words) {
        out = {{"ids", std::move(out)}, {"words", nlohmann::json::array()}};
        for (const std::string& word : pre_tokenizer.words(text, false)) {
          out["words"].push_back(tokenizers::byte_level::spell(word));
        }
      }
      std::cout << out.dump() << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
