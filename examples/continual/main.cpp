// continual: a small language model learns facts on people who do not exist, then forgets some of
// them, one deletion request after another.
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <system_error>
#include <vector>

#include "continual/base_model.hpp"
#include "continual/interrupt.hpp"
#include "continual/methods.hpp"
#include "continual/readers.hpp"
#include "continual/run_folder.hpp"
#include "continual/settings.hpp"
#include "continual/tables.hpp"

namespace continual {
namespace {

constexpr int kInterrupted = 130;  // the shell's 128 + SIGINT

/// A finite number of at least 0. CLI11's own ranges let NaN through: no comparison refuses it.
CLI::Validator finite() {
  return {[](const std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            const bool whole = !text.empty() && *end == '\0';
            return whole && std::isfinite(value) && value >= 0
                       ? std::string()
                       : "expected a finite number of at least 0, got " + text;
          },
          "NONNEGATIVE"};
}

/// A whole number of 64 bits. CLI11 wraps what is negative and cuts what is too large.
CLI::Validator seed_number() {
  return {[](const std::string& text) {
            std::uint64_t value = 0;
            const char* end = text.data() + text.size();
            const auto [last, error] = std::from_chars(text.data(), end, value);
            return error == std::errc() && last == end
                       ? std::string()
                       : "expected a whole number from 0 to 2^64 - 1, got " + text;
          },
          ""};
}

void add_options(CLI::App& app, Settings& s) {
  std::vector<std::string> method_names{"all"}, preset_names;
  for (const MethodEntry& method : methods()) {
    method_names.push_back(method.name);
  }
  for (const PresetEntry& preset : presets()) {
    preset_names.push_back(preset.name);
  }
  const auto at_least_one = CLI::Range(1, 1'000'000);
  app.add_option("--method", s.method, "a method, or all, to compare them")
      ->check(CLI::IsMember(method_names))
      ->capture_default_str();
  app.add_option("--preset", s.preset, "options of ALKN")
      ->check(CLI::IsMember(preset_names))
      ->capture_default_str();
  app.add_option("--data", s.data.paths,
                 "TOFU's or MUSE News' folder, or files: books (.txt), questions with answers or "
                 "texts (.jsonl); none: authors are made up");
  app.add_option("--retain", s.data.retain, "files to be kept, beside files to be forgotten");
  app.add_option("--tasks", s.data.tasks, "deletion requests; 5, or as many as there are files")
      ->check(at_least_one);
  app.add_option("--authors-per-task", s.data.authors_per_task, "of TOFU and made-up authors")
      ->check(at_least_one)
      ->capture_default_str();
  app.add_option("--retain-authors", s.data.retain_authors, "kept; half of them shown")
      ->check(CLI::Range(2, 1'000'000))
      ->capture_default_str();
  app.add_option("--lr", s.lr, "learning rate of the unlearning")->check(finite());
  app.add_option("--lambda", s.lambda, "strength of the negation")->check(finite());
  app.add_option("--epochs", s.epochs, "passes over a request")->check(at_least_one);
  app.add_option("--batch", s.batch, "samples in a batch")->check(at_least_one);
  app.add_option("--retain-weight", s.retain_weight, "of the retain loss; 0: none")
      ->check(finite());
  app.add_option("--guard", s.guard,
                 "how far the loss on what is shown may rise over its first value, in nats a "
                 "token; past it lambda is reduced")
      ->check(finite());
  app.add_option("--seed", s.data.seed, "of data, model and batches")
      ->check(seed_number())
      ->capture_default_str();
  app.add_option("--threads", s.threads, "0: LibTorch's own choice")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--out", s.out, "folder for the results")->capture_default_str();
  app.add_option("--cache", s.cache, "folder of trained models; as --out unless given");
  app.add_option("--checkpoint", s.checkpoint,
                 "file; checkpoint.safetensors in the method's folder unless given");
  app.add_flag("--resume", s.resume, "go on from the checkpoint, if there is one");
  app.add_option("--train-epochs", s.base.epochs, "of the model, before anything is forgotten")
      ->check(at_least_one)
      ->capture_default_str();
  app.add_option("--train-lr", s.base.lr, "learning rate of that")
      ->check(finite())
      ->capture_default_str();
  app.add_option("--vocabulary", s.base.vocabulary, "subword pieces")
      ->check(CLI::Range(static_cast<int>(Tokenizer::kMinPieces), 1'000'000))
      ->capture_default_str();
}

/// A resumed run must be the run that was interrupted.
void check_config(const std::filesystem::path& path, const Json& config, bool resume) {
  if (resume && std::filesystem::exists(path)) {
    const Json before = Json::parse(detail::read_text(path), nullptr, false);
    for (const auto& [key, value] : config.items()) {
      if (before.value(key, Json()) != value) {
        data_error("--resume with the settings of the interrupted run, " + key + " " +
                       before.value(key, Json()).dump(),
                   value.dump(), path.string());
      }
    }
  }
  write_json(path, config);
}

/// Runs methods from one trained model.
class Comparison {
 public:
  Comparison(const Settings& settings, Trained trained)
      : settings_(settings),
        trained_(std::move(trained)),
        before_(evaluate_all(*trained_.model, trained_.data)),
        trained_loss_(mean_loss(*trained_.model, trained_.data.shown)) {
    for (const at::Tensor& parameter : trained_.model->parameters()) {
      weights_.push_back(parameter.detach().clone());
    }
  }

  /// Returns false if it was interrupted.
  bool run(const MethodEntry& method, const std::filesystem::path& folder, bool details) {
    const at::AutoGradMode with_grad(true);
    restore_weights();
    prepare_folder(folder);
    const Strength strength = strength_of(method, settings_);
    check_config(folder / "config.json",
                 to_json(settings_, method.name, strength, at::get_num_threads()),
                 settings_.resume);
    for (const char* result : {"summary.json", "model.safetensors"}) {
      std::filesystem::remove(folder / result);  // of an earlier run: this one has yet to finish
    }
    alkn::io::write_file(folder / "tokenizer.model", trained_.tokenizer.model());
    MetricsFile metrics(folder / "metrics.jsonl", settings_.resume);
    MethodRow result{method.title, {}, 0, 0};
    Run run{*trained_.model,
            trained_.data,
            settings_,
            strength,
            method.title,
            checkpoint_in(folder),
            metrics,
            trained_loss_,
            [&](std::int64_t task, const TaskRow& row) {
              result.seconds += row.seconds;
              result.fraction_trained +=
                  row.fraction_trained / static_cast<double>(trained_.data.requests.size());
              reduced_ = reduced_ || row.lambda_reduced;
              if (details) {
                print_request(task, trained_.data.requests[static_cast<std::size_t>(task)].name,
                              row);
              }
            }};
    if (details) {
      fmt::print("\n{}: lr {:g}, {} epochs, batch {}\n", method.title, strength.lr, strength.epochs,
                 strength.batch);
      print_request_header(before_);
    }
    if (!method.unlearn(run)) {
      fmt::print("\ninterrupted; the same command with --resume goes on from {}\n",
                 run.checkpoint.string());
      return false;
    }
    result.probabilities = evaluate_all(*trained_.model, trained_.data);
    save_model(folder / "model.safetensors", *trained_.model);
    write_json(folder / "summary.json", summary(result));
    rows_.push_back(result);
    return true;
  }

  /// A method that an interrupted comparison had finished, from its summary.json.
  bool reuse(const MethodEntry& method, const std::filesystem::path& folder) {
    if (!settings_.resume || !std::filesystem::exists(folder / "summary.json")) {
      return false;
    }
    check_config(
        folder / "config.json",
        to_json(settings_, method.name, strength_of(method, settings_), at::get_num_threads()),
        true);
    const Json saved = Json::parse(detail::read_text(folder / "summary.json"));
    rows_.push_back({method.title, probabilities_from(saved["after"]),
                     saved["fraction_trained"].get<double>(), saved["seconds"].get<double>()});
    return true;
  }

  void print() const {
    fmt::print("\n");
    print_comparison(before_, rows_);
    if (reduced_) {
      fmt::print("* lambda was reduced to keep the loss on what is shown within the guard\n");
    }
  }

  [[nodiscard]] Json summaries() const {
    Json all = Json::array();
    for (const MethodRow& row : rows_) {
      all.push_back(summary(row));
    }
    return all;
  }

 private:
  void restore_weights() {
    const at::NoGradGuard no_grad;
    const auto parameters = trained_.model->parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      at::Tensor(parameters[i]).copy_(weights_[i]);
    }
  }

  [[nodiscard]] std::filesystem::path checkpoint_in(const std::filesystem::path& folder) const {
    return settings_.checkpoint.empty() ? folder / "checkpoint.safetensors" : settings_.checkpoint;
  }

  [[nodiscard]] Json summary(const MethodRow& row) const {
    return {{"method", row.title},
            {"data", trained_.data.name},
            {"before", to_json(before_)},
            {"after", to_json(row.probabilities)},
            {"fraction_trained", row.fraction_trained},
            {"seconds", row.seconds}};
  }

  const Settings& settings_;
  Trained trained_;
  Probabilities before_;
  double trained_loss_;
  std::vector<at::Tensor> weights_;
  std::vector<MethodRow> rows_;
  bool reduced_ = false;
};

int run(Settings settings) {
  if (settings.threads > 0) {
    at::set_num_threads(settings.threads);
  }
  prepare_folder(settings.out);
  const std::filesystem::path cache = settings.cache.empty() ? settings.out : settings.cache;
  prepare_folder(cache);
  catch_interrupts();

  const DataSet data = load_data(settings.data);
  fmt::print("data: {}, {} requests\n", data.name, data.requests.size());
  auto trained = train_or_load(data, settings, cache);
  if (!trained) {
    fmt::print("\ninterrupted; the same command with --resume goes on from a checkpoint in {}\n",
               cache.string());
    return kInterrupted;
  }
  fmt::print("model: {} parameters, {} pieces, {}\n", trained->model->num_parameters(),
             trained->tokenizer.size(),
             trained->reused ? std::string("trained before")
                             : fmt::format("trained in {:.0f} s", trained->seconds));
  Comparison comparison(settings, std::move(*trained));
  const bool all = settings.method == "all";
  for (const MethodEntry& method : methods()) {
    if (!all && settings.method != method.name) {
      continue;
    }
    const auto folder = all ? settings.out / method.name : settings.out;
    const bool details = !all || method.name == methods().front().name;
    if (!(all && comparison.reuse(method, folder)) && !comparison.run(method, folder, details)) {
      return kInterrupted;
    }
  }
  comparison.print();
  if (all) {
    write_json(settings.out / "summary.json", comparison.summaries());
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace continual

int main(int argc, char** argv) {
  CLI::App app("Unlearns deletion requests, one after another, and says what is left.",
               "continual");
  continual::Settings settings;
  continual::add_options(app, settings);
  CLI11_PARSE(app, argc, argv);
  try {
    return continual::run(settings);
  } catch (const c10::Error& error) {
    fmt::print(stderr, "{}\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
  return EXIT_FAILURE;
}
