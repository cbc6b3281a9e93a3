// golden FILE...: checks files that the oracle wrote, on both backends; fails above the bound.
#include <cstdio>
#include <exception>

#include "golden.hpp"

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr,
               "usage: golden FILE... (JSON of the oracle, or the same compressed by gzip)\n");
    return 2;
  }
  bool good = true;
  fmt::print("{:<32} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}\n", "file", "backend", "score",
             "threshold", "parameter", "negated", "clip", "counts", "bits");
  for (int i = 1; i < argc; ++i) {
    for (const auto& [backend, name] :
         {std::pair{alkn::Backend::aten, "aten"}, std::pair{alkn::Backend::cpu, "cpu"}}) {
      try {
        const golden::Differences d = golden::replay(argv[i], backend);
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
