// Counts the gradients of a real model: for each kind of tensor the joint distribution of the
// magnitudes of g and G_r, at the first, the middle and the last step of ALKN's first task. Says
// how often the thresholds' brackets missed, and what each step took.
//
//   record_gradients --model models/smollm2-135m --tofu forget10.json --out
//   docs/benchmarks/gradients.json
//
// The model is taught some TOFU authors first, since no checkpoint knows them.
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <alkn/alkn.hpp>
#include <alkn/io/model_folder.hpp>
#include <alkn/kernel/select/predict.hpp>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "gradients.hpp"
#include "harness.hpp"
#include "models/load.hpp"
#include "tokenizers/folder_tokenizer.hpp"

namespace {

using at::Tensor;

constexpr int kPairsOfAuthor = 20;  // TOFU's order: twenty questions an author
constexpr double kOctaves = 2;      // of a bin

struct Pair {
  std::int64_t id;
  tokenizers::Labelled text;
};
struct Batch {
  Tensor ids, tokens, labels;
};

/// The shortest `each` pairs of authors first .. last - 1.
std::vector<Pair> read_pairs(const std::string& path, const tokenizers::FolderTokenizer& tokenizer,
                             int first, int last, std::size_t each) {
  std::ifstream file(path);
  std::vector<Pair> all;
  std::vector<Pair> of_author;
  std::string line;
  for (int number = 0; std::getline(file, line) && number < last * kPairsOfAuthor; ++number) {
    if (number < first * kPairsOfAuthor) continue;
    const auto record = nlohmann::json::parse(line);
    of_author.push_back(
        {number, tokenizer.encode_pair(record.at("question").get<std::string>(),
                                       record.at("answer").get<std::string>(), 512, path)});
    if (number % kPairsOfAuthor != kPairsOfAuthor - 1) continue;
    std::stable_sort(of_author.begin(), of_author.end(), [](const Pair& a, const Pair& b) {
      return a.text.ids.size() < b.text.ids.size();
    });
    of_author.resize(std::min(each, of_author.size()));
    all.insert(all.end(), of_author.begin(), of_author.end());
    of_author.clear();
  }
  if (all.empty()) {
    throw std::runtime_error("expected TOFU's questions and answers, got none (" + path + ")");
  }
  return all;
}

std::vector<Batch> batches_of(const std::vector<Pair>& pairs, std::size_t size) {
  std::vector<Batch> batches;
  for (std::size_t first = 0; first < pairs.size(); first += size) {
    const std::size_t last = std::min(first + size, pairs.size());
    std::size_t length = 0;
    for (std::size_t i = first; i < last; ++i) length = std::max(length, pairs[i].text.ids.size());
    const auto rows = static_cast<std::int64_t>(last - first);
    const auto columns = static_cast<std::int64_t>(length);
    Batch b{at::empty({rows}, at::kLong), at::full({rows, columns}, 2, at::kLong),
            at::full({rows, columns}, -100, at::kLong)};
    for (std::int64_t i = 0; i < rows; ++i) {
      const Pair& pair = pairs[first + static_cast<std::size_t>(i)];
      const auto n = static_cast<std::int64_t>(pair.text.ids.size());
      b.ids[i] = pair.id;
      b.tokens[i].narrow(0, 0, n).copy_(at::tensor(pair.text.ids, at::kLong));
      b.labels[i].narrow(0, 0, n).copy_(at::tensor(pair.text.labels, at::kLong));
    }
    batches.push_back(std::move(b));
  }
  return batches;
}

/// Logits of the positions that count.
Tensor logits_of(models::CausalModel& model, const Batch& b) {
  return model.logits(b.tokens, alkn::answer_rows(b.labels));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Pages that this process has touched for the first time.
std::int64_t page_faults() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

/// Mean probability of a token over the batches, geometric.
double probability(models::CausalModel& model, const std::vector<Batch>& batches) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  for (const Batch& b : batches) {
    sum += alkn::mean_nll(logits_of(model, b), b.labels).item<double>();
  }
  return std::exp(-sum / static_cast<double>(batches.size()));
}

using Bins = std::map<std::pair<int, int>, std::int64_t>;
constexpr int kZero = 1 << 20;

int bin_of(float x) {
  if (x == 0) return kZero;
  return static_cast<int>(std::floor(std::log2(std::fabs(x)) / kOctaves));
}

void count(const Tensor& g, const Tensor& r, Bins& bins) {
  // a small table: every exponent of a float fits
  constexpr int kSide = 80, kOffset = 76;
  std::vector<std::int64_t> table(std::size_t{kSide} * kSide, 0);
  const auto place = [](float x) {
    const int bin = bin_of(x);
    return bin == kZero ? kSide - 1 : std::clamp(bin + kOffset, 0, kSide - 2);
  };
  const float* grads = g.const_data_ptr<float>();
  const float* retains = r.const_data_ptr<float>();
  for (std::int64_t i = 0; i < g.numel(); ++i) {
    ++table[static_cast<std::size_t>(place(grads[i]) * kSide + place(retains[i]))];
  }
  for (int a = 0; a < kSide; ++a) {
    for (int b = 0; b < kSide; ++b) {
      const std::int64_t n = table[static_cast<std::size_t>(a * kSide + b)];
      const auto name = [](int at) { return at == kSide - 1 ? kZero : at - kOffset; };
      if (n > 0) bins[{name(a), name(b)}] += n;
    }
  }
}

/// [[log2 |g|, log2 |G_r|, share], ...]; bins of less than a millionth are left out.
nlohmann::json as_json(const Bins& bins) {
  double total = 0;
  for (const auto& [key, n] : bins) total += static_cast<double>(n);
  nlohmann::json rows = nlohmann::json::array();
  const auto end = [](int bin) {
    return bin == kZero ? nlohmann::json() : nlohmann::json(bin * kOctaves);
  };
  for (const auto& [key, n] : bins) {
    const double share = static_cast<double>(n) / total;
    if (share < 1e-6) continue;
    rows.push_back({end(key.first), end(key.second), std::round(share * 1e7) / 1e7});
  }
  return rows;
}

struct Settings {
  std::string model = "models/smollm2-135m", tofu, out = "build/bench/gradients.json";
  int epochs = 8;
  double until = 0.85, rate = 3e-5;
  int authors = 12, forget = 4, pairs = 5, epochs_of_task = 5;
};

void run(const Settings& s) {
  alkn_bench::require_release(ALKN_BUILD_TYPE);
  const alkn_bench::JsonFile file(s.out);
  const alkn::io::ModelFolder folder(s.model);
  const auto model = models::load(folder);
  const tokenizers::FolderTokenizer tokenizer(s.model, "Question: {question}\nAnswer: {answer}");
  const auto each = static_cast<std::size_t>(s.pairs);
  const auto all = batches_of(read_pairs(s.tofu, tokenizer, 0, s.authors, each), 16);
  const auto forget = batches_of(read_pairs(s.tofu, tokenizer, 0, s.forget, each), 16);
  const auto kept = batches_of(read_pairs(s.tofu, tokenizer, s.forget, s.authors, each), 16);
  std::vector<alkn::NamedParameter> named;
  std::vector<Tensor> parameters;
  for (const auto& item : model->named_parameters()) {
    const bool tied = std::any_of(parameters.begin(), parameters.end(),
                                  [&](const Tensor& p) { return p.is_same(item.value()); });
    if (tied) continue;
    named.push_back({item.key(), item.value()});
    parameters.push_back(item.value());
  }

  {
    alkn::AdamW teacher(parameters, alkn::AdamWOptions(3e-4));
    for (int epoch = 0; epoch < s.epochs && probability(*model, all) < s.until; ++epoch) {
      for (const Batch& b : all) {
        teacher.zero_grad();
        alkn::mean_nll(logits_of(*model, b), b.labels).backward();
        teacher.step();
      }
      fmt::print("taught {} epochs: probability {:.3f}\n", epoch + 1, probability(*model, all));
      std::fflush(stdout);
    }
  }
  for (const Batch& b : kept) alkn::mean_nll(logits_of(*model, b), b.labels).backward();
  std::map<std::string, Tensor> retain;
  for (const auto& p : named) {
    retain[p.name] = p.tensor.grad().div(static_cast<double>(kept.size()));
    p.tensor.mutable_grad() = Tensor();
  }

  alkn::ALKN<> unlearner(named, alkn::ALKNOptions(), alkn::AdamWOptions(s.rate));
  const int steps = s.epochs_of_task * static_cast<int>(forget.size());
  auto task = unlearner.begin_task({.steps = steps});
  {
    const at::NoGradGuard no_grad;
    for (const Batch& b : forget) task.remember(b.ids, logits_of(*model, b), b.labels);
  }
  for (const Batch& b : kept) {
    task.accumulate_retain_gradient(alkn::mean_nll(logits_of(*model, b), b.labels));
  }
  nlohmann::json result, kinds, seconds, faults;
  for (int i = 0; i < steps; ++i) {
    const Batch& b = forget[static_cast<std::size_t>(i) % forget.size()];
    unlearner.zero_grad();
    const Tensor loss = task.loss(b.ids, logits_of(*model, b), b.labels);
    loss.backward();
    if (i == 0 || i == steps / 2 || i == steps - 1) {
      std::map<std::string, Bins> bins;
      for (const auto& p : named) {
        count(p.tensor.grad(), retain.at(p.name),
              bins[alkn_bench::kind_of(p.tensor.sizes().vec())]);
      }
      for (const auto& [kind, counted] : bins) kinds[kind].push_back(as_json(counted));
    }
    const std::int64_t faults_before = page_faults();
    const auto start = std::chrono::steady_clock::now();
    unlearner.step();
    seconds.push_back(seconds_since(start));
    faults.push_back(page_faults() - faults_before);
    fmt::print("step {}: loss {:.2g}, {:.3f} s, {} page faults\n", i + 1, loss.item<double>(),
               seconds.back().get<double>(), faults.back().get<std::int64_t>());
    std::fflush(stdout);
  }
  const auto found = alkn::detail::CoreAccess::core(unlearner)->base().runner().predictions();
  task.abandon();
  result["command"] = fmt::format(
      "record_gradients --model models/smollm2-135m --tofu forget10.json --authors {} --forget {} "
      "--pairs {} --until {} --rate {}",
      s.authors, s.forget, s.pairs, s.until, s.rate);
  result["octaves"] = kOctaves;
  result["kinds"] = kinds;
  nlohmann::json& brackets = result["first_task"];
  brackets["steps"] = steps;
  brackets["predicted"] = found.hits;
  brackets["made wider"] = found.widened;  // predicted or missed in the end
  brackets["missed"] = found.misses;
  brackets["sampled"] = found.sampled_hits;
  brackets["sample missed"] = found.sampled_misses;
  brackets["seconds"] = seconds;
  brackets["page faults"] = faults;
  fmt::print("{}\n", brackets.dump());
  std::ofstream out(s.out);
  out << result.dump() << '\n';
  fmt::print("wrote {}\n", s.out);
}

}  // namespace

int main(int argc, char** argv) {
  Settings s;
  CLI::App app("Counts the gradients of a real model");
  app.add_option("--model", s.model, "Folder of the model");
  app.add_option("--tofu", s.tofu, "TOFU's forget10.json")->required();
  app.add_option("--authors", s.authors, "Authors that it is taught");
  app.add_option("--forget", s.forget, "Those of them that it is to forget");
  app.add_option("--pairs", s.pairs, "Pairs of each, the shortest");
  app.add_option("--until", s.until, "Probability at which the teaching ends");
  app.add_option("--rate", s.rate, "Learning rate of the task");
  app.add_option("--out", s.out, "JSON file");
  CLI11_PARSE(app, argc, argv);
  try {
    run(s);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "record_gradients: {}\n", error.what());
    return 1;
  }
}
