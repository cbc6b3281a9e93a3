// What the trainer wants of a tokenizer, whatever file it came from.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tokenizers {

using Ids = std::vector<std::int64_t>;

/// An error in the trainer's form: "continual: expected <what>, got <value> (<where>)".
[[noreturn]] inline void fail(const std::string& expected, const std::string& got,
                              const std::string& where) {
  throw std::runtime_error("continual: expected " + expected + ", got " + got + " (" + where + ")");
}

/// Text to ids and back. All texts are UTF-8; what is not throws std::runtime_error with the offset
/// of its first bad byte. Safe to use from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The ids of `text` alone. Special tokens that are spelled out in it become their ids, nothing
  /// is put around it.
  [[nodiscard]] virtual Ids encode(std::string_view text) const = 0;

  /// As `encode`, of a text that follows another one: no space is put before it.
  [[nodiscard]] virtual Ids encode_continuation(std::string_view text) const = 0;

  /// The text of `ids`, special tokens left out; what is no UTF-8 becomes U+FFFD. Throws where an
  /// id is not of this vocabulary.
  [[nodiscard]] virtual std::string decode(const Ids& ids) const = 0;

  /// One more than the largest id: the rows that an embedding must have at least.
  [[nodiscard]] virtual std::int64_t vocabulary_size() const = 0;

  /// The id of a token in the file's own spelling, none where there is no such token.
  [[nodiscard]] virtual std::optional<std::int64_t> id_of(std::string_view token) const = 0;

  /// What the file wants before and after a text, say the token that begins it.
  [[nodiscard]] virtual Ids prefix() const = 0;
  [[nodiscard]] virtual Ids suffix() const = 0;

 protected:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = default;
  Tokenizer(Tokenizer&&) = default;
  Tokenizer& operator=(const Tokenizer&) = default;
  Tokenizer& operator=(Tokenizer&&) = default;
};

}  // namespace tokenizers
