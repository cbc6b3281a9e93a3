// Unlearning methods on a real language model: SmolLM2-135M is taught TOFU's authors, then each
// method forgets them, request after request. `--help` says what can be chosen.
#include <ATen/Parallel.h>
#include <alkn/io/file_lock.hpp>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/numbers.hpp"
#include "experiment/smollm2/runner.hpp"
#include "models/heap.hpp"

namespace {

using smollm2::Settings;

void add_options(CLI::App& app, Settings& s) {
  std::vector<std::string> names;
  for (const smollm2::Arm& arm : smollm2::arms()) names.push_back(arm.name);
  const auto count = CLI::Range(1, 1'000'000);
  const auto share = CLI::Range(0.0, 1.0);
  const auto add = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->capture_default_str();
  };
  add("--model", s.model, "folder of a checkpoint");
  add("--data", s.data, "TOFU's folder; none: authors are made up");
  add("--out", s.out, "folder of taught models and checkpoints");
  add("--results", s.results,
      "folder of the results, one file a method; none: that of --out, results");
  add("--format", s.format, "of question and answer");
  add("--tasks", s.tasks, "deletion requests")->check(count);
  add("--authors-per-task", s.authors_per_task, "of a request")->check(count);
  add("--shown", s.shown, "kept authors that the methods are shown")->check(count);
  add("--unseen", s.unseen, "kept authors that they never see")->check(count);
  add("--pairs", s.pairs, "of each author's twenty")
      ->check(CLI::Range(1, static_cast<int>(continual::kPairsPerAuthor)));
  add("--teach-passes", s.teach_passes, "over all pairs at most")->check(count);
  add("--teach-until", s.teach_until, "answer probability that is enough")->check(share);
  add("--teach-lr", s.teach_lr, "learning rate of that")->check(cli::finite());
  add("--epochs", s.epochs, "passes over a request")->check(count);
  add("--most-epochs", s.most_epochs, "of methods that train until the target is met")
      ->check(count);
  add("--batch", s.batch, "pairs in a batch")->check(count);
  add("--targets", s.targets, "answer probabilities that a request is to fall to")->check(share);
  add("--iterations", s.iterations, "of the search for that: lambda to its largest / 2^iterations")
      ->check(count);
  add("--seeds", s.seeds, "of the order of requests and of the batches")
      ->check(cli::whole_number());
  app.add_option("--arms", s.arms, "methods; all unless given")->check(CLI::IsMember(names));
  add("--requests", s.requests,
      "of the tasks, that each method answers before all is measured; "
      "more of them may follow in a later run; 0: all")
      ->check(CLI::Range(0, 1'000'000));
  add("--asked", s.asked, "questions of each set that are measured")->check(count);
  add("--told", s.told, "forgotten questions whose truth ratio is measured")->check(count);
  add("--generated", s.generated, "questions of each set that are answered freely")->check(count);
  add("--new-tokens", s.new_tokens, "of such an answer at most")->check(count);
  add("--threads", s.threads, "of LibTorch; another number gives other bits")
      ->check(CLI::Range(1, 1024));
}

/// Returns false if it was interrupted.
bool run(const Settings& settings) {
  at::set_num_threads(settings.threads);
  for (const auto& folder : {settings.out, settings.results}) continual::prepare_folder(folder);
  std::optional<alkn::io::FileLock> lock;
  continual::lock_path(lock, settings.out / "run", "a folder that no other process writes to");
  continual::catch_interrupts();
  for (const std::uint64_t seed : settings.seeds) {
    if (smollm2::SeedRun(settings, seed).run()) continue;
    smollm2::say("interrupted; the same command goes on");
    return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  models::keep_freed_memory();
  Settings settings;
  CLI::App app{
      "Teaches a checkpoint authors that it cannot know, then compares methods that make it forget "
      "them."};
  add_options(app, settings);
  CLI11_PARSE(app, argc, argv);
  if (settings.results.empty()) settings.results = settings.out / "results";
  try {
    constexpr int kInterrupted = 130;
    return run(settings) ? 0 : kInterrupted;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
