// Every committed file of golden vectors, on both backends.
#include <filesystem>
#include <vector>

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

void check_all(alkn::Backend backend) {
  const auto files = vector_files();
  REQUIRE(files.size() >= 12);
  for (const auto& path : files) {
    const golden::Differences d = golden::replay(path, backend);
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

}  // namespace

TEST_CASE("the aten backend reproduces the golden vectors") { check_all(alkn::Backend::aten); }

TEST_CASE("the fused CPU backend reproduces the golden vectors") { check_all(alkn::Backend::cpu); }
