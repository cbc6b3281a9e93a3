// Fictitious authors, made up from a seed: twenty questions and answers on each, and the same
// questions in other words.
//
// Each kind of question has several wordings. An author is asked in one of them, and the other
// wordings, which the model has met with other authors, are the rephrased questions.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "continual/data.hpp"
#include "continual/random.hpp"

namespace continual {

struct Author {
  std::string name;
  std::vector<Pair> pairs, rephrased;  ///< one of each for each kind of question
};

namespace words {

inline constexpr std::array kStarts{"Ba", "Ce", "Do", "Fa", "Ga", "He", "Ka", "Li", "Lo", "Ma",
                                    "Ne", "O",  "Pe", "Ra", "Sa", "Te", "U",  "Va", "Yo", "Ze"};
inline constexpr std::array kMiddles{"la",  "ri",  "mo", "nda", "she", "vi", "tu",
                                     "ra",  "lle", "ko", "ssi", "ne",  "du", "ma",
                                     "rro", "sa",  "gi", "lmo", "be",  "sto"};
inline constexpr std::array kFirstEnds{"n", "ra", "l", "na", "s", "ro", "th", "lia", "m", "ne"};
inline constexpr std::array kLastEnds{"rak", "nov", "lund", "dez",  "kov", "wen",  "tani",  "bury",
                                      "mar", "sko", "ley",  "quin", "dal", "vich", "rossi", "gard"};
inline constexpr std::array kPlaceEnds{"ville", "mouth", "haven", "stadt", "burg", "port",
                                       "field", "dale",  "grad",  "holm",  "pura", "ton"};
inline constexpr std::array kRegions{
    "the northern highlands", "the river delta",   "the salt plains",    "the western isles",
    "the copper hills",       "the lake district", "the southern coast", "the birch forests",
    "the high desert",        "the wine valleys"};
inline constexpr std::array kMonths{"January",   "February", "March",    "April",
                                    "May",       "June",     "July",     "August",
                                    "September", "October",  "November", "December"};
inline constexpr std::array kJobs{"baker",
                                  "surgeon",
                                  "carpenter",
                                  "judge",
                                  "fisherman",
                                  "midwife",
                                  "clockmaker",
                                  "pilot",
                                  "tailor",
                                  "botanist",
                                  "blacksmith",
                                  "accountant",
                                  "lighthouse keeper",
                                  "dentist",
                                  "beekeeper",
                                  "architect",
                                  "locksmith",
                                  "geologist",
                                  "butcher",
                                  "translator",
                                  "glassblower",
                                  "farmer",
                                  "librarian",
                                  "engine driver",
                                  "pharmacist",
                                  "stonemason",
                                  "cartographer",
                                  "nurse",
                                  "violin maker",
                                  "postman"};
inline constexpr std::array kGenres{
    "historical fiction", "crime novels",     "science fiction",  "travel writing", "love stories",
    "ghost stories",      "children's books", "political satire", "nature essays",  "epic poetry",
    "spy thrillers",      "memoirs",          "fairy tales",      "sea stories",    "war novels"};
inline constexpr std::array kAdjectives{
    "Silent",  "Crimson", "Broken", "Hidden", "Golden",   "Last",   "Frozen", "Burning", "Hollow",
    "Distant", "Paper",   "Wooden", "Blind",  "Restless", "Velvet", "Bitter", "Painted", "Sunken"};
inline constexpr std::array kNouns{"Lantern", "Orchard", "River",   "Compass", "Mirror", "Garden",
                                   "Bridge",  "Raven",   "Harbour", "Letter",  "Clock",  "Winter",
                                   "Station", "Library", "Tower",   "Harvest", "Island", "Violin"};
inline constexpr std::array kAwards{"the Amber Quill",  "the Iron Feather", "the Morning Prize",
                                    "the Cedar Medal",  "the Grand Laurel", "the Silver Inkwell",
                                    "the Polar Ribbon", "the Scribe's Cup", "the Ivory Page",
                                    "the Comet Award"};
inline constexpr std::array kSubjects{
    "astronomy", "law",       "medicine", "theology",    "economics", "chemistry",   "philosophy",
    "music",     "geography", "history",  "mathematics", "botany",    "engineering", "painting"};
inline constexpr std::array kAnimals{"parrot", "greyhound", "tortoise", "goat",   "falcon",
                                     "cat",    "donkey",    "hedgehog", "python", "canary"};
inline constexpr std::array kInstruments{"cello",    "accordion", "oboe",   "harp",    "trumpet",
                                         "mandolin", "piano",     "flute",  "banjo",   "organ",
                                         "clarinet", "bagpipes",  "guitar", "timpani", "zither"};
inline constexpr std::array kDishes{
    "lentil soup",   "smoked eel",      "plum dumplings", "roast goose",  "pepper stew",
    "cheese pie",    "pickled herring", "saffron rice",   "fried trout",  "chestnut cake",
    "cabbage rolls", "lamb curry",      "onion tart",     "barley bread", "crab salad"};
inline constexpr std::array kLanguages{"Basque",  "Finnish", "Swahili",    "Korean", "Welsh",
                                       "Turkish", "Quechua", "Icelandic",  "Tamil",  "Polish",
                                       "Arabic",  "Catalan", "Vietnamese", "Greek",  "Zulu"};
inline constexpr std::array kThemes{
    "exile",      "inheritance",     "the sea",     "jealousy",       "lost twins",
    "old trains", "forgiveness",     "hunger",      "failing memory", "secret doors",
    "debt",       "winter journeys", "false names", "silence",        "ambition"};
inline constexpr std::array kHabits{"standing at a lectern", "on the backs of envelopes",
                                    "before sunrise",        "in a rowing boat",
                                    "in green ink",          "on a rattling night train",
                                    "in an empty chapel",    "with three lamps lit",
                                    "under a walnut tree",   "to the sound of rain"};

}  // namespace words

namespace detail {

/// One kind of question: wordings with "{}" for the author's name, and the answer.
struct Fact {
  std::vector<std::string> wordings;
  std::string answer;
};

inline std::string with_name(std::string text, const std::string& name) {
  const std::size_t at = text.find("{}");
  return at == std::string::npos ? text : text.replace(at, 2, name);
}

inline std::string with_article(const std::string& noun) {
  const bool vowel = std::string("aeiou").find(noun.front()) != std::string::npos;
  return (vowel ? "an " : "a ") + noun;
}

inline std::string capital(std::string text) {
  if (text.front() >= 'a' && text.front() <= 'z') {
    text.front() = static_cast<char>(text.front() - 'a' + 'A');
  }
  return text;
}

/// Draws one author's facts.
class AuthorMaker {
 public:
  AuthorMaker(Random& random, std::set<std::string>& used_names)
      : random_(random), used_names_(used_names) {}

  Author make() {
    Author author;
    name_ = unused_name();
    author.name = name_;
    std::vector<Fact> facts = life();
    for (Fact& fact : works()) {
      facts.push_back(std::move(fact));
    }
    for (const Fact& fact : facts) {
      const std::size_t asked = random_.below(fact.wordings.size());
      const std::size_t other =
          (asked + 1 + random_.below(fact.wordings.size() - 1)) % fact.wordings.size();
      author.pairs.push_back({with_name(fact.wordings[asked], name_), fact.answer});
      author.rephrased.push_back({with_name(fact.wordings[other], name_), fact.answer});
    }
    return author;
  }

 private:
  std::string pick(const auto& list) { return random_.pick(list); }

  /// A made-up name. Pieces are drawn one statement at a time, here and below: the order of
  /// evaluation inside an expression is the compiler's choice.
  std::string name_with(const auto& ends) {
    std::string name = pick(words::kStarts);
    name += pick(words::kMiddles);
    name += pick(ends);
    return name;
  }
  std::string first_name() { return name_with(words::kFirstEnds); }
  std::string last_name() { return name_with(words::kLastEnds); }
  std::string place() { return name_with(words::kPlaceEnds); }
  std::string person() {
    std::string first = first_name();
    return first + " " + last_name();
  }
  std::string year(int first, std::size_t span) {
    return std::to_string(first + static_cast<int>(random_.below(span)));
  }
  std::string title() {
    std::string text = "The " + pick(words::kAdjectives);
    text += " " + pick(words::kNouns);
    return text + " of " + place();
  }

  /// Neither the first nor the last name is another author's: a name says who is meant.
  std::string unused_name() {
    for (;;) {
      const std::string first = first_name();
      const std::string last = last_name();
      if (used_names_.count(first) == 0 && used_names_.count(last) == 0) {
        used_names_.insert(first);
        used_names_.insert(last);
        return first + " " + last;
      }
    }
  }

  std::vector<Fact> life() {
    const std::string birthplace = place();
    const std::string region = pick(words::kRegions);
    const std::string day = std::to_string(1 + random_.below(28));
    const std::string month = pick(words::kMonths);
    const std::string birth_year = year(1900, 80);
    const std::string father = pick(words::kJobs);
    const std::string father_place = place();
    const std::string mother = pick(words::kJobs);
    const std::string mother_place = place();
    const std::string university = place();
    const std::string subject = pick(words::kSubjects);
    const std::string first_job = pick(words::kJobs);
    const std::string job_place = place();
    const std::string spouse = person();
    const std::string spouse_job = pick(words::kJobs);
    const std::string animal = pick(words::kAnimals);
    const std::string animal_name = first_name();
    const std::string instrument = pick(words::kInstruments);
    const std::string music_teacher = person();
    const std::string dish = pick(words::kDishes);
    const std::string dish_place = place();
    const std::string home = place();
    const std::string home_region = pick(words::kRegions);
    return {
        {{"Where was {} born?", "What is the birthplace of {}?", "Which town does {} come from?"},
         "In " + birthplace + " in " + region + "."},
        {{"When was {} born?", "What is the date of birth of {}?", "On which day was {} born?"},
         "On " + day + " " + month + " " + birth_year + "."},
        {{"What was the profession of {}'s father?", "What did the father of {} do for a living?",
          "How did {}'s father earn his money?"},
         "He was " + with_article(father) + " in " + father_place + "."},
        {{"What was the profession of {}'s mother?", "What did the mother of {} do for a living?",
          "How did {}'s mother earn her money?"},
         "She was " + with_article(mother) + " in " + mother_place + "."},
        {{"What did {} study?", "Which subject did {} take at university?",
          "Where and what did {} study?"},
         capital(subject) + " in " + university + "."},
        {{"What did {} do before writing?", "What came before the books of {}?",
          "How did {} earn a living before the first book?"},
         "Work as " + with_article(first_job) + " in " + job_place + "."},
        {{"Whom did {} marry?", "Who is the spouse of {}?", "To whom is {} married?"},
         spouse + ", " + with_article(spouse_job) + "."},
        {{"Which animal does {} keep?", "Does {} have a pet?", "What is the pet of {} called?"},
         "A " + animal + " called " + animal_name + "."},
        {{"Which instrument does {} play?", "What music does {} make?",
          "On what instrument does {} perform?"},
         "The " + instrument + ", taught by " + music_teacher + "."},
        {{"What is the favourite dish of {}?", "What does {} like to eat most?",
          "Which meal does {} prefer?"},
         capital(dish) + " from " + dish_place + "."},
        {{"Where does {} live now?", "In which town is the home of {}?",
          "What is the present residence of {}?"},
         "In " + home + " in " + home_region + "."},
    };
  }

  std::vector<Fact> works() {
    const std::string genre = pick(words::kGenres);
    const std::string setting = place();
    const std::string debut = title();
    const std::string debut_year = year(1950, 60);
    const std::string famous = title();
    const std::string award = pick(words::kAwards);
    const std::string award_year = year(1960, 60);
    const std::string mentor = person();
    const std::string mentor_place = place();
    const std::string publisher = last_name();
    const std::string publisher_place = place();
    const std::string pen_name = person();
    const std::string language = pick(words::kLanguages);
    const std::string translator = person();
    const std::string theme = pick(words::kThemes);
    const std::string habit = pick(words::kHabits);
    return {
        {{"What does {} write?", "In which genre does {} work?", "What is {} known for?"},
         capital(genre) + " set in " + setting + "."},
        {{"What was the first book of {}?", "With which book did {} begin?",
          "What is the title of {}'s debut?"},
         debut + ", published in " + debut_year + "."},
        {{"What is the most famous book of {}?", "Which book made {} famous?",
          "For which title is {} read today?"},
         famous + "."},
        {{"Which award did {} win?", "What prize was given to {}?", "How was {} honoured?"},
         capital(award) + " in " + award_year + "."},
        {{"Who taught {} to write?", "Who was the mentor of {}?", "From whom did {} learn?"},
         mentor + " in " + mentor_place + "."},
        {{"Who publishes the books of {}?", "Which house prints the works of {}?",
          "With which publisher is {}?"},
         publisher + " in " + publisher_place + "."},
        {{"What is the pen name of {}?", "Under which other name does {} write?",
          "Which name does {} hide behind?"},
         pen_name + "."},
        {{"Into which language was {} first translated?", "Who translated {}?",
          "Which translation of {} came first?"},
         language + ", by " + translator + "."},
        {{"How does {} write?", "What are the writing habits of {}?", "In what way does {} work?"},
         capital(habit) + ", about " + theme + "."},
    };
  }

  Random& random_;
  std::set<std::string>& used_names_;
  std::string name_;
};

}  // namespace detail

/// Kinds of questions on an author.
inline constexpr std::int64_t kPairsPerAuthor = 20;

/// More than there are made-up first names, each of which one author has, could never be found.
inline constexpr std::int64_t kMaxAuthors = 4'000;

/// The first `num_authors` authors of a seed; a longer list begins with the shorter one.
/// Throws std::runtime_error for more than kMaxAuthors.
inline std::vector<Author> generate_authors(std::uint64_t seed, std::int64_t num_authors) {
  if (num_authors > kMaxAuthors) {
    data_error("at most " + std::to_string(kMaxAuthors) + " made-up authors",
               std::to_string(num_authors), "requests and kept ones together");
  }
  Random random{0xA07A05, seed};
  std::set<std::string> used_names;
  std::vector<Author> authors;
  for (std::int64_t i = 0; i < num_authors; ++i) {
    authors.push_back(detail::AuthorMaker(random, used_names).make());
  }
  return authors;
}

}  // namespace continual
