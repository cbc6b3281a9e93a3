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
#include "continual/comparison.hpp"
#include "continual/interrupt.hpp"
#include "continual/methods.hpp"
#include "continual/pretrained.hpp"
#include "continual/processes.hpp"
#include "continual/readers.hpp"
#include "continual/run_folder.hpp"
#include "continual/settings.hpp"
#include "models/heap.hpp"

namespace continual {
namespace {

constexpr int kInterrupted = 130;  // the shell's 128 + SIGINT

/// A number between 0 and 1, neither of them.
CLI::Validator probability() {
  return {[](const std::string& text) {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            return !text.empty() && *end == '\0' && value > 0 && value < 1
                       ? std::string()
                       : "expected a probability between 0 and 1, got " + text;
          },
          "PROBABILITY"};
}

void add_model_options(CLI::App& app, PretrainedSettings& p) {
  app.add_option("--model", p.folder,
                 "Hugging Face folder of a checkpoint to unlearn in, in place of the small model");
  app.add_option("--teach", p.teach, "passes that teach the checkpoint the data first")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app.add_option("--teach-until", p.teach_until, "answer probability at which that ends")
      ->check(probability());
  app.add_option("--teach-lr", p.teach_lr, "learning rate of that")->check(cli::finite());
  app.add_option("--save-every", p.save_every,
                 "seconds from one checkpoint of the teaching to the next")
      ->check(cli::finite())
      ->capture_default_str();
  app.add_option("--train", p.train, "regular expression of the parameters that change");
  app.add_option(
      "--format", p.format,
      "of question and answer, say \"Question: {question}\\nAnswer: {answer}\", in place "
      "of the checkpoint's chat template");
  app.add_option("--dtype", p.dtype, "of the weights in memory")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  app.add_flag("--recompute", p.recompute,
               "blocks run again in the backward pass: less memory, a third more time");
  app.add_flag("--dry-run", p.dry_run, "with --model: stop at the memory plan");
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
  app.add_option("--lr", s.lr, "learning rate of the unlearning")->check(cli::finite());
  app.add_option("--lambda", s.lambda,
                 "strength of the negation; with --forget-until the largest that is tried (10)")
      ->check(cli::finite());
  app.add_option("--epochs", s.epochs, "passes over a request")->check(at_least_one);
  app.add_option("--batch", s.batch, "samples in a batch")->check(at_least_one);
  app.add_option("--retain-weight", s.retain_weight, "of the retain loss; 0: none")
      ->check(cli::finite());
  app.add_option("--guard", s.guard,
                 "how far the loss on what is shown may rise over its first value, in nats a "
                 "token; past it lambda is reduced")
      ->check(cli::finite());
  app.add_option("--micro-batch", s.micro_batch,
                 "samples of a batch that go through the model at once: less memory, the same "
                 "gradient; 0: all")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app.add_option("--sweep", s.sweep,
                 "strengths, say 1,2,4,8, to measure before one is taken, from one fine-tuning")
      ->delimiter(',')
      ->check(cli::finite())
      ->check(CLI::NonNegativeNumber);
  app.add_option(
         "--forget-until", s.forget_until,
         "answer probability to which each request has to fall: methods that negate take the "
         "smallest lambda that does it, within --guard, the others stop after the pass that "
         "does")
      ->check(probability());
  app.add_option("--seed", s.data.seed, "of data, model and batches")
      ->check(cli::whole_number())
      ->capture_default_str();
  app.add_option("--threads", s.threads, "0: LibTorch's own choice")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--processes", s.processes,
                 "to start on this machine, which share the samples; --batch and --threads are "
                 "those of each; torchrun and mpirun start them without it")
      ->check(CLI::Range(1, 1024));
  app.add_option("--out", s.out, "folder for the results")->capture_default_str();
  app.add_option("--cache", s.cache, "folder of trained models; as --out unless given");
  app.add_option("--checkpoint", s.checkpoint,
                 "file, or folder of several processes; checkpoint.safetensors or checkpoint in "
                 "the method's folder unless given");
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

/// A file for checkpoints must be nothing else: it is written over, and goes with the last request.
void check_checkpoint(const std::filesystem::path& path, const Team& team) {
  if (team.size() > 1) {
    prepare_folder(path);
    const std::filesystem::path index = path / "index.json";
    if (std::filesystem::exists(index) && !read_object(index).contains("alkn.checkpoint"))
      data_error("a checkpoint, or no file yet", "another file", index.string());
    return;
  }
  const alkn::io::AtomicFile probe(path);  // can be written, and is no pipe or device
  if (!std::filesystem::exists(path)) return;
  bool is_checkpoint = false;
  try {
    is_checkpoint = alkn::io::SafetensorsFile(path).metadata().contains("alkn.checkpoint");
  } catch (const std::runtime_error&) {
  }
  if (!is_checkpoint) data_error("a checkpoint, or no file yet", "another file", path.string());
}

/// Strengths are of methods that negate.
void check_strengths(const Settings& settings) {
  if (settings.forget_until && settings.lambda.value_or(1) <= 0) {
    data_error("a largest lambda above 0 with --forget-until", fmt::format("{}", *settings.lambda),
               "--lambda");
  }
  if (settings.sweep.empty()) return;
  for (const MethodEntry& method : methods()) {
    if (method.strength.lambda == 0 && settings.method == method.name) {
      data_error("a method that negates", method.name, "--sweep");
    }
  }
}

int run(Settings settings) {
  const Team& team = settings.team;
  if (settings.threads > 0) {
    at::set_num_threads(settings.threads);
  }
  const std::filesystem::path cache = settings.cache.empty() ? settings.out : settings.cache;
  std::optional<alkn::io::FileLock> out_lock, checkpoint_lock;
  team.once([&] {
    prepare_folder(settings.out);
    prepare_folder(cache);
    lock_path(out_lock, settings.out / "run", kAlone);
    if (settings.checkpoint.empty()) return;
    check_checkpoint(settings.checkpoint, team);
    lock_path(checkpoint_lock, settings.checkpoint, "a checkpoint that no other process writes");
  });

  if (!settings.pretrained.folder.empty()) {
    return run_pretrained(settings) ? EXIT_SUCCESS : kInterrupted;
  }
  DataSet data;
  team.together([&] { data = load_data(settings.data); });
  TextHash texts;
  texts.add(data);
  team.once([&] { check_before_training(settings, texts.text()); });
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
  const Subject subject{*trained->model,
                        trained->data,
                        texts.text(),
                        [&](const std::filesystem::path& folder) {
                          alkn::io::write_file(folder / "tokenizer.model",
                                               trained->tokenizer.model());
                        },
                        [&](const std::filesystem::path& folder) {
                          save_model(folder / "model.safetensors", *trained->model);
                        },
                        "model.safetensors"};
  if (!compare(settings, subject)) {
    return kInterrupted;
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace continual

int main(int argc, char** argv) {
  models::keep_freed_memory();
  CLI::App app("Unlearns deletion requests, one after another, and says what is left.",
               "continual");
  continual::Settings settings;
  continual::add_options(app, settings);
  continual::add_model_options(app, settings.pretrained);
  CLI11_PARSE(app, argc, argv);
  if (!settings.pretrained.folder.empty() && app.count("--method") == 0) {
    settings.method = continual::methods().front().name;  // all of them would take hours
  }
  std::string who;  // says it, where it is not the first process
  try {
    continual::check_strengths(settings);
    if (settings.processes > 1 && !continual::was_launched()) {
      return continual::start_processes(settings.processes, argv);
    }
    settings.team = continual::Team(continual::meet(settings.processes));
    settings.resume = settings.resume || continual::was_restarted();
    if (!settings.team.first()) {
      who = fmt::format("process {}: ", settings.team.rank());
      if (std::freopen("/dev/null", "w", stdout) == nullptr) {
        continual::data_error("/dev/null to write to", "none", "standard output");
      }
    }
    return continual::run(settings);
  } catch (const continual::Elsewhere&) {  // the process where it was says it
  } catch (const c10::Error& error) {
    fmt::print(stderr, "{}{}\n", who, error.what_without_backtrace());
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}{}\n", who, error.what());
  }
  std::fflush(nullptr);
  if (settings.team.size() > 1) std::_Exit(EXIT_FAILURE);  // c10d's threads may wait for the others
  return EXIT_FAILURE;
}
