#include <alkn/kernel/cuda/launch.cuh>
#include <alkn/kernel/cuda/launch_rows.cuh>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "device_calls.hpp"

namespace alkn_test {

namespace {

using device::check_cuda;

void* allocate(std::size_t bytes, cudaStream_t) {
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, bytes), "cudaMalloc");
  return data;
}
void release(void* data) { cudaFree(data); }
void share(void*, cudaStream_t) {}  // cudaFree waits for every stream

/// A host array on the device, at the same place within 256 bytes.
class Mirror {
 public:
  Mirror(const void* host, std::size_t bytes)
      : host_(const_cast<void*>(host)),
        bytes_(bytes),
        shift_(reinterpret_cast<std::uintptr_t>(host) % 256),
        base_(allocate(bytes + 512, nullptr)) {}
  ~Mirror() { cudaFree(base_); }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  template <class T = void>
  T* up() const {
    check_cuda(cudaMemcpy(data(), host_, bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
    return static_cast<T*>(data());
  }
  void down() const {
    check_cuda(cudaMemcpy(host_, data(), bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
  }
  void* data() const { return static_cast<char*>(base_) + shift_; }
  bool is(const void* host, std::size_t bytes) const { return host == host_ && bytes == bytes_; }

 private:
  void* host_;
  std::size_t bytes_, shift_;
  void* base_;
};

}  // namespace

struct DeviceStep::Impl {
  Impl() : step(device::Memory{allocate, release, share}) {
    for (cudaStream_t& stream : streams) {
      check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    }
  }
  ~Impl() {
    cudaDeviceSynchronize();
    for (cudaStream_t stream : streams) cudaStreamDestroy(stream);
  }

  /// The device's copy of a tensor's array, up to date.
  template <class T>
  T* mirror(std::size_t tensor, int array, T* host, std::size_t bytes) {
    if (host == nullptr || bytes == 0) return nullptr;
    std::unique_ptr<Mirror>& m = mirrors[{tensor, array}];
    if (m == nullptr || !m->is(host, bytes)) m = std::make_unique<Mirror>(host, bytes);
    return static_cast<T*>(m->up());
  }

  void up(const StepTensor* tensors, std::int64_t num_tensors) {
    views.assign(tensors, tensors + num_tensors);
    for (std::size_t k = 0; k < views.size(); ++k) {
      StepTensor& t = views[k];
      const auto n = static_cast<std::size_t>(t.size);
      const std::size_t each = t.type == DType::float32 ? 4 : 2;
      const std::size_t words = (n + 63) / 64 * 8;
      t.param = mirror(k, 0, t.param, n * each);
      t.master = mirror(k, 1, t.master, 4 * n);
      t.grad = mirror(k, 2, t.grad, n * each);
      t.grad_out = mirror(k, 3, t.grad_out, 4 * n);
      const std::size_t state = t.state_type == DType::float32 ? 4 : 2;
      t.exp_avg = mirror(k, 4, t.exp_avg, n * state);
      t.exp_avg_sq = mirror(k, 5, t.exp_avg_sq, n * state);
      t.retain = mirror(k, 6, t.retain, n * (t.retain_type == DType::float32 ? 4 : 2));
      t.score = mirror(k, 7, t.score, n * state);
      t.used = mirror(k, 8, t.used, words);
      t.mask = mirror(k, 9, t.mask, words);
    }
  }

  StepResult down(StepTensor* tensors, std::int64_t num_tensors, cudaStream_t stream) {
    step.fetch(stream);
    const StepResult result = step.report(tensors, num_tensors);
    for (const auto& entry : mirrors) {
      if (entry.first.first < static_cast<std::size_t>(num_tensors)) entry.second->down();
    }
    return result;
  }

  cudaStream_t stream() {
    turn += 1;
    return streams[alternate ? turn % 2 : 0];
  }

  device::CudaStep step;
  cudaStream_t streams[2] = {};
  bool alternate = false;
  int turn = 0;
  std::vector<StepTensor> views;
  std::map<std::pair<std::size_t, int>, std::unique_ptr<Mirror>> mirrors;
};

DeviceStep::DeviceStep() : impl_(std::make_unique<Impl>()) {}
DeviceStep::~DeviceStep() = default;
DeviceStep::DeviceStep(DeviceStep&&) noexcept = default;
void DeviceStep::alternate_streams() { impl_->alternate = true; }
std::uint64_t DeviceStep::num_missed() const { return impl_->step.num_missed(); }

StepResult DeviceStep::run(StepTensor* tensors, std::int64_t num_tensors, const StepArgs& args) {
  impl_->up(tensors, num_tensors);
  cudaStream_t stream = impl_->stream();
  impl_->step.enqueue(impl_->views.data(), num_tensors, args, stream);
  return impl_->down(tensors, num_tensors, stream);
}

// --- the kernels beside the step -------------------------------------------------------------

namespace {

template <class Launch>
void with_tokens(const TokenRows& rows, const Launch& launch) {
  if (rows.num_rows == 0) return;
  const auto n = static_cast<std::size_t>(rows.num_rows);
  const std::int64_t last = rows.num_rows - 1;
  const std::size_t each = rows.type == DType::float32 ? 4 : 2;
  const auto extent =
      static_cast<std::size_t>(last / rows.num_positions * rows.sample_stride +
                               last % rows.num_positions * rows.position_stride + rows.vocabulary);
  const auto vocabulary = static_cast<std::size_t>(rows.vocabulary);
  const Mirror logits(rows.logits, extent * each), labels(rows.labels, 8 * n);
  const Mirror max(rows.max, 4 * n), log_sum(rows.log_sum, 4 * n), log_p(rows.log_p, 4 * n);
  const Mirror grad_out(rows.grad_out, 4 * n), grad(rows.grad, n * vocabulary * each);
  const bool in_place = rows.grad == rows.logits;
  TokenRows d = rows;
  d.logits = logits.up(), d.labels = labels.up<std::int64_t>();
  d.max = max.up<float>(), d.log_sum = log_sum.up<float>(), d.log_p = log_p.up<float>();
  d.grad_out = grad_out.up<float>();
  d.grad = in_place ? logits.data() : grad.up();
  launch(d);
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  for (const Mirror* m : {&max, &log_sum, &log_p}) m->down();
  (in_place ? logits : grad).down();
}

}  // namespace

void device_token_forward(const TokenRows& rows) {
  with_tokens(rows, [](const TokenRows& d) { device::token_forward(d, nullptr); });
}
void device_token_backward(const TokenRows& rows) {
  with_tokens(rows, [](const TokenRows& d) { device::token_backward(d, nullptr); });
}

void device_negate(const device::Negation& negation, bool start_on_host) {
  if (negation.size == 0) return;
  const auto n = static_cast<std::size_t>(negation.size);
  const Mirror param(negation.param, 4 * n), start(negation.start, 4 * n);
  device::PinnedArray pinned;
  pinned.reserve(4 * n);
  std::memcpy(pinned.data(), negation.start, 4 * n);
  device::Negation d = negation;
  d.param = param.up<float>();
  d.start = start_on_host ? reinterpret_cast<float*>(pinned.data()) : start.up<float>();
  device::negate(d, nullptr);
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  param.down();
}

void device_mask(const device::MaskWords& words) {
  const auto bytes = 8 * static_cast<std::size_t>(words.num_words);
  if (bytes == 0) return;
  const Mirror mask(words.mask, bytes), other(words.other, bytes), count(words.count, 8);
  device::MaskWords d = words;
  d.mask = mask.up<std::uint64_t>();
  d.count = count.up<std::uint64_t>();
  if (words.other != nullptr) d.other = other.up<std::uint64_t>();
  device::count_bits(d, nullptr);
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  count.down();
}

std::string device_name() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());
    throw std::runtime_error(std::string("no CUDA device: ") + cudaGetErrorString(error));
  }
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  if (!device::has_kernels()) {
    throw std::runtime_error(std::string("no kernels for ") + properties.name +
                             ": compiled for other architectures");
  }
  return properties.name;
}

}  // namespace alkn_test
