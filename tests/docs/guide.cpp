// The code of docs/guide.md and docs/methods.md: what stands between two equal marks is the page's.
// Compiled and run, so that no page shows what does not work.
#include <ATen/Functions.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/optim/sgd.h>

#include <alkn/alkn.hpp>
#include <alkn/autograd/checkpointed.hpp>
#include <alkn/checkpoint/checkpoint.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "forgetting.hpp"
#include "sim_npo.hpp"

namespace {

constexpr std::int64_t kVocabulary = 200, kWidth = 32;

struct Model : torch::nn::Module {
  torch::nn::Embedding tokens =
      register_module("tokens", torch::nn::Embedding(kVocabulary, kWidth));
  torch::nn::Linear head = register_module("head", torch::nn::Linear(kWidth, kVocabulary));
  at::Tensor hidden(const at::Tensor& x) { return tokens(x).cumsum(1).tanh(); }
  at::Tensor forward(const at::Tensor& x) { return head(hidden(x)); }
};

// [batch]
struct Batch {
  at::Tensor ids;     // [B] int64: which samples these are
  at::Tensor tokens;  // [B, T] int64: what the model reads
  at::Tensor labels;  // [B, T] int64: the same tokens, -100 where none counts
};
// [batch]

std::vector<Batch> make_batches(std::int64_t seed, int num_batches) {
  at::manual_seed(static_cast<std::uint64_t>(seed));
  std::vector<Batch> batches;
  for (std::int64_t i = 0; i < num_batches; ++i) {
    const at::Tensor tokens = at::randint(kVocabulary, {4, 6}, at::kLong);
    batches.push_back({at::arange(4 * i, 4 * i + 4), tokens, tokens});
  }
  return batches;
}

/// A model that knows the batches well.
Model trained_model(const std::vector<Batch>& forget, const std::vector<Batch>& retain) {
  at::manual_seed(1);
  Model model;
  std::vector<at::Tensor> all;
  for (const auto* batches : {&forget, &retain}) {
    for (const Batch& b : *batches) all.push_back(b.tokens);
  }
  const at::Tensor tokens = at::cat(all);
  alkn::AdamW optimizer(model.parameters(), alkn::AdamWOptions(2e-2));
  for (int step = 0; step < 80; ++step) {
    optimizer.zero_grad();
    alkn::mean_nll(model.forward(tokens), tokens).backward();
    optimizer.step();
  }
  return model;
}

double probability(Model& model, const std::vector<Batch>& batches) {
  double sum = 0;
  for (const Batch& b : batches) {
    sum += std::exp(-alkn::mean_nll(model.forward(b.tokens), b.labels).item<double>());
  }
  return sum / static_cast<double>(batches.size());
}

// [loop]
template <class Method>
alkn::TaskReport unlearn(Model& model, Method& unlearner, const std::vector<Batch>& forget,
                         const std::vector<Batch>& retain, std::int64_t epochs) {
  auto task = unlearner.begin_task({.steps = epochs * std::ssize(forget)});
  if (task.wants_memory()) {
    const at::NoGradGuard no_grad;
    model.eval();
    for (const Batch& b : forget) task.remember(b.ids, model.forward(b.tokens), b.labels);
    model.train();
  }
  if (task.wants_retain_gradient()) {
    for (const Batch& b : retain) {
      task.accumulate_retain_gradient(alkn::mean_nll(model.forward(b.tokens), b.labels));
    }
  }
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
    for (const Batch& b : forget) {
      unlearner.zero_grad();
      task.loss(b.ids, model.forward(b.tokens), b.labels).backward();
      unlearner.step();
    }
  }
  return task.end();
}
// [loop]

/// What a task needs before its first step.
template <class Task>
void prepare(Task& task, Model& model, const std::vector<Batch>& forget,
             const std::vector<Batch>& retain) {
  if (task.wants_memory()) {
    const at::NoGradGuard no_grad;
    for (const Batch& b : forget) task.remember(b.ids, model.forward(b.tokens), b.labels);
  }
  if (task.wants_retain_gradient()) {
    for (const Batch& b : retain) {
      task.accumulate_retain_gradient(alkn::mean_nll(model.forward(b.tokens), b.labels));
    }
  }
}

struct Fixture {
  std::vector<Batch> forget = make_batches(7, 2), retain = make_batches(8, 4);
  Model model = trained_model(forget, retain);
};

TEST_CASE_METHOD(Fixture, "guide: one loop serves every method") {
  const std::vector<std::vector<Batch>> requests = {forget, make_batches(9, 2)};
  const double known = probability(model, forget), kept = probability(model, retain);
  REQUIRE(known > 0.9);
  // [requests]
  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  for (const std::vector<Batch>& request : requests) {  // deletion requests, one after another
    const alkn::TaskReport report = unlearn(model, unlearner, request, retain, 5);
    std::printf("request %d: %.1f %% of the weights trained, %.1f %% of these before, lambda %g\n",
                static_cast<int>(report.task), 100 * report.fraction_trained, 100 * report.overlap,
                report.lambda);
    for (const alkn::TensorReport& tensor : report.tensors) {
      std::printf("  %-16s %.3f\n", tensor.name.c_str(), tensor.fraction_trained);
    }
    for (const std::string& warning : report.warnings) std::printf("  %s\n", warning.c_str());
  }
  // [requests]
  CHECK(unlearner.num_tasks() == 2);
  CHECK(probability(model, forget) < 0.8 * known);
  CHECK(probability(model, retain) > 0.9 * kept);
  alkn::NPO<> npo(model.named_parameters());
  CHECK(unlearn(model, npo, forget, retain, 1).lambda == 0);
  alkn::SimNPO<> sim_npo(model.named_parameters(), alkn::SimNPOOptions().delta(0.5));
  CHECK(unlearn(model, sim_npo, forget, retain, 1).steps == 2);
}

TEST_CASE_METHOD(Fixture, "guide: the method in a file of its own") {
  const auto samples_of = [](const std::vector<Batch>& batches) {
    std::vector<Sample> samples;
    for (const Batch& b : batches) samples.push_back({b.ids, b.tokens, b.labels});
    return samples;
  };
  const double known = probability(model, forget);
  Forgetting forgetting(model, [this](const at::Tensor& tokens) { return model.forward(tokens); });
  forgetting.request(samples_of(forget), samples_of(retain));
  CHECK(probability(model, forget) < 0.8 * known);
}

TEST_CASE_METHOD(Fixture, "guide: schedulers") {
  alkn::TaskVector<> unlearner(model.named_parameters(), alkn::TaskVectorOptions().lr_decay(0.5),
                               alkn::AdamWOptions(1e-3));
  const auto rate = [&] { return unlearner.param_groups()[0].options().get_lr(); };
  const std::int64_t epochs = 3, num_batches = std::ssize(forget);
  static_cast<void>(unlearn(model, unlearner, forget, retain, 1));
  // [schedule]
  const std::int64_t steps = epochs * num_batches;
  auto task = unlearner.begin_task({.steps = steps});
  alkn::LinearSchedule schedule(unlearner, num_batches, steps);  // after begin_task: one a task
  for (std::int64_t epoch = 0; epoch < epochs; ++epoch) {
    for (const Batch& b : forget) {
      unlearner.zero_grad();
      task.loss(b.ids, model.forward(b.tokens), b.labels).backward();
      unlearner.step();
      schedule.step();
    }
  }
  task.end();  // the groups' options are as before begin_task
  // [schedule]
  CHECK(rate() == 1e-3);
  auto again = unlearner.begin_task({.steps = 4});
  CHECK(rate() == 1e-3 * 0.25);  // lr_decay^2
  torch::optim::StepLR halving(unlearner, 1, 0.5);
  halving.step();
  halving.step();
  CHECK(rate() < 1e-3 * 0.25);
  again.abandon();
  CHECK(rate() == 1e-3);
}

TEST_CASE_METHOD(Fixture, "guide: micro-batches") {
  alkn::GradientAscent<> unlearner(model.named_parameters());
  const std::vector<Batch>& parts = forget;
  auto task = unlearner.begin_task({.steps = 1});
  // [micro]
  std::int64_t total = 0;
  for (const Batch& part : parts)
    total += alkn::valid_tokens(part.labels).sum().item<std::int64_t>();
  unlearner.zero_grad();
  for (const Batch& part : parts) {
    const at::Tensor share =
        alkn::valid_tokens(part.labels).sum().div(std::max<std::int64_t>(total, 1));
    task.loss(part.ids, model.forward(part.tokens), part.labels).mul(share).backward();
  }
  unlearner.step();  // one optimizer step
  // [micro]
  CHECK(unlearner.last_step().step == 0);
  const at::Tensor tokens = at::cat({parts[0].tokens, parts[1].tokens});
  CHECK(task.end().steps == 1);
  // the same as one backward pass over the whole batch
  Model twin = trained_model(forget, retain);
  alkn::GradientAscent<> other(twin.named_parameters());
  auto whole = other.begin_task({.steps = 1});
  other.zero_grad();
  whole.loss(at::arange(8), twin.forward(tokens), tokens).backward();
  other.step();
  CHECK(whole.end().steps == 1);
  CHECK(at::allclose(twin.head->weight, model.head->weight, 1e-4, 1e-5));
}

TEST_CASE_METHOD(Fixture, "guide: answer rows") {
  alkn::ALKN<> unlearner(model.named_parameters());
  auto task = unlearner.begin_task({.steps = 1});
  prepare(task, model, forget, retain);
  Batch b = forget[0];
  b.labels = b.tokens.clone();
  b.labels.narrow(1, 0, 1).fill_(alkn::kIgnoredLabel);
  // [rows]
  const at::Tensor rows = alkn::answer_rows(b.labels);  // [N], N <= B T
  const at::Tensor hidden = model.hidden(b.tokens).flatten(0, 1).index_select(0, rows);
  const at::Tensor loss = task.loss(b.ids, model.head(hidden), b.labels);  // logits [N, V]
  // [rows]
  const at::Tensor whole = task.loss(b.ids, model.forward(b.tokens), b.labels);
  CHECK(rows.size(0) == 4 * 5);
  CHECK(at::allclose(loss, whole));
  task.abandon();
}

TEST_CASE_METHOD(Fixture, "guide: activation checkpointing") {
  const Batch& b = forget[0];
  at::Tensor x = model.tokens(b.tokens).cumsum(1);
  const at::Tensor plain = model.head(x.tanh());
  torch::nn::Linear& layer = model.head;
  // [checkpointed]
  const auto block = [&layer](const at::Tensor& h) { return layer(h.tanh()); };
  x = alkn::checkpointed(block, layer->parameters(), x);  // in place of x = block(x)
  // [checkpointed]
  CHECK(at::equal(x, plain));
  x.sum().backward();
  CHECK(model.tokens->weight.grad().defined());
}

TEST_CASE_METHOD(Fixture, "guide: retain terms") {
  SECTION("nll") {
    // [nll]
    alkn::NPO<> unlearner(model.named_parameters(),
                          alkn::NPOOptions().retain_term(alkn::RetainTerm::nll).retain_weight(20),
                          alkn::AdamWOptions(1e-3));
    // [nll]
    auto task = unlearner.begin_task({.steps = 1});
    prepare(task, model, forget, retain);
    const Batch& b = forget[0];
    const Batch& kept = retain[0];
    // [nll_step]
    unlearner.zero_grad();
    at::Tensor loss = task.loss(b.ids, model.forward(b.tokens), b.labels);
    if (task.wants_retain_loss()) {
      loss = loss + task.retain_loss(model.forward(kept.tokens), kept.labels);
    }
    loss.backward();
    unlearner.step();
    // [nll_step]
    CHECK(task.end().steps == 1);
  }
  SECTION("kl") {
    alkn::NPO<> unlearner(
        model.named_parameters(),
        alkn::NPOOptions().retain_term(alkn::RetainTerm::kl).retain_weight(2).rollback(true),
        alkn::AdamWOptions(1e-3));
    auto task = unlearner.begin_task({.steps = 3});
    prepare(task, model, forget, retain);
    const Batch& b = forget[0];
    const Batch& kept = retain[0];
    double last = 0;
    for (int i = 0; i < 3; ++i) {
      // [kl_step]
      at::Tensor reference;
      if (task.wants_reference_logits()) {
        const at::NoGradGuard no_grad;
        const auto scope = task.start_weights();  // before any forward pass of this step
        reference = model.forward(kept.tokens);
      }
      unlearner.zero_grad();
      const at::Tensor retain_loss =
          task.retain_loss(model.forward(kept.tokens), kept.labels, reference);
      const at::Tensor forget_loss = task.loss(b.ids, model.forward(b.tokens), b.labels);
      (forget_loss + retain_loss).backward();
      unlearner.step();
      // [kl_step]
      CHECK(retain_loss.item<double>() >= last);
      last = retain_loss.item<double>();
    }
    CHECK(last > 0);
    task.abandon();
  }
}

TEST_CASE_METHOD(Fixture, "guide: the guard") {
  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions().negation(20),
                         alkn::AdamWOptions(1e-2));
  // [guard]
  const auto kept_loss = [&] {
    const at::NoGradGuard no_grad;
    double sum = 0;
    for (const Batch& b : retain) {
      sum += alkn::mean_nll(model.forward(b.tokens), b.labels).item<double>();
    }
    return sum / static_cast<double>(retain.size());
  };
  const double before = kept_loss();
  // [guard]
  auto task = unlearner.begin_task({.steps = 4});
  prepare(task, model, forget, retain);
  for (int i = 0; i < 4; ++i) {
    const Batch& b = forget[static_cast<std::size_t>(i % 2)];
    unlearner.zero_grad();
    task.loss(b.ids, model.forward(b.tokens), b.labels).backward();
    unlearner.step();
  }
  // [guard_end]
  const alkn::TaskReport report = task.end(kept_loss, before + 0.1);  // at most 0.1 nats a token
  if (report.lambda_reduced) std::printf("lambda reduced to %.3f\n", report.lambda);
  // [guard_end]
  CHECK(report.lambda_reduced);
  CHECK(report.lambda < 20);
  CHECK(kept_loss() <= before + 0.1);
}

TEST_CASE_METHOD(Fixture, "guide: strength") {
  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  const auto run = [&](auto& task) {
    prepare(task, model, forget, retain);
    for (int i = 0; i < 4; ++i) {
      const Batch& b = forget[static_cast<std::size_t>(i % 2)];
      unlearner.zero_grad();
      task.loss(b.ids, model.forward(b.tokens), b.labels).backward();
      unlearner.step();
    }
  };
  const auto known = [&] {
    const at::NoGradGuard no_grad;
    return probability(model, forget);
  };
  const auto damage = [&] {
    const at::NoGradGuard no_grad;
    return -std::log(probability(model, retain));
  };
  const double before = damage();
  auto task = unlearner.begin_task({.steps = 4});
  run(task);
  std::vector<double> seen;
  // [sweep]
  for (const double lambda : {0.5, 1.0, 2.0, 4.0, 8.0}) {
    const auto scope = task.weights_at(lambda);  // the model shows them until the scope ends
    seen.push_back(known());
    std::printf("lambda %.1f: forget %.3f, kept %.3f\n", lambda, seen.back(), damage());
  }
  // [sweep]
  CHECK(seen.front() > seen.back());
  const double bound = (seen.front() + seen.back()) / 2;
  // [target]
  const alkn::TaskReport report = task.end({
      .forget = known,  // the smallest lambda at which this falls to
      .forget_bound = bound,
      .keep = damage,  // while this stays within
      .keep_bound = before + 1,
      .max_lambda = 8,
  });
  if (!report.target_met) std::printf("not reached: %.3f left\n", *report.forget_judged);
  // [target]
  CHECK(report.target_met);
  CHECK(report.lambda > 0);
  CHECK(report.lambda < 8);
  CHECK(known() == *report.forget_judged);
  CHECK(known() <= bound);
}

TEST_CASE_METHOD(Fixture, "guide: checkpoints") {
  const std::int64_t steps = 6;
  const auto folder = std::filesystem::temp_directory_path() / "alkn_guide";
  std::filesystem::create_directories(folder);
  const std::filesystem::path path = folder / "run.checkpoint";
  const auto step = [&](Model& m, auto& unlearner, auto& task, std::int64_t i) {
    const Batch& b = forget[static_cast<std::size_t>(i % 2)];
    unlearner.zero_grad();
    task.loss(b.ids, m.forward(b.tokens), b.labels).backward();
    unlearner.step();
  };
  {
    alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-3));
    // [save]
    const at::Tensor position = at::full({1}, 0, at::kLong);  // steps done, of the trainer's own
    const alkn::io::NamedTensors buffers{{"position", position}};
    auto task = unlearner.begin_task({.steps = steps});
    prepare(task, model, forget, retain);
    alkn::LinearSchedule schedule(unlearner, 2, steps);
    for (std::int64_t i = 0; i < steps; ++i) {
      step(model, unlearner, task, i);
      schedule.step();
      position.fill_(i + 1);
      if (i == 2) alkn::save_checkpoint(path, unlearner, buffers);
    }
    task.end();
    // [save]
  }
  Model other = trained_model(make_batches(3, 1), make_batches(4, 1));
  // [load]
  alkn::ALKN<> unlearner(other.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-3));
  const at::Tensor position = at::full({1}, 0, at::kLong);
  std::optional<alkn::ALKN<>::TaskType> task =
      alkn::load_checkpoint(path, unlearner, {{"position", position}});
  const auto done = position.item<std::int64_t>();
  for (auto& group : unlearner.param_groups()) {
    group.options().set_lr(1e-3);  // the schedule counts from the full rate
  }
  alkn::LinearSchedule schedule(unlearner, 2, steps);
  for (std::int64_t i = 0; i < done; ++i) schedule.step();
  for (std::int64_t i = done; i < steps; ++i) {
    step(other, unlearner, *task, i);
    schedule.step();
  }
  task->end();
  // [load]
  CHECK(done == 3);
  CHECK(at::equal(other.head->weight, model.head->weight));
  CHECK(at::equal(other.tokens->weight, model.tokens->weight));
  std::filesystem::remove_all(folder);
}

TEST_CASE_METHOD(Fixture, "guide: abandoning a task") {
  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  const at::Tensor before = model.head->weight.clone();
  const auto good = [&] { return false; };
  auto task = unlearner.begin_task({.steps = 1});
  prepare(task, model, forget, retain);
  const Batch& b = forget[0];
  task.loss(b.ids, model.forward(b.tokens), b.labels).backward();
  unlearner.step();
  CHECK(!at::equal(before, model.head->weight));
  // [abandon]
  if (good()) {
    task.end();
  } else {
    task.abandon();  // the weights, moments and options of begin_task, to the bit
  }
  // [abandon]
  CHECK(at::equal(before, model.head->weight));
}

TEST_CASE_METHOD(Fixture, "guide: parameter groups") {
  // [groups]
  using Group = alkn::ParameterGroup<alkn::AdamWOverrides>;
  const std::vector<Group> groups = {
      {{"tokens.weight"}, alkn::AdamWOverrides().lr(1e-4)},
      {{"head.bias"}, alkn::AdamWOverrides().weight_decay(0.1).decay_vectors(true)},
  };
  alkn::ALKN<> unlearner(model.named_parameters(), groups, alkn::ALKNOptions(),
                         alkn::AdamWOptions(1e-3).weight_decay(0.01));
  // [groups]
  REQUIRE(unlearner.param_groups().size() == 3);
  CHECK(unlearner.param_groups()[0].options().get_lr() == 1e-3);
  CHECK(unlearner.param_groups()[1].options().get_lr() == 1e-4);
  CHECK(unlearner.param_groups()[2].options().get_lr() == 1e-3);
}

TEST_CASE_METHOD(Fixture, "guide: a base of LibTorch's") {
  const double known = probability(model, forget);
  // [base]
  alkn::ALKN<torch::optim::SGD> unlearner(model.named_parameters(), alkn::ALKNOptions(),
                                          torch::optim::SGDOptions(0.5).momentum(0.9));
  // [base]
  CHECK(unlearn(model, unlearner, forget, retain, 5).skipped_steps == 0);
  CHECK(probability(model, forget) < known);
}

TEST_CASE_METHOD(Fixture, "guide: low precision") {
  // [bfloat16]
  model.to(at::kBFloat16);
  model.zero_grad();
  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-3));
  // [bfloat16]
  const at::Tensor before = model.head->weight.clone();
  static_cast<void>(unlearn(model, unlearner, forget, retain, 2));
  CHECK(model.head->weight.scalar_type() == at::kBFloat16);
  CHECK(!at::equal(before, model.head->weight));
}

TEST_CASE_METHOD(Fixture, "guide: jit models") {
  const std::string path =
      (std::filesystem::temp_directory_path() / "alkn_guide_model.pt").string();
  {
    torch::jit::Module written("model");
    written.register_parameter(
        "table", at::randn({kVocabulary, kVocabulary}).set_requires_grad(true), false);
    written.define("def forward(self, x):\n    return self.table[x]\n");
    written.save(path);
  }
  // [jit]
  torch::jit::Module jit = torch::jit::load(path);
  alkn::ALKN<> unlearner(jit.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-2));
  const auto forward = [&](const at::Tensor& x) { return jit.forward({x}).toTensor(); };
  // [jit]
  const Batch& b = forget[0];
  const Batch& kept = retain[0];
  const double before = alkn::mean_nll(forward(b.tokens), b.labels).item<double>();
  auto task = unlearner.begin_task({.steps = 3});
  task.remember(b.ids, forward(b.tokens), b.labels);
  task.accumulate_retain_gradient(alkn::mean_nll(forward(kept.tokens), kept.labels));
  for (int i = 0; i < 3; ++i) {
    unlearner.zero_grad();
    task.loss(b.ids, forward(b.tokens), b.labels).backward();
    unlearner.step();
  }
  task.end();
  CHECK(alkn::mean_nll(forward(b.tokens), b.labels).item<double>() != before);
  std::filesystem::remove(path);
}

TEST_CASE_METHOD(Fixture, "guide: errors") {
  alkn::ALKN<> unlearner(model.named_parameters(), alkn::ALKNOptions(), alkn::AdamWOptions(1e-3));
  auto task = unlearner.begin_task({.steps = 1});
  std::string text;
  // [errors]
  try {
    unlearner.step();  // the retain gradient was never given
  } catch (const c10::Error& error) {
    text = error.what_without_backtrace();
  }
  // [errors]
  CHECK(text ==
        "alkn::ALKN: expected accumulate_retain_gradient before the first step, got no retain "
        "gradient");
  task.abandon();
}

TEST_CASE_METHOD(Fixture, "guide: skipped steps") {
  alkn::GradientAscent<> unlearner(model.named_parameters());
  auto task = unlearner.begin_task({.steps = 1});
  model.head->weight.mutable_grad() = at::full_like(model.head->weight, NAN);
  unlearner.step();
  bool seen = false;
  // [skipped]
  if (unlearner.last_step().skipped) std::puts("the gradient was not finite: nothing was written");
  // [skipped]
  seen = unlearner.last_step().skipped;
  CHECK(seen);
  CHECK(task.end().skipped_steps == 1);
}

TEST_CASE_METHOD(Fixture, "methods: presets and options") {
  // [presets]
  const auto paper = alkn::ALKNOptions::paper();
  const auto reference = alkn::ALKNOptions::reference();
  const auto conflict = alkn::ALKNOptions::conflict();  // the same as ALKNOptions()
  const auto ratio = alkn::ALKNOptions::ratio();        // experimental
  const auto own = alkn::ALKNOptions::conflict().steepness(10).negation(1.5).unmask_ratio(0.6);
  // [presets]
  CHECK(paper.alignment() == 1);
  CHECK(paper.steepness() == 10);
  CHECK(paper.penalty() == 1);
  CHECK(paper.penalty_scale() == alkn::PenaltyScale::gradient);
  CHECK(paper.modulation() == alkn::Modulation::parameter);
  CHECK(paper.negation() == 0.8);
  CHECK(reference.alignment() == 1);
  CHECK(reference.steepness() == 1.5);
  CHECK(reference.penalty() == 0.5);
  CHECK(reference.negation() == 1);
  CHECK(conflict.alignment() == -1);
  CHECK(conflict.negation() == 2);
  CHECK(ratio.score() == alkn::Score::ratio);
  CHECK(own.steepness() == 10);
  CHECK(own.negation() == 1.5);
}

TEST_CASE_METHOD(Fixture, "methods: combining policies") {
  // [combine]
  // NPO that may move the output layer's larger half only
  using MaskedNPO = alkn::Unlearner<alkn::NegativePreference, alkn::GivenMask, alkn::Keep>;
  const at::Tensor size = model.head->weight.detach().abs();
  const at::Tensor large = size.gt(size.median());
  const at::Tensor none = at::zeros_like(model.tokens->weight, at::kBool);
  MaskedNPO unlearner(model.named_parameters(),
                      MaskedNPO::Options()
                          .masks({{"head.weight", large}, {"tokens.weight", none}})
                          .masked(alkn::Masked::freeze),
                      alkn::AdamWOptions(1e-3));
  // [combine]
  const at::Tensor tokens = model.tokens->weight.clone();
  const at::Tensor head = model.head->weight.clone();
  const alkn::TaskReport report = unlearn(model, unlearner, forget, retain, 2);
  CHECK(report.fraction_trained < 0.5);
  CHECK(at::equal(tokens, model.tokens->weight));
  CHECK(at::equal(head.masked_select(large.logical_not()),
                  model.head->weight.detach().masked_select(large.logical_not())));
  CHECK(!at::equal(head, model.head->weight));
}

TEST_CASE("methods: SimNPO has the loss of its definition") {
  // z(a,b,c)[i,t,v] = 2 sin(a + 1.7 i + 0.9 t + 0.53 v) + b cos(0.31 v (t+1) + c i)
  at::Tensor logits = at::zeros({2, 5, 6}, at::kDouble);
  auto z = logits.accessor<double, 3>();
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t t = 0; t < 5; ++t) {
      for (std::int64_t v = 0; v < 6; ++v) {
        const auto [x, y, w] =
            std::tuple(static_cast<double>(i), static_cast<double>(t), static_cast<double>(v));
        z[i][t][v] = 2 * std::sin(0.1 + 1.7 * x + 0.9 * y + 0.53 * w) +
                     0.7 * std::cos(0.31 * w * (y + 1) + 0.4 * x);
      }
    }
  }
  const std::int64_t label[2][5] = {{-100, -100, 3, 1, 5}, {-100, 2, 0, 4, -100}};
  at::Tensor labels = at::zeros({2, 5}, at::kLong);
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t t = 0; t < 5; ++t) labels[i][t] = label[i][t];
  }
  logits.set_requires_grad(true);
  const at::Tensor loss = alkn::SimplePreference::loss(alkn::SimNPOOptions(), {}, logits, labels);
  loss.backward();
  CHECK(loss.item<double>() == Approx(1.3370535901460138e-4).epsilon(1e-12));
  CHECK(logits.grad()[0][1][3].item<double>() == Approx(1.789750128430435e-5).epsilon(1e-10));
}

}  // namespace
