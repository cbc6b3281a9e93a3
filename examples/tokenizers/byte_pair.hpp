// Byte-pair encoding: the part "model" of a tokenizer.json.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "tokenizers/byte_level.hpp"
#include "tokenizers/json_field.hpp"
#include "tokenizers/tokenizer.hpp"

namespace tokenizers {

/// Words to ids: the merge that was learned first goes first, the leftmost of equal ones.
class BytePair {
 public:
  explicit BytePair(const JsonField& field) {
    refuse_what_is_unsupported(field);
    read_vocabulary(field["vocab"]);
    read_merges(field["merges"]);
    for (unsigned byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = id_of(byte_level::spell(static_cast<unsigned char>(byte)));
    }
    const auto ignore_merges = field.find("ignore_merges");
    ignore_merges_ = ignore_merges && ignore_merges->flag();
    const auto fuse_unknown = field.find("fuse_unk");
    fuse_unknown_ = fuse_unknown && fuse_unknown->flag();
    if (const auto unknown = field.find("unk_token")) {
      unknown_ = id_of(unknown->text());
      if (!unknown_) {
        unknown->fail("a token of the vocabulary", unknown->described());
      }
    }
  }

  [[nodiscard]] const std::unordered_map<std::string, std::int64_t>& vocabulary() const {
    return ids_;
  }

  [[nodiscard]] std::optional<std::int64_t> id_of(const std::string& spelled) const {
    const auto found = ids_.find(spelled);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

  /// Appends the ids of a word, given as bytes. A byte that the vocabulary lacks is the unknown
  /// token, and left out where there is none.
  void encode(std::string_view word, Ids& ids) const {
    if (ignore_merges_) {
      if (const auto whole = id_of(byte_level::spell(word))) {
        ids.push_back(*whole);
        return;
      }
    }
    std::vector<Symbol> symbols;
    bool after_unknown = false;
    for (const char byte : word) {
      const auto known = byte_ids_[static_cast<unsigned char>(byte)];
      if (known || (unknown_ && !(after_unknown && fuse_unknown_))) {
        const auto place = static_cast<std::int32_t>(symbols.size());
        symbols.push_back({known ? *known : *unknown_, place - 1, place + 1});
      }
      after_unknown = !known;
    }
    merge(symbols);
    for (const Symbol& symbol : symbols) {
      if (symbol.id >= 0) {
        ids.push_back(symbol.id);
      }
    }
  }

 private:
  /// One of a doubly linked list; a negative id: merged into the one before it.
  struct Symbol {
    std::int64_t id;
    std::int32_t previous, next;
  };
  struct Merge {
    std::int32_t rank;
    std::int64_t id;
  };

  static void refuse_what_is_unsupported(const JsonField& field) {
    if (const auto type = field.find("type"); type && type->text() != "BPE") {
      type->fail("a model that is supported (BPE)", type->described());
    }
    if (const auto dropout = field.find("dropout")) {
      if (!dropout->value().is_number() || dropout->value().get<double>() != 0) {
        dropout->fail("a model without dropout", dropout->described());
      }
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const auto affix = field.find(key); affix && !affix->text().empty()) {
        affix->fail("nothing around the parts of a word", affix->described());
      }
    }
    if (const auto fallback = field.find("byte_fallback"); fallback && fallback->flag()) {
      fallback->fail("a model without byte_fallback", "true");
    }
  }

  void read_vocabulary(const JsonField& field) {
    if (!field.value().is_object() || field.value().empty()) {
      field.fail("an object of tokens and their ids", field.described());
    }
    std::unordered_set<std::int64_t> taken;
    for (const auto& [token, value] : field.value().items()) {
      const JsonField entry(value, field.where(), "\"" + alkn::io::printable(token) + "\"");
      if (!taken.insert(entry.id()).second) {
        entry.fail("an id that no other token has", entry.described());
      }
      ids_.emplace(token, entry.id());
    }
  }

  void read_merges(const JsonField& field) {
    const std::size_t size = field.size();
    for (std::size_t rank = 0; rank < size; ++rank) {
      const nlohmann::json& value = field.value()[rank];
      std::string left, right;
      if (value.is_string()) {
        const auto& text = value.get_ref<const std::string&>();
        const auto space = text.find(' ');
        if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
          field[rank].fail("two tokens with a space between them", field[rank].described());
        }
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else if (value.is_array() && value.size() == 2 && value[0].is_string() &&
                 value[1].is_string()) {
        left = value[0].get<std::string>();
        right = value[1].get<std::string>();
      } else {
        field[rank].fail("two tokens", field[rank].described());
      }
      const auto part_of = [&](const std::string& token) {
        const auto id = id_of(token);
        if (!id) {
          field[rank].fail("tokens of the vocabulary", "\"" + token + "\"");
        }
        return *id;
      };
      const std::int64_t left_id = part_of(left), right_id = part_of(right);
      merges_[key(left_id, right_id)] = {static_cast<std::int32_t>(rank), part_of(left + right)};
    }
  }

  static std::uint64_t key(std::int64_t left, std::int64_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
  }

  /// n log n in the number of symbols.
  void merge(std::vector<Symbol>& symbols) const {
    using Candidate =
        std::tuple<std::int32_t, std::int32_t, std::int64_t, std::int64_t, std::int64_t>;
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
    const auto offer = [&](std::int32_t left) {
      if (left < 0) {
        return;
      }
      const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
      if (symbol.next == std::ssize(symbols)) {
        return;
      }
      const auto right = symbols[static_cast<std::size_t>(symbol.next)].id;
      if (const auto found = merges_.find(key(symbol.id, right)); found != merges_.end()) {
        candidates.emplace(found->second.rank, left, symbol.id, right, found->second.id);
      }
    };
    for (std::int32_t place = 0; place < std::ssize(symbols); ++place) {
      offer(place);
    }
    while (!candidates.empty()) {
      const auto [rank, place, left, right, merged] = candidates.top();
      candidates.pop();
      Symbol& symbol = symbols[static_cast<std::size_t>(place)];
      if (symbol.id != left || symbol.next == std::ssize(symbols)) {
        continue;  // one of the two has gone into another merge meanwhile
      }
      Symbol& next = symbols[static_cast<std::size_t>(symbol.next)];
      if (next.id != right) {
        continue;
      }
      symbol.id = merged;
      next.id = -1;
      symbol.next = next.next;
      if (symbol.next < std::ssize(symbols)) {
        symbols[static_cast<std::size_t>(symbol.next)].previous = place;
      }
      offer(symbol.previous);
      offer(place);
    }
  }

  std::unordered_map<std::string, std::int64_t> ids_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<std::optional<std::int64_t>, 256> byte_ids_;
  std::optional<std::int64_t> unknown_;
  bool ignore_merges_ = false, fuse_unknown_ = false;
};

}  // namespace tokenizers
