// A step whose n-th allocation fails, for every n: nothing is written, and the next try takes the
// step as if nothing had happened.
#include <new>

#include "catch.hpp"
#include "inputs.hpp"

using namespace alkn_test;

namespace alkn_test {
void fail_allocation(std::int64_t number);  // counting_new.cpp
bool allocation_is_to_fail();
}  // namespace alkn_test

namespace {

/// Tensors of one chunk and of several, in two groups.
std::vector<OwnedTensor> make_tensors() {
  Numbers numbers(3);
  std::vector<OwnedTensor> tensors;
  for (const std::int64_t size : {7, 3000, 1200000, 300, 200000, 12}) {
    OwnedTensor t(size, DType::float32, DType::float32);
    for (std::int64_t i = 0; i < size; ++i) {
      t.param[t.at(i)] = numbers.normal(0.3F);
      t.set_grad(i, numbers.normal(0.05F));
      t.set_retain(i, numbers.normal(0.05F));
    }
    t.adamw = adamw_numbers(1, 3e-3, 0.01);
    tensors.push_back(std::move(t));
  }
  return tensors;
}

void take_step(CpuStep& cpu, std::vector<OwnedTensor>& tensors, const StepArgs& args) {
  std::vector<StepTensor> views;
  for (OwnedTensor& t : tensors) views.push_back(t.view());
  cpu.run(views.data(), static_cast<std::int64_t>(views.size()), args, ParallelFor::serial());
}

bool same(const std::vector<OwnedTensor>& a, const std::vector<OwnedTensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].param != b[i].param || a[i].exp_avg != b[i].exp_avg ||
        a[i].exp_avg_sq != b[i].exp_avg_sq || a[i].score != b[i].score || a[i].mask != b[i].mask)
      return false;
  }
  return true;
}

}  // namespace

TEST_CASE("a step that finds no memory writes nothing, and the next one is as if it had not been") {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.max_norm = 1;
  args.threshold_due = true;
  const std::vector<OwnedTensor> start = make_tensors();
  std::vector<OwnedTensor> right = start;
  {
    CpuStep cpu;
    take_step(cpu, right, args);
  }
  // Grown to less than the step needs: what it has to make larger, it makes larger one by one.
  for (const bool grown : {false, true}) {
    for (std::int64_t number = 1;; ++number) {
      INFO("allocation " << number << (grown ? ", after smaller tensors" : ""));
      CpuStep cpu;
      if (grown) {
        std::vector<OwnedTensor> smaller;
        for (const OwnedTensor& t : start) {
          if (t.size < 1000000) smaller.push_back(t);
        }
        take_step(cpu, smaller, args);
      }
      std::vector<OwnedTensor> got = start;
      bool failed = false;
      std::vector<StepTensor> views;
      for (OwnedTensor& t : got) views.push_back(t.view());
      fail_allocation(number);
      try {
        cpu.run(views.data(), static_cast<std::int64_t>(views.size()), args, ParallelFor::serial());
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      const bool all_were_made = allocation_is_to_fail();
      fail_allocation(0);
      if (!failed) {
        // under a sanitizer none fails
        REQUIRE((all_were_made && (number > 10 || number == 1)));
        CHECK(same(got, right));
        break;
      }
      CHECK(same(got, start));
      take_step(cpu, got, args);
      REQUIRE(same(got, right));
    }
  }
}
