// experiment: every method at many strengths, on models that learned authors who do not exist; what
// is forgotten, what is kept, and what an attacker gets back. Writes results.json.
#include <ATen/Parallel.h>
#include <sys/wait.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <system_error>
#include <vector>

#include "cli/numbers.hpp"
#include "experiment/seed_run.hpp"

namespace experiment {
namespace {

constexpr int kInterrupted = 130;  // the shell's 128 + SIGINT

void add_options(CLI::App& app, Settings& s) {
  std::vector<std::string> names;
  for (const Arm& a : arms()) {
    names.push_back(a.name);
  }
  const auto at_least_one = CLI::Range(1, 1'000'000);
  app.add_option("--data", s.world.paths, "TOFU's folder; none: authors are made up");
  app.add_option("--out", s.out, "folder for runs and results.json; what is there is kept")
      ->capture_default_str();
  app.add_option("--methods", s.methods, "which ones")->check(CLI::IsMember(names));
  app.add_option("--seeds", s.seeds, "each with models, authors and order of requests of its own")
      ->check(cli::whole_number())
      ->capture_default_str();
  app.add_option("--only-seed", s.only_seed, "run this one of the seeds, beside another process")
      ->check(cli::whole_number());
  app.add_option("--runs", s.runs, "of each method and seed, along its axis of strength")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  app.add_option("--epochs", s.epochs, "passes over a request")->check(at_least_one);
  app.add_option("--tasks", s.world.tasks, "deletion requests")->check(CLI::Range(1, 1000));
  app.add_option("--authors-per-task", s.world.authors_per_task, "")->check(at_least_one);
  app.add_option("--shown", s.world.shown, "kept authors that methods are shown")
      ->check(at_least_one);
  app.add_option("--selection", s.world.selection, "kept authors by which settings are chosen")
      ->check(at_least_one);
  app.add_option("--unseen", s.world.unseen, "kept authors that results are reported on")
      ->check(at_least_one);
  app.add_option("--held-out", s.world.held_out, "authors that no model sees")->check(at_least_one);
  app.add_option("--train-epochs", s.base.epochs, "of the models that learn")->check(at_least_one);
  app.add_option("--resamples", s.measure.resamples, "of the bootstrap")->check(at_least_one);
  app.add_option("--threads", s.threads, "of LibTorch, in each process")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--jobs", s.jobs, "seeds at once, each a process; 0: as many as cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--collect", s.collect, "only write results.json from the runs that are there");
}

/// results.json from every finished piece.
void write_results(const Settings& s) {
  Json methods = Json::array();
  for (const std::string& name : s.methods) {
    const Arm& a = arm(name);
    Json fixed{{"epochs", s.epochs}, {"batch", a.strength.batch}};
    if (!a.preset.empty()) {
      fixed["preset"] = a.preset;
    }
    if (a.strength.lambda > 0) {
      fixed["lambda"] = a.strength.lambda;
    }
    if (a.strength.retain_weight > 0) {
      fixed["retain_weight"] = a.strength.retain_weight;
    }
    methods.push_back({{"name", a.name},
                       {"title", a.title},
                       {"family", a.family},
                       {"axis", "lr"},
                       {"settings", std::move(fixed)},
                       {"tuning_runs", s.runs}});
  }
  Json seeds = Json::array();
  for (const std::uint64_t seed : s.seeds) {
    if (Json entry = SeedRun::collect(s, seed); !entry.is_null()) {
      seeds.push_back(std::move(entry));
    }
  }
  if (seeds.empty()) {
    return;
  }
  continual::write_json(s.out / "results.json",
                        {{"format", 1},
                         {"title", "Unlearning methods at equal forgetting"},
                         {"data", s.world.paths.empty() ? "generated authors" : "TOFU"},
                         {"quick", s.quick},
                         {"command", s.command},
                         {"configuration", configuration(s)},
                         {"levels", s.levels},
                         {"methods", std::move(methods)},
                         {"seeds", std::move(seeds)}});
}

/// A folder holds the runs of one configuration.
void check_configuration(const Settings& s) {
  const fs::path path = s.out / "config.json";
  const Json now = configuration(s);
  continual::require_same(path, now, "the configuration of the runs in this folder");
  continual::write_json(path, now);
}

/// Runs it; an error in one line.
template <class Run>
int guarded(Run&& work) {
  try {
    return work();
  } catch (const c10::Error& error) {
    fmt::print(stderr, "{}\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
  }
  return EXIT_FAILURE;
}

int run(const Settings& s) {
  at::set_num_threads(s.threads);
  continual::prepare_folder(s.out);
  check_configuration(s);
  continual::catch_interrupts();
  const continual::Stopwatch watch;
  try {
    for (const std::uint64_t seed : s.seeds) {
      if (s.collect || (s.only_seed && *s.only_seed != seed)) {
        continue;
      }
      SeedRun one(s, seed);
      one.prepare();
      for (const std::string& name : s.methods) {
        one.sweep(arm(name));
        write_results(s);
      }
      for (const double level : s.levels_in_order()) {
        for (const std::string& name : s.methods) {
          one.measure_point(arm(name), level);
          write_results(s);
        }
        for (const std::string& name : s.methods) {
          one.measure_by_task(arm(name));
          write_results(s);
        }
      }
    }
  } catch (const Interrupted&) {
    fmt::print("\ninterrupted; the same command goes on\n");
    return kInterrupted;
  }
  write_results(s);
  fmt::print("{} after {:.0f} s\n", (s.out / "results.json").string(), watch.seconds());
  return EXIT_SUCCESS;
}

/// Every seed in a process of its own, so many at once; then results.json of all.
int run_beside_each_other(const Settings& s, std::size_t jobs) {
  continual::catch_interrupts();  // the children have the signal too, and end by themselves
  int worst = EXIT_SUCCESS;
  std::size_t running = 0;
  const auto wait_for_one = [&] {
    int status = 0;
    while (::wait(&status) < 0 && errno == EINTR) {
    }
    worst = std::max(worst, WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
    --running;
  };
  for (const std::uint64_t seed : s.seeds) {
    if (running == jobs) {
      wait_for_one();
    }
    if (worst != EXIT_SUCCESS || continual::interrupted()) {
      break;
    }
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child < 0) {
      continual::data_error("another process", std::generic_category().message(errno), "fork");
    }
    if (child == 0) {
      Settings one = s;
      one.only_seed = seed;
      const int code = guarded([&] { return run(one); });
      std::fflush(nullptr);
      ::_exit(code);
    }
    ++running;
  }
  while (running > 0) {
    wait_for_one();
  }
  if (worst == EXIT_SUCCESS) {
    Settings all = s;
    all.collect = true;
    return run(all);
  }
  return worst;
}

int run_all(const Settings& s) {
  const auto cores = std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN));
  const auto jobs =
      std::min(static_cast<std::size_t>(s.jobs == 0 ? cores : s.jobs), s.seeds.size());
  return jobs < 2 || s.only_seed || s.collect ? run(s) : run_beside_each_other(s, jobs);
}

/// What reproduces the file: everything but where it lies and which part of it a process does.
std::string command_line(int argc, char** argv) {
  std::string text = "experiment";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--out" || word == "--only-seed" || word == "--jobs") {
      ++i;
    } else if (word != "--collect") {
      text += " " + word;
    }
  }
  return text;
}

}  // namespace
}  // namespace experiment

int main(int argc, char** argv) {
  CLI::App app("Compares methods of unlearning at equal forgetting.", "experiment");
  experiment::Settings settings;
  // Before the others, which override what it sets.
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--quick") {
      settings.make_quick();
    }
  }
  app.add_flag("--quick", settings.quick, "a trial: one seed, little data, few methods");
  experiment::add_options(app, settings);
  CLI11_PARSE(app, argc, argv);
  settings.command = experiment::command_line(argc, argv);
  return experiment::guarded([&] { return experiment::run_all(settings); });
}
