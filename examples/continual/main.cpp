// continual: a small language model learns facts on people who do not exist, then forgets some of
// them, one deletion request after another.
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/file_lock.hpp>
#include <alkn/io/safetensors.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/numbers.hpp"
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
constexpr const char* kAlone = "a folder that no other process writes to";

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
  app.add_option("--lr", s.lr, "learning rate of the unlearning")->check(cli::finite());
  app.add_option("--lambda", s.lambda, "strength of the negation")->check(cli::finite());
  app.add_option("--epochs", s.epochs, "passes over a request")->check(at_least_one);
  app.add_option("--batch", s.batch, "samples in a batch")->check(at_least_one);
  app.add_option("--retain-weight", s.retain_weight, "of the retain loss; 0: none")
      ->check(cli::finite());
  app.add_option("--guard", s.guard,
                 "how far the loss on what is shown may rise over its first value, in nats a "
                 "token; past it lambda is reduced")
      ->check(cli::finite());
  app.add_option("--seed", s.data.seed, "of data, model and batches")
      ->check(cli::whole_number())
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
      ->check(cli::finite())
      ->capture_default_str();
  app.add_option("--vocabulary", s.base.vocabulary, "subword pieces")
      ->check(CLI::Range(static_cast<int>(Tokenizer::kMinPieces), 1'000'000))
      ->capture_default_str();
}

/// All that decides the result, but for the trained model.
Json config_of(const Settings& settings, const MethodEntry& method, const std::string& texts) {
  Json config =
      to_json(settings, method.name, strength_of(method, settings), at::get_num_threads());
  config["hash_of_texts"] = texts;
  return config;
}

/// A resumed run must be the run that was interrupted.
void check_config(const std::filesystem::path& path, const Json& config, bool resume) {
  if (resume) require_same(path, config, "--resume with the settings of the interrupted run");
  write_json(path, config);
}

/// The same before the model is trained, as far as it can be told.
void check_before_training(const std::filesystem::path& path, Json config) {
  if (!std::filesystem::exists(path)) return;
  config["hash_of_model"] = read_object(path).value("hash_of_model", Json());
  require_same(path, config, "--resume with the settings of the interrupted run");
}

/// A file for checkpoints must be nothing else: it is written over, and goes with the last request.
void check_checkpoint(const std::filesystem::path& path) {
  const alkn::io::AtomicFile probe(path);  // can be written, and is no pipe or device
  if (!std::filesystem::exists(path)) return;
  bool is_checkpoint = false;
  try {
    is_checkpoint = alkn::io::SafetensorsFile(path).metadata().contains("alkn.checkpoint");
  } catch (const std::runtime_error&) {
  }
  if (!is_checkpoint) data_error("a checkpoint, or no file yet", "another file", path.string());
}

/// Runs methods from one trained model.
class Comparison {
 public:
  /// @param texts a number for all texts of the data
  Comparison(const Settings& settings, Trained trained, std::string texts)
      : settings_(settings),
        trained_(std::move(trained)),
        texts_hash_(std::move(texts)),
        before_(evaluate_all(*trained_.model, trained_.data)),
        trained_loss_(mean_loss(*trained_.model, trained_.data.shown)) {
    TextHash hash;
    for (const at::Tensor& parameter : trained_.model->parameters()) {
      weights_.push_back(parameter.detach().clone());
      hash.add({static_cast<const char*>(weights_.back().const_data_ptr()),
                static_cast<std::size_t>(weights_.back().nbytes())});
    }
    model_hash_ = hash.text();
  }

  /// Returns false if it was interrupted.
  bool run(const MethodEntry& method, const std::filesystem::path& folder, bool details) {
    const at::AutoGradMode with_grad(true);
    restore_weights();
    prepare_folder(folder);
    std::optional<alkn::io::FileLock> lock;
    if (folder != settings_.out) lock_path(lock, folder / "run", kAlone);
    const Strength strength = strength_of(method, settings_);
    const Json config = full_config(method);
    check_config(folder / "config.json", config, settings_.resume);
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
            },
            identity_of(config)};
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
    check_config(folder / "config.json", full_config(method), true);
    const auto path = folder / "summary.json";
    const Json saved = read_object(path);
    rows_.push_back({method.title,
                     probabilities_from(field<Json>(saved, "after", path.string()), path.string()),
                     field<double>(saved, "fraction_trained", path.string()),
                     field<double>(saved, "seconds", path.string())});
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
  /// All that decides the result.
  [[nodiscard]] Json full_config(const MethodEntry& method) const {
    Json config = config_of(settings_, method, texts_hash_);
    config["hash_of_model"] = model_hash_;
    return config;
  }

  static std::int64_t identity_of(const Json& config) {
    TextHash hash;
    hash.add(config.dump());
    return static_cast<std::int64_t>(hash.value());
  }

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
  std::string texts_hash_, model_hash_;
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
  std::optional<alkn::io::FileLock> out_lock, checkpoint_lock;
  lock_path(out_lock, settings.out / "run", kAlone);
  if (!settings.checkpoint.empty()) {
    check_checkpoint(settings.checkpoint);
    lock_path(checkpoint_lock, settings.checkpoint, "a checkpoint that no other process writes");
  }

  const DataSet data = load_data(settings.data);
  TextHash texts;
  texts.add(data);
  const bool all = settings.method == "all";
  const auto folder_of = [&](const MethodEntry& method) {
    return all ? settings.out / method.name : settings.out;
  };
  for (const MethodEntry& method : methods()) {
    if (settings.resume && (all || settings.method == method.name)) {
      check_before_training(folder_of(method) / "config.json",
                            config_of(settings, method, texts.text()));
    }
  }
  catch_interrupts();  // until here a signal ends the program at once: nothing is lost
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
  if (const std::int64_t cut = trained->data.num_cut(); cut > 0) {
    fmt::print("note: {} answers are too long for the model and lose their ends\n", cut);
  }
  Comparison comparison(settings, std::move(*trained), texts.text());
  for (const MethodEntry& method : methods()) {
    if (!all && settings.method != method.name) {
      continue;
    }
    const auto folder = folder_of(method);
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
