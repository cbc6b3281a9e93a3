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
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "alkn/eval/arrays.hpp"
#include "alkn/io/input_file.hpp"
#include "alkn/io/json.hpp"

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

inline std::string short_text(const nlohmann::json& value) { return alkn::io::shown(value, 40); }

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
      if (!result.count(id))
        fail("an entry for question " + alkn::io::printable(id), "none", file_, path(key));
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
      result[row++] = number(*value, path(key) + "/" + alkn::io::printable(id), highest);
    }
    return result;
  }

  Eigen::ArrayXXd tables(const std::string& key, const std::vector<std::string>& ids) const {
    const Entries rows = entries_of(key, ids);
    const std::size_t width = rows.begin()->second->size();
    Eigen::ArrayXXd result(static_cast<Eigen::Index>(ids.size()), static_cast<Eigen::Index>(width));
    Eigen::Index row = 0;
    for (const auto& [id, list] : rows) {
      const std::string where = path(key) + "/" + alkn::io::printable(id);
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
  nlohmann::json log;
  try {
    log = alkn::io::parse_json(alkn::io::read_text(file));
  } catch (const alkn::io::JsonError& error) {
    detail::fail(error.expected, error.got, file, error.key);
  } catch (const alkn::io::Unexpected& error) {
    detail::fail(error.expected, error.got, file);
  }
  return {detail::SetReader(file, log, "eval_log.json").read(),
          detail::SetReader(file, log, "eval_real_author_wo_options.json").read(),
          detail::SetReader(file, log, "eval_real_world_wo_options.json").read(),
          detail::SetReader(file, log, "eval_log_forget.json").read()};
}

}  // namespace tofu
