// What the benchmark of the GPU asks and says, without one.
#include "../../benchmarks/gpu_report.hpp"

#include <numeric>

#include "catch.hpp"

using namespace alkn_bench::gpu;

TEST_CASE("the arguments of the benchmark of the GPU") {
  const Settings plain = parse({"gpu.json"});
  CHECK(plain.path == "gpu.json");
  CHECK(plain.elements == 268435456);
  CHECK(plain.rounds == 15);
  const Settings all = parse({"gpu.json", "3", "7"});
  CHECK(all.elements == 3145728);
  CHECK(all.rounds == 7);
  const std::string usage = "\nusage: gpu_step FILE.json [MEBI_ELEMENTS [ROUNDS]]";
  CHECK_THROWS_WITH(parse({}), "expected 1 to 3 arguments, got 0" + usage);
  CHECK_THROWS_WITH(parse({"a", "1", "1", "1"}), "expected 1 to 3 arguments, got 4" + usage);
  CHECK_THROWS_WITH(parse({"a", "0"}), "expected MEBI_ELEMENTS in 1 .. 4096, got \"0\"" + usage);
  CHECK_THROWS_WITH(parse({"a", "12x"}),
                    "expected MEBI_ELEMENTS in 1 .. 4096, got \"12x\"" + usage);
  CHECK_THROWS_WITH(parse({"a", "1", "-3"}), "expected ROUNDS in 1 .. 10000, got \"-3\"" + usage);
}

TEST_CASE("the tensors of the benchmark of the GPU") {
  const auto sum = [](const std::vector<std::int64_t>& list) {
    return std::accumulate(list.begin(), list.end(), std::int64_t{0});
  };
  const auto uneven = uneven_sizes(1 << 20, 300);
  CHECK(uneven.size() == 300);
  CHECK(sum(uneven) == 1 << 20);
  CHECK(*std::min_element(uneven.begin(), uneven.end()) > 0);
  const auto llama = llama_2_7b();
  CHECK(llama.size() == 291);
  CHECK(sum(llama) == 6738415616);
  const double gibi = static_cast<double>(compact_state_bytes(llama)) / (1 << 30);
  CHECK(gibi == Approx(101.98).epsilon(1e-4));
}

TEST_CASE("the report of the GPU has medians, shares of the copy, bars and what was skipped") {
  Report report("a device");
  report.add({{"copy", 1000, 8, {3, 1, 2}}, {"step", 1000, 28, {14, 14, 1}}});
  CHECK(report.ratio("step", "copy") == Approx(7));
  CHECK(report.over_floor("step") == Approx(2));
  report.at_most("time", report.over_floor("step"), 2.5);
  CHECK(report.all_met());
  report.at_least("speed", 5.9, 6);
  CHECK_FALSE(report.all_met());
  report.add({"large", 100, 99});
  const nlohmann::json json = report.json();
  CHECK(json["device"] == "a device");
  CHECK(json["arms"][1]["name"] == "step");
  CHECK(json["arms"][1]["elements"] == 1000);
  CHECK(json["arms"][1]["ms"].get<double>() == Approx(14));
  CHECK(json["arms"][1]["floor_bytes"].get<double>() == Approx(28));
  CHECK(json["arms"][1]["gb_per_s"].get<double>() == Approx(0.002));
  CHECK(json["arms"][1]["share_of_copy"].get<double>() == Approx(0.5));
  CHECK(json["bars"][0] ==
        nlohmann::json::parse(
            R"({"name": "time", "value": 2.0, "bound": 2.5, "kind": "at most", "met": true})"));
  CHECK(json["bars"][1] ==
        nlohmann::json::parse(
            R"({"name": "speed", "value": 5.9, "bound": 6.0, "kind": "at least", "met": false})"));
  CHECK(json["skipped"] ==
        nlohmann::json::parse(R"([{"name": "large", "needed_bytes": 100, "free_bytes": 99}])"));
  CHECK_THROWS_WITH(report.arm("none"), "alkn_bench::gpu::Report: expected an arm, got \"none\"");
  CHECK_THROWS_WITH(Times({"early", 1, 8}).median(),
                    "alkn_bench::gpu::Times: no step of early yet");
}
