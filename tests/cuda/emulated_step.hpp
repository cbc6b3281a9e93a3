// A whole CUDA step on the CPU: the host's plan, its tables in plain memory, the kernels in their
// order.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <alkn/kernel/cuda/norm.hpp>
#include <alkn/kernel/cuda/plan.hpp>
#include <alkn/kernel/cuda/radix.hpp>
#include <alkn/kernel/cuda/sample.hpp>
#include <alkn/kernel/cuda/score.hpp>
#include <alkn/kernel/cuda/select.hpp>
#include <alkn/kernel/cuda/update.hpp>

#include "../kernel/inputs.hpp"
#include "emulation.hpp"

namespace alkn_test {

namespace device = alkn::kernel::cuda;

/// How many blocks each kernel gets, and of how many threads; no result depends on it.
struct Grid {
  std::int64_t blocks = 3;
  int threads = 64;
};

/// Which pass a kernel is; for the traffic of each.
enum class Pass : std::size_t { norm, sample, score, select, radix, update, count };

template <class Runner>
class EmulatedStep {
 public:
  EmulatedStep(Runner runner, Grid grid, Traffic* traffic = nullptr)
      : runner_(std::move(runner)), grid_(grid), traffic_(traffic) {}

  StepResult run(StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
    if (args.all != nullptr) {  // as CudaStep::enqueue
      run_sums(tensors, num_tensors, args, 0, 1);
      if (plan_.header().sums)
        squares_[0] = args.all->of_all(sums_.data(), plan_.header().num_chunks);
      return run_rest(tensors, num_tensors);
    }
    assign(tensors, num_tensors, args);
    if (stale_) allocate();
    return launch_all(tensors, num_tensors, plan_.kernels());
  }
  /// As CudaStep: a part of a step on several devices, up to the sums; the others' sums; the rest.
  void run_sums(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                int device, int num_devices) {
    assign(tensors, num_tensors, args);
    plan_.share(device, num_devices);
    if (stale_) allocate();
    squares_.assign(static_cast<std::size_t>(num_devices), std::nan(""));
    launch_norm(table());
  }
  void gather(const std::vector<EmulatedStep*>& all) {
    for (std::size_t d = 0; d < all.size(); ++d) squares_[d] = all[d]->squares_[d];
  }
  StepResult run_rest(StepTensor* tensors, std::int64_t num_tensors) {
    runner_.template run<device::NormShared>(
        1, device::tuning::kNormThreads,
        [&](const auto& block, auto& shared) { device::combine_kernel(block, shared, table()); });
    return launch_rest(tensors, num_tensors, plan_.kernels());
  }

  /// As CudaStep: the kernels of a graph; what they find there; their replay.
  void capture(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
    assign(tensors, num_tensors, args);
    if (stale_) throw std::runtime_error("expected a step before the capture, got none");
    graph_ = std::make_unique<device::Kernels>(plan_.all_kernels());
  }
  void prepare(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
    assign(tensors, num_tensors, args);
    plan_.check_prepared(graph_.get(), stale_);
  }
  StepResult replay_prepared(StepTensor* tensors, std::int64_t num_tensors) {
    return launch_all(tensors, num_tensors, *graph_);
  }

  std::uint64_t num_missed = 0;
  int num_launches = 0;
  std::array<Traffic, static_cast<std::size_t>(Pass::count)> passes;
  bool histograms_clean() const {
    return std::all_of(histograms_.begin(), histograms_.end(),
                       [](std::uint64_t x) { return x == 0; });
  }

 private:
  void assign(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
    stale_ = plan_.assign(tensors, num_tensors, args).sizes || stale_;
  }

  device::Table table() {
    return {&plan_.header(),    plan_.tensors().data(), plan_.chunks().data(),
            &control_,          states_.data(),         sums_.data(),
            candidates_.data(), histograms_.data(),     squares_.data()};
  }

  StepResult launch_all(StepTensor* tensors, std::int64_t num_tensors,
                        const device::Kernels& kernels) {
    launch_norm(table());
    return launch_rest(tensors, num_tensors, kernels);
  }

  void launch_norm(const device::Table& table) {
    launch<device::NormShared>(
        Pass::norm, device::tuning::kNormThreads,
        [&](const auto& block, auto& shared) { device::norm_kernel(block, shared, table); });
    num_launches = 1;
  }

  StepResult launch_rest(StepTensor* tensors, std::int64_t num_tensors,
                         const device::Kernels& kernels) {
    const device::Table table = this->table();
    if (kernels.selects) select(table);
    update(table, kernels);
    StepResult result;
    result.grad_norm = control_.grad_norm;
    result.clip_scale = control_.clip_scale;
    result.skipped = control_.skip != 0;
    num_missed = result.skipped ? 0 : control_.num_missed;
    if (result.skipped) return result;
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      const device::TensorState& state = states_[static_cast<std::size_t>(t)];
      tensors[t].threshold = state.threshold;
      tensors[t].num_trained = static_cast<std::int64_t>(state.num_trained);
      tensors[t].deviation = state.deviation;
    }
    return result;
  }

  void allocate() {
    const device::WorkSizes& sizes = plan_.sizes();
    states_.assign(static_cast<std::size_t>(sizes.num_tensors), {});
    sums_.assign(static_cast<std::size_t>(3 * sizes.num_chunks), std::nan(""));
    candidates_.assign(static_cast<std::size_t>(sizes.num_candidates), 0xDEADBEEFU);
    histograms_.assign(
        static_cast<std::size_t>(sizes.num_histograms * 2 * device::tuning::kRadixBins), 0);
    graph_.reset();
    stale_ = false;
  }

  template <class Memory, class Body>
  void launch(Pass pass, int threads, Body body) {
    const Traffic before = traffic_ != nullptr ? *traffic_ : Traffic{};
    runner_.template run<Memory>(grid_.blocks, threads, body);
    if (traffic_ == nullptr) return;
    Traffic& sum = passes[static_cast<std::size_t>(pass)];
    sum.loaded += traffic_->loaded - before.loaded;
    sum.stored += traffic_->stored - before.stored;
  }

  void select(const device::Table& table) {
    launch<device::SampleShared>(Pass::sample, grid_.threads, [&](const auto& block, auto& shared) {
      device::sample_kernel(block, shared, table);
    });
    launch<device::ScoreShared>(Pass::score, grid_.threads, [&](const auto& block, auto& shared) {
      device::score_kernel(block, shared, table);
    });
    launch<device::DigitShared>(Pass::select, grid_.threads, [&](const auto& block, auto& shared) {
      device::select_kernel(block, shared, table);
    });
    for (int pass = 0; pass < 3; ++pass) {
      launch<device::RadixShared>(Pass::radix, grid_.threads, [&](const auto& block, auto& shared) {
        device::radix_kernel(block, shared, table, pass);
      });
    }
    num_launches += 6;
  }

  void update(const device::Table& table, const device::Kernels& kernels) {
    const auto with = [&](auto mask, auto adamw) {
      launch<device::UpdateShared>(
          Pass::update, grid_.threads, [&](const auto& block, auto& shared) {
            device::update_kernel<decltype(mask)::value, decltype(adamw)::value>(block, shared,
                                                                                 table);
          });
    };
    const auto of_mask = [&](auto mask) {
      if (kernels.update == Update::adamw) {
        with(mask, std::true_type{});
      } else {
        with(mask, std::false_type{});
      }
    };
    if (kernels.mask == MaskKind::none) {
      of_mask(std::integral_constant<MaskKind, MaskKind::none>{});
    } else if (kernels.mask == MaskKind::given) {
      of_mask(std::integral_constant<MaskKind, MaskKind::given>{});
    } else {
      of_mask(std::integral_constant<MaskKind, MaskKind::localized>{});
    }
    num_launches += 1;
  }

  Runner runner_;
  Grid grid_;
  Traffic* traffic_;
  device::Plan plan_;
  bool stale_ = true;
  std::unique_ptr<device::Kernels> graph_;
  device::Control control_;
  std::vector<device::TensorState> states_;
  std::vector<double> sums_, squares_;
  std::vector<std::uint32_t> candidates_;
  std::vector<std::uint64_t> histograms_;
};

}  // namespace alkn_test
