// Readers: TOFU's JSON lines, MUSE News, files of the user's own.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "continual/author_generator.hpp"
#include "continual/data.hpp"
#include "continual/json.hpp"

namespace continual {

namespace detail {

namespace fs = std::filesystem;

/// The first byte that is no blank: white space of Unicode, and what has no width.
inline std::size_t first_visible(const std::string& text) {
  constexpr std::string_view kBlanks[] = {" ",
                                          "\t",
                                          "\r",
                                          "\n",
                                          "\v",
                                          "\f",
                                          "\xC2\x85",
                                          "\xC2\xA0",
                                          "\xC2\xAD",  // NEL, NBSP
                                          "\xE1\x9A\x80",
                                          "\xE1\xA0\x8E",
                                          "\xE2\x80\xA8",
                                          "\xE2\x80\xA9",
                                          "\xE2\x80\xAF",
                                          "\xE2\x81\x9F",
                                          "\xE2\x81\xA0",
                                          "\xE3\x80\x80",
                                          "\xEF\xBB\xBF"};
  constexpr std::string_view kFirst = "\xE2\x80\x80", kLast = "\xE2\x80\x8F";  // U+2000 to U+200F
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view rest = std::string_view(text).substr(at);
    if (rest.substr(0, 3) >= kFirst && rest.substr(0, 3) <= kLast) {
      at += 3;
      continue;
    }
    const auto* blank = std::find_if(std::begin(kBlanks), std::end(kBlanks), [&](auto candidate) {
      return rest.substr(0, candidate.size()) == candidate;
    });
    if (blank == std::end(kBlanks)) return at;
    at += blank->size();
  }
  return std::string::npos;
}

/// The value of `key` in a JSON object, as text that is not empty.
inline std::string text_of(const Json& object, const char* key, const std::string& where) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) {
    data_error("an object with the text \"" + std::string(key) + "\"", alkn::io::shown(object),
               where);
  }
  auto text = object[key].get<std::string>();
  if (first_visible(text) == std::string::npos) {
    data_error("a text in \"" + std::string(key) + "\"",
               text.empty() ? "an empty one" : "blanks alone", where);
  }
  return text;
}

/// The lines of a text, without what ends them.
inline std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

/// One JSON value a line; blank lines are skipped. Also returns the number of each one's line.
inline std::vector<std::pair<Json, std::int64_t>> read_json_lines(const fs::path& path) {
  const std::string text = read_text(path);
  std::vector<std::pair<Json, std::int64_t>> values;
  std::int64_t number = 0;
  for (const std::string_view line : lines_of(text)) {
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      values.emplace_back(parse_json(std::string(line), path, number), number);
    }
  }
  if (values.empty()) {
    data_error("at least one line", "an empty file", path.string());
  }
  return values;
}

inline std::vector<Pair> read_pairs(const fs::path& path, const char* question_key) {
  std::vector<Pair> pairs;
  for (const auto& [value, line] : read_json_lines(path)) {
    const std::string where = at_line(path, line);
    pairs.push_back({text_of(value, question_key, where), text_of(value, "answer", where), where});
  }
  return pairs;
}

/// Half of the kept authors, rounded up, is shown; the rest is never.
inline void split_kept(const std::vector<Pair>& kept, std::int64_t authors, DataSet& data) {
  const auto middle = kept.begin() + (authors + 1) / 2 * kPairsPerAuthor;
  data.shown.assign(kept.begin(), middle);
  data.unseen.assign(middle, kept.end());
}

inline void require_pairs(const std::vector<Pair>& pairs, std::int64_t num_authors,
                          const fs::path& path) {
  const auto available = static_cast<std::int64_t>(pairs.size()) / kPairsPerAuthor;
  if (available < num_authors) {
    data_error("at least " + std::to_string(num_authors) + " authors of " +
                   std::to_string(kPairsPerAuthor) + " lines",
               std::to_string(available), path.string());
  }
}

}  // namespace detail

/// Authors made up from the seed: those to be forgotten first, then those kept.
inline DataSet make_generated(const DataSettings& settings) {
  const std::int64_t tasks = settings.tasks.value_or(kTasks);
  const std::int64_t forgotten = tasks * settings.authors_per_task;
  const std::vector<Author> authors =
      generate_authors(settings.seed, forgotten + settings.retain_authors);
  DataSet data;
  data.name = "generated authors";
  auto author = authors.begin();
  for (std::int64_t task = 0; task < tasks; ++task) {
    Request request;
    request.name = author->name + (settings.authors_per_task > 1 ? " and others" : "");
    for (std::int64_t i = 0; i < settings.authors_per_task; ++i, ++author) {
      request.forget.insert(request.forget.end(), author->pairs.begin(), author->pairs.end());
      request.rephrased.insert(request.rephrased.end(), author->rephrased.begin(),
                               author->rephrased.end());
    }
    data.requests.push_back(std::move(request));
  }
  std::vector<Pair> kept;
  for (; author != authors.end(); ++author) {
    kept.insert(kept.end(), author->pairs.begin(), author->pairs.end());
  }
  detail::split_kept(kept, settings.retain_authors, data);
  return data;
}

/// TOFU: `forget10.json` and `retain90.json` in a folder, twenty lines an author; rephrased
/// questions from `forget10_perturbed.json` where it is there. A line with a key twice, and a
/// question or answer of blanks alone (Unicode's, also those without width), are refused.
/// Throws std::runtime_error that names file and line.
inline DataSet read_tofu(const std::filesystem::path& folder, const DataSettings& settings) {
  const auto path = folder / "forget10.json";
  const std::int64_t tasks = settings.tasks.value_or(kTasks);
  const auto forget = detail::read_pairs(path, "question");
  detail::require_pairs(forget, tasks * settings.authors_per_task, path);
  std::vector<Pair> rephrased;
  if (const auto perturbed = folder / "forget10_perturbed.json";
      std::filesystem::exists(perturbed)) {
    rephrased = detail::read_pairs(perturbed, "paraphrased_question");
    if (rephrased.size() != forget.size()) {
      data_error("as many lines as in forget10.json, " + std::to_string(forget.size()),
                 std::to_string(rephrased.size()), perturbed.string());
    }
  }
  const auto kept_path = folder / "retain90.json";
  auto kept = detail::read_pairs(kept_path, "question");
  detail::require_pairs(kept, settings.retain_authors, kept_path);
  kept.resize(static_cast<std::size_t>(settings.retain_authors * kPairsPerAuthor));

  DataSet data;
  data.name = "TOFU";
  const std::int64_t size = settings.authors_per_task * kPairsPerAuthor;
  for (std::int64_t task = 0; task < tasks; ++task) {
    const auto part = [&](const std::vector<Pair>& all) {
      return all.empty()
                 ? all
                 : std::vector<Pair>(all.begin() + task * size, all.begin() + (task + 1) * size);
    };
    const std::int64_t first = task * settings.authors_per_task + 1;
    data.requests.push_back({"authors " + std::to_string(first) + " to " +
                                 std::to_string(first + settings.authors_per_task - 1),
                             part(forget), part(rephrased)});
  }
  detail::split_kept(kept, settings.retain_authors, data);
  return data;
}

namespace detail {

/// A long text as paragraphs; the tokenizer's trainer and the chunker want no endless lines.
inline std::vector<Pair> paragraphs(const std::string& text) {
  std::vector<Pair> parts;
  for (std::string_view line : lines_of(text)) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0) {
      line.remove_suffix(1);
    }
    if (first_visible(std::string(line)) != std::string::npos) {
      parts.push_back({"", std::string(line)});
    }
  }
  return parts;
}

inline std::vector<Pair> read_book(const fs::path& path) {
  auto parts = paragraphs(read_text(path));
  if (parts.empty()) {
    data_error("a text", "an empty file", path.string());
  }
  return parts;
}

/// A JSON list of texts or of objects with "text", or the same as JSON lines.
inline std::vector<Pair> read_news(const fs::path& path) {
  std::vector<std::pair<Json, std::int64_t>> values;
  std::string number_of = ", line ";
  const std::string text = read_text(path);
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '[') {
    Json list = parse_json(text, path);
    number_of = ", entry ";
    for (std::size_t i = 0; i < list.size(); ++i) {
      values.emplace_back(std::move(list[i]), static_cast<std::int64_t>(i) + 1);
    }
  } else {
    values = read_json_lines(path);
  }
  std::vector<Pair> parts;
  for (const auto& [value, number] : values) {
    const std::string where = path.string() + number_of + std::to_string(number);
    const std::string article =
        value.is_string() ? value.get<std::string>() : text_of(value, "text", where);
    for (Pair& part : paragraphs(article)) {
      parts.push_back(std::move(part));
    }
  }
  if (parts.empty()) {
    data_error("at least one text", "none", path.string());
  }
  return parts;
}

/// A file of the user's own: a book (.txt), or .json and .jsonl with one object a line that has
/// "question" and "answer", or with texts as in MUSE News. The first line tells which.
inline std::vector<Pair> read_own(const fs::path& path) {
  if (path.extension() == ".txt") {
    return read_book(path);
  }
  if (path.extension() != ".json" && path.extension() != ".jsonl") {
    data_error("a folder, or files in .txt, .json or .jsonl", "another file", path.string());
  }
  const std::string text = read_text(path);
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || text[first] == '[') {
    return read_news(path);
  }
  const Json value = read_json_lines(path).front().first;
  return value.is_object() && value.contains("question") ? read_pairs(path, "question")
                                                         : read_news(path);
}

/// `name` with the first extension that exists, or an empty path.
inline fs::path find_news(const fs::path& folder, const std::string& name) {
  for (const char* extension : {".json", ".jsonl"}) {
    if (fs::path path = folder / (name + extension); fs::exists(path)) {
      return path;
    }
  }
  return {};
}

/// One request a file, so there must be as many files as tasks were asked for.
inline void require_files(std::int64_t available, const DataSettings& settings,
                          const fs::path& where) {
  if (settings.tasks && available < *settings.tasks) {
    data_error("a file for each of " + std::to_string(*settings.tasks) + " tasks",
               std::to_string(available), where.string());
  }
}

/// The first half of what is kept is shown.
inline void split_text(const std::vector<Pair>& kept, const std::string& where, DataSet& data) {
  if (kept.size() < 2) {
    data_error("at least two paragraphs, or questions with answers, that are kept",
               std::to_string(kept.size()), where);
  }
  const auto middle = kept.begin() + static_cast<std::ptrdiff_t>((kept.size() + 1) / 2);
  data.shown.assign(kept.begin(), middle);
  data.unseen.assign(middle, kept.end());
}

}  // namespace detail

/// MUSE News: `forget_1` ... and `retain` (`.json`, a list, or `.jsonl`), one request a file.
/// Throws std::runtime_error that names file and line.
inline DataSet read_muse(const std::filesystem::path& folder, const DataSettings& settings) {
  DataSet data;
  data.name = "MUSE News";
  for (std::int64_t task = 1; task <= settings.tasks.value_or(kTasks); ++task) {
    const std::string name = "forget_" + std::to_string(task);
    const auto path = detail::find_news(folder, name);
    if (path.empty()) {
      break;
    }
    data.requests.push_back({name, detail::read_news(path), {}});
  }
  detail::require_files(std::ssize(data.requests), settings, folder);
  const auto retain = detail::find_news(folder, "retain");
  if (retain.empty()) {
    data_error("retain.json or retain.jsonl", "neither", folder.string());
  }
  detail::split_text(detail::read_news(retain), retain.string(), data);
  return data;
}

/// Files of the user's own, one request a file. What is kept comes from `settings.retain`, half of
/// it shown; without such files, authors are made up for it.
inline DataSet read_files(const DataSettings& settings) {
  DataSet data;
  const std::int64_t available = std::ssize(settings.paths);
  detail::require_files(available, settings, settings.paths.front());
  for (std::int64_t task = 0; task < settings.tasks.value_or(available); ++task) {
    const auto& path = settings.paths[static_cast<std::size_t>(task)];
    data.requests.push_back({path.stem().string(), detail::read_own(path), {}});
  }
  const auto is_text = [](const std::vector<Pair>& list) {
    return !list.empty() && list.front().question.empty();
  };
  data.name = data.requests.empty() || is_text(data.requests.front().forget)
                  ? "books"
                  : "questions and answers";
  std::vector<Pair> kept;
  for (const auto& path : settings.retain) {
    const auto part = detail::read_own(path);
    if (!kept.empty() && is_text(kept) != is_text(part)) {
      data_error("texts alone, or questions with answers alone, to be kept", "both", path.string());
    }
    kept.insert(kept.end(), part.begin(), part.end());
  }
  if (!settings.retain.empty()) {
    detail::split_text(kept, settings.retain.front().string(), data);
    return data;
  }
  DataSettings authors = settings;
  authors.tasks = 0;
  DataSet generated = make_generated(authors);
  data.shown = std::move(generated.shown);
  data.unseen = std::move(generated.unseen);
  return data;
}

/// Reads whatever `settings.paths` holds, told by the names of the files.
inline DataSet load_data(const DataSettings& settings) {
  namespace fs = std::filesystem;
  if (settings.paths.empty()) {
    return make_generated(settings);
  }
  for (const auto& path : settings.paths) {
    if (!fs::exists(path)) {
      data_error("an existing file or folder", "none", path.string());
    }
  }
  const fs::path& first = settings.paths.front();
  if (!fs::is_directory(first)) {
    return read_files(settings);
  }
  if (settings.paths.size() > 1) {
    data_error("one folder", std::to_string(settings.paths.size()) + " paths", first.string());
  }
  if (fs::exists(first / "forget10.json")) {
    return read_tofu(first, settings);
  }
  if (!detail::find_news(first, "forget_1").empty()) {
    return read_muse(first, settings);
  }
  data_error("forget10.json and retain90.json (TOFU) or forget_1 and retain (MUSE News)", "neither",
             first.string());
}

}  // namespace continual
