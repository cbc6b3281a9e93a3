// The model that has learned everything: trained once, kept on the disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "continual/batch.hpp"
#include "continual/model.hpp"
#include "continual/settings.hpp"
#include "continual/tokenizer.hpp"

namespace continual {

/// Everything that the methods start from.
struct Trained {
  Tokenizer tokenizer;
  EncodedData data;
  std::shared_ptr<Transformer> model;
  double seconds = 0;   ///< of the training
  bool reused = false;  ///< found on the disk
};

/// Memorises the samples in `steps` steps: a linear warm-up over the first pass, then down to zero.
/// `enough` (may be empty) is asked after each pass whether to stop, with the number of passes.
/// Returns false if it was interrupted; a checkpoint is then on the disk, which settings.resume
/// takes up. With `save_every` one is written each time so many seconds are over: that is where a
/// killed run goes on.
bool memorise(Model& model, const Samples& samples, const Settings& settings, std::int64_t steps,
              const std::filesystem::path& checkpoint,
              const std::function<bool(std::int64_t)>& enough = {},
              std::optional<double> save_every = {});

/// The trained model of this data and these settings, from `folder` if it is there.
/// Returns nothing if the training was interrupted; a checkpoint is then in the folder.
std::optional<Trained> train_or_load(const DataSet& data, const Settings& settings,
                                     const std::filesystem::path& folder);

}  // namespace continual
