// The bytes that each kernel loads and stores an element, counted by its own accesses, beside what
// cannot be less.
#include <cstdio>
#include <string>

#include "catch.hpp"
#include "emulated_step.hpp"

using namespace alkn_test;

namespace {

constexpr std::int64_t kElements = 1 << 20;
using Steps = EmulatedStep<Fibers>;

struct Case {
  const char* name;
  StepArgs args;
  DType type = DType::float32, retain_type = DType::float32;
  bool later = false;
  double floor[static_cast<std::size_t>(Pass::count)] =
      {};  ///< bytes an element, without the bits of masks
  bool compact = false;
};

const char* const kNames[] = {"norm", "sample", "score", "select", "radix", "update"};

/// The kernel of a pass as scripts/cuda_kernels names it.
std::string kernel_name(const Case& c, std::size_t pass) {
  if (pass != static_cast<std::size_t>(Pass::update)) return kNames[pass];
  const char* masks[] = {"none", "given", "localized"};
  return std::string("update<") + masks[static_cast<std::size_t>(c.args.mask)] +
         (c.args.update == Update::adamw ? ",adamw>" : ",gradient>");
}

/// One step over a tensor; prints a line for each kernel. Returns the bytes of the whole step an
/// element.
double bytes_of(const Case& c, double& floor) {
  Numbers numbers(5);
  OwnedTensor t(kElements, c.type, c.retain_type);
  if (c.compact) t.make_compact();
  for (std::int64_t i = 0; i < kElements; ++i) {
    t.set_grad(i, numbers.normal(1.0F));
    t.set_retain(i, numbers.normal(1.0F));
  }
  t.adamw = adamw_numbers(1, 1e-3, 0.01);
  t.has_used = t.learns = false;
  t.has_used = c.later;
  t.learns = !c.later;
  Traffic traffic;
  Steps steps(Fibers(Order::forward, &traffic), {2, 256}, &traffic);
  StepTensor view = t.view();
  steps.run(&view, 1, c.args);
  const double n = static_cast<double>(kElements);
  double sum = 0;
  floor = 0;
  for (std::size_t k = 0; k < steps.passes.size(); ++k) {
    const double loaded = static_cast<double>(steps.passes[k].loaded) / n;
    const double stored = static_cast<double>(steps.passes[k].stored) / n;
    sum += loaded + stored;
    floor += c.floor[k];
    if (loaded + stored > 0 || k == static_cast<std::size_t>(Pass::radix)) {
      std::printf("%-26s loads %6.3f  stores %6.3f  floor %6.2f bytes an element (%s)\n",
                  kernel_name(c, k).c_str(), loaded, stored, c.floor[k], c.name);
    }
  }
  std::printf("%-26s %6.3f bytes an element, floor %.2f: %+.2f %% (%s)\n", "step", sum, floor,
              100 * (sum / floor - 1), c.name);
  return sum;
}

StepArgs localized(bool due) {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.threshold_due = due;
  args.max_norm = 1;
  args.score.penalty = 0.5F;
  return args;
}

}  // namespace

TEST_CASE("the step moves the bytes of its floor and at most 2 % more") {
  const StepArgs plain = [] {
    StepArgs args;
    args.check_finite = false;
    return args;
  }();
  const auto other = [](StepArgs args, MaskKind mask, Update update) {
    args.mask = mask, args.update = update;
    return args;
  };
  const StepArgs to_foreign = other(localized(false), MaskKind::localized, Update::gradient);
  const StepArgs given = other(plain, MaskKind::given, Update::adamw);
  const StepArgs given_foreign = other(plain, MaskKind::given, Update::gradient);
  const StepArgs none_foreign = other(plain, MaskKind::none, Update::gradient);
  constexpr DType kFloat = DType::float32, kHalf = DType::bfloat16;
  const Case cases[] = {
      {"given mask", given, kFloat, kFloat, false, {0, 0, 0, 0, 0, 28.125}},
      {"given mask, foreign base", given_foreign, kFloat, kFloat, false, {0, 0, 0, 0, 0, 8.125}},
      {"foreign base", none_foreign, kFloat, kFloat, false, {0, 0, 0, 0, 0, 8}},
      {"first task, foreign base", to_foreign, kFloat, kFloat, false, {4, 0, 0, 0, 0, 20}},
      {"AdamW", plain, DType::float32, DType::float32, false, {0, 0, 0, 0, 0, 28}},
      {"first task, due",
       localized(true),
       DType::float32,
       DType::float32,
       false,
       {4, 0, 16, 0, 0, 32}},
      {"first task, not due",
       localized(false),
       DType::float32,
       DType::float32,
       false,
       {4, 0, 0, 0, 0, 40}},
      {"later task",
       localized(false),
       DType::float32,
       DType::float32,
       true,
       {8, 0, 0, 0, 0, 40.125}},
      {"later task, bf16 model",
       localized(false),
       DType::bfloat16,
       DType::bfloat16,
       true,
       {4, 0, 0, 0, 0, 38.125}},
      {"first task, compact state",
       localized(true),
       kHalf,
       kHalf,
       false,
       {2, 0, 8, 0, 0, 22},
       true},
      {"later task, compact state",
       localized(false),
       kHalf,
       kHalf,
       true,
       {4, 0, 0, 0, 0, 26.125},
       true},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    double floor = 0;
    const double bytes = bytes_of(c, floor);
    CHECK(bytes <= 1.02 * floor);
    CHECK(bytes >= floor - 1e-9);
  }
}
