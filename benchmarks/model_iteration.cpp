// One iteration of unlearning on a real model, from forward pass to step: the LibTorch side of
// model_iteration.py and processes.py, which drive it. Each line "go" of its input is one
// iteration, answered by its seconds as JSON; "end" is answered by the memory that the process
// took. Where a launcher's variables are set, it is one process of a group.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <alkn/alkn.hpp>
#include <alkn/io/tensors.hpp>
#if defined(USE_C10D_GLOO)  // with the target alkn::dist
#include <alkn/dist/gloo.hpp>
#endif

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "harness.hpp"
#include "models/heap.hpp"
#include "models/load.hpp"

namespace {

using at::Tensor;
using nlohmann::json;
using Method = alkn::ALKN<>;

/// MiB of this process: "VmRSS" now, "VmHWM" at most so far.
double memory(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1)) / 1024;
  }
  throw std::runtime_error("model_iteration: expected " + key + " in /proc/self/status, got none");
}

/// A group that counts what it is given to move.
class CountingGroup final : public alkn::Group {
 public:
  explicit CountingGroup(std::shared_ptr<alkn::Group> group) : group_(std::move(group)) {}
  [[nodiscard]] std::int64_t num_bytes() const { return num_bytes_; }

  [[nodiscard]] int rank() const noexcept override { return group_->rank(); }
  [[nodiscard]] int size() const noexcept override { return group_->size(); }
  [[nodiscard]] std::chrono::milliseconds timeout() const noexcept override {
    return group_->timeout();
  }
  void all_reduce(const Tensor& values) override {
    count(values);
    group_->all_reduce(values);
  }
  void reduce(const Tensor& values, int root) override {
    count(values);
    group_->reduce(values, root);
  }
  void broadcast(const Tensor& values, int root) override {
    count(values);
    group_->broadcast(values, root);
  }
  [[nodiscard]] std::vector<alkn::GroupMessage> gather(const alkn::GroupMessage& mine) override {
    num_bytes_ += static_cast<std::int64_t>(mine.size());
    return group_->gather(mine);
  }

 private:
  void count(const Tensor& values) { num_bytes_ += static_cast<std::int64_t>(values.nbytes()); }

  std::shared_ptr<alkn::Group> group_;
  std::int64_t num_bytes_ = 0;
};

/// The group of a launcher's processes, or null.
std::shared_ptr<CountingGroup> make_group() {
#if defined(USE_C10D_GLOO)
  auto group = alkn::dist::from_environment();
  if (group) return std::make_shared<CountingGroup>(std::move(group));
#endif
  return nullptr;
}

struct Batch {
  Tensor ids, tokens, labels;  ///< [B], [B, T], [B, T]
};

/// Of each batch the rows rank, rank + size, ...
std::vector<Batch> read_batches(const std::string& path, int rank, int size) {
  std::map<std::string, Tensor> tensors;
  for (auto& [name, tensor] : alkn::io::load_tensors(path)) tensors.emplace(name, tensor);
  std::vector<Batch> batches;
  for (std::int64_t i = 0; tensors.contains("tokens_" + std::to_string(i)); ++i) {
    const auto own = [&](const Tensor& all) { return all.slice(0, rank, {}, size).contiguous(); };
    const Tensor& tokens = tensors.at("tokens_" + std::to_string(i));
    const std::int64_t rows = tokens.size(0);
    batches.push_back({own(at::arange(rows * i, rows * (i + 1), at::kLong)), own(tokens),
                       own(tensors.at("labels_" + std::to_string(i)))});
  }
  return batches;
}

class Worker {
 public:
  Worker(const std::string& folder, const std::string& batches, bool rows)
      : group_(make_group()),
        model_(models::load(alkn::io::ModelFolder(folder))),
        batches_(read_batches(batches, group_ ? group_->rank() : 0, group_ ? group_->size() : 1)),
        rows_(rows) {
    note("load");
  }

  /// A first task, or a later one after a task of one step that leaves the weights as they were.
  void begin(bool later, bool compact) {
    method_ = std::make_unique<Method>(model_->named_parameters(),
                                       alkn::ALKNOptions().compact_state(compact),
                                       alkn::AdamWOptions(1e-5).weight_decay(0.01), group_);
    if (later) {
      task_.emplace(method_->begin_task({.steps = 10}));
      prepare();
      iterate();
      static_cast<void>(task_->end(0));
      phases_.clear();
      note("one task");
    }
    task_.emplace(method_->begin_task({.steps = 1000}));
    note("begin_task");
    prepare();
    note("retain gradient");
  }

  /// Seconds of forward and backward pass, of the step, and the loss.
  json iterate() {
    const auto seconds_since = [](auto start) {
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      return time.count();
    };
    const Batch& b = batches_[next_++ % batches_.size()];
    const auto start = std::chrono::steady_clock::now();
    model_->zero_grad();
    const Tensor logits = logits_of(b);
    const Tensor loss =
        task_ ? task_->loss(b.ids, logits, b.labels) : alkn::mean_nll(logits, b.labels);
    loss.mul(share(b)).backward();
    const double passes = seconds_since(start);
    const std::int64_t bytes = num_bytes();
    const auto before_step = std::chrono::steady_clock::now();
    if (task_) method_->step();
    return {{"passes", passes},
            {"step", task_ ? seconds_since(before_step) : 0.0},
            {"bytes", num_bytes() - bytes},
            {"loss", loss.item<double>()}};
  }

  /// Resident MiB after each phase, at most, and what the arrays take.
  [[nodiscard]] json end() {
    note("iterations");
    std::map<const void*, std::int64_t> weights;  // a tied one is listed twice
    for (const Tensor& p : model_->parameters()) weights[p.const_data_ptr()] = p.numel();
    std::int64_t number = 0;
    for (const auto& [data, size] : weights) number += size;
    return {{"peak_mib", memory("VmHWM")}, {"phases", phases_}, {"weights", number}};
  }

 private:
  [[nodiscard]] Tensor logits_of(const Batch& b) {
    if (!rows_) return model_->forward(b.tokens);
    return model_->logits(b.tokens, alkn::answer_rows(b.labels));
  }

  void prepare() {
    {
      const at::NoGradGuard no_grad;
      for (const Batch& b : batches_) task_->remember(b.ids, logits_of(b), b.labels);
    }
    const Batch& b = batches_.back();
    task_->accumulate_retain_gradient(alkn::mean_nll(logits_of(b), b.labels).mul(share(b)));
    models::return_freed_memory();
  }

  /// The factor of a mean over this process's tokens of a batch.
  [[nodiscard]] double share(const Batch& b) const {
    return group_ ? group_->share(alkn::valid_tokens(b.labels).sum().item<double>()) : 1;
  }
  [[nodiscard]] std::int64_t num_bytes() const { return group_ ? group_->num_bytes() : 0; }

  void note(const char* phase) {
    phases_.push_back({{"after", phase}, {"resident_mib", memory("VmRSS")}});
  }

  std::shared_ptr<CountingGroup> group_;
  std::shared_ptr<models::CausalModel> model_;
  std::vector<Batch> batches_;
  bool rows_;
  std::unique_ptr<Method> method_;
  std::optional<Method::TaskType> task_;
  std::size_t next_ = 0;
  json phases_ = json::array();
};

void run(int argc, char** argv) {
  alkn_bench::require_release(ALKN_BUILD_TYPE);
  CLI::App app("One iteration on a real model, as model_iteration.py asks for it");
  std::string folder, batches, mode = "passes";
  bool rows = false, compact = false;
  int threads = at::get_num_threads();
  app.add_option("--model", folder, "Hugging Face folder")->required();
  app.add_option("--batches", batches, "safetensors: tokens_0, labels_0, ...")->required();
  app.add_option("--mode", mode)->check(CLI::IsMember({"passes", "first", "later"}));
  app.add_flag("--rows", rows, "Head and logits on the answers' positions alone");
  app.add_flag("--compact", compact, "A compact state");
  app.add_option("--threads", threads)->check(CLI::PositiveNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  at::set_num_threads(threads);
  Worker worker(folder, batches, rows);
  if (mode != "passes") worker.begin(mode == "later", compact);
  std::cout << json{{"ready", true}} << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << (line == "go" ? worker.iterate() : worker.end()) << std::endl;
    if (line != "go") return;
  }
}

}  // namespace

int main(int argc, char** argv) {
  models::keep_freed_memory();
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
