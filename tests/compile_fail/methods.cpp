// Mistakes in template arguments and calls, each behind a macro; without any it must compile.
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>
#include <alkn/alkn.hpp>

#include <string>
#include <utility>
#include <vector>

#if defined(LBFGS_AS_BASE)
using Base = torch::optim::LBFGS;
using BaseOptions = torch::optim::LBFGSOptions;
#elif defined(NO_BASE)
using Base = std::string;
using BaseOptions = torch::optim::SGDOptions;
#elif defined(WRONG_BASE_OPTIONS)
using Base = torch::optim::SGD;
using BaseOptions = alkn::AdamWOptions;
#else
using Base = torch::optim::SGD;
using BaseOptions = torch::optim::SGDOptions;
#endif

#if defined(NO_OBJECTIVE)
using Objective = std::string;
#else
using Objective = alkn::TokenNLL;
#endif

#if defined(NO_MASK)
using Mask = alkn::Keep;
#else
using Mask = alkn::NoMask;
#endif

#if defined(NO_ENDING)
using Ending = alkn::NoMask;
#elif defined(LAMBDA_WITHOUT_NEGATION) || defined(JUDGE_WITHOUT_NEGATION)
using Ending = alkn::Keep;
#else
using Ending = alkn::Negate;
#endif

#if defined(OVERRIDES_OVER_SGD)
using GroupOptions = alkn::AdamWOverrides;
#elif defined(OPTIONS_OF_ANOTHER_BASE)
using GroupOptions = alkn::AdamWOptions;
#else
using GroupOptions = BaseOptions;
#endif

using Method = alkn::Unlearner<Objective, Mask, Ending, Base>;

void use(const std::vector<alkn::NamedParameter>& params,
         const std::vector<alkn::ParameterGroup<GroupOptions>>& groups) {
  Method method(params, groups, Method::Options(), BaseOptions(0.1));
  auto task = method.begin_task({.steps = 1});
  method.step();
#if defined(OTHER_BATCH)
  static_cast<void>(task.loss(params[0].tensor, std::string()));
#endif
#if defined(JUDGE_WITHOUT_NEGATION)
  task.end([] { return 0.0; }, 1.0);
#elif defined(MOVED_METHOD)
  Method other(std::move(method));
#else
  task.end(0.5);
#endif
}
