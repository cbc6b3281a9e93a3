// Checkpoints whose checksums are right and whose contents are not: every array left out, of
// another shape or type, every number another. Refused each time, in one line of ours, and nothing
// changes.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <torch/optim/sgd.h>

#include <filesystem>
#include <limits>
#include <map>
#include <mutex>

#include <alkn/checkpoint/checkpoint.hpp>

#include "catch.hpp"
#include "method/tiny.hpp"

using at::Tensor;
using tiny::error_of, tiny::everything, tiny::Model, tiny::same_bits;

namespace {

const auto kFile = std::filesystem::temp_directory_path() / "alkn_forged.safetensors";

/// A checkpoint's arrays and header, to be changed and written again as if they had been saved.
struct Checkpoint {
  Checkpoint() {
    const alkn::io::SafetensorsFile file(kFile);
    metadata = file.metadata();
    for (auto& [name, array] : alkn::io::load_tensors(kFile)) arrays.emplace(name, array);
    header = nlohmann::json::parse(alkn::detail::tensor_bytes(arrays.at("header")));
  }
  void write() {
    header["arrays"] = alkn::detail::manifest(arrays);
    arrays["header"] = alkn::detail::bytes_tensor(header.dump());
    alkn::io::save_tensors(kFile, {arrays.begin(), arrays.end()},
                           {{"alkn.checkpoint", metadata.at("alkn.checkpoint")}});
  }
  alkn::io::Metadata metadata;
  std::map<std::string, Tensor> arrays;
  nlohmann::json header;
};

Tensor generator_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

const std::string kDiffers =
    "alkn::load_checkpoint: expected the unlearner that was saved, got differences: ";

/// The error of a file that does not fit, with what does not.
std::string differs(const std::string& what) {
  return kDiffers + what + " (" + kFile.string() + ")";
}

std::string type_of(const Tensor& array) {
  return alkn::detail::array_text(array.scalar_type(), array.sizes());
}

/// What is said of `other` in the place of an array of a good file; an undefined tensor: of none.
std::string wrong_array(const std::string& name, const Tensor& array, const Tensor& other) {
  if (!other.defined()) return differs("array \"" + name + "\" is not in the file");
  const bool parameter = name.rfind("parameter/", 0) == 0;
  if (name.rfind("base/", 0) == 0 && other.scalar_type() == at::kByte)
    return "alkn::load_checkpoint: expected what the base optimizer has saved, got an archive that "
           "it cannot load (\"" +
           name + "\")";
  if (name == "memory/ids" && other.dim() == 1 && other.numel() != array.numel()) {
    const std::string count = "Long [" + std::to_string(other.numel()) + "]";
    return differs("array \"memory/tokens\" is " + count + ", in the file " + type_of(array) +
                   "; array \"memory/sizes\" is " + count + ", in the file " + type_of(array));
  }
  if (name == "memory/values" && other.dim() == 1)
    return differs("array \"memory/sizes\" of the file does not add up to its values");
  return differs((parameter ? "parameter \"" + name.substr(10) : "array \"" + name) + "\" is " +
                 type_of(array) + ", in the file " + type_of(other));
}

/// Refuses every forgery of what `saved` is in the middle of.
template <class Make>
void refuse_all(Make make, at::ScalarType type) {
  {
    Model model(type);
    const auto method = make(model);
    auto task = method->begin_task({.steps = 3});
    tiny::prepare(task, model);
    tiny::set_gradients(model.params, 1);
    method->step();
    alkn::save_checkpoint(kFile, *method);
    task.end();
  }
  const Checkpoint good;
  Model model(type);
  const auto method = make(model);
  tiny::set_gradients(model.params, 2);
  method->step();
  const auto before = everything(*method);
  const Tensor generator = generator_state();
  /// @param text the whole error; empty: one of ours
  const auto refused = [&](Checkpoint& forged, const std::string& text = "") {
    forged.write();
    const std::string error =
        error_of([&] { static_cast<void>(alkn::load_checkpoint(kFile, *method)); });
    INFO(error);
    if (text.empty())
      CHECK(error.rfind(kDiffers, 0) == 0);
    else
      CHECK(error == text);
    REQUIRE(same_bits(everything(*method), before));
    CHECK(same_bits(generator_state(), generator));
    CHECK_FALSE(tiny::core_of(*method).in_task());
  };
  for (const auto& [array_name, array_value] : good.arrays) {
    const std::string name = array_name;
    if (name == "header") continue;
    INFO(name << " " << array_value.scalar_type() << " " << array_value.sizes());
    const Tensor array = array_value;
    const auto with = [&](const Tensor& other) {
      Checkpoint forged = good;
      if (other.defined())
        forged.arrays[name] = other;
      else
        forged.arrays.erase(name);
      refused(forged, wrong_array(name, array, other));
    };
    if (name != "memory/ids") with(Tensor());  // without ids there is no memory
    if (name != "memory/values")               // whose type is that of the model's logits
      with(array.to(array.scalar_type() == at::kDouble ? at::kFloat : at::kDouble));
    if (name.rfind("base/", 0) == 0) {
      with(at::zeros({5}, at::kByte));
      with(array.flip(0).contiguous());
      continue;
    }
    const Tensor flat = array.reshape({-1});
    with(flat.narrow(0, 0, flat.numel() - 1).clone());
    if (name != "memory/values") with(at::cat({flat, flat.narrow(0, 0, 1)}));
    with(array.unsqueeze(0).clone());
  }
  const auto each = [&](const nlohmann::json::json_pointer& at, const auto& self) -> void {
    const nlohmann::json& here = good.header.at(at);
    if (here.is_object()) {
      for (const auto& [key, value] : here.items()) {
        if (key != "arrays") self(at / key, self);
      }
      return;
    }
    INFO(at.to_string() << " " << here.dump());
    const auto with = [&](const nlohmann::json& other) {
      Checkpoint forged = good;
      forged.header[at] = other;
      refused(forged);
    };
    with(nullptr);
    if (at.to_string().rfind("/options/", 0) == 0) return;  // all of one kind
    with(nlohmann::json::array({1}));
    if (here.is_number()) with("text"), with(-1), with(1.5);
    if (here.is_boolean()) with("text"), with(1);
    if (here.is_string()) with(7), with("text");
    Checkpoint forged = good;
    forged.header.at(at.parent_pointer()).erase(at.back());
    if (at != "/task/announced"_json_pointer) refused(forged);
  };
  each(nlohmann::json::json_pointer(), each);
  {
    Checkpoint forged = good;
    forged.arrays["score/nobody"] = at::zeros({3});
    refused(forged);
  }
  Checkpoint same = good;
  same.write();
  auto task = alkn::load_checkpoint(kFile, *method);
  REQUIRE(task);
  task->end();
  std::filesystem::remove(kFile);
}

}  // namespace

TEST_CASE("forged checkpoints of ALKN are refused") {
  const auto type = GENERATE(at::kFloat, at::kBFloat16);
  refuse_all([](Model& model) { return std::make_unique<alkn::ALKN<>>(model.params); }, type);
}

TEST_CASE("forged checkpoints of NPO and over another base are refused") {
  refuse_all([](Model& model) { return std::make_unique<alkn::NPO<>>(model.params); }, at::kFloat);
  refuse_all(
      [](Model& model) {
        return std::make_unique<alkn::TaskVector<torch::optim::SGD>>(
            model.params, alkn::TaskVectorOptions(), torch::optim::SGDOptions(0.1).momentum(0.9));
      },
      at::kBFloat16);
}

TEST_CASE("what is forged is named") {
  Model model;
  alkn::ALKN<> method(model.params);
  auto running = method.begin_task({.steps = 3});
  tiny::prepare(running, model);
  tiny::set_gradients(model.params, 1);
  method.step();
  alkn::save_checkpoint(kFile, method);
  running.end();
  const Checkpoint good;
  const auto error = [&](const auto& change) {
    Checkpoint forged = good;
    for (auto& [name, array] : forged.arrays) array = array.clone();
    change(forged);
    forged.write();
    const std::string text =
        error_of([&] { static_cast<void>(alkn::load_checkpoint(kFile, method)); });
    const std::string end = " (" + kFile.string() + ")";
    REQUIRE(text.size() > kDiffers.size() + end.size());
    CHECK(text.substr(0, kDiffers.size()) == kDiffers);
    CHECK(text.substr(text.size() - end.size()) == end);
    return text.substr(kDiffers.size(), text.size() - kDiffers.size() - end.size());
  };
  Checkpoint archive = good;
  archive.arrays["base/now"] = at::zeros({5}, at::kByte);
  archive.write();
  CHECK(error_of([&] { static_cast<void>(alkn::load_checkpoint(kFile, method)); }) ==
        "alkn::load_checkpoint: expected what the base optimizer has saved, got an archive that it "
        "cannot load (\"base/now\")");
  CHECK(error([](Checkpoint& c) { c.arrays.erase("memory/ids"); }) ==
        "array \"memory/sizes\" of the file is none of this method's; array \"memory/tokens\" of "
        "the file is none of this method's; array \"memory/values\" of the file is none of this "
        "method's");
  CHECK(error([](Checkpoint& c) { c.arrays.erase("generator"); }) ==
        "array \"generator\" is not in the file");
  CHECK(error([](Checkpoint& c) { c.arrays["generator"] = at::zeros({16}, at::kByte); }) ==
        "array \"generator\" is Byte [5056], in the file Byte [16]");
  CHECK(error([](Checkpoint& c) { c.arrays["score/head"] = at::zeros({3}); }) ==
        "array \"score/head\" is Float [11, 6], in the file Float [3]");
  CHECK(error([](Checkpoint& c) { c.arrays.erase("columns/eta"); }) ==
        "array \"columns/eta\" is not in the file");
  CHECK(
      error([](Checkpoint& c) { c.arrays["columns/flags"].add_(8); }) ==
      "flags and number of trained entries of parameter \"embed\" are 10 and " +
          std::to_string(good.arrays.at("columns/num_unmasked")[0].item<std::int64_t>()) +
          " in the file; flags and number of trained entries of parameter \"weight\" are 10 and " +
          std::to_string(good.arrays.at("columns/num_unmasked")[1].item<std::int64_t>()) +
          " in the file; flags and number of trained entries of parameter \"bias\" are 10 and 6 "
          "in the file; flags and number of trained entries of parameter \"head\" are 10 and " +
          std::to_string(good.arrays.at("columns/num_unmasked")[3].item<std::int64_t>()) +
          " in the file");
  CHECK(error([](Checkpoint& c) { c.arrays["memory/sizes"].add_(1); }) ==
        "array \"memory/sizes\" of the file does not add up to its values");
  CHECK(error([](Checkpoint& c) { c.arrays["score/nobody"] = at::zeros({3}); }) ==
        "array \"score/nobody\" of the file is none of this method's");
  CHECK(error([](Checkpoint& c) { c.header["task"]["done"] = "1"; }) ==
        "number \"done\" of the file is not whole and in [0, 3]");
  CHECK(error([](Checkpoint& c) { c.header["task"]["training"] = 1; }) ==
        "flag \"training\" of the file is neither true nor false; flag \"training\" of the file is "
        "false after a step");
  const std::string lacks = "the file's header lacks a field, or has one of another type";
  CHECK(error([](Checkpoint& c) { c.header["parameters"] = 1; }) == lacks);
  CHECK(error([](Checkpoint& c) { c.header["parameters"][0]["group"] = 0.5; }) == lacks);
  CHECK(error([](Checkpoint& c) { c.header["parameters"][0]["group"] = -1; }) == lacks);
  CHECK(error([](Checkpoint& c) { c.header["parameters"][0].erase("name"); }) == lacks);
  CHECK(error([](Checkpoint& c) { c.header["parameters"][0]["group"] = 1; }) ==
        "parameter \"embed\" is in group 0, in the file in group 1");
  CHECK(error([](Checkpoint& c) { c.header["parameters"][0]["name"] = "other"; }) ==
        "parameter \"embed\" is not in the file; parameter \"other\" of the file is not in the "
        "model");
  CHECK(error([](Checkpoint& c) { c.header["method"] = "NPO"; }) ==
        "method is \"ALKN\", in the file \"NPO\"");
  CHECK(error([](Checkpoint& c) { c.header.erase("base"); }) ==
        "base is \"alkn::AdamW\", in the file \"\"");
  CHECK(error([](Checkpoint& c) { c.header["options"]["negation"] = "3"; }) ==
        "option negation is 2, in the file 3");
  CHECK(
      error([](Checkpoint& c) { c.header["task"] = nullptr; }) ==
      "number \"announced\" of the file is not whole and in [1, inf]; number \"done\" of the file "
      "is not whole and in [0, 0]; number \"skipped\" of the file is not whole and in [0, 0]; flag "
      "\"training\" of the file is neither true nor false; number \"num_retain_batches\" of the "
      "file is not whole and in [0, 9223372036854775806]; number \"task\" of the file is not whole "
      "and in [0, inf]; number \"step\" of the file is not whole and in [0, inf]; flag \"skipped\" "
      "of the file is neither true nor false");
  // one more could not be counted
  CHECK(error([](Checkpoint& c) {
          c.header["num_tasks"] = std::numeric_limits<std::int64_t>::max();
        }) == "number \"num_tasks\" of the file is not whole and in [0, 9223372036854775806]");
  CHECK(error([](Checkpoint& c) {
          c.header["task"]["num_retain_batches"] = std::numeric_limits<std::int64_t>::max();
        }) ==
        "number \"num_retain_batches\" of the file is not whole and in [1, 9223372036854775806]");
  Checkpoint generator = good;
  generator.arrays["generator"] = at::full({5056}, 255, at::kByte);
  generator.write();
  const Tensor drawn = generator_state();
  CHECK(error_of([&] { static_cast<void>(alkn::load_checkpoint(kFile, method)); }) ==
        "alkn::load_checkpoint: expected a state of the CPU's generator, got another (" +
            kFile.string() + ")");
  CHECK(same_bits(generator_state(), drawn));
  std::filesystem::remove(kFile);
}

TEST_CASE("options of another class are refused by a save, and replaced by a load") {
  const auto check = [](auto make, auto other, const std::string& error,
                        const std::string& rate_error) {
    Model model;
    const auto method = make(model);
    const auto set = [&] {
      method->param_groups()[0].set_options(
          std::unique_ptr<torch::optim::OptimizerOptions>(other()));
    };
    alkn::save_checkpoint(kFile, *method);
    const double rate = method->param_groups()[0].options().get_lr();
    set();
    CHECK(error_of([&] { alkn::save_checkpoint(kFile, *method); }) == error);
    CHECK_FALSE(alkn::load_checkpoint(kFile, *method));
    CHECK(method->param_groups()[0].options().get_lr() == rate);
    alkn::save_checkpoint(kFile, *method);
    set();
    torch::serialize::OutputArchive archive;
    CHECK(error_of([&] { method->save(archive); }) == error);
    CHECK_FALSE(alkn::load_checkpoint(kFile, *method));
    method->param_groups()[0].options().set_lr(-1);  // a file that could not be read again
    CHECK(error_of([&] { alkn::save_checkpoint(kFile, *method); }) == rate_error);
    std::filesystem::remove(kFile);
  };
  check([](Model& m) { return std::make_unique<alkn::TaskVector<>>(m.params); },
        [] { return new torch::optim::SGDOptions(0.5); },
        "alkn::AdamW: expected alkn::AdamWOptions, got options of another class (group 0)",
        "alkn::AdamW: expected lr in [0, inf), got -1 (group 0)");
  check(
      [](Model& m) {
        return std::make_unique<alkn::TaskVector<torch::optim::SGD>>(
            m.params, alkn::TaskVectorOptions(), torch::optim::SGDOptions(0.1));
      },
      [] { return new alkn::AdamWOptions(0.5); },
      "alkn::TaskVector: expected the base optimizer's options, got those of another (group 0)",
      "alkn::TaskVector: expected lr in [0, 1e+30], got -1 (group 0)");
}
