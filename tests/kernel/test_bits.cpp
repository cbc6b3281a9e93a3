// The bits of eight steps, pinned: any compiler, any flags, any instruction set, any processor.
// Compiled once with the project's flags, and once as a consumer might, with -O3 -march=native
// -ffp-contract=fast.
#include "catch.hpp"
#include "inputs.hpp"

using namespace alkn_test;

namespace {

const auto kSerialPool = [](std::int64_t num_items, RangeBody body) { body(0, num_items); };

std::uint64_t hash_of_steps(bool later, DType type, bool compact) {
  StepArgs args;
  args.mask = MaskKind::localized;
  args.max_norm = 1.0;
  args.score.penalty = 0.5F;
  args.score.alignment = -1;
  Numbers numbers(31);
  std::vector<OwnedTensor> tensors;
  for (const std::int64_t size : {std::int64_t{3}, std::int64_t{1000}, std::int64_t{70001}}) {
    OwnedTensor t(size, type, type);
    if (compact) t.make_compact();
    for (std::int64_t i = 0; i < size; ++i) {
      const float p = numbers.normal(0.3F);
      if (type != DType::float32) t.param_narrow[t.at(i)] = narrow(p, type);
      t.param[t.at(i)] = type == DType::float32 ? p : wide(t.param_narrow[t.at(i)], type);
      t.set_retain(i, numbers.normal(0.05F));
      if (later && numbers.below(3) == 0) {
        t.used[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
      }
    }
    t.has_used = later;
    t.learns = !later;
    tensors.push_back(t);
  }
  CpuStep cpu;
  for (int step = 1; step <= 8; ++step) {
    std::vector<StepTensor> views;
    for (std::size_t k = 0; k < tensors.size(); ++k) {
      OwnedTensor& t = tensors[k];
      for (std::int64_t i = 0; i < t.size; ++i) t.set_grad(i, numbers.normal(0.05F));
      t.adamw = AdamWLanes<float>();  // no libm in the inputs
      t.adamw.decay = 0.9999F, t.adamw.decay_used = 0.99F;
      t.adamw.step_size = 0.003F, t.adamw.step_size_used = 0.0001F;
      t.adamw.bias2_sqrt = 0.125F;
      t.seed = rounding_seed(static_cast<std::int64_t>(k), step);
      views.push_back(t.view());
    }
    args.threshold_due = !later && step % 3 != 0;
    cpu.run(views.data(), static_cast<std::int64_t>(views.size()), args,
            ParallelFor(kSerialPool, 1));
    for (std::size_t k = 0; k < tensors.size(); ++k) tensors[k].threshold = views[k].threshold;
  }
  return hash_of(tensors);
}

}  // namespace

TEST_CASE("the same bits in every build, with every state") {
  struct Pinned {
    bool later;
    DType type;
    bool compact;
    std::uint64_t hash;
  };
  const Pinned all[] = {
      {false, DType::float32, false, 0xD42ACEDD6927B434U},
      {true, DType::float32, false, 0xF10DE5537933DD65U},
      {false, DType::bfloat16, false, 0x210DF5FB4E7F1F01U},
      {true, DType::float16, false, 0x326E56ABF99DC712U},
      {false, DType::float32, true, 0x0ED49286905117E5U},
      {true, DType::float32, true, 0x74341A37102FC7ACU},
      {true, DType::bfloat16, true, 0x54B1F2A952230CF3U},
  };
  for (const SimdLevel level : simd_levels()) {
    const WithSimd with(level);
    for (const Pinned& p : all) {
      INFO(simd_name(level) << ", later " << p.later << ", type " << static_cast<int>(p.type)
                            << ", compact " << p.compact);
      CHECK(hash_of_steps(p.later, p.type, p.compact) == p.hash);
    }
  }
}
