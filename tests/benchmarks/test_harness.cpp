// The benchmarks' harness: its numbers, and what it says of bad input. Nothing is timed in here.
#include "../../benchmarks/harness.hpp"

#include <set>

#include "catch.hpp"

namespace {

using namespace alkn_bench;

/// What a call throws, as text.
template <class Fn>
std::string message(Fn fn) {
  try {
    fn();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

Arm timed(const std::string& name, std::vector<double> seconds, double bytes) {
  Arm arm{name, [] {}, bytes, bytes, 8};
  arm.seconds = std::move(seconds);
  return arm;
}

struct Named {
  std::string name;
};

}  // namespace

TEST_CASE("bad input to the harness has a clear error") {
  CHECK(message([] {
          Comparison({"none", 0, 1});
        }) == "alkn_bench::Comparison: expected at least one element, got 0");
  CHECK(message([] {
          Comparison({"one", 10, 0});
        }) == "alkn_bench::Comparison: expected at least one thread, got 0");
  CHECK(message([] {
          Comparison comparison({"one", 10, 1});
          comparison.add(timed("ceiling", {}, 28));
          comparison.run(0);
        }) == "alkn_bench::Comparison: expected at least one round, got 0");
  CHECK(message([] {
          Comparison({"one", 10, 1}).run(1);
        }) == "alkn_bench::Comparison: expected at least one arm, got none");
  CHECK(message([] { static_cast<void>(timed("early", {}, 28).time()); }) ==
        "alkn_bench::Arm: no step of early yet");
  CHECK(message([] { require_release("Debug"); }) == "expected a Release build, got \"Debug\"");
  CHECK(message([] {
          chosen(std::vector<Named>{{"ceiling"}, {"AdamW"}}, {"AdamW", "adamw"});
        }) == "alkn_bench: expected an arm of \"ceiling\", \"AdamW\", got \"adamw\"");
  CHECK(message([] { JsonFile("/dev/null/step_cost.json"); }) ==
        "alkn_bench::JsonFile: expected a file that can be written, got "
        "\"/dev/null/step_cost.json\"");
}

TEST_CASE("an unknown shape has a clear error") {
  for (const std::string name : {"two", "", "0", "-5", "2^", "2^99", "12x", "99999999999999"}) {
    CHECK(message([&] { shapes(name); }) ==
          "alkn_bench::shapes: expected one, small, gpt2, smollm2, llama or a positive number of "
          "elements, "
          "got \"" +
              name + "\"");
  }
}

TEST_CASE("shapes have the sizes of their models") {
  const auto elements = [](const std::string& name) {
    std::int64_t sum = 0;
    for (const auto& shape : shapes(name)) {
      std::int64_t size = 1;
      for (const std::int64_t n : shape) size *= n;
      sum += size;
    }
    return sum;
  };
  CHECK(elements("one") == 1 << 24);
  CHECK(elements("small") == 2000 * 2048);
  CHECK(elements("gpt2") == 124439808);   // the published count
  CHECK(elements("llama") == 202383360);  // a layer of Llama-2-7B
  CHECK(elements("77") == 77);
  CHECK(elements("2^28") == std::int64_t{1} << 28);
}

TEST_CASE("rows have the documented keys and numbers") {
  Comparison comparison({"one", 1000, 2});
  comparison.add(timed("ceiling", {3e-6, 1e-6, 2e-6}, 28));
  comparison.add(timed("fused", {4e-6}, 28));
  Arm mean = timed("mean", {1e-6, 1e-6, 10e-6}, 56);
  mean.by_mean = true;
  mean.floor_bytes = 14;
  comparison.add(mean);
  const nlohmann::json rows = comparison.rows("fused");
  std::set<std::string> keys;
  for (const auto& item : rows.at(0).items()) keys.insert(item.key());
  CHECK(keys == std::set<std::string>{"optimizer", "shape", "elements", "threads", "ns_per_element",
                                      "bytes_per_element", "floor_bytes_per_element", "gb_per_s",
                                      "share_of_ceiling", "ratio_to_fused_adamw",
                                      "state_bytes_per_parameter"});
  CHECK(rows[0]["ns_per_element"].get<double>() == Approx(2));  // the median
  CHECK(rows[0]["gb_per_s"].get<double>() == Approx(14));
  CHECK(rows[0]["share_of_ceiling"].get<double>() == Approx(1));
  CHECK(rows[0]["ratio_to_fused_adamw"].get<double>() == Approx(0.5));
  CHECK(rows[2]["ns_per_element"].get<double>() == Approx(4));  // the mean
  CHECK(rows[2]["share_of_ceiling"].get<double>() == Approx(0.25));
  CHECK(comparison.rows("nobody")[0]["ratio_to_fused_adamw"].is_null());
}

TEST_CASE("every arm takes its steps, slow ones in fewer rounds") {
  int refreshed = 0, fast = 0, slow = 0, prepared = 0;
  Comparison comparison({"one", 10, 1}, [&] { ++refreshed; });
  Arm first{"fast", [&] { ++fast; }, 28, 28, 8};
  first.prepare = [&] { ++prepared; };
  comparison.add(first);
  comparison.add({"slow", [&] { ++slow; }, 28, 28, 8, 4});
  comparison.run(10, 3);
  CHECK(refreshed == 13);
  CHECK(fast == 13);
  CHECK(prepared == 13);
  CHECK(slow == 4);  // one to warm up, and rounds 0, 4, 8
  CHECK(comparison.arms()[0].seconds.size() == 10);
  CHECK(comparison.arms()[1].seconds.size() == 3);
}
