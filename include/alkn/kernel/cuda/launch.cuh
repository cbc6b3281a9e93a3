// The class that launches the kernels of a step. Compiled by nvcc alone; no LibTorch. One class
// that holds the order of all launches of a step: hence its length.
#pragma once

#include <alkn/kernel/cuda/device.cuh>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <alkn/kernel/cuda/places.hpp>
#include <alkn/kernel/cuda/plan.hpp>
#include <alkn/kernel/cuda/step_arrays.cuh>
#include <alkn/kernel/cuda/step_kernels.cuh>
#include <alkn/kernel/step.hpp>

namespace alkn::kernel::cuda {
inline namespace ALKN_CUDA_ARCHS {
namespace {

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
/// device; where other processes have a part in the step it waits for the sums of this one, and
/// puts two copies and a kernel more. With the tensors' sizes of an earlier step it allocates
/// nothing. Results stay on the device until fetch() asks for them. The stream may change from step
/// to step: the next one waits for the last. A CUDA graph, of a step without other processes, has
/// capture() and prepare().
class CudaStep {
 public:
  explicit CudaStep(const Memory& memory) : arrays_(memory) {}
  CudaStep(const CudaStep&) = delete;
  CudaStep& operator=(const CudaStep&) = delete;

  /// With StepArgs::all the host waits for the sums of this process and adds those of the others.
  /// @throws std::invalid_argument for a missing pointer or one to another place than this device;
  ///   std::runtime_error for an error of CUDA and in a stream that is being captured; what
  ///   StepArgs::all throws
  void enqueue(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
               cudaStream_t stream) {
    if (is_capturing(stream)) {
      throw std::runtime_error(
          "alkn::kernel::CudaStep: expected capture() in a stream that is being captured, got "
          "enqueue()");
    }
    if (args.all != nullptr) {
      enqueue_sums(tensors, num_tensors, args, 0, 1, stream);
      if (plan_.header().sums) add_processes(*args.all, stream);
      enqueue_rest({}, stream);
      return;
    }
    assign(tensors, num_tensors, args);
    follow(stream);
    if (stale_sizes_) grow(stream);
    upload(stream);
    launch(stream, plan_.kernels());
    done_.record(stream);
  }

  // A step whose norm is of all `all`, each on its device, which is the current one: first
  // enqueue_sums for each, then gather, then enqueue_rest. The streams wait for one another, the
  // host does not.

  /// @param device its number among `num_devices`
  /// @throws as enqueue()
  void enqueue_sums(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
                    int device, int num_devices, cudaStream_t stream) {
    assign(tensors, num_tensors, args);
    plan_.share(device, num_devices);
    follow(stream);
    if (stale_sizes_) grow(stream);
    arrays_.squares.reserve(static_cast<std::size_t>(num_devices) * sizeof(double), false, stream);
    device_ = current_device();
    upload(stream);
    launch_norm(stream);
    summed_.record(stream);
  }
  void gather(const std::vector<CudaStep*>& all, cudaStream_t stream) {
    for (std::size_t d = 0; d < all.size(); ++d) {
      if (all[d] == this) continue;
      all[d]->summed_.hold(stream);
      check_cuda(cudaMemcpyPeerAsync(arrays_.squares.get<double>() + d, device_,
                                     all[d]->arrays_.squares.get<double>() + d, all[d]->device_,
                                     sizeof(double), stream),
                 "cudaMemcpyPeerAsync");
    }
    gathered_.record(stream);
  }
  void enqueue_rest(const std::vector<CudaStep*>& all, cudaStream_t stream) {
    for (const CudaStep* other : all) {
      if (other != this) other->gathered_.hold(stream);  // has read from here
    }
    combine_launch<<<1, tuning::kNormThreads, 0, stream>>>(arrays_.table());
    launch_rest(stream, plan_.kernels());
    done_.record(stream);
  }

  /// In a stream that is being captured: the kernels alone. A graph of them takes the step that
  /// prepare() has described before each replay.
  /// @throws std::runtime_error without a step over the same tensors before it
  void capture(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
               cudaStream_t stream) {
    assign(tensors, num_tensors, args, false);
    if (stale_chunks_ || stale_sizes_) {
      throw std::runtime_error(
          "alkn::kernel::CudaStep: expected a step over the same tensors before the capture of a "
          "graph, got none");
    }
    graph_ = std::make_unique<Kernels>(plan_.all_kernels());
    launch(stream, *graph_);
  }
  /// What enqueue() does but its kernels, which a replay of the captured graph launches next, on
  /// the same stream.
  /// @throws as enqueue(), and std::runtime_error where the captured graph cannot take this step
  void prepare(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
               cudaStream_t stream) {
    assign(tensors, num_tensors, args);
    plan_.check_prepared(graph_.get(), stale_sizes_);
    follow(stream);
    upload(stream);
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
    copy(results_.data(), arrays_.control.get<Control>(), sizeof(Control), stream);
    if (bytes > 0) {
      copy(results_.data() + sizeof(Control), arrays_.states.get<TensorState>(), bytes, stream);
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
      tensors[t].num_trained = static_cast<std::int64_t>(state.num_trained);
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

 private:
  /// Pinned memory for what a step copies to the device; the host fills one while the other is
  /// being copied.
  struct Slot {
    PinnedArray memory;
    Event copied;
  };

  static int current_device() {
    int device = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    return device;
  }

  /// Takes the step's arguments.
  /// @param asks whether CUDA is asked where the pointers point, not while a stream is captured
  void assign(const StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args,
              bool asks = true) {
    if (asks) check_places(tensors, num_tensors, args, current_device(), place_of, known_);
    const PlanChange change = plan_.assign(tensors, num_tensors, args);
    stale_chunks_ = stale_chunks_ || change.chunks;
    stale_sizes_ = stale_sizes_ || change.sizes;
  }

  /// Makes this step wait for the last one, whatever stream that is on.
  void follow(cudaStream_t stream) {
    if (!has_stream_) {
      numbers_ = DeviceNumbers::of_current();
    } else if (stream != stream_) {
      if (replays_) done_.record(stream_);
      done_.hold(stream);
      arrays_.share(stream);
    }
    stream_ = stream;
    has_stream_ = true;
    replays_ = false;
  }

  void grow(cudaStream_t stream) {
    arrays_.grow(plan_.sizes(), stream);
    graph_.reset();        // its kernels have the old arrays' addresses
    stale_chunks_ = true;  // the array may be another one
    stale_sizes_ = false;
  }

  void upload(cudaStream_t stream) {
    const std::size_t bytes = StepArrays::input_bytes(plan_.header().num_tensors);
    Slot& slot = slots_[next_slot_];
    next_slot_ = 1 - next_slot_;
    slot.copied.synchronize();  // of the step before the last: long done
    const std::size_t chunk_bytes = stale_chunks_ ? plan_.chunks().size() * sizeof(Chunk) : 0;
    slot.memory.reserve(bytes + chunk_bytes);
    std::memcpy(slot.memory.data(), &plan_.header(), sizeof(Header));
    if (bytes > sizeof(Header)) {
      std::memcpy(slot.memory.data() + sizeof(Header), plan_.tensors().data(),
                  bytes - sizeof(Header));
    }
    copy(arrays_.inputs.get<char>(), slot.memory.data(), bytes, stream);
    if (chunk_bytes > 0) {
      std::memcpy(slot.memory.data() + bytes, plan_.chunks().data(), chunk_bytes);
      copy(arrays_.chunks.get<Chunk>(), slot.memory.data() + bytes, chunk_bytes, stream);
    }
    stale_chunks_ = false;
    slot.copied.record(stream);
  }

  static void copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  }

  /// Between enqueue_sums() and enqueue_rest() of a step on one device: the sum over all processes
  /// in place of this one's.
  void add_processes(SquareSum& all, cudaStream_t stream) {
    const std::int64_t num_chunks = plan_.header().num_chunks;
    const std::size_t bytes = static_cast<std::size_t>(num_chunks) * sizeof(double);
    host_sums_.reserve(bytes + sizeof(double));
    if (bytes > 0) copy(host_sums_.data(), arrays_.sums.get<double>(), bytes, stream);
    check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    auto* squares = reinterpret_cast<double*>(host_sums_.data());
    squares[num_chunks] = all.of_all(squares, num_chunks);
    copy(arrays_.squares.get<double>(), squares + num_chunks, sizeof(double), stream);
  }

  void launch(cudaStream_t stream, const Kernels& kernels) {
    launch_norm(stream);
    launch_rest(stream, kernels);
  }

  void launch_norm(cudaStream_t stream) {
    const unsigned blocks = numbers_.grid(plan_.header().num_chunks, tuning::kNormBlocks);
    norm_launch<<<blocks, tuning::kNormThreads, 0, stream>>>(arrays_.table());
  }

  void launch_rest(cudaStream_t stream, const Kernels& kernels) {
    const std::int64_t num_tensors = plan_.header().num_tensors;
    const std::int64_t num_chunks = plan_.header().num_chunks;
    const Table table = arrays_.table();
    constexpr int kThreads = tuning::kThreads;
    const std::int64_t num_units = num_chunks * tuning::kUnits;
    if (kernels.selects) {
      const unsigned of_tensors = numbers_.grid(num_tensors, tuning::kTensorBlocks);
      const unsigned of_units = numbers_.grid(num_units, tuning::kScoreBlocks);
      const unsigned of_chunks = numbers_.grid(num_chunks, tuning::kScoreBlocks);
      sample_launch<<<of_tensors, kThreads, 0, stream>>>(table);
      score_launch<<<of_units, kThreads, 0, stream>>>(table);
      select_launch<<<of_tensors, kThreads, 0, stream>>>(table);
      for (int pass = 0; pass < 3; ++pass) {
        radix_launch<<<of_chunks, kThreads, 0, stream>>>(table, pass);
      }
    }
    const unsigned of_units = numbers_.grid(num_units, tuning::kUpdateBlocks);
    const auto kernel = update_kernel_of(kernels);
    kernel<<<of_units, kThreads, 0, stream>>>(table);
    check_cuda(cudaGetLastError(), "the launch of a step");
  }

  Plan plan_;
  bool stale_chunks_ = true, stale_sizes_ = true;  ///< on the device, against the plan
  KnownPlaces known_;
  DeviceNumbers numbers_;
  cudaStream_t stream_ = nullptr;
  bool has_stream_ = false;
  bool replays_ = false;            ///< a replay may have followed done_ on the stream
  std::unique_ptr<Kernels> graph_;  ///< of the last capture()
  int device_ = 0;                  ///< of enqueue_sums()
  Event done_, fetched_, summed_, gathered_;
  StepArrays arrays_;
  Slot slots_[2];
  int next_slot_ = 0;
  PinnedArray results_;
  PinnedArray host_sums_;  ///< of squares: of the chunks, then of all processes
};

}  // namespace
}  // namespace ALKN_CUDA_ARCHS
}  // namespace alkn::kernel::cuda
