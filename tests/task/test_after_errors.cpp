// What is left after an error in a task, and calls in surroundings that LibTorch allows but few
// programs have: InferenceMode, views with a lazy minus.
#include <ATen/ops/_efficientzerotensor.h>
#include <ATen/ops/_neg_view.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include <alkn/checkpoint/checkpoint.hpp>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::Batch, tiny::core_of, tiny::error_of, tiny::everything, tiny::Model, tiny::same_bits;

namespace {

/// A task vector after one step, with the weights before it and after it.
struct Tuned {
  Tuned() {
    tiny::set_gradients(model.params, 1);
    method.step();
    tuned = model.copies();
  }
  Model model;
  const std::vector<Tensor> start = model.copies();
  alkn::TaskVector<> method{model.params};
  alkn::Task<alkn::TaskVector<>> task = method.begin_task({.steps = 3});
  std::vector<Tensor> tuned;
};

constexpr const char* kOtherHead =
    "alkn::TaskVector: expected Float [11, 6] on cpu as at construction, got Float [3, 3] on cpu "
    "(group 0, parameter \"head\")";

}  // namespace

TEST_CASE("start_weights() with a parameter of another shape changes nothing") {
  Tuned t;
  const Tensor head = t.model["head"].detach().clone();
  t.model["head"].set_data(at::zeros({3, 3}));
  CHECK(error_of([&] { const auto start = t.task.start_weights(); }) == kOtherHead);
  t.model["head"].set_data(head);
  CHECK(same_bits(t.model.copies(), t.tuned));
  t.task.abandon();
  CHECK(same_bits(t.model.copies(), t.start));
}

TEST_CASE("abandon() with a parameter of another shape changes nothing") {
  Tuned t;
  const Tensor head = t.model["head"].detach().clone();
  t.model["head"].set_data(at::zeros({3, 3}));
  CHECK(error_of([&] { t.task.abandon(); }) == kOtherHead);
  CHECK(same_bits(t.model["embed"], t.tuned[0]));
  CHECK(core_of(t.method).in_task());
  t.model["head"].set_data(head);
  t.task.abandon();
  CHECK(same_bits(t.model.copies(), t.start));
}

TEST_CASE("a checkpoint with a parameter of another shape is refused and changes nothing") {
  const auto run = [&](bool disturbed) {
    Model trained(at::kBFloat16);
    alkn::TaskVector<> fine(trained.params, {}, alkn::AdamWOptions(1e-4));
    for (int step = 0; step < 40; ++step) {  // less than a bit each
      tiny::set_gradients(trained.params, 1);
      fine.step();
      if (!disturbed) continue;
      const Tensor head = trained["head"].detach();
      trained["head"].set_data(at::zeros({3, 3}, at::kBFloat16));
      CHECK(error_of([&] { alkn::save_checkpoint("nowhere", fine); }) ==
            "alkn::TaskVector: expected BFloat16 [11, 6] on cpu as at construction, got BFloat16 "
            "[3, 3] on cpu (group 0, parameter \"head\")");
      trained["head"].set_data(head);
    }
    return trained.copies();
  };
  CHECK(same_bits(run(true), run(false)));
  CHECK_FALSE(std::filesystem::exists("nowhere"));
}

TEST_CASE("a scope of start_weights() that cannot end is noticed, and abandon() restores") {
  Tuned t;
  Tensor head;
  {
    const auto start = t.task.start_weights();
    head = t.model["head"].detach().clone();
    t.model["head"].set_data(at::zeros({3, 3}));
  }
  t.model["head"].set_data(head);
  CHECK(error_of([&] { t.method.step(); }) ==
        "alkn::TaskVector: expected the fine-tuned weights in the model, got a step inside the "
        "scope of start_weights()");
  CHECK(error_of([&] { t.task.end(); }) ==
        "alkn::TaskVector: expected the fine-tuned weights in the model, got end() inside the "
        "scope of start_weights()");
  t.task.abandon();
  CHECK(same_bits(t.model.copies(), t.start));
}

TEST_CASE("abandon() inside the scope of start_weights() restores") {
  Tuned t;
  const std::unique_ptr<alkn::StartWeights> start(new alkn::StartWeights(t.task.start_weights()));
  CHECK(same_bits(t.model.copies(), t.start));
  t.task.abandon();
  CHECK(same_bits(t.model.copies(), t.start));
}

TEST_CASE("a judge that leaves the scope of start_weights() open is refused") {
  Tuned t;
  std::unique_ptr<alkn::StartWeights> kept;
  const auto judge = [&] {
    if (!kept) kept.reset(new alkn::StartWeights(t.task.start_weights()));
    return 2.0;
  };
  CHECK(error_of([&] { t.task.end(judge, 1); }) ==
        "alkn::TaskVector: expected the scope of start_weights() to end in the judge of end(), got "
        "it open after the judge");
  CHECK(same_bits(t.model.copies(), t.tuned));
  {
    const auto again = t.task.start_weights();
    CHECK(same_bits(t.model.copies(), t.start));
    kept.reset();  // an old scope does not end a new one
    CHECK(same_bits(t.model.copies(), t.start));
  }
  CHECK(same_bits(t.model.copies(), t.tuned));
  const auto closed = [&] {
    const auto start = t.task.start_weights();
    return 2.0;
  };
  CHECK(t.task.end(closed, 1, 3).lambda == 0);
  CHECK(same_bits(t.model.copies(), t.start));
}

TEST_CASE("a judge that changes a parameter's shape is refused") {
  Tuned t;
  const auto judge = [&] {
    t.model["head"].set_data(at::zeros({3, 3}));
    return 2.0;
  };
  const Tensor head = t.model["head"].detach();
  CHECK(error_of([&] { t.task.end(judge, 1); }) == kOtherHead);
  t.model["head"].set_data(head);
  CHECK(error_of([&] { t.method.step(); }) ==
        "alkn::Task: expected abandon() after a call that failed with some parameters written, got "
        "step()");
  CHECK(error_of([&] { t.task.end(); }) ==
        "alkn::Task: expected abandon() after a call that failed with some parameters written, got "
        "end()");
  t.task.abandon();
  CHECK(same_bits(t.model.copies(), t.start));
}

TEST_CASE("a handle that goes while a judge is asked abandons the task where the end throws") {
  const auto run = [](bool throws) {
    Tuned t;
    auto task = std::make_optional(std::move(t.task));
    const auto judge = [&] {
      task.reset();
      if (throws) throw std::runtime_error("no number");
      return 2.0;
    };
    const std::string error = error_of([&] { task->end(judge, 1, 2); });
    CHECK_FALSE(core_of(t.method).in_task());
    CHECK(t.method.num_tasks() == (throws ? 0 : 1));
    CHECK(same_bits(t.model.copies(), t.start));  // the largest lambda within is 0
    return error;
  };
  CHECK(run(true) == "no number");
  CHECK(run(false) == "no error");
}

TEST_CASE("a judge finds its candidate again after a scope of start_weights()") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  Model model(type);
  alkn::TaskVector<> method(model.params);
  const auto start = model.copies();
  auto task = method.begin_task({.steps = 2});
  tiny::set_gradients(model.params, 1);
  method.step();
  const auto tuned = model.copies();
  const auto judge = [&] {
    const auto candidate = model.copies();
    CHECK_FALSE(same_bits(candidate, tuned));
    {
      const auto scope = task.start_weights();
      CHECK(same_bits(model.copies(), start));
    }
    CHECK(same_bits(model.copies(), candidate));
    return 2.0;
  };
  task.end(judge, 1, 2);
  CHECK(same_bits(model.copies(), start));
}

TEST_CASE("the overlap of a task is at most 1, whatever has a gradient in the last step") {
  Model model;
  alkn::ALKN<> method(model.params, alkn::ALKNOptions().unmask_ratio(2));
  tiny::unlearn(method, model, 3);
  auto task = method.begin_task({.steps = 3});
  tiny::prepare(task, model);
  tiny::set_gradients(model.params, 1);
  method.step();
  tiny::set_gradients(model.params, 2);
  for (const char* name : {"embed", "weight", "head"}) model[name].mutable_grad() = Tensor();
  method.step();  // of the bias alone
  const alkn::TaskReport report = task.end();
  CHECK(report.overlap <= 1);
  for (const auto& tensor : report.tensors) {
    INFO(tensor.name);
    CHECK(tensor.overlap == (tensor.name == "bias" ? 1 : 0));
    CHECK(tensor.fraction_trained == (tensor.name == "bias" ? 1 : 0));
  }
}

TEST_CASE("scores as large as 2^30 do not keep a task at a share of 1 from training") {
  for (const Backend backend : tiny::kBackends) {
    for (const auto type : {at::kFloat, at::kDouble}) {
      if (type == at::kDouble && backend == Backend::cpu) continue;
      INFO(tiny::name_of(backend) << " " << type);
      const Tensor w = at::ones({8, 8}, type).set_requires_grad(true);
      alkn::ALKN<> method(std::vector<alkn::NamedParameter>{{"w", w}},
                          alkn::ALKNOptions::ratio().unmask_ratio(2).backend(backend));
      auto task = method.begin_task({.steps = 2});
      task.accumulate_retain_gradient(w.sum().mul(0));  // the score is |g| / 1e-30
      w.mutable_grad() = at::ones({8, 8}, type);
      method.step();
      CHECK(method.last_step().fraction_trained == 1);
      CHECK_FALSE(w.detach().eq(1).any().item<bool>());
      task.abandon();
    }
  }
}

TEST_CASE("remembered and reference values may come from InferenceMode") {
  Model model;
  const Batch retain(tiny::kRetain);
  const auto options = alkn::NPOOptions().retain_term(alkn::RetainTerm::kl);
  const auto run = [&](bool inference) {
    Model trained;
    alkn::NPO<> method(trained.params, options);
    auto task = method.begin_task({.steps = 2});
    const Batch forget(0);
    const Tensor& tokens = forget.tokens;  // the model's own layers could not save others
    Tensor reference, ids, labels;
    {
      const c10::InferenceMode mode(inference);
      const at::NoGradGuard no_grad;
      ids = forget.ids.clone(), labels = forget.labels.clone();
      task.remember(ids, trained.forward(tokens), labels);
      const auto start = task.start_weights();
      reference = trained.forward(retain.tokens);
    }
    CHECK(reference.is_inference() == inference);
    CHECK(labels.is_inference() == inference);
    for (int i = 0; i < 2; ++i) {
      method.zero_grad();
      const Tensor loss =
          task.loss(ids, trained.forward(tokens), labels) +
          task.retain_loss(trained.forward(retain.tokens), retain.labels, reference);
      loss.backward();
      method.step();
    }
    task.end();
    return trained.copies();
  };
  CHECK(same_bits(run(true), run(false)));
}

TEMPLATE_TEST_CASE("calls under InferenceMode leave nothing that later calls cannot write", "",
                   alkn::ALKN<>, alkn::ALKN<torch::optim::SGD>, alkn::ALKN<torch::optim::Adagrad>) {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  const auto backend = GENERATE(Backend::cpu, Backend::aten);
  INFO(type << " " << tiny::name_of(backend));
  const auto file = std::filesystem::temp_directory_path() / "alkn_inference.safetensors";
  const auto run = [&](bool inference) {
    Model model(type);
    std::optional<TestType> method;
    const auto options = alkn::ALKNOptions().backend(backend).retain_term(alkn::RetainTerm::nll);
    const auto make = [&] {
      if constexpr (TestType::kFused)
        method.emplace(model.params, options);
      else if constexpr (std::is_same_v<typename TestType::BaseType, torch::optim::SGD>)
        method.emplace(model.params, options, torch::optim::SGDOptions(0.1).momentum(0.9));
      else
        method.emplace(model.params, options, torch::optim::AdagradOptions(0.1));
    };
    const auto call = [&](const auto& fn) {
      const c10::InferenceMode mode(inference);
      return fn();
    };
    call(make);
    tiny::set_gradients(model.params, 3);
    call([&] { method->step(); });  // outside a task
    tiny::set_gradients(model.params, 4);
    method->step();
    for (int number = 0; number < 2; ++number) {
      auto task = call([&] { return method->begin_task({.steps = 3}); });
      tiny::prepare(task, model);
      for (int step = 0; step < 2; ++step) {
        tiny::set_gradients(model.params, step);
        if (step == number)
          call([&] { method->step(); });
        else
          method->step();
      }
      call([&] { const auto start = task.start_weights(); });
      { const auto start = task.start_weights(); }
      call([&] { alkn::save_checkpoint(file, *method); });
      call([&] { task.end(); });
    }
    // the second task goes on from its checkpoint
    method.reset();
    make();
    auto task = call([&] { return alkn::load_checkpoint(file, *method); });
    tiny::set_gradients(model.params, 5);
    method->step();
    task->end();
    return model.copies();
  };
  CHECK(same_bits(run(true), run(false)));
  std::filesystem::remove(file);
}

TEST_CASE("a buffer that InferenceMode made is loaded") {
  Model model;
  alkn::TaskVector<> method(model.params);
  const auto file = std::filesystem::temp_directory_path() / "alkn_inference_buffer.safetensors";
  alkn::save_checkpoint(file, method, {{"mean", at::ones({3})}});
  Tensor buffer;
  {
    const c10::InferenceMode mode;
    buffer = at::zeros({3});
  }
  CHECK_FALSE(alkn::load_checkpoint(file, method, {{"mean", buffer}}));
  CHECK(same_bits(buffer, at::ones({3})));
  std::filesystem::remove(file);
}

TEST_CASE("a gradient with a lazy minus, or of zeros without memory, is taken as what it says") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  const auto step = [&](auto& method, Tensor& w, const Tensor& gradient) {
    w.mutable_grad() = gradient;
    method.step();
  };
  const Tensor ones = at::ones({4, 4}, type);
  const std::vector<std::pair<Tensor, Tensor>> pairs = {
      {at::_neg_view(ones), ones.neg()},
      {at::_neg_view(ones.mul(3)).t(), ones.mul(-3)},
      {at::_efficientzerotensor({4, 4}, ones.options()), at::zeros({4, 4}, ones.options())}};
  for (const auto& [lazy, plain] : pairs) {
    for (const Backend backend : tiny::kBackends) {
      INFO(type << " " << tiny::name_of(backend));
      Tensor a = ones.clone().set_requires_grad(true), b = ones.clone().set_requires_grad(true);
      alkn::AdamW x({a}, alkn::AdamWOptions(0.1), backend);
      alkn::AdamW y({b}, alkn::AdamWOptions(0.1), backend);
      step(x, a, lazy);
      step(y, b, plain);
      CHECK(same_bits(a, b));
    }
    Tensor a = ones.clone().set_requires_grad(true), b = ones.clone().set_requires_grad(true);
    const std::vector<alkn::NamedParameter> first{{"w", a}}, second{{"w", b}};
    const auto rate = torch::optim::SGDOptions(0.1);
    alkn::GradientAscent<torch::optim::SGD> x(first, {}, rate), y(second, {}, rate);
    auto one = x.begin_task({.steps = 1}), other = y.begin_task({.steps = 1});
    if (lazy._is_zerotensor()) continue;  // SGD is to write g' into it
    step(x, a, lazy);
    step(y, b, plain);
    CHECK(same_bits(a, b));
  }
}

TEST_CASE("retain gradients, logits, labels, ids and buffers may have a lazy minus") {
  Model model;
  const Batch batch(0);
  alkn::ALKN<> lazy(model.params), plain(model.params);
  auto first = lazy.begin_task({.steps = 1});
  auto second = plain.begin_task({.steps = 1});
  const Tensor logits = model.forward(batch.tokens);
  const Tensor labels = at::_neg_view(batch.labels.neg()), ids = at::_neg_view(batch.ids.neg());
  CHECK(labels.is_neg());
  first.remember(ids, at::_neg_view(logits.detach().neg()), labels);
  second.remember(batch.ids, logits, batch.labels);
  CHECK(first.loss(batch.ids, logits, batch.labels).item<double>() ==
        second.loss(batch.ids, logits, batch.labels).item<double>());
  CHECK(alkn::retain_kl(logits, at::_neg_view(logits.detach().neg()), labels).item<double>() == 0);
  CHECK(
      error_of([&] {
        static_cast<void>(alkn::mean_nll(logits, at::_neg_view(at::full({3, 5}, -11, at::kLong))));
      }) ==
      "alkn::token_log_probability: expected a label in [0, 11) or -100, got 11 (sample 0, "
      "position 0)");
  // d(w . x) / dw = x, as a hook leaves it
  const auto retain = [&](auto& task, bool neg) {
    Tensor& head = model["head"];
    const unsigned hook =
        head.register_hook([neg](const Tensor& g) { return neg ? at::_neg_view(g.neg()) : g; });
    task.accumulate_retain_gradient(alkn::mean_nll(model.forward(batch.tokens), batch.labels));
    head.remove_hook(hook);
  };
  retain(first, true);
  retain(second, false);
  CHECK(same_bits(core_of(lazy).parameters()[3].retain, core_of(plain).parameters()[3].retain));
  first.abandon();
  second.abandon();
  const auto file = std::filesystem::temp_directory_path() / "alkn_lazy.safetensors";
  alkn::io::save_tensors(file, {{"x", at::_neg_view(at::ones({3}))},
                                {"y", at::_efficientzerotensor({2}, at::kFloat)}});
  const auto read = alkn::io::load_tensors(file);
  CHECK(same_bits(read[0].second, at::ones({3}).neg()));
  CHECK(same_bits(read[1].second, at::zeros({2})));
  std::filesystem::remove(file);
}

TEST_CASE("parameters whose memory is not their values are refused") {
  const auto refused = [](const Tensor& t) {
    return error_of([&] {
      alkn::TaskVector<> method(std::vector<alkn::NamedParameter>{{"w", t}});
    });
  };
  CHECK(refused(at::ones({3}, at::TensorOptions().device(at::kMeta))) ==
        "alkn::TaskVector: expected a parameter with memory that holds its values, got one on meta "
        "(parameter \"w\")");
  CHECK(refused(at::_neg_view(at::ones({3}))) ==
        "alkn::TaskVector: expected a parameter with memory that holds its values, got a view with "
        "a lazy minus (parameter \"w\")");
  CHECK(refused(at::_efficientzerotensor({3}, at::kFloat)) ==
        "alkn::TaskVector: expected a parameter with memory that holds its values, got zeros "
        "without memory (parameter \"w\")");
  Tensor inside;
  {
    const c10::InferenceMode mode;
    inside = at::ones({3});
  }
  CHECK(refused(inside) ==
        "alkn::TaskVector: expected a parameter made outside c10::InferenceMode, got one made "
        "inside (parameter \"w\")");
  CHECK(error_of([&] {
          alkn::AdamW(std::vector<Tensor>{at::ones({3}, at::TensorOptions().device(at::kMeta))});
        }) ==
        "alkn::AdamW: expected a parameter with memory that holds its values, got one on meta "
        "(parameter \"group 0, position 0\")");
}

TEST_CASE("parameters that lie between each other in memory are not taken for overlapping") {
  const Tensor whole = at::zeros({40});
  const auto view = [&](at::IntArrayRef sizes, at::IntArrayRef strides, std::int64_t offset) {
    return whole.as_strided(sizes, strides, offset).detach().set_requires_grad(true);
  };
  const Tensor even = view({10}, {2}, 0), odd = view({10}, {2}, 1),
               square = view({3, 2}, {4, 1}, 22);
  alkn::AdamW optimizer({even, odd, square}, alkn::AdamWOptions(0.5).weight_decay(0));
  for (Tensor t : {even, odd, square}) t.mutable_grad() = at::ones(t.sizes());
  odd.mutable_grad().neg_();
  optimizer.step();
  CHECK(even.detach().lt(0).all().item<bool>());
  CHECK(odd.detach().gt(0).all().item<bool>());
  CHECK(whole.ne(0).sum().item<std::int64_t>() == 26);
  const auto refused = [&](const std::vector<Tensor>& params) {
    return error_of([&] { alkn::AdamW other(params); });
  };
  CHECK(refused({even, odd, view({2}, {1}, 4)}) ==
        "alkn::AdamW: expected parameters in memory of their own, got overlapping storage "
        "(parameters \"group 0, position 0\" and \"group 0, position 2\")");
  CHECK(refused({view({6}, {3}, 0), odd}) ==
        "alkn::AdamW: expected parameters in memory of their own, got overlapping storage "
        "(parameters \"group 0, position 0\" and \"group 0, position 1\")");
}

TEST_CASE("a parameter that is put in the place of another is noticed") {
  Model model;
  std::vector<Tensor> params;
  for (const auto& p : model.params) params.push_back(p.tensor);
  alkn::AdamW optimizer(params);
  tiny::set_gradients(model.params, 1);
  optimizer.step();
  const auto before = model.copies();
  auto& group = optimizer.param_groups()[0].params();
  group[1] = group[0];
  CHECK(error_of([&] { optimizer.step(); }) ==
        "alkn::AdamW: expected every parameter once, got a duplicate parameter (group 0, position "
        "1)");
  CHECK(same_bits(model.copies(), before));
  group[1] = params[1];
  optimizer.step();
  group[2].set_data(group[0].detach().view({66}).narrow(0, 0, 6));
  CHECK(error_of([&] { optimizer.step(); }) ==
        "alkn::AdamW: expected parameters in memory of their own, got overlapping storage "
        "(parameters \"group 0, position 2\" and \"group 0, position 0\")");
}

TEST_CASE("an eps with which masked entries would be 0 / 0 is refused with a mask") {
  Model model;
  const auto with_eps = [&](double eps) {
    return error_of([&] { alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions().eps(eps)); });
  };
  const std::string range = "[1.1754943508222875e-38, inf)";
  CHECK(with_eps(0) == "alkn::ALKN: expected eps in " + range + ", got 0 (group 0)");
  CHECK(with_eps(1e-40) == "alkn::ALKN: expected eps in " + range + ", got 1e-40 (group 0)");
  CHECK(with_eps(1e-30) == "no error");
  CHECK(error_of([&] {
          alkn::ALKN<torch::optim::Adagrad> method(model.params, {},
                                                   torch::optim::AdagradOptions(0.1).eps(0));
        }) == "alkn::ALKN: expected eps in " + range + ", got 0 (group 0)");
  alkn::ALKN<> method(model.params);
  static_cast<alkn::AdamWOptions&>(method.param_groups()[0].options()).eps(0);
  CHECK(error_of([&] { auto task = method.begin_task({.steps = 1}); }) ==
        "alkn::ALKN: expected eps in " + range + ", got 0 (group 0)");
  alkn::TaskVector<> without(model.params, {}, alkn::AdamWOptions().eps(0));
}

TEST_CASE("finite gradients of double parameters are clipped, also where their squares overflow") {
  for (const double size : {1e160, 1e308}) {
    INFO(size);
    const Tensor w = at::zeros({2, 2}, at::kDouble).set_requires_grad(true);
    alkn::GradientAscent<torch::optim::SGD> method(std::vector<alkn::NamedParameter>{{"w", w}}, {},
                                                   torch::optim::SGDOptions(1));
    auto task = method.begin_task({.steps = 2});
    w.mutable_grad() = at::full({2, 2}, size, at::kDouble);
    method.step();
    CHECK_FALSE(method.last_step().skipped);
    CHECK(w.detach()[0][0].item<double>() == Approx(-0.5));
    w.mutable_grad()[1][1] = std::numeric_limits<double>::infinity();
    method.step();
    CHECK(method.last_step().skipped);
    CHECK(w.detach()[0][0].item<double>() == Approx(-0.5));
    task.end();
  }
}
