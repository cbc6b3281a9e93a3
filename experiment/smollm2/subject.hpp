// What one seed teaches and unlearns: some of each author's questions, in the model's format.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "continual/batch.hpp"
#include "experiment/smollm2/checkpoint_model.hpp"
#include "experiment/smollm2/settings.hpp"
#include "experiment/world.hpp"

namespace smollm2 {

using experiment::QuestionSet;
using experiment::World;

/// The first entry, the third, and so on of each author, `per_author` at most of twenty: every
/// second where half are asked for.
inline QuestionSet thinned(const QuestionSet& set, std::int64_t per_author) {
  const std::int64_t stride = std::max<std::int64_t>(1, continual::kPairsPerAuthor / per_author);
  std::map<std::int64_t, std::int64_t> seen, taken;
  QuestionSet some;
  for (std::size_t i = 0; i < set.asked.size(); ++i) {
    const std::int64_t author = set.authors[i];
    if (seen[author]++ % stride != 0 || taken[author] == per_author) continue;
    ++taken[author];
    some.asked.push_back(set.asked[i]);
    some.paraphrased.push_back(set.paraphrased[i]);
    some.authors.push_back(author);
    if (set.has_wrong()) some.wrong.push_back(set.wrong[i]);
  }
  return some;
}

inline World thinned(World world, std::int64_t per_author) {
  for (QuestionSet& task : world.tasks) task = thinned(task, per_author);
  for (QuestionSet* set : {&world.shown, &world.unseen}) *set = thinned(*set, per_author);
  return world;
}

/// As many of a list as asked, evenly spread.
template <class List>
List spread(const List& list, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(list.size());
  List some;
  for (std::int64_t i = 0; i < std::min(count, size); ++i) {
    some.push_back(list[static_cast<std::size_t>(i * size / std::min(count, size))]);
  }
  return some;
}

/// As many questions of a set as asked, evenly spread.
inline QuestionSet spread(const QuestionSet& set, std::int64_t count) {
  const auto size = static_cast<std::int64_t>(set.asked.size());
  QuestionSet some;
  for (std::int64_t i = 0; i < std::min(count, size); ++i) {
    const auto at = static_cast<std::size_t>(i * size / std::min(count, size));
    some.asked.push_back(set.asked[at]);
    some.paraphrased.push_back(set.paraphrased[at]);
    some.authors.push_back(set.authors[at]);
    if (set.has_wrong()) some.wrong.push_back(set.wrong[at]);
  }
  return some;
}

inline continual::EncodedData encode(const tokenizers::FolderTokenizer& tokenizer,
                                     const World& world, std::int64_t context) {
  continual::EncodedData data;
  data.name = world.learned.name;
  for (std::size_t t = 0; t < world.tasks.size(); ++t) {
    data.requests.push_back(
        {world.learned.requests[t].name, encode(tokenizer, world.tasks[t].asked, context), {}});
  }
  data.shown = encode(tokenizer, world.shown.asked, context);
  data.unseen = encode(tokenizer, world.unseen.asked, context);
  return data;
}

}  // namespace smollm2
