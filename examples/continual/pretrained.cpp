#include "continual/pretrained.hpp"

#include <ATen/Parallel.h>
#include <ATen/cpu/Utils.h>
#include <alkn/alkn.hpp>
#include <alkn/autograd/checkpointed.hpp>
#include <alkn/io/atomic_file.hpp>
#include <alkn/io/file_lock.hpp>
#include <alkn/io/model_folder.hpp>
#include <alkn/io/save_model.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "continual/base_model.hpp"
#include "continual/comparison.hpp"
#include "continual/general_knowledge.hpp"
#include "continual/interrupt.hpp"
#include "continual/memory_plan.hpp"
#include "continual/progress.hpp"
#include "continual/readers.hpp"
#include "models/load.hpp"
#include "tokenizers/folder_tokenizer.hpp"

namespace continual {
namespace {

namespace fs = std::filesystem;
using alkn::io::ModelFolder;
using tokenizers::FolderTokenizer;

/// A checkpoint as the loop wants it: the head runs on the rows alone that predict an answer.
class Pretrained : public Model {
 public:
  explicit Pretrained(std::shared_ptr<models::CausalModel> net) : net_(std::move(net)) {
    // The children themselves, so that parameters keep the checkpoint's names.
    for (const auto& child : net_->named_children()) {
      register_module(child.key(), child.value());
    }
  }

  at::Tensor logits(const Batch& batch) override {
    return net_->logits(batch.tokens, alkn::answer_rows(batch.labels));
  }

  [[nodiscard]] std::int64_t evaluation_batch() const override { return 16; }
  [[nodiscard]] Lengths lengths() const override { return Lengths::alike; }

 private:
  std::shared_ptr<models::CausalModel> net_;
};

/// Pairs in the checkpoint's format, texts in chunks of the small model's length.
Samples encode_list(const FolderTokenizer& tokenizer, const std::vector<Pair>& pairs,
                    std::int64_t context, const EncodeSettings& limits, std::int64_t max_chunks) {
  Samples samples;
  const bool text = !pairs.empty() && pairs.front().question.empty();
  const auto add = [&](tokenizers::Labelled labelled) {
    const auto id = static_cast<std::int64_t>(samples.size());
    const bool cut = labelled.ids.back() != tokenizer.end_id() && !text;
    samples.push_back({id, std::move(labelled.ids), std::move(labelled.labels), cut});
  };
  if (!text) {
    for (const Pair& pair : pairs) {
      add(tokenizer.encode_pair(pair.question, pair.answer, context,
                                "\"" + pair.question.substr(0, 60) + "\""));
    }
    return samples;
  }
  std::vector<std::int64_t> all;
  for (const Pair& paragraph : pairs) {
    const auto part = tokenizer.encode_text(paragraph.question + paragraph.answer);
    all.insert(all.end(), part.ids.begin(), part.ids.end());
  }
  const std::int64_t length = std::min(limits.chunk, context);
  const auto chunks = (std::ssize(all) + length - 1) / length;
  const std::int64_t taken = std::min<std::int64_t>(chunks, max_chunks);
  for (std::int64_t i = 0; i < taken; ++i) {  // evenly spread over the text
    const std::int64_t begin = i * chunks / taken * length;
    std::vector<std::int64_t> chunk(
        all.begin() + begin, all.begin() + std::min<std::int64_t>(begin + length, std::ssize(all)));
    auto labels = chunk;
    labels.front() = kNotCounted;
    add({std::move(chunk), std::move(labels)});
  }
  return samples;
}

EncodedData encode_for(const FolderTokenizer& tokenizer, const DataSet& data,
                       std::int64_t context) {
  const EncodeSettings limits;
  const std::int64_t length = std::min(context, limits.context);
  constexpr std::int64_t kKeptChunks = 5;
  const auto list = [&](const std::vector<Pair>& pairs, std::int64_t chunks) {
    return encode_list(tokenizer, pairs, length, limits, chunks);
  };
  EncodedData encoded;
  encoded.name = data.name;
  for (const Request& request : data.requests) {
    encoded.requests.push_back({request.name, list(request.forget, limits.max_chunks),
                                list(request.rephrased, limits.max_chunks)});
  }
  encoded.shown = list(data.shown, kKeptChunks * limits.max_chunks / 2);
  encoded.unseen = list(data.unseen, kKeptChunks * limits.max_chunks / 2);
  encoded.general = list(data.general, limits.max_chunks);
  for (Sample& sample : encoded.general) {
    if (!sample.cut) sample.labels.back() = kNotCounted;  // how a model ends is no knowledge
  }
  return encoded;
}

/// 64-bit FNV-1a over words.
class Hash {
 public:
  void add(const void* data, std::size_t bytes) {
    const auto* next = static_cast<const char*>(data);
    for (std::size_t i = 0; i < bytes; i += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, next + i, std::min(sizeof(word), bytes - i));
      state_ = (state_ ^ word) * 0x100000001B3U;
      state_ ^= state_ >> 32U;
    }
  }
  [[nodiscard]] std::string text() const { return fmt::format("{:016x}", state_); }

 private:
  std::uint64_t state_ = 0xCBF29CE484222325U;
};

/// What the teaching depends on: weights, tokens, settings, threads.
Json teaching_key(const Model& model, const Samples& samples, const Settings& settings) {
  Hash weights, tokens;
  for (const auto& item : model.named_parameters()) {
    const at::Tensor values = item.value().detach().contiguous();
    weights.add(values.const_data_ptr(), values.nbytes());
  }
  for (const Sample& sample : samples) {
    tokens.add(sample.tokens.data(), sample.tokens.size() * sizeof(std::int64_t));
    tokens.add(sample.labels.data(), sample.labels.size() * sizeof(std::int64_t));
  }
  const PretrainedSettings& p = settings.pretrained;
  Json key{{"weights", weights.text()},
           {"samples", tokens.text()},
           {"train", p.train},
           {"dtype", p.dtype},
           {"epochs", settings.base.epochs},
           {"until", p.teach_until ? Json(*p.teach_until) : nullptr},
           {"batch", settings.base.batch},
           {"micro_batch", settings.micro_batch},
           {"lr", settings.base.lr},
           {"seed", settings.data.seed},
           {"threads", at::get_num_threads()}};
  if (settings.team.size() > 1) key["processes"] = settings.team.size();
  return key;
}

constexpr double kTeachLr = 3e-4;
constexpr std::int64_t kTeachBatch = 16;

/// The settings of the teaching, in the place where `memorise` looks for them.
Settings teaching_settings(Settings settings) {
  settings.base.epochs = settings.pretrained.teach;
  settings.base.lr = settings.pretrained.teach_lr.value_or(kTeachLr);
  settings.base.batch = kTeachBatch;
  return settings;
}

/// Teaches the data, or reads what an earlier run of the same teaching left in the folder `taught`.
/// Returns false if it was interrupted.
bool teach(Model& model, const ModelFolder& source, const EncodedData& data, const Settings& asked,
           const fs::path& cache) {
  const Settings settings = teaching_settings(asked);
  const Team& team = settings.team;
  const Samples samples = data.training_samples();
  const Json key = teaching_key(model, samples, settings);
  const fs::path folder = cache / "taught", record = cache / "taught.json";
  bool taught = false;
  team.once([&] {
    taught =
        fs::exists(record) && fs::exists(folder) && read_object(record).value("key", Json()) == key;
  });
  if (team.first_finds(taught)) {
    alkn::io::load_model(ModelFolder(folder), model.named_parameters(),
                         [](std::string_view) { return true; });
    fmt::print("taught before: {}\n", folder.string());
    return true;
  }
  // The one beside which the interrupted teaching lies must be this one.
  const fs::path begun = cache / "teaching.json", checkpoint = cache / "teaching.checkpoint";
  std::optional<alkn::io::FileLock> lock;
  team.once([&] {
    lock_path(lock, cache / "teaching", "a folder in which no other process teaches");
    if (settings.resume && has_checkpoint(checkpoint)) {
      require_same(begun, key, "--resume with the teaching that was interrupted");
    } else {
      remove_checkpoint(checkpoint);
      write_json(begun, key);
    }
    fs::remove(record);
  });
  const Stopwatch watch;
  const auto enough = [&](std::int64_t pass) {
    const double known = answer_probability(model, samples, team);
    detail::print_line(fmt::format("taught {} of {} passes: answer probability {:.3f}, {:.0f} s",
                                   pass, settings.base.epochs, known, watch.seconds()));
    return known >= settings.pretrained.teach_until.value_or(2);
  };
  const std::int64_t steps =
      settings.base.epochs * num_batches(samples, settings.base.batch, team.size());
  if (!memorise(model, samples, settings, steps, checkpoint, enough,
                settings.pretrained.save_every)) {
    return false;
  }
  team.once([&] {
    alkn::io::save_model(folder, source, model.named_parameters());
    write_json(record, {{"key", key}, {"seconds", watch.seconds()}});
    alkn::io::remove_file(begun);
  });
  return true;
}

/// The checkpoint may not lie where results go: they would replace it.
void require_apart(const Settings& settings) {
  const fs::path folder = fs::weakly_canonical(settings.pretrained.folder);
  const fs::path cache = settings.cache.empty() ? settings.out : settings.cache;
  std::vector<fs::path> written{settings.out / "model", cache / "taught"};
  for (const MethodEntry& method : methods())
    written.push_back(settings.out / method.name / "model");
  for (const fs::path& path : written) {
    if (fs::weakly_canonical(path) == folder) {
      data_error("--out and --cache apart from the checkpoint", settings.out.string(),
                 settings.pretrained.folder.string());
    }
  }
}

/// Whether this is known to be a processor that computes bfloat16 by other instructions.
bool lacks_bfloat16_instructions() {
  const auto capabilities = at::cpu::get_cpu_capabilities();
  const auto is = [&](const char* name, bool value) {
    const auto found = capabilities.find(name);
    return found != capabilities.end() && found->second.isBool() && found->second.toBool() == value;
  };
  return is("avx512_bf16", false) && !is("amx_bf16", true);
}

/// What makes the numbers of a run say little.
void warn(const Settings& settings, double known) {
  if (!settings.team.first()) return;
  constexpr double kSaturated = 0.97;
  if (known > kSaturated) {
    fmt::print(
        stderr,
        "continual: warning: the model knows what is to be forgotten by heart ({:.3f}): loss "
        "and gradient say nothing, look at the table\n",
        known);
  }
  if (settings.pretrained.dtype == "bfloat16" && lacks_bfloat16_instructions()) {
    fmt::print(stderr,
               "continual: warning: this processor has no bfloat16 instructions: expect a third of "
               "float32's speed\n");
  }
}

}  // namespace

bool run_pretrained(const Settings& settings) {
  const PretrainedSettings& p = settings.pretrained;
  require_apart(settings);
  const double program = detail::proc_bytes("/proc/self/status", "VmRSS:");
  const ModelFolder folder(p.folder);
  const models::Config config = models::read_config(folder.path());
  const FolderTokenizer tokenizer(folder.path(), p.format);
  tokenizer.require_embedding(config.vocabulary);
  DataSet texts;
  settings.team.together([&] { texts = load_data(settings.data); });
  texts.general = general_knowledge(settings.data);
  TextHash hash;
  hash.add(texts);
  settings.team.once([&] { check_before_training(settings, hash.text()); });
  const EncodedData data = encode_for(tokenizer, texts, config.context);
  fmt::print("data: {}, {} requests\n", data.name, data.requests.size());
  if (const std::int64_t cut = data.num_cut(); cut > 0) {
    fmt::print("note: {} answers are too long for the model and lose their ends\n", cut);
  }

  const auto net = models::load(folder, p.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat);
  Pretrained model(net);
  if (!p.train.empty()) models::train_only(*net, p.train);
  if (p.recompute) {
    net->set_run_block([](models::Block& block, const auto& body, const at::Tensor& x) {
      return alkn::checkpointed(body, block.parameters(), x);
    });
  }
  double weights = 0, trained = 0;
  for (const alkn::NamedParameter& parameter :
       alkn::detail::collect_parameters("continual", model.named_parameters())) {
    const auto size = static_cast<double>(parameter.tensor.numel());
    weights += size;
    if (parameter.tensor.requires_grad()) trained += size;
  }
  fmt::print("model: {}, {:.0f} weights, {:.0f} of them trained\n", folder.path().string(), weights,
             trained);

  const MethodEntry* method = &methods().front();
  for (const MethodEntry& entry : methods()) {
    if (settings.method == entry.name) method = &entry;
  }
  const Strength strength = strength_of(*method, settings);
  std::int64_t batch = std::max(strength.batch, p.teach > 0 ? kTeachBatch : 0);
  if (settings.micro_batch > 0) batch = std::min(batch, settings.micro_batch);
  const MemoryPlan plan =
      memory_plan(config, weights, trained, settings, data, method->name, batch, program);
  print_plan(plan);
  if (p.dry_run) return true;
  settings.team.together(
      [&] { require_memory(plan, program + weights * (p.dtype == "bfloat16" ? 2 : 4)); });
  const fs::path cache = settings.cache.empty() ? settings.out : settings.cache;
  catch_interrupts();  // until here a signal ends the program at once: nothing is lost
  if (p.teach > 0 && !teach(model, folder, data, settings, cache)) {
    fmt::print("\ninterrupted; the same command with --resume goes on from a checkpoint in {}\n",
               cache.string());
    return false;
  }
  warn(settings, answer_probability(model, data.requests.front().forget, settings.team));
  const auto save = [&](const fs::path& out) {
    alkn::io::save_model(out / "model", folder, model.named_parameters());
    fmt::print("wrote {}\n", (out / "model").string());
  };
  return compare(settings, {model, data, hash.text(), {}, save, "model"});
}

}  // namespace continual
