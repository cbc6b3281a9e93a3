// Evaluation logs in the format that TOFU publishes: one JSON object of four sets of questions,
//
//   {"eval_log.json": {"avg_gt_loss": {"0": 0.06, ...}, ...}, "eval_real_author_wo_options.json":
//   ...,
//    "eval_real_world_wo_options.json": ..., "eval_log_forget.json": ...}
//
// where every metric of a set has one entry a question, by the question's number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "alkn/eval/arrays.hpp"

namespace tofu {

/// What was measured on the questions of one set.
struct QuestionSet {
  std::vector<std::string> ids;       ///< in ascending order as text
  Eigen::ArrayXd answer_losses;       ///< [questions]
  Eigen::ArrayXd paraphrased_losses;  ///< [questions]
  Eigen::ArrayXXd wrong_losses;       ///< [questions, wrong answers]
  Eigen::ArrayXd rouge;               ///< [questions], ROUGE-L recall
};

struct Log {
  QuestionSet retain;
  QuestionSet real_authors;
  QuestionSet world_facts;
  QuestionSet forget;
};

namespace detail {

[[noreturn]] inline void fail(const std::string& expected, const std::string& got,
                              const std::string& file, const std::string& key = {}) {
  throw std::runtime_error("tofu_metrics: expected " + expected + ", got " + got + " (" + file +
                           (key.empty() ? "" : ", " + key) + ")");
}

/// Follows a parser and knows the key it is at: an error in a file of a megabyte must say where.
class KeyTracker : public nlohmann::json_sax<nlohmann::json> {
 public:
  KeyTracker(const std::string& file, std::string_view text) : file_(file), text_(text) {}

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(false); }
  bool start_array(std::size_t) override { return open(true); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    levels_.back().key = name;
    if (!levels_.back().seen.insert(name).second)
      fail("every key once", "one twice", file_, path());
    return true;
  }

  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& error) override {
    constexpr std::string_view kSpace = " \t\r\n";
    constexpr int kNumberOverflow = 406;  // documented in nlohmann/json's list of exceptions
    if (text_.find_first_not_of(kSpace) == std::string_view::npos) fail("JSON", "nothing", file_);
    if (error.id == kNumberOverflow) fail("a finite number", token, file_, path());
    if (position >= text_.size()) {
      fail("complete JSON", "the end of the file after " + std::to_string(text_.size()) + " bytes",
           file_, path());
    }
    // The word around that place: the parser's own token may begin earlier.
    constexpr std::string_view kBetween = " \t\r\n,:[]{}";
    const std::size_t before = text_.find_last_of(kBetween, position == 0 ? 0 : position - 1);
    std::string_view word = text_.substr(before == std::string_view::npos ? 0 : before + 1);
    word = word.substr(0, std::min<std::size_t>(word.find_first_of(kBetween), 40));
    for (const std::string_view name : {"NaN", "nan", "Infinity", "inf", "-Infinity", "-inf"}) {
      if (word == name) fail("a finite number", std::string(name), file_, path());
    }
    fail("JSON", "\"" + std::string(word) + "\" at byte " + std::to_string(position), file_,
         path());
  }

 private:
  struct Level {
    bool is_array = false;
    int64_t index = 0;
    std::string key;
    std::set<std::string> seen;
  };

  bool value() {
    if (!levels_.empty()) ++levels_.back().index;
    return true;
  }
  bool open(bool is_array) {
    levels_.push_back({is_array, 0, {}, {}});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return value();
  }

  std::string path() const {
    std::string result;
    for (const Level& level : levels_) {
      const std::string part = level.is_array ? std::to_string(level.index) : level.key;
      if (!part.empty()) result += (result.empty() ? "" : "/") + part;
    }
    return result;
  }

  std::string file_;
  std::string_view text_;
  std::vector<Level> levels_;
};

inline std::string read_text(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) fail("a file that can be read", "none", file);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (stream.bad()) fail("a file that can be read", "an error", file);
  return text;
}

inline std::string short_text(const nlohmann::json& value) {
  const std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return text.size() <= 40 ? text : text.substr(0, 37) + "...";
}

/// The entries of one list: an object by the question's number, or an array.
using Entries = std::map<std::string, const nlohmann::json*>;

/// Reads one set and knows where it stands.
class SetReader {
 public:
  SetReader(const std::string& file, const nlohmann::json& log, const std::string& name)
      : file_(file), name_(name) {
    if (!log.is_object()) fail("an object of four sets", short_text(log), file);
    if (!log.contains(name)) fail("the key " + name, "none", file, name);
    set_ = &log.at(name);
    if (!set_->is_object()) fail("an object", short_text(*set_), file, name);
  }

  QuestionSet read() {
    QuestionSet result;
    const Entries answers = entries("avg_gt_loss");
    for (const auto& [id, value] : answers) result.ids.push_back(id);
    result.answer_losses = numbers("avg_gt_loss", result.ids, kNoBound);
    result.paraphrased_losses = numbers("avg_paraphrased_loss", result.ids, kNoBound);
    result.wrong_losses = tables("average_perturb_loss", result.ids);
    result.rouge = numbers("rougeL_recall", result.ids, 1);
    return result;
  }

 private:
  static constexpr double kNoBound = std::numeric_limits<double>::max();

  std::string path(const std::string& key) const { return name_ + "/" + key; }

  Entries entries(const std::string& key) const {
    if (!set_->contains(key)) fail("the key " + key, "none", file_, path(key));
    const nlohmann::json& list = set_->at(key);
    if (!list.is_structured()) fail("a list of entries", short_text(list), file_, path(key));
    if (list.empty()) fail("at least one entry", "an empty list", file_, path(key));
    Entries result;
    for (const auto& item : list.items()) result[item.key()] = &item.value();
    return result;
  }

  Entries entries_of(const std::string& key, const std::vector<std::string>& ids) const {
    Entries result = entries(key);
    if (result.size() != ids.size()) {
      fail(std::to_string(ids.size()) + " entries as in avg_gt_loss", std::to_string(result.size()),
           file_, path(key));
    }
    for (const std::string& id : ids) {
      if (!result.count(id)) fail("an entry for question " + id, "none", file_, path(key));
    }
    return result;
  }

  double number(const nlohmann::json& value, const std::string& where, double highest) const {
    const double result = value.is_number() ? value.get<double>() : std::nan("");
    if (!std::isfinite(result)) fail("a finite number", short_text(value), file_, where);
    if (result < 0) fail("a number of at least 0", short_text(value), file_, where);
    if (result > highest) fail("a number of at most 1", short_text(value), file_, where);
    return result;
  }

  Eigen::ArrayXd numbers(const std::string& key, const std::vector<std::string>& ids,
                         double highest) const {
    Eigen::ArrayXd result(static_cast<Eigen::Index>(ids.size()));
    Eigen::Index row = 0;
    for (const auto& [id, value] : entries_of(key, ids)) {
      result[row++] = number(*value, path(key) + "/" + id, highest);
    }
    return result;
  }

  Eigen::ArrayXXd tables(const std::string& key, const std::vector<std::string>& ids) const {
    const Entries rows = entries_of(key, ids);
    const std::size_t width = rows.begin()->second->size();
    Eigen::ArrayXXd result(static_cast<Eigen::Index>(ids.size()), static_cast<Eigen::Index>(width));
    Eigen::Index row = 0;
    for (const auto& [id, list] : rows) {
      const std::string where = path(key) + "/" + id;
      if (!list->is_array()) fail("a list of numbers", short_text(*list), file_, where);
      if (list->empty()) fail("at least one number", "an empty list", file_, where);
      if (list->size() != width) {
        fail(std::to_string(width) + " numbers as for question " + ids.front(),
             std::to_string(list->size()), file_, where);
      }
      for (std::size_t j = 0; j < width; ++j) {
        result(row, static_cast<Eigen::Index>(j)) =
            number((*list)[j], where + "/" + std::to_string(j), kNoBound);
      }
      ++row;
    }
    return result;
  }

  std::string file_;
  std::string name_;
  const nlohmann::json* set_ = nullptr;
};

}  // namespace detail

/// Reads and checks all four sets.
/// @throws std::runtime_error that names the file and the key
inline Log read_log(const std::string& file) {
  const std::string text = detail::read_text(file);
  detail::KeyTracker tracker(file, text);
  nlohmann::json::sax_parse(text, &tracker);
  const nlohmann::json log = nlohmann::json::parse(text);
  return {detail::SetReader(file, log, "eval_log.json").read(),
          detail::SetReader(file, log, "eval_real_author_wo_options.json").read(),
          detail::SetReader(file, log, "eval_real_world_wo_options.json").read(),
          detail::SetReader(file, log, "eval_log_forget.json").read()};
}

}  // namespace tofu
