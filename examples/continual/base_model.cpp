#include "continual/base_model.hpp"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <alkn/alkn.hpp>
#include <alkn/checkpoint/checkpoint.hpp>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/file_lock.hpp>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "continual/interrupt.hpp"
#include "continual/micro_batch.hpp"
#include "continual/progress.hpp"
#include "continual/random.hpp"
#include "continual/readers.hpp"
#include "continual/run_folder.hpp"

namespace continual {
namespace {

/// All texts that the model learns, in order.
std::vector<std::string> training_texts(const DataSet& data) {
  std::vector<std::string> texts;
  const auto append = [&](const std::vector<Pair>& pairs) {
    for (const Pair& pair : pairs) {
      texts.push_back(pair.question);
      texts.push_back(pair.answer);
    }
  };
  for (const Request& request : data.requests) {
    append(request.forget);
  }
  append(data.shown);
  append(data.unseen);
  return texts;
}

/// A name for what the training depends on: texts, settings, seed, threads.
std::string training_key(const std::vector<std::string>& texts, const Settings& settings,
                         const ModelConfig& config) {
  TextHash hash;
  for (const std::string& text : texts) {
    hash.add(text);
  }
  const BaseSettings& base = settings.base;
  // The first number is that of the training itself: another one, where it gives other weights.
  hash.add(fmt::format("2 {} {} {} {} {} {} {} {} {} {}", base.epochs, base.batch, base.lr,
                       base.vocabulary, settings.data.seed, at::get_num_threads(), config.layers,
                       config.width, config.heads, config.context));
  if (settings.team.size() > 1) hash.add(fmt::format("{} processes", settings.team.size()));
  return "base-" + hash.text();
}

/// The vocabulary of a file. Throws std::runtime_error with the file.
Tokenizer read_tokenizer(const std::filesystem::path& path) {
  const std::string model = read_bytes(path);
  try {
    return Tokenizer(model);
  } catch (const std::runtime_error&) {
    data_error("a vocabulary of this program", "another file", path.string());
  }
}

}  // namespace

bool memorise(Model& model, const Samples& samples, const Settings& settings,
              const std::int64_t steps, const std::filesystem::path& checkpoint,
              const std::function<bool(std::int64_t)>& enough, std::optional<double> save_every) {
  const BaseSettings& base = settings.base;
  const Team& team = settings.team;
  const std::int64_t per_epoch = num_batches(samples, base.batch, team.size());
  // Outside a task a method is its base optimizer, AdamW; as a method it can be saved and resumed.
  alkn::TaskVector<> optimizer(trainable(model), {}, alkn::AdamWOptions(base.lr), team.group());
  at::Tensor position = at::full({1}, 0, at::kLong);
  const alkn::io::NamedTensors buffers{{"trainer.position", position}};
  if (settings.resume && team.first_finds(has_checkpoint(checkpoint))) {
    static_cast<void>(alkn::load_checkpoint(checkpoint, optimizer, buffers));
  }
  const auto done = position.item<std::int64_t>();
  for (auto& group : optimizer.param_groups()) {
    group.options().set_lr(base.lr);  // the schedule counts from the full rate
  }
  alkn::LinearSchedule schedule(optimizer, per_epoch, steps);
  for (std::int64_t i = 0; i < done; ++i) {
    schedule.step();
  }
  Progress progress("training the model", steps, done);
  const auto save = [&](std::int64_t reached) {
    position.fill_(reached);
    alkn::save_checkpoint(checkpoint, optimizer, buffers);
  };
  Stopwatch since_save;
  std::vector<Batch> batches;
  for (std::int64_t step = done; step < steps; ++step) {
    if (batches.empty() || step % per_epoch == 0) {
      batches = shuffled_batches(
          team.own(samples), base.batch,
          Random{settings.data.seed, 0, static_cast<std::uint64_t>(step / per_epoch)},
          model.lengths());
    }
    optimizer.zero_grad();
    const double loss = backward_together(
        team, batch_of(batches, step % per_epoch), settings.micro_batch, MeanOver::tokens,
        [&](const Batch& part) { return alkn::mean_nll(model.logits(part), part.labels); });
    optimizer.step();
    schedule.step();
    if (team.any(interrupted())) {
      save(step + 1);
      return false;
    }
    progress.step(fmt::format("loss {:.3f}", loss));
    if (enough && (step + 1) % per_epoch == 0 && enough((step + 1) / per_epoch)) {
      break;
    }
    if (save_every && team.first_finds(since_save.seconds() >= *save_every) && step + 1 < steps) {
      save(step + 1);
      since_save = {};
    }
  }
  team.once([&] { remove_checkpoint(checkpoint); });
  return true;
}

std::optional<Trained> train_or_load(const DataSet& data, const Settings& settings,
                                     const std::filesystem::path& folder) {
  const auto texts = training_texts(data);
  ModelConfig config;
  const std::string key = training_key(texts, settings, config);
  const auto model_path = folder / (key + ".safetensors");
  const auto vocabulary_path = folder / (key + ".tokenizer.model");
  const auto checkpoint = folder / (key + ".checkpoint");
  const auto is_there = [&] {
    return std::filesystem::exists(model_path) && std::filesystem::exists(vocabulary_path);
  };
  std::optional<alkn::io::FileLock> lock;
  bool reused = false;
  settings.team.once([&] {
    reused = is_there();
    if (reused) return;
    lock_path(lock, checkpoint, "a model that no other process trains");
    reused = is_there();  // by one that has just finished
  });
  reused = settings.team.first_finds(reused);
  Tokenizer tokenizer =
      reused ? read_tokenizer(vocabulary_path) : Tokenizer::train(texts, settings.base.vocabulary);
  config.vocabulary = tokenizer.size();
  at::Generator generator = at::globalContext().defaultGenerator(at::kCPU);
  generator.set_current_seed(settings.data.seed);
  auto model = std::make_shared<Transformer>(config);
  EncodedData encoded = encode(tokenizer, data);
  const Stopwatch watch;
  if (reused) {
    load_model(model_path, *model);
  } else {
    const Samples samples = encoded.training_samples();
    const std::int64_t steps =
        settings.base.epochs * num_batches(samples, settings.base.batch, settings.team.size());
    if (!memorise(*model, samples, settings, steps, checkpoint)) {
      return std::nullopt;
    }
    settings.team.once([&] {
      alkn::io::write_file(vocabulary_path, tokenizer.model());
      save_model(model_path, *model);
    });
  }
  return Trained{std::move(tokenizer), std::move(encoded), std::move(model), watch.seconds(),
                 reused};
}

}  // namespace continual
