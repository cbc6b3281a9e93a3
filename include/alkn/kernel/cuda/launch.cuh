// The kernels of a step as CUDA sees them, and the class that launches them. Compiled by nvcc
// alone; no LibTorch.
#pragma once

#include <alkn/kernel/cuda/device.cuh>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <alkn/kernel/cuda/norm.hpp>
#include <alkn/kernel/cuda/places.hpp>
#include <alkn/kernel/cuda/plan.hpp>
#include <alkn/kernel/cuda/score.hpp>
#include <alkn/kernel/cuda/select.hpp>
#include <alkn/kernel/cuda/update.hpp>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel::cuda {
inline namespace ALKN_CUDA_ARCHS {
namespace {

// --- kernels ---------------------------------------------------------------------------------

__global__ void __launch_bounds__(tuning::kNormThreads, Tuning::kNormBlocks)
    norm_launch(Table table) {
  __shared__ NormShared shared;
  norm_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(tuning::kNormThreads) combine_launch(Table table) {
  __shared__ NormShared shared;
  combine_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kTensorBlocks)
    sample_launch(Table table) {
  __shared__ SampleShared shared;
  sample_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kScoreBlocks)
    score_launch(Table table) {
  __shared__ ScoreShared shared;
  score_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kTensorBlocks)
    select_launch(Table table) {
  __shared__ DigitShared shared;
  select_kernel(Block(), shared, table);
}
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kScoreBlocks)
    radix_launch(Table table, int pass) {
  __shared__ RadixShared shared;
  radix_kernel(Block(), shared, table, pass);
}
template <MaskKind kMask, bool kAdamW>
__global__ void __launch_bounds__(Tuning::kThreads, Tuning::kUpdateBlocks)
    update_launch(Table table) {
  __shared__ UpdateShared shared;
  update_kernel<kMask, kAdamW>(Block(), shared, table);
}

// --- host ------------------------------------------------------------------------------------

/// Whether the running device has kernels in this program.
inline bool has_kernels() {
  cudaFuncAttributes attributes;
  const bool there = cudaFuncGetAttributes(&attributes, norm_launch) == cudaSuccess;
  if (!there) static_cast<void>(cudaGetLastError());
  return there;
}

/// Where a pointer points: a device's number, or kHostPlace.
inline int place_of(const void* p) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, p) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return kHostPlace;
  }
  const bool device =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return device ? attributes.device : kHostPlace;
}

/// Takes steps on one device, the current one at every call. The bits are those of CpuStep.
///
/// enqueue() puts one copy and at most eight kernels on the stream and waits for nothing on the
/// device; with the tensors' sizes of an earlier step it allocates nothing. Results stay on the
/// device until fetch() asks for them. The stream may change from step to step: the next one waits
/// for the last. In a stream that is being captured enqueue() becomes a part of the graph; see
/// Replay.
class CudaStep {
 public:
  explicit CudaStep(const Memory& memory)
      : inputs_(memory),
        chunks_(memory),
        control_(memory),
        states_(memory),
        sums_(memory),
        candidates_(memory),
        histograms_(memory),
        squares_(memory) {}
  CudaStep(const CudaStep&) = delete;
  CudaStep& operator=(const CudaStep&) = delete;

  /// @param replay needed where the stream is being captured: what the replays go on from. A replay
  ///   counts the steps since, learns thresholds when they are due and moves rho; a step that the
  ///   host enqueues in between starts the count again.
  /// @throws std::invalid_argument for a missing pointer or one to another place than this device,
  ///   and, in a capture, for parameters that are elsewhere than in the last one;
  ///   std::runtime_error for an error of CUDA and for a capture without a step before it
  void enqueue(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
               cudaStream_t stream, const Replay* replay = nullptr) {
    const bool capturing = is_capturing(stream);
    if (!capturing) {
      check_places(tensors, num_tensors, args, current_device(), place_of, known_);
      assign(tensors, num_tensors, args);
      follow(stream);
      if (stale_sizes_) grow(stream);
    } else {
      check_capture(tensors, num_tensors, args, replay);
      assign_captured(tensors, num_tensors, args, replay);
    }
    upload(stream, capturing);
    launch(stream, plan_.kernels());
    if (!capturing) done_.record(stream);
  }

  // A step whose norm is of all `all`, each on its device, which is the current one: first
  // enqueue_sums for each, then gather, then enqueue_rest. The streams wait for one another, the
  // host does not.

  /// @param device its number among `num_devices`
  /// @throws as enqueue()
  void enqueue_sums(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                    int device, int num_devices, cudaStream_t stream) {
    check_places(tensors, num_tensors, args, current_device(), place_of, known_);
    assign(tensors, num_tensors, args);
    plan_.share(device, num_devices);
    follow(stream);
    if (stale_sizes_) grow(stream);
    squares_.reserve(static_cast<std::size_t>(num_devices) * sizeof(double), false, stream);
    device_ = current_device();
    upload(stream, false);
    launch_norm(stream);
    summed_.record(stream);
  }
  void gather(const std::vector<CudaStep*>& all, cudaStream_t stream) {
    for (std::size_t d = 0; d < all.size(); ++d) {
      if (all[d] == this) continue;
      all[d]->summed_.hold(stream);
      check_cuda(cudaMemcpyPeerAsync(squares_.get<double>() + d, device_,
                                     all[d]->squares_.get<double>() + d, all[d]->device_,
                                     sizeof(double), stream),
                 "cudaMemcpyPeerAsync");
    }
    gathered_.record(stream);
  }
  void enqueue_rest(const std::vector<CudaStep*>& all, cudaStream_t stream) {
    for (const CudaStep* other : all) {
      if (other != this) other->gathered_.hold(stream);  // has read from here
    }
    combine_launch<<<1, tuning::kNormThreads, 0, stream>>>(table());
    launch_rest(stream, plan_.kernels());
    done_.record(stream);
  }

  /// In a stream that is being captured: the kernels alone. A graph of them takes the step that
  /// prepare() has described before each replay.
  /// @throws std::runtime_error without a step over the same tensors before it
  void capture(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
               cudaStream_t stream) {
    assign_captured(tensors, num_tensors, args, nullptr);
    graph_ = std::make_unique<Kernels>(plan_.all_kernels());
    launch(stream, *graph_);
  }
  /// What enqueue() does but its kernels, which a replay of the captured graph launches next, on
  /// the same stream.
  /// @throws as enqueue(), and std::runtime_error where the captured graph cannot take this step
  void prepare(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
               cudaStream_t stream) {
    check_places(tensors, num_tensors, args, current_device(), place_of, known_);
    assign(tensors, num_tensors, args);
    plan_.check_prepared(graph_.get(), stale_sizes_);
    follow(stream);
    upload(stream, false);
    replays_ = true;
  }
  /// Of the last step.
  [[nodiscard]] cudaStream_t stream() const { return stream_; }

  /// The stream copies the results of its last step to where report() reads them; nobody waits.
  void fetch(cudaStream_t stream) {
    if (is_capturing(stream)) {
      throw std::runtime_error(
          "alkn::kernel::CudaStep: expected the results of the last replay to be asked for before "
          "the next capture on its stream, got the capture");
    }
    const auto num_tensors = static_cast<std::size_t>(plan_.header().num_tensors);
    const std::size_t bytes = sizeof(TensorState) * num_tensors;
    if (results_.bytes() < sizeof(Control) + bytes) fetched_.synchronize();
    results_.reserve(sizeof(Control) + bytes);
    check_cuda(cudaMemcpyAsync(results_.data(), control_.get<Control>(), sizeof(Control),
                               cudaMemcpyDeviceToHost, stream),
               "cudaMemcpyAsync");
    if (bytes > 0) {
      check_cuda(cudaMemcpyAsync(results_.data() + sizeof(Control), states_.get<TensorState>(),
                                 bytes, cudaMemcpyDeviceToHost, stream),
                 "cudaMemcpyAsync");
    }
    fetched_.record(stream);
  }

  /// Waits for the last fetch(); thresholds, counts and deviations go into `tensors`, those of the
  /// step that was fetched, unless it was skipped.
  StepResult report(StepTensor* tensors, std::int64_t num_tensors) const {
    fetched_.synchronize();
    Control control;
    std::memcpy(&control, results_.data(), sizeof(Control));
    StepResult result;
    result.grad_norm = control.grad_norm;
    result.clip_scale = control.clip_scale;
    result.skipped = control.skip != 0;
    if (result.skipped) return result;
    for (std::int64_t t = 0; t < num_tensors; ++t) {
      TensorState state;
      std::memcpy(&state,
                  results_.data() + sizeof(Control) + static_cast<std::size_t>(t) * sizeof(state),
                  sizeof(state));
      tensors[t].threshold = state.threshold;
      tensors[t].num_unmasked = static_cast<std::int64_t>(state.num_unmasked);
      tensors[t].deviation = state.deviation;
    }
    return result;
  }

  /// In how many tensors of the step that was fetched a bracket missed; after report().
  [[nodiscard]] std::uint64_t num_missed() const {
    Control control;
    std::memcpy(&control, results_.data(), sizeof(Control));
    return control.num_missed;
  }

  /// Captured graphs are not replayed any more: parameters may move, and their memory is free.
  void forget_captures() {
    captures_.clear();
    captured_.clear();
  }

 private:
  /// A place in pinned memory for what a step copies; the host fills one while the other is on its
  /// way.
  struct Slot {
    PinnedArray memory;
    Event copied;
  };

  static int current_device() {
    int device = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    return device;
  }

  void assign(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
              const Replay* replay = nullptr) {
    const PlanChange change = plan_.assign(tensors, num_tensors, args, replay);
    stale_chunks_ = stale_chunks_ || change.chunks;
    stale_sizes_ = stale_sizes_ || change.sizes;
  }
  /// Of a step that is being captured: no array may grow or change there.
  void assign_captured(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                       const Replay* replay) {
    assign(tensors, num_tensors, args, replay);
    if (stale_chunks_ || stale_sizes_) {
      throw std::runtime_error(
          "alkn::kernel::CudaStep: expected a step over the same tensors before the capture of a "
          "graph, got none");
    }
  }

  void check_capture(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                     const Replay* replay) {
    if (replay == nullptr) {
      throw std::invalid_argument(
          "alkn::kernel::CudaStep: expected a Replay for a step in a stream that is being "
          "captured, got none");
    }
    check_captured(tensors, num_tensors, args, captured_);
    if (!spare_ || spare_->bytes() < input_bytes(num_tensors)) {
      throw std::runtime_error(
          "alkn::kernel::CudaStep: expected a step outside the capture between two captures, got "
          "none");
    }
  }

  /// The work of the last step comes first, whatever stream it is on.
  void follow(cudaStream_t stream) {
    if (!has_stream_) {
      numbers_ = DeviceNumbers::of_current();
    } else if (stream != stream_) {
      if (replays_) done_.record(stream_);
      done_.hold(stream);
      for (const DeviceArray* array : {&inputs_, &chunks_, &control_, &states_, &sums_,
                                       &candidates_, &histograms_, &squares_}) {
        array->share(stream);
      }
    }
    stream_ = stream;
    has_stream_ = true;
    replays_ = false;
  }

  [[nodiscard]] static std::size_t input_bytes(std::int64_t num_tensors) {
    return sizeof(Header) + static_cast<std::size_t>(num_tensors) * sizeof(Tensor);
  }

  void grow(cudaStream_t stream) {
    const WorkSizes& sizes = plan_.sizes();
    const auto bytes = [](std::int64_t count, std::size_t each) {
      return std::max<std::size_t>(static_cast<std::size_t>(count) * each, 16);
    };
    inputs_.reserve(input_bytes(sizes.num_tensors), false, stream);
    chunks_.reserve(bytes(sizes.num_chunks, sizeof(Chunk)), false, stream);
    control_.reserve(sizeof(Control), true, stream);
    states_.reserve(bytes(sizes.num_tensors, sizeof(TensorState)), true, stream);
    sums_.reserve(bytes(3 * sizes.num_chunks, sizeof(double)), false, stream);
    candidates_.reserve(bytes(sizes.num_candidates, sizeof(std::uint32_t)), false, stream);
    histograms_.reserve(bytes(sizes.num_histograms * 2 * tuning::kRadixBins, sizeof(std::uint64_t)),
                        true, stream);
    graph_.reset();        // its kernels know the old arrays
    stale_chunks_ = true;  // the array may be another one
    stale_sizes_ = false;
  }

  void upload(cudaStream_t stream, bool capturing) {
    const std::size_t bytes = input_bytes(plan_.header().num_tensors);
    if (capturing) {  // a captured copy reads its place anew at every replay: nobody else's
      captures_.push_back(std::move(spare_));
      copy_inputs(*captures_.back(), bytes, stream);
      return;
    }
    if (!spare_) spare_ = std::make_unique<PinnedArray>();
    spare_->reserve(bytes);
    Slot& slot = slots_[next_slot_];
    next_slot_ = 1 - next_slot_;
    slot.copied.synchronize();  // of the step before the last: long done
    const std::size_t chunk_bytes = stale_chunks_ ? plan_.chunks().size() * sizeof(Chunk) : 0;
    slot.memory.reserve(bytes + chunk_bytes);
    copy_inputs(slot.memory, bytes, stream);
    if (chunk_bytes > 0) {
      std::memcpy(slot.memory.data() + bytes, plan_.chunks().data(), chunk_bytes);
      check_cuda(cudaMemcpyAsync(chunks_.get<Chunk>(), slot.memory.data() + bytes, chunk_bytes,
                                 cudaMemcpyHostToDevice, stream),
                 "cudaMemcpyAsync");
    }
    stale_chunks_ = false;
    slot.copied.record(stream);
  }

  void copy_inputs(const PinnedArray& from, std::size_t bytes, cudaStream_t stream) {
    std::memcpy(from.data(), &plan_.header(), sizeof(Header));
    if (bytes > sizeof(Header)) {
      std::memcpy(from.data() + sizeof(Header), plan_.tensors().data(), bytes - sizeof(Header));
    }
    check_cuda(
        cudaMemcpyAsync(inputs_.get<char>(), from.data(), bytes, cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  }

  [[nodiscard]] Table table() const {
    return {inputs_.get<Header>(),
            reinterpret_cast<const Tensor*>(inputs_.get<char>() + sizeof(Header)),
            chunks_.get<Chunk>(),
            control_.get<Control>(),
            states_.get<TensorState>(),
            sums_.get<double>(),
            candidates_.get<std::uint32_t>(),
            histograms_.get<std::uint64_t>(),
            squares_.get<double>()};
  }

  void launch(cudaStream_t stream, const Kernels& kernels) {
    launch_norm(stream);
    launch_rest(stream, kernels);
  }

  void launch_norm(cudaStream_t stream) {
    const unsigned blocks =
        numbers_.grid(plan_.header().num_chunks, TuningSm80::kNormBlocks, TuningSm90::kNormBlocks);
    norm_launch<<<blocks, tuning::kNormThreads, 0, stream>>>(table());
  }

  void launch_rest(cudaStream_t stream, const Kernels& kernels) {
    const std::int64_t num_tensors = plan_.header().num_tensors;
    const std::int64_t num_chunks = plan_.header().num_chunks;
    const Table table = this->table();
    const int threads = numbers_.hopper ? TuningSm90::kThreads : TuningSm80::kThreads;
    const auto grid = [&](std::int64_t work, int sm80, int sm90) {
      return numbers_.grid(work, sm80, sm90);
    };
    const std::int64_t num_units = num_chunks * tuning::kUnits;
    if (kernels.selects) {
      const unsigned of_tensors =
          grid(num_tensors, TuningSm80::kTensorBlocks, TuningSm90::kTensorBlocks);
      const unsigned of_units = grid(num_units, TuningSm80::kScoreBlocks, TuningSm90::kScoreBlocks);
      const unsigned of_chunks =
          grid(num_chunks, TuningSm80::kScoreBlocks, TuningSm90::kScoreBlocks);
      sample_launch<<<of_tensors, threads, 0, stream>>>(table);
      score_launch<<<of_units, threads, 0, stream>>>(table);
      select_launch<<<of_tensors, threads, 0, stream>>>(table);
      for (int pass = 0; pass < 3; ++pass) {
        radix_launch<<<of_chunks, threads, 0, stream>>>(table, pass);
      }
    }
    const unsigned of_units = grid(num_units, TuningSm80::kUpdateBlocks, TuningSm90::kUpdateBlocks);
    const auto kernel = update_kernel_of(kernels);
    kernel<<<of_units, threads, 0, stream>>>(table);
    check_cuda(cudaGetLastError(), "the launch of a step");
  }

  using UpdateLaunch = void (*)(Table);
  static UpdateLaunch update_kernel_of(const Kernels& kernels) {
    const bool adamw = kernels.update == Update::adamw;
    switch (kernels.mask) {
      case MaskKind::none:
        return adamw ? update_launch<MaskKind::none, true> : update_launch<MaskKind::none, false>;
      case MaskKind::given:
        return adamw ? update_launch<MaskKind::given, true> : update_launch<MaskKind::given, false>;
      default:
        return adamw ? update_launch<MaskKind::localized, true>
                     : update_launch<MaskKind::localized, false>;
    }
  }

  Plan plan_;
  bool stale_chunks_ = true, stale_sizes_ = true;  ///< on the device, against the plan
  KnownPlaces known_;
  CapturedPlaces captured_;
  DeviceNumbers numbers_;
  cudaStream_t stream_ = nullptr;
  bool has_stream_ = false;
  bool replays_ = false;            ///< behind done_ there may be a replay on the stream
  std::unique_ptr<Kernels> graph_;  ///< of the last capture()
  int device_ = 0;                  ///< of enqueue_sums()
  Event done_, fetched_, summed_, gathered_;
  DeviceArray inputs_, chunks_, control_, states_, sums_, candidates_, histograms_, squares_;
  Slot slots_[2];
  int next_slot_ = 0;
  std::unique_ptr<PinnedArray> spare_;  ///< for the next capture: nothing may be allocated then
  std::vector<std::unique_ptr<PinnedArray>> captures_;
  PinnedArray results_;
};

}  // namespace
}  // namespace ALKN_CUDA_ARCHS
}  // namespace alkn::kernel::cuda
