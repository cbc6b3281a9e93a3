// golden FILE...: checks files that the oracle wrote, on both backends and by the CUDA kernels on
// the CPU; fails above the bound.
#include <cstdio>
#include <exception>

#include "../cuda/emulated_table.hpp"
#include "golden.hpp"

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr,
               "usage: golden FILE... (JSON of the oracle, or the same compressed by gzip)\n");
    return 2;
  }
  const alkn_test::EmulatedTable emulation;
  bool good = true;
  fmt::print("{:<32} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}\n", "file", "backend", "score",
             "threshold", "parameter", "negated", "clip", "counts", "bits");
  for (int i = 1; i < argc; ++i) {
    for (const std::string name : {"aten", "cpu", "cuda"}) {
      try {
        const golden::Json file = golden::read(argv[i]);
        const golden::Differences d =
            name == "cuda"
                ? golden::replay_emulated(file)
                : golden::replay(file, name == "cpu" ? alkn::Backend::cpu : alkn::Backend::aten);
        fmt::print("{:<32} {:>7} {:>9.1e} {:>9.1e} {:>9.1e} {:>9.1e} {:>9.1e} {:>7} {:>7}\n",
                   std::filesystem::path(argv[i]).filename().string(), name, d.score, d.threshold,
                   d.parameter, d.negated, d.clip_scale, d.counts, d.mask_bits);
        good = good && d.within_bound();
      } catch (const std::exception& e) {
        fmt::print(stderr, "golden: {}: {}\n", argv[i], e.what());
        good = false;
      }
    }
  }
  fmt::print("{}: bound {:.0e} of the largest magnitude, counts and mask bits exact\n",
             good ? "passed" : "FAILED", golden::kBound);
  return good ? 0 : 1;
}
