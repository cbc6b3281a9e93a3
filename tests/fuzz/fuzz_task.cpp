// The calls of a task in any order, and checkpoints of any contents, on a tiny model: each call
// works, or throws an error of ours and leaves everything as it was. ALKN_TARGET=checkpoint: files
// first, and calls after them.
#include <ATen/Parallel.h>
#include <torch/optim/sgd.h>
#include <unistd.h>
#include <alkn/alkn.hpp>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.hpp"
#include "task_protocol.hpp"

namespace {

namespace fs = std::filesystem;
using Parameters = std::vector<alkn::NamedParameter>;
using OverSGD = alkn::ALKN<torch::optim::SGD>;

const fs::path& file() {
  static const struct Scratch {
    /// In memory, where there is such a place: a disk takes most of the time.
    fs::path path =
        (fs::is_directory("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path()) /
        ("fuzz_task-" + std::to_string(::getpid()) + ".safetensors");
    Scratch() = default;
    ~Scratch() { fs::remove(path); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
  } scratch;
  return scratch.path;
}

template <class Method>
void play(fuzz::Bytes& bytes, at::ScalarType type,
          std::unique_ptr<Method> (*make)(const Parameters&)) {
  static const char* const target = std::getenv("ALKN_TARGET");
  static const bool checkpoints = target != nullptr && std::string_view(target) == "checkpoint";
  fuzz::Protocol<Method> protocol(bytes, file(), type, make);
  checkpoints ? protocol.play_checkpoints() : protocol.play();
}

std::unique_ptr<OverSGD> over_sgd(const Parameters& params) {
  return std::make_unique<OverSGD>(params, alkn::ALKNOptions::reference(),
                                   torch::optim::SGDOptions(0.1).momentum(0.9));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const bool one_thread = [] {
    at::set_num_threads(1);
    return true;
  }();
  static_cast<void>(one_thread);
  using alkn::ALKN, alkn::ALKNOptions, alkn::NPO, alkn::NPOOptions;
  fuzz::Bytes bytes(data, size);
  switch (bytes.pick(10)) {
    case 0:
      play<ALKN<>>(bytes, at::kFloat,
                   [](const Parameters& p) { return std::make_unique<ALKN<>>(p); });
      break;
    case 1:
      play<ALKN<>>(bytes, at::kBFloat16, [](const Parameters& p) {
        return std::make_unique<ALKN<>>(p, ALKNOptions::paper().lr_decay(0.5));
      });
      break;
    case 2:
      play<ALKN<>>(bytes, at::kFloat, [](const Parameters& p) {
        return std::make_unique<ALKN<>>(
            p, ALKNOptions::ratio().compact_state(true).masked(alkn::Masked::freeze));
      });
      break;
    case 3:
      play<NPO<>>(bytes, at::kFloat, [](const Parameters& p) {
        return std::make_unique<NPO<>>(
            p, NPOOptions().rollback(true).retain_term(alkn::RetainTerm::kl));
      });
      break;
    case 4:
      play<NPO<>>(bytes, at::kBFloat16,
                  [](const Parameters& p) { return std::make_unique<NPO<>>(p); });
      break;
    case 5:
      play<alkn::TaskVector<>>(bytes, at::kFloat, [](const Parameters& p) {
        return std::make_unique<alkn::TaskVector<>>(p);
      });
      break;
    case 6:
      play<alkn::GradientAscent<>>(bytes, at::kFloat, [](const Parameters& p) {
        return std::make_unique<alkn::GradientAscent<>>(
            p, alkn::GradientAscentOptions().retain_term(alkn::RetainTerm::nll));
      });
      break;
    case 7:
      play<OverSGD>(bytes, at::kBFloat16, over_sgd);
      break;
    case 8:
      play<alkn::TaskVector<>>(bytes, at::kDouble, [](const Parameters& p) {
        return std::make_unique<alkn::TaskVector<>>(p);
      });
      break;
    default:
      play<OverSGD>(bytes, at::kFloat, over_sgd);
  }
  return 0;
}
