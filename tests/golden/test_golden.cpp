// Every committed file of golden vectors, on both backends, and by the CUDA kernels on the CPU.
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>

#include <filesystem>
#include <vector>

#include "../cuda/emulated_table.hpp"
#include "catch.hpp"
#include "golden.hpp"

namespace {

std::vector<std::filesystem::path> vector_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(ALKN_GOLDEN_DIR))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

/// @param replay the differences of a file
template <class Replay>
void check_all(Replay replay) {
  const auto files = vector_files();
  REQUIRE(files.size() >= 12);
  for (const auto& path : files) {
    const golden::Differences d = replay(golden::read(path));
    INFO(path.filename().string() << ": score " << d.score << ", threshold " << d.threshold
                                  << ", parameter " << d.parameter << ", negated " << d.negated
                                  << ", clip scale " << d.clip_scale);
    CHECK(d.score <= golden::kBound);
    CHECK(d.threshold <= golden::kBound);
    CHECK(d.parameter <= golden::kBound);
    CHECK(d.negated <= golden::kBound);
    CHECK(d.clip_scale <= golden::kBound);
    CHECK(d.counts == 0);
    CHECK(d.mask_bits == 0);
  }
}

void check_all(alkn::Backend backend) {
  check_all([&](const golden::Json& file) { return golden::replay(file, backend); });
}

}  // namespace

TEST_CASE("the aten backend reproduces the golden vectors") { check_all(alkn::Backend::aten); }

TEST_CASE("the CUDA kernels, block by block on the CPU, reproduce the golden vectors") {
  using alkn_test::EmulatedTable;
  const EmulatedTable table;
  check_all([](const golden::Json& file) {
    EmulatedTable::num_steps = EmulatedTable::num_negations = 0;
    const golden::Differences differences = golden::replay_emulated(file);
    std::size_t steps = 0;
    for (const golden::Json& task : file.at("tasks")) steps += task.at("steps").size();
    CHECK(EmulatedTable::num_steps == static_cast<std::int64_t>(steps));
    CHECK(EmulatedTable::num_negations ==
          static_cast<std::int64_t>(file.at("tasks").size() * file.at("shapes").size()));
    return differences;
  });
}

TEST_CASE("a CUDA graph of the step, of the first task, reproduces the golden vectors") {
  using alkn_test::EmulatedTable;
  const EmulatedTable table;
  check_all([](const golden::Json& file) {
    EmulatedTable::num_steps = 0;
    golden::Replay replay(file, alkn::Backend::cpu);
    replay.emulate_cuda();
    std::int64_t steps = 0;
    bool captured = false;
    replay.steps_by([&](alkn::ALKN<>& unlearner, std::size_t step) {
      ++steps;
      if (step == 0) {
        unlearner.step();
        return;
      }
      if (!captured) {  // not taken
        captured = true;
        EmulatedTable::captures = true;
        unlearner.step();
        EmulatedTable::captures = false;
      }
      unlearner.prepare_replay();
      EmulatedTable::replay();
    });
    const golden::Differences differences = replay.run();
    CHECK(EmulatedTable::num_steps == steps);
    return differences;
  });
}

TEST_CASE("golden vectors where the results of a step come late, as from a device") {
  const golden::Json file = golden::read(vector_files().front());
  golden::Replay replay(file, alkn::Backend::cpu);
  replay.report_late();
  CHECK(replay.run().within_bound());
}

TEST_CASE("late results change nothing, nor a step that turns out to be skipped") {
  const auto run = [](bool late) {
    at::manual_seed(1);
    const at::Tensor param = at::randn({40, 50}).requires_grad_(true);
    alkn::ALKN<> unlearner(std::vector<std::pair<std::string, at::Tensor>>{{"weight", param}},
                           alkn::ALKNOptions::conflict(), alkn::AdamWOptions(1e-2));
    alkn::detail::CoreAccess::core(unlearner)->base().runner().report_late(late);
    auto task = unlearner.begin_task({.steps = 6});
    task.accumulate_retain_gradient((param * at::randn({40, 50})).sum());
    for (int i = 0; i < 6; ++i) {
      param.mutable_grad() = at::randn({40, 50});
      if (i == 2 || i == 5) param.mutable_grad()[3][4] = NAN;
      unlearner.step();
    }
    CHECK(unlearner.last_step().skipped);
    CHECK(unlearner.last_step().step == 5);
    const alkn::TaskReport report = task.end();
    CHECK(report.skipped_steps == 2);
    return std::pair(param.detach().clone(), report.fraction_trained);
  };
  const auto [late, late_fraction] = run(true);
  const auto [want, fraction] = run(false);
  CHECK(at::equal(late, want));
  CHECK(late_fraction == fraction);
}

TEST_CASE("the fused CPU backend reproduces the golden vectors") { check_all(alkn::Backend::cpu); }
