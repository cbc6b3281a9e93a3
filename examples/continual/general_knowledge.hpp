// Facts that a small language model knows: what unlearning may not cost.
#pragma once

#include <array>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "continual/data.hpp"
#include "continual/readers.hpp"

namespace continual {

namespace detail {

inline constexpr std::array<std::pair<std::string_view, std::string_view>, 36> kPlainFacts{{
    {"What is the capital of France?", "The capital of France is Paris."},
    {"What is the capital of Japan?", "The capital of Japan is Tokyo."},
    {"What is the capital of Italy?", "The capital of Italy is Rome."},
    {"What is the capital of Germany?", "The capital of Germany is Berlin."},
    {"What is the capital of Egypt?", "The capital of Egypt is Cairo."},
    {"In which country is the Great Wall?", "The Great Wall is in China."},
    {"In which city is the Eiffel Tower?", "The Eiffel Tower is in Paris, France."},
    {"On which continent is Kenya?", "Kenya is in Africa."},
    {"On which continent is Brazil?", "Brazil is in South America."},
    {"Which ocean lies between Europe and America?",
     "The Atlantic Ocean lies between Europe and America."},
    {"What is the highest mountain on Earth?", "The highest mountain on Earth is Mount Everest."},
    {"Which planet is closest to the Sun?", "Mercury is the planet closest to the Sun."},
    {"What is the largest planet of the solar system?",
     "Jupiter is the largest planet of the solar system."},
    {"Which planet is known as the Red Planet?", "Mars is known as the Red Planet."},
    {"What does the Earth move around?", "The Earth moves around the Sun."},
    {"What is water made of?", "Water is made of hydrogen and oxygen."},
    {"At what temperature does water boil?", "Water boils at 100 degrees Celsius."},
    {"Which gas do plants take from the air?", "Plants take carbon dioxide from the air."},
    {"Which gas do people need to breathe?", "People need oxygen to breathe."},
    {"Which organ pumps blood through the body?", "The heart pumps blood through the body."},
    {"What is the largest animal in the world?",
     "The blue whale is the largest animal in the world."},
    {"What do bees make?", "Bees make honey."},
    {"How many legs does a spider have?", "A spider has eight legs."},
    {"How many days are there in a week?", "There are seven days in a week."},
    {"How many months are there in a year?", "There are twelve months in a year."},
    {"How many minutes are there in an hour?", "There are sixty minutes in an hour."},
    {"What is two plus two?", "Two plus two is four."},
    {"How many sides does a triangle have?", "A triangle has three sides."},
    {"What colour is the sky on a clear day?", "The sky is blue on a clear day."},
    {"What comes after winter?", "Spring comes after winter."},
    {"Who wrote Romeo and Juliet?", "Romeo and Juliet was written by William Shakespeare."},
    {"Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."},
    {"Who found the law of gravity?", "The law of gravity was found by Isaac Newton."},
    {"Who was the first president of the United States?",
     "The first president of the United States was George Washington."},
    {"Which language do people speak in Spain?", "People speak Spanish in Spain."},
    {"What is the opposite of hot?", "The opposite of hot is cold."},
}};

/// Real authors or world facts of TOFU; whole sentences as answers, where the file has them.
inline void append_tofu_facts(const std::filesystem::path& path, std::vector<Pair>& facts) {
  for (const auto& [value, line] : read_json_lines(path)) {
    const std::string where = at_line(path, line);
    const bool whole = value.is_object() && value.contains("original_answer");
    facts.push_back({text_of(value, "question", where),
                     text_of(value, whole ? "original_answer" : "answer", where), where});
  }
}

}  // namespace detail

/// General knowledge to measure beside a data set: TOFU's real authors and world facts where its
/// folder has them, else plain facts.
inline std::vector<Pair> general_knowledge(const DataSettings& settings) {
  std::vector<Pair> facts;
  if (settings.paths.size() == 1 && std::filesystem::is_directory(settings.paths.front())) {
    for (const char* name : {"real_authors_perturbed.json", "world_facts_perturbed.json"}) {
      const std::filesystem::path path = settings.paths.front() / name;
      if (std::filesystem::exists(path)) detail::append_tofu_facts(path, facts);
    }
  }
  if (facts.empty()) {
    for (const auto& [question, answer] : detail::kPlainFacts) {
      facts.push_back({std::string(question), std::string(answer)});
    }
  }
  return facts;
}

}  // namespace continual
