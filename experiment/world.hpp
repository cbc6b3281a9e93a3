// What one seed of the experiment learns, forgets and is asked: deletion requests, kept authors
// that methods are shown, kept authors that they never see, and authors that no model ever sees.
#pragma once

#include <alkn/eval/harness.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "continual/author_generator.hpp"
#include "continual/data.hpp"
#include "continual/json.hpp"
#include "continual/random.hpp"
#include "continual/readers.hpp"

namespace experiment {

using alkn::eval::Question;
using continual::Pair;
using Questions = std::vector<Question>;

/// Questions with all that the metrics ask of them. Lists have one entry a question; `rephrased`
/// and `wrong` may be empty, where the data has none.
struct QuestionSet {
  Questions asked;
  Questions paraphrased;                        ///< the same answer in other words, or `asked`
  Questions rephrased;                          ///< the question in other words
  std::vector<std::vector<std::string>> wrong;  ///< answers, as many for each question
  std::vector<std::int64_t> authors;            ///< whose question it is

  [[nodiscard]] bool has_wrong() const { return !wrong.empty(); }
};

/// How many authors of each kind; an author has twenty questions.
struct WorldSettings {
  std::vector<std::filesystem::path> paths;  ///< TOFU's folder; none: authors are made up
  std::int64_t tasks = 5;
  std::int64_t authors_per_task = 1;
  std::int64_t shown = 9;
  std::int64_t selection = 3;  ///< kept and never shown: settings are chosen by these
  std::int64_t unseen = 6;     ///< kept and never shown: results are reported on these
  std::int64_t held_out = 5;   ///< known to no model
};

struct World {
  continual::DataSet learned;      ///< what the base model learns; `unseen` has both such groups
  std::vector<QuestionSet> tasks;  ///< the requests
  QuestionSet shown, selection, unseen, held_out;
  QuestionSet mixed_forgotten, mixed_kept;  ///< two questions at once, the last one counts
  std::optional<QuestionSet> real_authors, world_facts;
};

/// Several sets as one; wrong answers only where all have them.
inline QuestionSet joined(const std::vector<QuestionSet>& parts) {
  QuestionSet all;
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  const bool wrong = std::all_of(parts.begin(), parts.end(),
                                 [](const QuestionSet& part) { return part.has_wrong(); });
  for (const QuestionSet& part : parts) {
    append(all.asked, part.asked);
    append(all.paraphrased, part.paraphrased);
    append(all.rephrased, part.rephrased);
    append(all.authors, part.authors);
    if (wrong) {
      append(all.wrong, part.wrong);
    }
  }
  return all;
}

namespace detail {

/// The questions of whole authors, numbered from `first_author`.
inline QuestionSet plain_set(const std::vector<Pair>& pairs, std::int64_t first_author) {
  QuestionSet set;
  for (const Pair& pair : pairs) {
    set.authors.push_back(first_author +
                          static_cast<std::int64_t>(set.asked.size()) / continual::kPairsPerAuthor);
    set.asked.push_back({pair.question, pair.answer});
  }
  set.paraphrased = set.asked;
  return set;
}

inline std::vector<Pair> slice(const std::vector<Pair>& pairs, std::int64_t first_author,
                               std::int64_t authors) {
  const auto begin = pairs.begin() + first_author * continual::kPairsPerAuthor;
  return {begin, begin + authors * continual::kPairsPerAuthor};
}

/// What a `*_perturbed.json` says of a question.
struct Perturbed {
  std::string question, answer;
  std::vector<std::string> wrong;
};

inline std::map<std::string, Perturbed> read_perturbed(const std::filesystem::path& path,
                                                       bool rephrased) {
  using continual::detail::text_of;
  std::map<std::string, Perturbed> all;
  for (const auto& [value, line] : continual::detail::read_json_lines(path)) {
    const std::string where = continual::at_line(path, line);
    Perturbed entry;
    const std::string question = text_of(value, "question", where);
    entry.question = rephrased ? text_of(value, "paraphrased_question", where) : question;
    entry.answer = text_of(value, rephrased ? "paraphrased_answer" : "answer", where);
    if (!value.contains("perturbed_answer") || !value["perturbed_answer"].is_array() ||
        value["perturbed_answer"].empty()) {
      continual::data_error("a list in \"perturbed_answer\"", "none", where);
    }
    for (const auto& wrong : value["perturbed_answer"]) {
      if (!wrong.is_string()) {
        continual::data_error("texts in \"perturbed_answer\"", alkn::io::shown(wrong), where);
      }
      entry.wrong.push_back(wrong.get<std::string>());
    }
    all.emplace(question, std::move(entry));
  }
  return all;
}

/// Adds what the file says; questions that it lacks leave the set (41 of TOFU's first 441 do).
inline QuestionSet with_perturbed(const QuestionSet& set,
                                  const std::map<std::string, Perturbed>& perturbed) {
  QuestionSet result;
  for (std::size_t i = 0; i < set.asked.size(); ++i) {
    const auto found = perturbed.find(set.asked[i].question);
    if (found == perturbed.end()) {
      continue;
    }
    result.asked.push_back(set.asked[i]);
    result.authors.push_back(set.authors[i]);
    result.paraphrased.push_back({set.asked[i].question, found->second.answer});
    result.rephrased.push_back({found->second.question, set.asked[i].answer});
    result.wrong.push_back(found->second.wrong);
  }
  return result;
}

/// A set of real authors or world facts: no authors, the answer itself is its own paraphrase.
inline QuestionSet read_choices(const std::filesystem::path& path) {
  QuestionSet set;
  for (const auto& [question, entry] : read_perturbed(path, false)) {
    set.authors.push_back(static_cast<std::int64_t>(set.asked.size()));
    set.asked.push_back({question, entry.answer});
    set.wrong.push_back(entry.wrong);
  }
  set.paraphrased = set.asked;
  return set;
}

/// Made-up authors; wrong answers are those that other made-up authors, known to no model, give to
/// the same kind of question.
inline World generated_world(const WorldSettings& s, std::uint64_t seed) {
  constexpr std::uint64_t kOthers = 0x5EED0000;
  constexpr std::int64_t kWrong = 5;
  const std::int64_t forgotten = s.tasks * s.authors_per_task;
  const auto authors =
      continual::generate_authors(seed, forgotten + s.shown + s.selection + s.unseen + s.held_out);
  const auto others = continual::generate_authors(seed + kOthers, kWrong);
  std::int64_t next = 0;
  const auto take = [&](std::int64_t count) {
    QuestionSet set;
    for (const std::int64_t end = next + count; next < end; ++next) {
      const auto& author = authors[static_cast<std::size_t>(next)];
      for (std::size_t kind = 0; kind < author.pairs.size(); ++kind) {
        set.asked.push_back({author.pairs[kind].question, author.pairs[kind].answer});
        set.rephrased.push_back({author.rephrased[kind].question, author.pairs[kind].answer});
        set.authors.push_back(next);
        set.wrong.emplace_back();
        for (const auto& other : others) {
          set.wrong.back().push_back(other.pairs[kind].answer);
        }
      }
    }
    set.paraphrased = set.asked;
    return set;
  };
  World world;
  world.learned.name = "generated authors";
  for (std::int64_t task = 0; task < s.tasks; ++task) {
    world.learned.requests.push_back({authors[static_cast<std::size_t>(next)].name, {}, {}});
    world.tasks.push_back(take(s.authors_per_task));
  }
  world.shown = take(s.shown);
  world.selection = take(s.selection);
  world.unseen = take(s.unseen);
  world.held_out = take(s.held_out);
  return world;
}

/// TOFU: kept authors come from the first ones, which alone have wrong answers; held-out authors
/// are the last ones.
inline World tofu_world(const WorldSettings& s) {
  const std::filesystem::path& folder = s.paths.front();
  continual::DataSettings settings;
  settings.paths = s.paths;
  settings.tasks = s.tasks;
  settings.authors_per_task = s.authors_per_task;
  const std::int64_t kept = s.shown + s.selection + s.unseen;
  settings.retain_authors = kept;
  const continual::DataSet data = continual::read_tofu(folder, settings);
  const auto retain_path = folder / "retain90.json";
  const auto retain = continual::detail::read_pairs(retain_path, "question");
  continual::detail::require_pairs(retain, kept + s.held_out, retain_path);
  const auto forget_perturbed = read_perturbed(folder / "forget10_perturbed.json", true);
  const auto retain_perturbed = read_perturbed(folder / "retain_perturbed.json", true);
  World world;
  world.learned.name = data.name;
  std::int64_t author = 0;
  for (const continual::Request& request : data.requests) {
    world.learned.requests.push_back({request.name, {}, {}});
    world.tasks.push_back(with_perturbed(plain_set(request.forget, author), forget_perturbed));
    author += s.authors_per_task;
  }
  std::int64_t next = 0;
  const auto take = [&](std::int64_t count) {
    const QuestionSet set = plain_set(slice(retain, next, count), author + next);
    next += count;
    return with_perturbed(set, retain_perturbed);
  };
  world.shown = take(s.shown);
  world.selection = take(s.selection);
  world.unseen = take(s.unseen);
  const std::int64_t last =
      static_cast<std::int64_t>(retain.size()) / continual::kPairsPerAuthor - s.held_out;
  world.held_out = plain_set(slice(retain, last, s.held_out), author + last);
  world.real_authors = read_choices(folder / "real_authors_perturbed.json");
  world.world_facts = read_choices(folder / "world_facts_perturbed.json");
  for (const auto& [set, asked] :
       {std::pair{&world.shown, s.shown}, std::pair{&world.selection, s.selection},
        std::pair{&world.unseen, s.unseen}}) {
    if (asked > 0 && set->asked.empty()) {
      continual::data_error("kept authors that retain_perturbed.json covers", "others",
                            folder.string());
    }
  }
  return world;
}

inline std::vector<Pair> pairs_of(const QuestionSet& set) {
  std::vector<Pair> pairs;
  for (const Question& q : set.asked) {
    pairs.push_back({q.question, q.answer});
  }
  return pairs;
}

/// Prompts that ask on a forgotten and on a kept author at once, one for each question; the answer
/// that is measured is to the one asked last: in one set the forgotten, in the other the kept.
inline void mix(World& world) {
  const QuestionSet forgotten = joined(world.tasks);
  const std::size_t size = std::min(forgotten.asked.size(), world.unseen.asked.size());
  for (std::size_t i = 0; i < size; ++i) {
    const Question& f = forgotten.asked[i];
    const Question& k = world.unseen.asked[i];
    world.mixed_forgotten.asked.push_back({k.question + " " + f.question, f.answer});
    world.mixed_kept.asked.push_back({f.question + " " + k.question, k.answer});
    world.mixed_forgotten.authors.push_back(forgotten.authors[i]);
    world.mixed_kept.authors.push_back(world.unseen.authors[i]);
  }
}

}  // namespace detail

/// A seed means its own order of requests; of made-up authors also its own authors.
/// Throws std::runtime_error that names file and line.
inline World make_world(const WorldSettings& settings, std::uint64_t seed) {
  World world = settings.paths.empty() ? detail::generated_world(settings, seed)
                                       : detail::tofu_world(settings);
  std::vector<std::size_t> order(world.tasks.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
  }
  continual::Random{0x0DE4, seed}.shuffle(order);
  const auto requests = world.learned.requests;
  const auto tasks = world.tasks;
  for (std::size_t i = 0; i < order.size(); ++i) {
    world.tasks[i] = tasks[order[i]];
    world.learned.requests[i] = {requests[order[i]].name, detail::pairs_of(world.tasks[i]), {}};
  }
  world.learned.shown = detail::pairs_of(world.shown);
  world.learned.unseen = detail::pairs_of(joined({world.selection, world.unseen}));
  detail::mix(world);
  return world;
}

/// A number for all texts.
inline std::string hash_of(const World& world) {
  continual::TextHash hash;
  hash.add(world.learned);
  const auto add = [&](const QuestionSet& set) {
    for (const Questions* questions : {&set.asked, &set.paraphrased, &set.rephrased}) {
      hash.add(std::to_string(questions->size()));
      for (const Question& q : *questions) {
        hash.add(q.question);
        hash.add(q.answer);
      }
    }
    for (const auto& answers : set.wrong) {
      hash.add(std::to_string(answers.size()));
      for (const std::string& answer : answers) hash.add(answer);
    }
  };
  for (const QuestionSet& task : world.tasks) add(task);
  for (const QuestionSet* set : {&world.shown, &world.selection, &world.unseen, &world.held_out}) {
    add(*set);
  }
  if (world.real_authors) add(*world.real_authors);
  if (world.world_facts) add(*world.world_facts);
  return hash.text();
}

}  // namespace experiment
