// Checkpoints: a resumed run has the bits of one that never stopped; a file that does not fit
// changes nothing.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/rand.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <unistd.h>
#include <alkn/checkpoint/checkpoint.hpp>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <locale>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "catch.hpp"
#include "method/tiny.hpp"

using alkn::Backend;
using at::Tensor;
using tiny::Batch, tiny::core_of, tiny::error_of, tiny::everything, tiny::Model, tiny::same_bits;

namespace {

/// A folder that goes with the test.
class Folder {
 public:
  Folder()
      : path_(std::filesystem::temp_directory_path() /
              ("alkn-checkpoints-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }
  [[nodiscard]] std::ptrdiff_t num_files() const {
    return std::distance(std::filesystem::directory_iterator(path_), {});
  }

 private:
  std::filesystem::path path_;
};

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void seed(std::uint64_t value) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_current_seed(value);
}

template <class Method>
auto options_of(Backend backend, bool compact) {
  auto options = typename Method::Options().backend(backend).lr_decay(0.5);
  if constexpr (requires { options.compact_state(compact); }) options.compact_state(compact);
  if constexpr (!Method::kNegates) options.rollback(true);
  return options;
}

template <class Base>
auto base_options() {
  if constexpr (std::is_same_v<Base, torch::optim::SGD>) {
    return torch::optim::SGDOptions(0.05).momentum(0.9);
  } else if constexpr (std::is_same_v<Base, torch::optim::Adam>) {
    return torch::optim::AdamOptions(0.01).amsgrad(true);
  } else if constexpr (std::is_same_v<Base, torch::optim::AdamW>) {
    return torch::optim::AdamWOptions(0.01).weight_decay(0.1);
  } else if constexpr (std::is_same_v<Base, torch::optim::RMSprop>) {
    return torch::optim::RMSpropOptions(0.01).momentum(0.5).centered(true);
  } else if constexpr (std::is_same_v<Base, torch::optim::Adagrad>) {
    return torch::optim::AdagradOptions(0.05);
  } else {
    return alkn::AdamWOptions(0.01).weight_decay(0.1);
  }
}

/// One process of a run: a model, its method, perhaps a task.
template <class Method>
struct Process {
  using Task = typename Method::TaskType;
  Model model;
  Method method;
  std::optional<Task> task;
  alkn::TaskReport report;

  Process(at::ScalarType type, Backend backend, bool other_weights, bool compact = false)
      : model(type),
        method(model.params, options_of<Method>(backend, compact),
               base_options<typename Method::BaseType>()) {
    const at::NoGradGuard no_grad;
    if (other_weights) {
      for (auto& p : model.params) p.tensor.mul_(-0.3);
    }
  }

  void plain(int i) {
    tiny::set_gradients(model.params, i);
    method.step();
  }
  void begin(std::int64_t steps) { task.emplace(method.begin_task({.steps = steps})); }
  void remember(std::int64_t request) {
    const Batch batch(request);
    if (task->wants_memory()) {
      task->remember(batch.ids, model.forward(batch.tokens), batch.labels);
    }
  }
  void retain(std::int64_t number) {
    const Batch batch(number);
    if (task->wants_retain_gradient()) {
      task->accumulate_retain_gradient(alkn::mean_nll(model.forward(batch.tokens), batch.labels));
    }
  }
  /// The loss is drawn from the generator a little.
  void step(std::int64_t request) {
    method.zero_grad();
    tiny::loss_of(*task, model, request).mul(at::rand({}).add(0.5)).backward();
    method.step();
  }
  void bad_step() {
    tiny::set_gradients(model.params, 1);
    model["embed"].mutable_grad()[3][3].fill_(std::nan(""));
    method.step();
  }
  void end() {
    report = task->end();
    task.reset();
  }
  void abandon() {
    task->abandon();
    task.reset();
  }
  /// Everything that must agree.
  std::vector<Tensor> result() {
    std::vector<Tensor> all = everything(method);
    for (auto& p : model.params) all.push_back(core_of(method).base().masters().get(p.tensor));
    all.push_back(at::tensor({report.fraction_trained, report.overlap, report.lambda,
                              static_cast<double>(report.skipped_steps), report.clip_scale}));
    all.push_back(at::rand({3}));
    return all;
  }
};

template <class P>
std::vector<std::function<void(P&)>> script() {
  return {
      [](P& p) { p.plain(1); },
      [](P& p) { p.plain(2); },
      [](P& p) { p.begin(5); },
      [](P& p) { p.remember(0); },
      [](P& p) { p.retain(7); },
      [](P& p) { p.retain(8); },
      [](P& p) { p.step(0); },
      [](P& p) { p.bad_step(); },
      [](P& p) { p.step(0); },
      [](P& p) { p.step(0); },
      [](P& p) { p.end(); },
      [](P& p) { p.plain(3); },
      [](P& p) { p.begin(3); },
      [](P& p) { p.remember(1), p.retain(9); },
      [](P& p) { p.step(1); },
      [](P& p) { p.step(1); },
      [](P& p) { p.abandon(); },
      [](P& p) { p.plain(4); },
      [](P& p) { p.begin(2), p.remember(2), p.retain(9), p.step(2); },
      [](P& p) { p.step(2); },
      [](P& p) { p.end(); },
  };
}

/// Stops after every line of the script, and goes on in another process.
template <class Method>
void check_resuming(at::ScalarType type, Backend backend, bool compact = false) {
  const Folder folder;
  using P = Process<Method>;
  const auto lines = script<P>();
  seed(5);
  P straight(type, backend, false, compact);
  std::vector<std::vector<Tensor>> after;  // each line: scores, for example, go with their task
  for (const auto& line : lines) {
    line(straight);
    after.push_back(everything(straight.method));
  }
  const auto want = straight.result();
  for (std::size_t cut = 0; cut <= lines.size(); ++cut) {
    INFO("cut before line " << cut << ", " << c10::toString(type) << ", "
                            << tiny::name_of(backend));
    seed(5);
    alkn::TaskReport report;
    {
      P first(type, backend, false, compact);
      for (std::size_t i = 0; i < cut; ++i) lines[i](first);
      const auto before = everything(first.method);
      alkn::save_checkpoint(folder / "run", first.method);
      CHECK(same_bits(everything(first.method), before));
      report = first.report;
    }
    seed(99);
    P second(type, backend, true, compact);
    second.plain(9);  // a state of its own, which goes
    auto task = alkn::load_checkpoint(folder / "run", second.method);
    if (task) second.task.emplace(std::move(*task));
    second.report = report;
    for (std::size_t i = cut; i < lines.size(); ++i) {
      lines[i](second);
      CHECK(same_bits(everything(second.method), after[i]));
    }
    CHECK(same_bits(second.result(), want));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("resuming after every phase gives the same bits over every kind of base", "",
                   alkn::AdamW, torch::optim::SGD, torch::optim::Adam, torch::optim::AdamW,
                   torch::optim::RMSprop, torch::optim::Adagrad) {
  const at::ScalarType type = GENERATE(at::kFloat, at::kBFloat16);
  check_resuming<alkn::ALKN<TestType>>(type, Backend::automatic);
  if (std::is_same_v<TestType, alkn::AdamW>) {
    check_resuming<alkn::ALKN<TestType>>(type, Backend::aten);
  }
}

TEST_CASE("resuming gives the same bits in half and double, and for the other methods") {
  check_resuming<alkn::ALKN<>>(at::kHalf, Backend::automatic);
  check_resuming<alkn::ALKN<>>(at::kDouble, Backend::automatic);
  check_resuming<alkn::TaskVector<>>(at::kFloat, Backend::automatic);
  check_resuming<alkn::NPO<>>(at::kFloat, Backend::automatic);
  check_resuming<alkn::GradientAscent<torch::optim::SGD>>(at::kBFloat16, Backend::automatic);
}

TEST_CASE("resuming gives the same bits with a compact state") {
  for (const Backend backend : tiny::kBackends) {
    check_resuming<alkn::ALKN<>>(at::kFloat, backend, true);
  }
  check_resuming<alkn::ALKN<>>(at::kBFloat16, Backend::automatic, true);
  check_resuming<alkn::ALKN<torch::optim::SGD>>(at::kFloat, Backend::automatic, true);
}

TEST_CASE("a checkpoint has every array once") {
  const Folder folder;
  const Tensor w = at::ones({256, 256}, at::kBFloat16).set_requires_grad(true);
  alkn::ALKN<> method(std::vector<alkn::NamedParameter>{{"w", w}});
  auto task = method.begin_task({.steps = 2});
  task.accumulate_retain_gradient(w.sum());
  w.mutable_grad() = at::ones_like(w);
  method.step();
  alkn::save_checkpoint(folder / "run", method);
  // parameter 2, master 4, moments 8, start 4, G_r 2, score 4, mask 1/8; the generator, the header
  const auto bytes = static_cast<double>(std::filesystem::file_size(folder / "run"));
  CHECK(bytes / (256 * 256) < 24.5);
  CHECK(bytes / (256 * 256) > 24);
  method.step();  // the masters are where they were
  task.abandon();
  CHECK(w.eq(1).all().item<bool>());
}

TEST_CASE("presets and a start on the host are resumed too") {
  const Folder folder;
  for (const auto& preset :
       {alkn::ALKNOptions::paper(), alkn::ALKNOptions::ratio().start_on_host(true),
        alkn::ALKNOptions().masked(alkn::Masked::freeze).threshold_every(3)}) {
    Model a, b;
    alkn::ALKN<> straight(a.params, preset), first(b.params, preset);
    tiny::unlearn(straight, a, 4, 0);
    tiny::unlearn(first, b, 4, 0);
    auto task = straight.begin_task({.steps = 6});
    auto half = first.begin_task({.steps = 6});
    tiny::prepare(task, a, 1);
    tiny::prepare(half, b, 1);
    for (int i = 0; i < 3; ++i) {
      tiny::step(straight, task, a, 1);
      tiny::step(first, half, b, 1);
    }
    alkn::save_checkpoint(folder / "run", first);
    Model c;
    alkn::ALKN<> second(c.params, preset);
    auto rest = alkn::load_checkpoint(folder / "run", second);
    REQUIRE(rest);
    for (int i = 3; i < 6; ++i) {
      tiny::step(straight, task, a, 1);
      tiny::step(second, *rest, c, 1);
    }
    const auto want = task.end(), got = rest->end();
    CHECK(want.fraction_trained == got.fraction_trained);
    CHECK(want.overlap == got.overlap);
    CHECK(same_bits(everything(straight), everything(second)));
  }
}

TEST_CASE("groups keep their options, also those that a scheduler has set") {
  const Folder folder;
  const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>> groups{
      {{"head"}, alkn::AdamWOverrides().lr(0.5)}};
  const auto rates = [](const auto& method) {
    return std::pair(method.param_groups()[0].options().get_lr(),
                     method.param_groups()[1].options().get_lr());
  };
  Model a, b;
  alkn::TaskVector<> first(a.params, groups, {}, alkn::AdamWOptions(0.1)),
      second(b.params, groups, {}, alkn::AdamWOptions(0.1));
  auto task = first.begin_task({.steps = 4});
  alkn::LinearSchedule schedule(first, 0, 4);
  tiny::step(first, task, a);
  schedule.step();
  alkn::save_checkpoint(folder / "run", first);
  auto rest = alkn::load_checkpoint(folder / "run", second);
  REQUIRE(rest);
  CHECK(rates(second) == std::pair(0.1 * 0.75, 0.5 * 0.75));
  // a schedule is resumed from the rates of the start, by as many steps as were taken
  for (std::size_t g = 0; g < 2; ++g) second.param_groups()[g].options().set_lr(g == 0 ? 0.1 : 0.5);
  alkn::LinearSchedule again(second, 0, 4);
  again.step();
  for (int i = 1; i < 4; ++i) {
    CHECK(rates(first) == rates(second));
    tiny::step(first, task, a);
    tiny::step(second, *rest, b);
    schedule.step();
    again.step();
  }
  task.end();
  rest->end();
  CHECK(same_bits(a.copies(), b.copies()));
  CHECK(rates(second) == std::pair(0.1, 0.5));
}

TEST_CASE("buffers are saved if they are passed") {
  const Folder folder;
  Model model;
  alkn::TaskVector<> method(model.params);
  const Tensor mean = tiny::wave({3}, 0.4), count = at::full({1}, 7, at::kLong);
  alkn::save_checkpoint(folder / "run", method, {{"mean", mean}, {"count", count}});
  const Tensor read_mean = at::zeros({3}), read_count = at::zeros({1}, at::kLong);
  CHECK_FALSE(
      alkn::load_checkpoint(folder / "run", method, {{"count", read_count}, {"mean", read_mean}}));
  CHECK(same_bits(mean, read_mean));
  CHECK(same_bits(count, read_count));
  const auto before = everything(method);
  const std::string tail = " (" + (folder / "run").string() + ")";
  CHECK(error_of([&] {
          static_cast<void>(alkn::load_checkpoint(
              folder / "run", method, {{"mean", at::zeros({4})}, {"other", at::zeros({1})}}));
        }) ==
        "alkn::load_checkpoint: expected the unlearner that was saved, got differences: buffer "
        "\"mean\" has another shape or dtype in the file; buffer \"other\" is not in the file" +
            tail);
  CHECK(error_of([&] {
          static_cast<void>(alkn::load_checkpoint(folder / "run", method,
                                                  {{"mean", at::zeros({1}).expand({3})}}));
        }) ==
        "alkn::load_checkpoint: expected the unlearner that was saved, got differences: buffer "
        "\"mean\" has no memory for each entry" +
            tail);
  CHECK(same_bits(everything(method), before));
}

namespace {

/// A method in the middle of its second task, its file, and another process to read it.
struct Saved {
  Folder folder;
  Model model;
  alkn::ALKN<> method{model.params};
  std::filesystem::path path = folder / "run";

  Saved() {
    tiny::unlearn(method, model, 3, 0);
    auto task = method.begin_task({.steps = 4});
    tiny::prepare(task, model, 1);
    for (int i = 0; i < 2; ++i) tiny::step(method, task, model, 1);
    alkn::save_checkpoint(path, method);
  }
  [[nodiscard]] std::string bytes() const { return bytes_of(path); }
  /// The same file with other arrays or metadata, and checksums that are right.
  template <class Change>
  void forge(const std::filesystem::path& to, Change&& change) const {
    const alkn::io::SafetensorsFile file(path);
    alkn::io::NamedTensors arrays = alkn::io::load_tensors(path);
    alkn::io::Metadata metadata = file.metadata();
    change(arrays, metadata);
    alkn::io::save_tensors(to, arrays, metadata);
  }
  /// The error of reading `from` into `other`, which must not change.
  template <class Method>
  std::string error(Method& other, const std::filesystem::path& from) const {
    {
      // moments and a history of its own
      tiny::set_gradients(model.params, 3);
      for (auto& group : other.param_groups()) {
        for (Tensor& p : group.params()) {
          p.mutable_grad() = tiny::wave(p.sizes(), 0.5, 0.1, p.scalar_type());
        }
      }
      other.step();
    }
    const auto before = everything(other);
    const Tensor generator = at::detail::getDefaultCPUGenerator().get_state().clone();
    const std::string text =
        error_of([&] { static_cast<void>(alkn::load_checkpoint(from, other)); });
    CHECK(same_bits(everything(other), before));
    CHECK(same_bits(at::detail::getDefaultCPUGenerator().get_state(), generator));
    CHECK_FALSE(core_of(other).in_task());
    return text;
  }
  template <class Method>
  void check(Method&& other, const std::string& differences) const {
    CHECK(error(other, path) ==
          "alkn::load_checkpoint: expected the unlearner that was saved, got differences: " +
              differences + " (" + path.string() + ")");
  }
};

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace

TEST_CASE("parameters that differ are listed, and nothing is changed") {
  const Saved saved;
  Model renamed, fewer, more, reshaped, wide(at::kDouble), turned, grouped;
  renamed.params[3].name = "tail";
  saved.check(alkn::ALKN<>(renamed.params),
              "parameter \"tail\" is not in the file; parameter \"head\" of the file is not in the "
              "model");
  fewer.params.erase(fewer.params.begin() + 2);
  saved.check(alkn::ALKN<>(fewer.params), "parameter \"bias\" of the file is not in the model");
  more.add("unused", {2, 3}, 0.1, at::kFloat);
  saved.check(alkn::ALKN<>(more.params), "parameter \"unused\" is not in the file");
  reshaped.params[1].tensor = tiny::wave({6, 7}, 0.2).set_requires_grad(true);
  reshaped.params[2].tensor = tiny::wave({3, 2}, 0.2).set_requires_grad(true);
  saved.check(
      alkn::ALKN<>(reshaped.params),
      "parameter \"weight\" is Float [6, 7], in the file Float [6, 6]; parameter \"bias\" is "
      "Float [3, 2], in the file Float [6]");
  wide.params[0].tensor = Model().params[0].tensor;
  wide.params[1].tensor = Model().params[1].tensor;
  wide.params[2].tensor = Model().params[2].tensor;
  saved.check(alkn::ALKN<>(wide.params),
              "parameter \"head\" is Double [11, 6], in the file Float [11, 6]");
  std::swap(turned.params[0], turned.params[3]);
  saved.check(
      alkn::ALKN<>(turned.params),
      "parameter 0 is \"head\", in the file \"embed\"; parameter 3 is \"embed\", in the file "
      "\"head\"");
  const std::vector<alkn::ParameterGroup<alkn::AdamWOverrides>> groups{{{"head"}, {}}};
  saved.check(alkn::ALKN<>(grouped.params, groups, {}, alkn::AdamWOptions()),
              "parameter \"head\" is in group 1, in the file in group 0");
}

TEST_CASE("another method, base, objective, mask or option is listed, and nothing is changed") {
  const Saved saved;
  Model model;
  saved.check(alkn::TaskVector<>(model.params),
              "method is \"TaskVector\", in the file \"ALKN\"; objective is \"token_nll\", in "
              "the file \"entropic_soft_labels\"; mask is \"none\", in the file \"localized\"");
  saved.check(alkn::ALKN<torch::optim::SGD>(model.params, {}, torch::optim::SGDOptions(0.1)),
              "base is \"torch::optim::SGD\", in the file \"alkn::AdamW\"");
  saved.check(
      alkn::ALKN<>(model.params, alkn::ALKNOptions().negation(0.8).steepness(10).rollback(true)),
      "option negation is 0.8, in the file 2; option rollback is true, in the file false; "
      "option steepness is 10, in the file 1.5");

  using Masked = alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Keep>;
  const auto with = [&](bool value) {
    return Masked::Options().masks({{"bias", at::full({6}, value, at::kBool)}});
  };
  Masked first(model.params, with(true)), second(model.params, with(false));
  alkn::save_checkpoint(saved.path, first);
  saved.check(second, "the mask of parameter \"bias\" is another in the file");
  saved.check(alkn::Unlearner<alkn::TokenNLL, alkn::NoMask, alkn::Keep>(model.params),
              "mask is \"none\", in the file \"given\"");
  saved.check(alkn::Unlearner<alkn::TokenNLL, alkn::GivenMask, alkn::Negate>(model.params),
              "ending is \"negate\", in the file \"keep\"");
  Masked third(model.params, with(true));
  CHECK_FALSE(alkn::load_checkpoint(saved.path, third));
}

TEST_CASE("files that are no checkpoint of this version") {
  const Saved saved;
  Model model;
  alkn::ALKN<> other(model.params);
  const auto error = [&](const std::string& name) {
    return saved.error(other, saved.folder / name);
  };
  const auto tail = [&](const std::string& name) {
    return " (" + (saved.folder / name).string() + ")";
  };
  CHECK(error("nowhere") ==
        "alkn::io::SafetensorsFile: expected a readable file, got none" + tail("nowhere"));
  write(saved.folder / "empty", "");
  CHECK(error("empty") ==
        "alkn::io::SafetensorsFile: expected at least 8 bytes, got 0" + tail("empty"));
  write(saved.folder / "text", "this is a text and no checkpoint, although it is long enough");
  CHECK_THAT(error("text"),
             Catch::Matchers::ContainsSubstring(
                 "alkn::io::SafetensorsFile: expected a header inside the file, got "));
  alkn::io::save_tensors(saved.folder / "weights", {{"weight", at::zeros({3})}});
  CHECK(error("weights") ==
        "alkn::load_checkpoint: expected a checkpoint, got another safetensors file" +
            tail("weights"));
  alkn::io::save_tensors(saved.folder / "headless", {{"weight", at::zeros({3})}},
                         {{"alkn.checkpoint", "1"}});
  CHECK(error("headless") ==
        "alkn::load_checkpoint: expected a checkpoint with header and checksum, got one without" +
            tail("headless"));
  saved.forge(saved.folder / "newer",
              [](auto&, auto& metadata) { metadata["alkn.checkpoint"] = "3\n"; });
  CHECK(error("newer") ==
        "alkn::load_checkpoint: expected a checkpoint of version 1 or 2, got version 3\\x0A" +
            tail("newer"));
  const auto header_error = [&](const std::string& text) {
    saved.forge(saved.folder / "header", [&](auto& arrays, auto&) {
      for (auto& [name, array] : arrays) {
        if (name == "header") array = alkn::detail::bytes_tensor(text);
      }
    });
    return error("header");
  };
  const std::string name = "alkn::load_checkpoint: expected ";
  CHECK(header_error(std::string("{}\0", 3)) ==
        name + "JSON in its header, got \"\\x00\" at byte 3" + tail("header"));
  CHECK(header_error(std::string(75'000, '[')) ==
        name + "JSON of at most 64 levels in its header, got more" + tail("header"));
  for (const char* text : {"[]", "{}", "\"x\"", R"({"arrays":[1]})", R"({"arrays":{"a":"b"}})"}) {
    CHECK(header_error(text) == name + "the arrays that were saved, got others" + tail("header"));
  }
}

TEST_CASE("a checkpoint of version 1, which had fewer checksums, is read") {
  Saved saved;
  Model twin;
  alkn::ALKN<> straight(twin.params), other(twin.params);
  auto first = alkn::load_checkpoint(saved.path, straight);
  REQUIRE(first);
  const auto want = everything(straight);
  first->abandon();
  // As 0.1.0 wrote it: one checksum, of the data alone, as a decimal number.
  const alkn::io::SafetensorsFile now(saved.path);
  nlohmann::json header;
  alkn::io::detail::Checksum checksum;
  std::string data;
  for (const auto& array : now.arrays()) {
    std::string bytes(static_cast<std::size_t>(array.num_bytes()), ' ');
    now.read(array, bytes.data());
    checksum.add(bytes.data(), array.num_bytes());
    data += bytes;
    header[array.name] = {{"dtype", alkn::io::to_string(array.dtype)},
                          {"shape", array.shape},
                          {"data_offsets", {array.begin, array.end}}};
  }
  header["__metadata__"] = {{"alkn.checkpoint", "1"},
                            {"alkn.checksum", std::to_string(checksum.value())}};
  const std::string text = header.dump();
  const std::uint64_t size = text.size();
  const std::string start(reinterpret_cast<const char*>(&size), sizeof(size));
  write(saved.folder / "old", start + text + data);
  auto task = alkn::load_checkpoint(saved.folder / "old", other);
  REQUIRE(task);
  CHECK(same_bits(everything(other), want));
  task->abandon();
  data.back() = static_cast<char>(data.back() ^ 1);
  write(saved.folder / "bad", start + text + data);
  CHECK_THAT(saved.error(other, saved.folder / "bad"),
             Catch::Matchers::ContainsSubstring("expected data with checksum "));
}

namespace {

/// Digits in groups of three, as many locales write them.
struct Grouped : std::numpunct<char> {
  [[nodiscard]] char do_thousands_sep() const override { return '.'; }
  [[nodiscard]] char do_decimal_point() const override { return ','; }
  [[nodiscard]] std::string do_grouping() const override { return "\3"; }
};

struct GlobalLocale {
  std::locale before;
  GlobalLocale() : before(std::locale::global({std::locale(), new Grouped})) {}
  ~GlobalLocale() { std::locale::global(before); }
  GlobalLocale(const GlobalLocale&) = delete;
  GlobalLocale& operator=(const GlobalLocale&) = delete;
};

}  // namespace

TEST_CASE("files do not depend on the program's locale") {
  const Folder folder;
  for (const bool grouped_first : {true, false}) {
    const Tensor w = at::arange(1500, at::kFloat).set_requires_grad(true);
    const Tensor u = at::zeros({1500}, at::kFloat).set_requires_grad(true);
    alkn::TaskVector<> first(std::vector<alkn::NamedParameter>{{"w", w}}, {},
                             alkn::AdamWOptions(1234.5));
    alkn::TaskVector<> second(std::vector<alkn::NamedParameter>{{"w", u}}, {},
                              alkn::AdamWOptions(1234.5));
    auto task = first.begin_task({.steps = 1234});
    w.mutable_grad() = at::ones_like(w);
    first.step();
    std::optional<GlobalLocale> locale;
    if (grouped_first) locale.emplace();
    alkn::save_checkpoint(folder / "run", first);
    locale.reset();
    if (!grouped_first) locale.emplace();
    auto rest = alkn::load_checkpoint(folder / "run", second);
    REQUIRE(rest);
    CHECK(same_bits(everything(first), everything(second)));
  }
}

TEST_CASE("a name that is not UTF-8 cannot be saved, and is named") {
  const Folder folder;
  const Tensor w = at::ones({3}).set_requires_grad(true);
  alkn::TaskVector<> method(std::vector<alkn::NamedParameter>{{"caf\xE9", w}});
  const std::string start = "alkn::save_checkpoint: expected names in UTF-8, got \"";
  const std::string tail = "\" (" + (folder / "run").string() + ")";
  CHECK(error_of([&] { alkn::save_checkpoint(folder / "run", method); }) ==
        start + "parameter/caf\\xE9" + tail);
  Model model;
  alkn::TaskVector<> other(model.params);
  CHECK(error_of([&] {
          alkn::save_checkpoint(folder / "run", other, {{"\xFF", w}});
        }) == start + "buffer/\\xFF" + tail);
  CHECK(folder.num_files() == 0);
}

TEST_CASE("a truncated file changes nothing, wherever it ends") {
  const Saved saved;
  Model model;
  alkn::ALKN<> other(model.params);
  const std::string whole = saved.bytes();
  for (const std::size_t kept : {std::size_t{1}, std::size_t{7}, std::size_t{8}, std::size_t{100},
                                 whole.size() / 3, whole.size() / 2, whole.size() - 1}) {
    INFO(kept << " of " << whole.size() << " bytes");
    write(saved.folder / "cut", whole.substr(0, kept));
    CHECK_THAT(saved.error(other, saved.folder / "cut"),
               Catch::Matchers::ContainsSubstring("alkn::io::SafetensorsFile: expected "));
  }
  write(saved.folder / "longer", whole + "x");
  CHECK_THAT(saved.error(other, saved.folder / "longer"),
             Catch::Matchers::ContainsSubstring("alkn::io::SafetensorsFile: expected "));
}

TEST_CASE("a corrupted byte is noticed, wherever it is") {
  const Saved saved;
  Model model;
  const std::string whole = saved.bytes();
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), sizeof(header));
  alkn::ALKN<> other(model.params);
  auto before = everything(other);
  std::size_t refused = 0, tried = 0;
  for (std::size_t at = 0; at < whole.size(); at += at < header + 8 ? 3 : 331) {
    for (const char flip : {'\x01', '\x20'}) {
      std::string bad = whole;
      bad[at] = static_cast<char>(bad[at] ^ flip);
      write(saved.folder / "bad", bad);
      ++tried;
      try {
        auto task = alkn::load_checkpoint(saved.folder / "bad", other);
        // harmless: white space between the words of the header
        INFO("byte " << at << " of " << whole.size());
        CHECK(whole[at] == ' ');
        REQUIRE(task);
        task->abandon();
        before = everything(other);
      } catch (const std::exception&) {
        ++refused;
        if (!same_bits(everything(other), before)) FAIL("byte " << at << " changed something");
      }
    }
  }
  CHECK(tried > 1000);
  CHECK(refused >= tried - 4);
}

TEST_CASE("2000 random bits: an error, or the very same contents") {
  const Saved saved;
  Model model;
  alkn::ALKN<> other(model.params);
  auto start = alkn::load_checkpoint(saved.path, other);
  REQUIRE(start);
  const auto want = everything(other);
  start->abandon();
  auto before = everything(other);
  const std::string whole = saved.bytes();
  std::uint64_t header = 0, random = 7;
  std::memcpy(&header, whole.data(), sizeof(header));
  std::size_t same = 0;
  for (int i = 0; i < 2000; ++i) {
    random = random * 6364136223846793005U + 1442695040888963407U;
    // half of them in the header
    const std::size_t bits = 8 * (i % 2 == 0 ? whole.size() : static_cast<std::size_t>(header) + 8);
    const std::size_t bit = static_cast<std::size_t>(random >> 20U) % bits;
    std::string bad = whole;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    write(saved.folder / "bad", bad);
    std::optional<decltype(start)::value_type> task;
    try {
      if (auto loaded = alkn::load_checkpoint(saved.folder / "bad", other)) {
        task.emplace(std::move(*loaded));
      }
    } catch (const std::exception&) {
      if (!same_bits(everything(other), before)) FAIL("bit " << bit << " changed something");
      continue;
    }
    ++same;
    if (!task || !same_bits(everything(other), want)) FAIL("bit " << bit << " was read");
    task->abandon();
    before = everything(other);
  }
  CHECK(same < 5);
}

TEST_CASE("a checkpoint is neither saved nor read at the wrong time") {
  const Saved saved;
  Model model;
  alkn::ALKN<> method(model.params);
  auto task = method.begin_task({.steps = 2});
  tiny::prepare(task, model);
  tiny::step(method, task, model);
  const auto before = everything(method);
  CHECK(error_of([&] { static_cast<void>(alkn::load_checkpoint(saved.path, method)); }) ==
        "alkn::load_checkpoint: expected no running task, got one; end or abandon it first");
  {
    const auto scope = task.start_weights();
    CHECK(error_of([&] { alkn::save_checkpoint(saved.folder / "never", method); }) ==
          "alkn::save_checkpoint: expected the fine-tuned weights in the model, got a call inside "
          "the "
          "scope of start_weights()");
  }
  CHECK(error_of([&] { alkn::save_checkpoint(saved.folder / "no" / "folder", method); }) ==
        "alkn::io::AtomicFile: expected a writable folder for " +
            (saved.folder / "no" / "folder").string() + ", got: No such file or directory");
  CHECK(same_bits(everything(method), before));
  std::string inside;
  task.end(
      [&] {
        inside = error_of([&] { alkn::save_checkpoint(saved.folder / "never", method); });
        return 0.0;
      },
      1.0);
  CHECK(
      inside ==
      "alkn::save_checkpoint: expected the fine-tuned weights in the model, got a call inside the "
      "judge of end()");
  CHECK(saved.folder.num_files() == 1);  // neither the file nor a temporary one
}

TEST_CASE("a parameter that changed since construction is refused by a load") {
  const Saved saved;
  Model model;
  alkn::ALKN<> method(model.params);
  Tensor& weight = model.params[1].tensor;
  const Tensor values = weight.detach();
  weight.set_data(values.to(at::kDouble));
  const auto before = everything(method);
  CHECK(error_of([&] { static_cast<void>(alkn::load_checkpoint(saved.path, method)); }) ==
        "alkn::ALKN: expected Float [6, 6] on cpu as at construction, got Double [6, 6] on cpu "
        "(group 0, parameter \"weight\")");
  CHECK(same_bits(everything(method), before));
  weight.set_data(values);
  CHECK_NOTHROW(alkn::load_checkpoint(saved.path, method));
}

TEST_CASE("a checkpoint replaces the one before, whole") {
  const Saved saved;
  Model model, twin;
  alkn::ALKN<> first(model.params), second(twin.params);
  alkn::save_checkpoint(saved.path, first);
  CHECK_FALSE(alkn::load_checkpoint(saved.path, second));
  CHECK(same_bits(everything(first), everything(second)));
  CHECK(saved.folder.num_files() == 1);
}
