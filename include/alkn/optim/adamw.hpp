// alkn::AdamW: torch::optim::AdamW's update in one fused pass, fp32 masters for low-precision
// parameters.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/optim/optimizer.h>
#include <alkn/backend.hpp>
#include <alkn/compiled.hpp>
#include <alkn/optim/adamw_options.hpp>
#include <alkn/step/masters.hpp>
#include <alkn/step/runner.hpp>
#include <alkn/step/slot.hpp>
#include <alkn/step/state_arrays.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace alkn {

class AdamW;

namespace detail {

/// What reads and writes LibTorch's archives; set by including alkn/optim/archive.hpp anywhere in
/// the program.
struct ArchiveTable {
  void (*save)(torch::serialize::OutputArchive& archive, const AdamW& optimizer);
  void (*load)(torch::serialize::InputArchive& archive, AdamW& optimizer);
};
inline std::atomic<const ArchiveTable*> archive_table{nullptr};

struct AdamWArchive;

/// Whether a caller has checked the gradients already.
enum class GradientChecks : std::uint8_t { wanted, done };

}  // namespace detail

/// AdamW with decoupled weight decay (Loshchilov & Hutter 2019), one fused pass over the weights:
///
///     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
///     theta = theta (1 - lr wd) - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
///
/// bfloat16 and half parameters are stepped through fp32 masters. From equal state a step differs
/// from torch::optim::AdamW's by at most 4 eps max(|theta|, lr): the second moment is summed in
/// one. Gradients that are not finite are taken as they are, as LibTorch's does; an Unlearner's
/// task skips such a step. Cost: 28 bytes of memory traffic an fp32 parameter; no allocation after
/// the first step.
class AdamW : public torch::optim::Optimizer {
 public:
  /// In checkpoints.
  static constexpr const char* kName = "alkn::AdamW";
  /// Groups with AdamWOptions of their own, complete in themselves, or with none: `defaults`.
  /// @throws c10::ValueError for an option out of range, an empty list, a parameter that comes
  /// twice,
  ///   overlapping storage, a sparse, complex or integer parameter
  explicit AdamW(const std::vector<torch::optim::OptimizerParamGroup>& groups,
                 AdamWOptions defaults = {}, Backend backend = Backend::automatic);
  /// One group, for example of a model's parameters().
  explicit AdamW(std::vector<Tensor> params, AdamWOptions defaults = {},
                 Backend backend = Backend::automatic)
      : AdamW({torch::optim::OptimizerParamGroup(std::move(params))}, defaults, backend) {}

  /// One step with the gradients that are there; a parameter whose gradient is undefined is left
  /// alone.
  /// @return the closure's loss, or an undefined tensor
  ALKN_COMPILED_INLINE Tensor step(LossClosure closure = nullptr) override;

  /// To be called before every replay of a CUDA graph that has captured step(), on the stream of
  /// the replay: hands it the options and the number of this step, which the capture does not
  /// count. A step over the same gradients has to come before the capture. See docs/cuda.md.
  void prepare_replay() { step_all(detail::StepMode::prepare); }

  /// Moments, masters and options, by position. Needs alkn/optim/archive.hpp in the program, which
  /// is apart because LibTorch's archives double the time to compile.
  ALKN_COMPILED_INLINE void save(torch::serialize::OutputArchive& archive) const override;
  /// Loads a saved state; throws, changing nothing, unless number and shapes match.
  ALKN_COMPILED_INLINE void load(torch::serialize::InputArchive& archive) override;

 protected:
  void step_all(detail::StepMode mode,
                detail::GradientChecks gradients = detail::GradientChecks::wanted);

  /// After a step that failed before it had written anything: the state that it made.
  void forget_new_state();

  static const AdamWOptions& group_options(const torch::optim::OptimizerParamGroup& group);
  /// Of a group that somebody may have given options of another class; throws for such.
  static const AdamWOptions& checked_options(const torch::optim::OptimizerParamGroup& group,
                                             std::size_t number);

  /// A slot with all that a plain AdamW step needs, after check_groups(). Creates the moments of a
  /// parameter with a gradient.
  /// @param position of the parameter in the groups, one after the other
  /// @param compact whether the moments are, whatever the options say
  detail::StepSlot plain_slot(std::size_t position, const Tensor& param,
                              const AdamWOptions& options, bool compact);

  /// Runs the step and, unless it was skipped or captured, counts it.
  kernel::StepResult take_step(std::vector<detail::StepSlot>& slots, const kernel::StepArgs& args,
                               Backend backend, detail::StepMode mode);

  /// The last step was skipped by a device that reports late: it does not count for the parameters
  /// with a true flag, in the order of the groups.
  void take_back(const std::vector<char>& stepped);

  /// Throws for group options out of range, and for a parameter, gradient or state that does not
  /// fit any more. Looks up the states.
  void check_groups(detail::GradientChecks gradients = detail::GradientChecks::wanted);

  detail::Masters masters_;
  detail::StepRunner runner_;
  Backend backend_ = Backend::automatic;

 private:
  friend struct detail::AdamWArchive;

  /// The state of a parameter, created where there is none.
  AdamWParamState& state_of(std::size_t position, const Tensor& param, at::ScalarType type);

  /// Bytes of the moments of the parameters with a gradient.
  [[nodiscard]] std::size_t moment_bytes() const;

  /// Whether check_list() has seen these parameters, where they are.
  [[nodiscard]] bool is_checked() const;
  static const void* data_of(const Tensor& param);

  /// Throws for an empty list, a tensor that cannot be stepped, one that comes twice, overlapping
  /// storage.
  void check_list();

  static std::string place(std::size_t group, std::size_t position);

  /// Returns the state of the parameter, or null.
  AdamWParamState* check_tensors(std::size_t group, std::size_t position,
                                 detail::GradientChecks gradients) const;

  Backend resolve_backend_of_all() const;

  std::vector<detail::StepSlot> slots_;
  std::vector<AdamWParamState*> states_;  ///< of the running step; null: none yet
  std::vector<void*> made_;               ///< the keys of those that the running step has made
  struct Checked {
    Tensor param;
    const void* data;  ///< set_data puts another there
  };
  std::vector<Checked> checked_;  ///< the parameters that check_list() has seen
  detail::StateArrays arrays_;
};

}  // namespace alkn

#if ALKN_DEFINITIONS
#include <alkn/optim/adamw_definitions.hpp>
#endif
