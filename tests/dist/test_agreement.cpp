// What the processes of a group do not agree on is an error on each of them, which says what it is;
// what fails on one alone changes nothing anywhere.
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/optim/sgd.h>
#include <torch/serialize/archive.h>

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "dist/thread_group.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using Group = std::shared_ptr<threads::ThreadGroup>;
using tiny::error_of, tiny::everything, tiny::ignore, tiny::Model, tiny::same_bits;

namespace {

/// What `process` says on each of `size` processes.
std::vector<std::string> texts(int size, const std::function<std::string(const Group&)>& process) {
  std::vector<std::string> all(static_cast<std::size_t>(size));
  threads::run_all(size, [&](const Group& group) {
    all[static_cast<std::size_t>(group->rank())] = process(group);
  });
  return all;
}

void set_gradients(Model& model, double scale = 1e-2) {
  for (auto& p : model.params) p.tensor.mutable_grad() = tiny::wave(p.tensor.sizes(), 1, scale);
}

Tensor retain_loss(Model& model) {
  Tensor loss;
  for (auto& p : model.params) {
    const Tensor term = p.tensor.mul(tiny::wave(p.tensor.sizes(), 2, 1e-2)).sum();
    loss = loss.defined() ? loss.add(term) : term;
  }
  return loss;
}

/// A task of ALKN after its first step, on one process of a group.
struct Running {
  explicit Running(const Group& group, const alkn::ALKNOptions& options = {})
      : method(model.params, options, alkn::AdamWOptions(1e-2), group),
        task(method.begin_task({.steps = 4})) {
    task.accumulate_retain_gradient(retain_loss(model));
    set_gradients(model);
    method.step();
  }
  Model model;
  alkn::ALKN<> method;
  alkn::ALKN<>::TaskType task;
};

}  // namespace

TEST_CASE("largest first, each to the process with the least") {
  std::vector<std::int64_t> loads(3);
  CHECK(alkn::detail::deal({5, 100, 7, 60, 50, 7}, loads) == std::vector<int>{1, 0, 2, 1, 2, 2});
  CHECK(loads == std::vector<std::int64_t>{100, 65, 64});
  CHECK(alkn::detail::deal({1, 30}, loads) == std::vector<int>{1, 2});  // goes on from there
}

TEST_CASE("all processes take the parameters of process 0, and say which differed") {
  for (const std::string& text : texts(3, [](const Group& group) {
         Model model;
         if (group->rank() == 2) {
           const at::NoGradGuard no_grad;
           model["bias"].add_(1);
         }
         const alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(), group);
         return fmt::format("{} {}", fmt::join(method.differed(), ","),
                            same_bits(model.copies(), Model().copies()));
       })) {
    CHECK(text == "bias true");
  }
}

TEST_CASE("other options, parameters, learning rates and calls are named on every process") {
  const auto construct = [](const Group& group, const alkn::ALKNOptions& options, double lr,
                            bool less) {
    Model model;
    if (less) model.params.pop_back();
    return error_of(
        [&] { const alkn::ALKN<> method(model.params, options, alkn::AdamWOptions(lr), group); });
  };
  const std::string same =
      "alkn::ALKN: expected the same parameters and options on every process, got ";
  for (const std::string& text : texts(3, [&](const Group& group) {
         return construct(group, alkn::ALKNOptions().negation(group->rank() == 2 ? 3 : 2), 1e-3,
                          false);
       })) {
    CHECK(text == same +
                      "option negation: 2 on process 0 and option negation: 3 on process 2 "
                      "(construction)");
  }
  for (const std::string& text : texts(2, [&](const Group& group) {
         return construct(group, {}, group->rank() == 1 ? 1e-4 : 1e-3, false);
       })) {
    CHECK(text ==
          same +
              "group 0: lr 0.001, betas 0.9 and 0.999, eps 1e-08, weight_decay 0.01, "
              "decay_vectors false, compact_state false on process 0 and group 0: lr 0.0001, "
              "betas 0.9 and 0.999, eps 1e-08, weight_decay 0.01, decay_vectors false, "
              "compact_state false on process 1 (construction)");
  }
  for (const std::string& text : texts(2, [&](const Group& group) {
         Model model;
         const auto base = torch::optim::SGDOptions(0.1).momentum(group->rank() == 1 ? 0.5 : 0.9);
         return error_of(
             [&] { const alkn::ALKN<torch::optim::SGD> method(model.params, {}, base, group); });
       })) {
    const std::string rest = ", dampening 0, nesterov false, weight_decay 0 on process ";
    CHECK(text == same + "group 0: lr 0.1, momentum 0.9" + rest +
                      "0 and group 0: lr 0.1, momentum 0.5" + rest + "1 (construction)");
  }
  for (const std::string& text : texts(2, [&](const Group& group) {
         Model model;
         return error_of([&] {
           const alkn::Processes processes(
               group, group->rank() == 1 ? alkn::Sharding::none : alkn::Sharding::state);
           const alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(), processes);
         });
       })) {
    CHECK(text == same +
                      "Sharding::state on process 0 and Sharding::none on process 1 "
                      "(construction)");
  }
  for (const std::string& text : texts(2, [](const Group& group) {
         using Masked = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Keep>;
         Model model;
         std::vector<alkn::NamedParameter> masks{{"bias", model["bias"].detach().gt(0)}};
         if (group->rank() == 1) masks[0].tensor = model["bias"].detach().le(0);
         return error_of([&] {
           const Masked method(model.params, Masked::Options().masks(masks), alkn::AdamWOptions(),
                               group);
         });
       })) {
    CHECK(
        text.starts_with("alkn::Unlearner: expected the same parameters and options on every "
                         "process, got parameter \"bias\" Float [6] in group 0, "));
    CHECK(text.find(" entries in its mask of hash ") != std::string::npos);
  }
  for (const std::string& text : texts(2, [](const Group& group) {
         Model model;
         alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(1e-3), group);
         if (group->rank() == 0) model["weight"].set_requires_grad(false);
         return error_of([&] { ignore(method.begin_task({.steps = 1})); });
       })) {
    CHECK(
        text.starts_with(same + "parameter \"weight\" frozen on process 0 and group 0: lr 0.001"));
  }
  for (const std::string& text : texts(
           2, [&](const Group& group) { return construct(group, {}, 1e-3, group->rank() == 1); })) {
    CHECK(text.starts_with(same + "parameter \"head\" Float [11, 6] in group 0 on process 0 and "
                                  "group 0: lr 0.001"));
  }
  for (const std::string& text : texts(2, [](const Group& group) {
         Model model;
         alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(), group);
         return error_of([&] { ignore(method.begin_task({.steps = group->rank() + 1})); });
       })) {
    CHECK(text ==
          "alkn::ALKN: expected the same arguments of begin_task() on every process, got 1 "
          "on process 0 and 2 on process 1");
  }
  for (const std::string& text : texts(2, [](const Group& group) {
         Running run(group);
         const auto before = everything(run.method);
         const std::string error = error_of([&] {
           if (group->rank() == 0)
             run.task.end();
           else
             run.method.step();
         });
         if (!same_bits(everything(run.method), before)) return std::string("changed");
         run.task.end();  // together it goes on
         return error;
       })) {
    CHECK(text ==
          "alkn::ALKN: expected the same call on every process, got end() of task 0 after 1 "
          "steps on process 0 and step() of task 0 after 1 steps on process 1");
  }
}

TEST_CASE("other bounds and iterations of an end are named, and the task goes on") {
  const auto judge = [] { return 0.0; };
  for (const std::string& text : texts(2, [&](const Group& group) {
         Running run(group);
         const int more = group->rank();
         std::string text = error_of([&] { ignore(run.task.end(judge, 3.0 - more, 2 + more)); });
         text += "\n" + error_of([&] { ignore(run.task.end(judge, 3, 2 + more)); });
         const double infinity = std::numeric_limits<double>::infinity();
         text += "\n" + error_of([&] {
                   ignore(run.task.end({.forget = judge,
                                        .forget_bound = -infinity,
                                        .keep = judge,
                                        .keep_bound = more == 0 ? infinity : 1.0,
                                        .iterations = 2}));
                 });
         run.task.end({.forget = judge,
                       .forget_bound = -infinity,
                       .keep = judge,
                       .keep_bound = infinity,
                       .iterations = 2});
         return text;
       })) {
    CHECK(
        text ==
        "alkn::ALKN: expected the same arguments of end() on every process, got 3 on process 0 "
        "and 2 on process 1\n"
        "alkn::ALKN: expected the same parameters and options on every process, got end() by 2 "
        "iterations on process 0 and end() by 3 iterations on process 1 (end())\n"
        "alkn::ALKN: expected the same parameters and options on every process, got end() by 2 "
        "iterations in [0, 10], keep_bound inf on process 0 and end() by 2 iterations in [0, 10], "
        "keep_bound 1 on process 1 (end())");
  }
}

TEST_CASE("share() beside another call is an error on both") {
  const auto all = texts(2, [](const Group& group) {
    Running run(group);
    set_gradients(run.model);
    std::string text = error_of([&] {
      if (group->rank() == 0)
        run.method.step();
      else
        ignore(group->share(1));
    });
    run.method.step();
    run.task.end();
    return text;
  });
  CHECK(all[0] ==
        "alkn::ALKN: expected the same call on every process, got share() on process 1 and step() "
        "on this one");
  CHECK(all[1] == "alkn::Group: expected share() on every process, got another call on one");
}

TEST_CASE("two unlearners of a group that are called in another order are named on both") {
  for (const std::string& text : texts(2, [](const Group& group) {
         Model first, second;
         alkn::ALKN<> one(first.params, {}, alkn::AdamWOptions(1e-2), group);
         error_of([&] {  // one that could not be made has had its number
           const alkn::ALKN<> none(first.params,
                                   alkn::ALKNOptions().negation(group->rank() == 1 ? -1 : 2),
                                   alkn::AdamWOptions(), group);
         });
         alkn::ALKN<> two(second.params, {}, alkn::AdamWOptions(1e-2), group);
         set_gradients(first);
         set_gradients(second);
         const auto before = first.copies();
         std::string text = error_of([&] { (group->rank() == 0 ? one : two).step(); });
         if (!same_bits(first.copies(), before) || !same_bits(second.copies(), before))
           text += " changed";
         one.step();
         two.step();
         return text;
       })) {
    CHECK(text ==
          "alkn::ALKN: expected a call of the same unlearner on every process, got step() of "
          "unlearner 0 on process 0 and step() of unlearner 2 on process 1 (numbered in the order "
          "of their construction)");
  }
}

TEST_CASE("a closure that throws on one process is an error on all, and they go on") {
  const std::string others =
      "alkn::ALKN: expected step() to go on on every process, got an error on process 1; nothing "
      "was changed";
  for (const bool in_task : {true, false}) {
    const auto all = texts(3, [&](const Group& group) {
      std::optional<Running> running;
      std::optional<Model> model;
      std::optional<alkn::ALKN<>> plain;
      if (in_task)
        running.emplace(group);
      else
        plain.emplace(model.emplace().params, alkn::ALKNOptions(), alkn::AdamWOptions(1e-2), group);
      alkn::ALKN<>& method = in_task ? running->method : *plain;
      Model& own = in_task ? running->model : *model;
      const auto before = everything(method);
      bool fail = group->rank() == 1;
      const auto closure = [&] {
        if (fail) throw std::runtime_error("no data");
        method.zero_grad();
        Tensor loss = tiny::sum_of_squares(own.params);
        loss.backward();
        return loss;
      };
      std::string text = error_of([&] { method.step(closure); });
      if (!same_bits(everything(method), before)) text += " changed";
      fail = false;
      text += method.step(closure).item<double>() > 0 ? "" : " no loss";
      if (in_task) running->task.end();
      return text;
    });
    CHECK(all == std::vector<std::string>{others, "no data", others});
  }
}

TEST_CASE("a closure, or a judge, that does not come to the calls in it is an error on all") {
  const auto all = texts(3, [](const Group& group) {
    Running run(group);
    bool fail = group->rank() == 1;
    const auto closure = [&] {
      if (fail) throw std::runtime_error("no data");
      const double share = group->share(1);
      { const auto scope = run.task.start_weights(); }
      run.method.zero_grad();
      Tensor loss = tiny::sum_of_squares(run.model.params).mul(share);
      loss.backward();
      return loss;
    };
    std::string text = error_of([&] { run.method.step(closure); });
    run.method.step([&] {
      fail = false;
      return closure();
    });
    const auto scope_only = [&] {  // between two calls of the library
      if (fail) throw std::runtime_error("no data");
      { const auto scope = run.task.start_weights(); }
      return run.model["head"].sum();
    };
    fail = group->rank() == 1;
    text += "\n" + error_of([&] { run.method.step(scope_only); });
    fail = group->rank() == 1;
    text += "\n" + error_of([&] {
              ignore(run.task.end(
                  [&] {
                    if (fail) throw std::runtime_error("no data");
                    return group->share(1);
                  },
                  0));
            });
    set_gradients(run.model);
    run.method.step();
    run.task.end();
    return text;
  });
  const std::string share =
      "alkn::Group: expected share() on every process, got another call on one";
  const std::string other =
      share +
      "\nalkn::ALKN: expected the same call on every process, got start_weights() of task 0 after "
      "2 steps on process 0 and step() of task 0 after 2 steps on process 1\n" +
      share;
  CHECK(all == std::vector<std::string>{other, "no data\nno data\nno data", other});
}

TEST_CASE("a construction that fails on one process fails on all, at once") {
  const auto all = texts(3, [](const Group& group) {
    Model model;
    const bool bad = group->rank() == 1;
    std::string text = error_of([&] {
      const alkn::ALKN<> method(model.params, alkn::ALKNOptions().negation(bad ? -1 : 2),
                                alkn::AdamWOptions(), group);
    });
    text +=
        "\n" + error_of([&] {
          const alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(bad ? -1 : 1e-3), group);
        });
    const alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(), group);
    return text;
  });
  const std::string others =
      "alkn::ALKN: expected construction to go on on every process, got an error on process 1; "
      "nothing was changed";
  CHECK(all[0] == others + "\n" + others);
  CHECK(all[1].find("negation") != std::string::npos);
  CHECK(all[1].find("lr") != std::string::npos);
  CHECK(all[2] == all[0]);
}

TEST_CASE("a scope that another process cannot open holds nothing") {
  for (const std::string& text : texts(2, [](const Group& group) {
         Running run(group);
         const auto before = everything(run.method);
         const auto& task = tiny::core_of(run.method).task();
         const auto change = [&] {  // on one process
           if (group->rank() == 1) run.model["bias"].set_data(at::zeros({7}));
         };
         const Tensor good = run.model["bias"].detach().clone();
         change();
         std::string text = error_of([&] { const auto scope = run.task.start_weights(); });
         text += task.exchange.empty() && !task.swapped ? "" : " held";
         error_of([&] { const auto scope = run.task.weights_at(1); });
         text += task.tuned.empty() && task.scope() == nullptr ? "" : " held";
         error_of([&] { run.task.abandon(); });
         if (group->rank() == 1) run.model["bias"].set_data(good);
         text += same_bits(everything(run.method), before) ? "" : " changed";
         { const auto scope = run.task.start_weights(); }
         text += same_bits(everything(run.method), before) ? "" : " changed";
         run.task.end();
         return group->rank() == 0 ? text : std::string();
       })) {
    CHECK((text.empty() ||
           text == "alkn::ALKN: expected start_weights() to go on on every process, got an error "
                   "on process 1; nothing was changed"));
  }
}

TEST_CASE("abandon() within a scope, which fails on one process, leaves the scope open on all") {
  for (const std::string& text : texts(2, [](const Group& group) {
         Running run(group);
         std::string text;
         {
           const auto scope = run.task.start_weights();
           const auto start = run.model.copies();
           const Tensor good = run.model["bias"].detach().clone();
           if (group->rank() == 1) run.model["bias"].set_data(at::zeros({7}));
           error_of([&] { run.task.abandon(); });
           if (group->rank() == 1) run.model["bias"].set_data(good);
           text = same_bits(run.model.copies(), start) ? "open" : "closed";
           run.task.abandon();
         }
         const auto again = run.model.copies();
         return text + (same_bits(again, Model().copies()) ? " restored" : " other weights");
       })) {
    CHECK(text == "open restored");
  }
}

TEST_CASE("what fails on one process changes nothing on any, and all go on") {
  const auto all = texts(3, [](const Group& group) {
    Running run(group);
    const auto before = everything(run.method);
    set_gradients(run.model);
    const Tensor good = run.model["bias"].grad();
    if (group->rank() == 1) run.model["bias"].mutable_grad() = good.to(at::kFloat).to_sparse();
    const std::string error = error_of([&] { run.method.step(); });
    if (!same_bits(everything(run.method), before)) return std::string("changed");
    run.model["bias"].mutable_grad() = good;
    run.method.step();
    run.task.end();
    return error;
  });
  const std::string others =
      "alkn::ALKN: expected step() to go on on every process, got an error on process 1; nothing "
      "was changed";
  CHECK(all[0] == others);
  CHECK(all[1].starts_with("alkn::ALKN: expected a dense gradient, got layout Sparse"));
  CHECK(all[2] == others);
}

TEST_CASE(
    "judges of all processes decide by their mean; a NaN, and a throw, on one are everybody's") {
  const auto all = texts(3, [](const Group& group) {
    Running run(group);
    std::vector<double> asked;
    const auto shown = [&] { return run.model["head"].detach().sum().item<double>(); };
    const auto tuned = run.model.copies();
    std::string said = error_of([&] {
      ignore(run.task.end(
          [&]() -> double {
            if (group->rank() == 2) throw std::runtime_error("no data");
            return shown();
          },
          0));
    });
    if (!same_bits(run.model.copies(), tuned)) return std::string("changed");
    // the mean of 1, 2, 3 is 2: within 2, not within 1.9
    const auto report = run.task.end([&] { return group->rank() + 1.0; }, 2.0);
    Running nan(group);
    const auto none = nan.task.end(
        [&] { return group->rank() == 1 ? std::numeric_limits<double>::quiet_NaN() : 0.0; }, 1.0,
        2);
    Running less(group);
    const auto least = less.task.end([&] { return group->rank() + 1.0; }, 1.9, 2);
    return fmt::format("{}; {} {} {}", said, report.lambda, none.lambda, least.lambda);
  });
  const std::string others =
      "alkn::ALKN: expected a judge of end() to go on on every process, got an error on process 2; "
      "nothing was changed; 2 0 0";
  CHECK(all == std::vector<std::string>{others, others, "no data; 2 0 0"});
}

TEST_CASE("a process that throws in the middle of a call ends it for all, and every later call") {
  const auto all = texts(3, [](const Group& group) {
    Running run(group);
    const std::int64_t next = group->num_collectives;
    if (group->rank() == 1) {
      group->before = [next](std::int64_t number) {
        if (number == next + 2) throw std::runtime_error("the wire is cut");
      };
    }
    set_gradients(run.model);
    const std::string first = error_of([&] { run.method.step(); });
    const std::string second = error_of([&] { ignore(run.task.end()); });
    return first + "\n" + second;
  });
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string what = i == 1 ? "the wire is cut" : "a process did not come in time";
    CHECK(all[i] == "alkn::ALKN: expected all 3 processes in step(), got " + what +
                        "; this process's weights are unspecified, the last checkpoint is whole\n"
                        "alkn::ALKN: expected a group that works, got one that failed in step() "
                        "(end()); start the processes again from the last checkpoint");
  }
}

TEST_CASE("a judge in which the wire is cut says so once") {
  const auto all = texts(2, [](const Group& group) {
    Running run(group);
    const std::int64_t next = group->num_collectives;
    const auto judge = [&] {
      group->before = [&](std::int64_t) {
        if (group->rank() == 1) throw std::runtime_error("the wire is cut");
      };
      const auto scope = run.task.start_weights();
      return 0.0;
    };
    const std::string first = error_of([&] { ignore(run.task.end(judge, 1)); });
    const std::int64_t messages = group->num_messages;
    const std::string second = error_of([&] { run.task.abandon(); });
    return first + (messages == group->num_messages && next < group->num_collectives ? "\n" : "?") +
           second;
  });
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string what = i == 1 ? "the wire is cut" : "a process did not come in time";
    CHECK(all[i] == "alkn::ALKN: expected all 2 processes in start_weights(), got " + what +
                        "; this process's weights are unspecified, the last checkpoint is whole\n"
                        "alkn::ALKN: expected a group that works, got one that failed in "
                        "start_weights() (abandon()); start the processes again from the last "
                        "checkpoint");
  }
}

TEST_CASE("a task that goes out of scope moves nothing, and no call follows") {
  for (const std::string& text : texts(2, [](const Group& group) {
         Model model;
         alkn::TaskVector<> method(model.params, {}, alkn::AdamWOptions(), group);
         {
           const auto task = method.begin_task({.steps = 2});
           set_gradients(model);
           method.step();
           group->before = [](std::int64_t) { throw std::runtime_error("no call may be made"); };
         }
         return error_of([&] { ignore(method.begin_task({.steps = 2})); });
       })) {
    CHECK(text ==
          "alkn::TaskVector: expected a group that works, got one that lost a task that "
          "neither ended nor was abandoned (begin_task()); start the processes again from "
          "the last checkpoint");
  }
}

TEST_CASE("groups of parameters are added on all processes or on none") {
  const auto all = texts(2, [](const Group& group) {
    Model model;
    const std::vector<alkn::NamedParameter> more{model.params.back()};
    model.params.pop_back();
    alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(), group);
    auto other = more;
    if (group->rank() == 1) other[0].tensor = tiny::wave({3}, 1).to(at::kInt);
    const std::string error =
        error_of([&] { method.add_named_parameters(other, alkn::AdamWOverrides()); });
    const std::size_t groups = method.param_groups().size();
    if (group->rank() == 1) {
      const at::NoGradGuard no_grad;
      Tensor(more[0].tensor).add_(1);
    }
    method.add_named_parameters(more, alkn::AdamWOverrides().lr(1e-4));
    set_gradients(model);
    more[0].tensor.mutable_grad() = tiny::wave(more[0].tensor.sizes(), 3);
    method.step();
    return fmt::format("{} {} {} {}", error, groups, fmt::join(method.differed(), ","),
                       more[0].tensor.detach().sum().item<double>());
  });
  CHECK(
      all[0].starts_with("alkn::ALKN: expected add_named_parameters() to go on on every process, "
                         "got an error on process 1; nothing was changed 1 head "));
  CHECK(all[1].starts_with("alkn::ALKN: expected"));
  CHECK(all[0].substr(all[0].rfind(' ')) == all[1].substr(all[1].rfind(' ')));
}

TEST_CASE("the share of a count makes a mean of means the mean of all") {
  const std::vector<double> counts{3, 0, 5};
  for (const std::string& text : texts(3, [&](const Group& group) {
         const auto rank = static_cast<std::size_t>(group->rank());
         const double share = group->share(counts[rank]);
         const double none = group->share(0);
         return fmt::format("{} {} {}", share == 3 * counts[rank] / 8, none,
                            error_of([&] { ignore(group->share(-1)); }));
       })) {
    CHECK(text == "true 0 alkn::Group: expected a count in [0, inf), got -1 (share)");
  }
}

TEST_CASE("what does not work with a group says so") {
  const auto all = texts(2, [](const Group& group) {
    Model model;
    alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(), group);
    std::string text = error_of([&] { method.prepare_replay(); });
    torch::serialize::OutputArchive archive;
    text += "\n" + error_of([&] { method.save(archive); });
    return text + "\n" + error_of([&] {
             Model doubles(at::kDouble);
             const alkn::ALKN<> other(doubles.params, {}, alkn::AdamWOptions(), group);
           });
  });
  for (const std::string& text : all) {
    CHECK(text ==
          "alkn::ALKN: expected one process for prepare_replay(), got a group of 2\n"
          "alkn::ALKN: expected one process for torch::save, got a group of 2\n"
          "alkn::ALKN: expected parameters of float, bfloat16 or half and the fused kernels with a "
          "group, got Backend::aten for Double [11, 6] on cpu (parameter \"embed\")");
  }
}
