// alkn::AdamW in LibTorch's archives: torch::save and torch::load work in every program that
// includes this once.
#pragma once

#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/serialize/archive.h>
#include <alkn/optim/adamw.hpp>
#include <alkn/optim/optimizer_state.hpp>
#include <alkn/text.hpp>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace alkn::detail {

/// The archive holds "groups/<g>" (options) and "parameters/<i>" (state), by position: no
/// addresses, so that equal states give equal archives.
struct AdamWArchive {
  static void save(torch::serialize::OutputArchive& archive, const AdamW& optimizer) {
    const auto& groups = optimizer.param_groups();
    archive.write("num_groups", c10::IValue(static_cast<std::int64_t>(groups.size())));
    std::int64_t index = 0;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      const AdamWOptions& o = AdamW::checked_options(groups[g], g);
      o.validate(detail::text_of({"group ", g}));  // as load() will
      torch::serialize::OutputArchive group(archive.compilation_unit());
      group.write("size", c10::IValue(static_cast<std::int64_t>(groups[g].params().size())));
      group.write("lr", c10::IValue(o.lr()));
      group.write("beta1", c10::IValue(std::get<0>(o.betas())));
      group.write("beta2", c10::IValue(std::get<1>(o.betas())));
      group.write("eps", c10::IValue(o.eps()));
      group.write("weight_decay", c10::IValue(o.weight_decay()));
      group.write("decay_vectors", c10::IValue(o.decay_vectors()));
      group.write("compact_state", c10::IValue(o.compact_state()));
      archive.write("groups/" + std::to_string(g), group);
      for (const Tensor& param : groups[g].params()) {
        torch::serialize::OutputArchive entry(archive.compilation_unit());
        save_parameter(entry, optimizer, param);
        archive.write("parameters/" + std::to_string(index++), entry);
      }
    }
  }

  static void load(torch::serialize::InputArchive& archive, AdamW& optimizer) {
    const c10::InferenceMode normal_tensors(false);
    auto& groups = optimizer.param_groups();
    const std::int64_t num_groups = value(archive, "num_groups").toInt();
    TORCH_CHECK_VALUE(num_groups == static_cast<std::int64_t>(groups.size()),
                      "alkn::AdamW: expected ", groups.size(), " parameter groups, got ",
                      num_groups, " (load)");
    std::vector<AdamWOptions> options;
    std::vector<std::pair<const Tensor*, Loaded>> states;
    std::int64_t index = 0;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      static_cast<void>(AdamW::checked_options(groups[g], g));
      torch::serialize::InputArchive group;
      read(archive, "groups/" + std::to_string(g), group);
      const std::int64_t size = value(group, "size").toInt();
      TORCH_CHECK_VALUE(size == static_cast<std::int64_t>(groups[g].params().size()),
                        "alkn::AdamW: expected ", groups[g].params().size(), " parameters, got ",
                        size, " (load, group ", g, ")");
      options.push_back(load_options(group));
      options.back().validate(detail::text_of({"load, group ", g}));
      for (const Tensor& param : groups[g].params()) {
        torch::serialize::InputArchive entry;
        read(archive, "parameters/" + std::to_string(index), entry);
        states.emplace_back(&param, load_parameter(entry, param, index++));
      }
    }
    commit(optimizer, options, states);
  }

 private:
  struct Loaded {
    std::unique_ptr<AdamWParamState> state;
    Tensor master;
  };

  /// An archive in the archive, or a tensor.
  template <class T>
  static void read(torch::serialize::InputArchive& archive, const std::string& key, T& to) {
    TORCH_CHECK_VALUE(archive.try_read(key, to),
                      "alkn::AdamW: expected an archive of alkn::AdamW, got one without \"", key,
                      "\" (load)");
  }

  static c10::IValue value(torch::serialize::InputArchive& archive, const std::string& key) {
    c10::IValue read;
    TORCH_CHECK_VALUE(archive.try_read(key, read),
                      "alkn::AdamW: expected an archive of alkn::AdamW, got one without \"", key,
                      "\" (load)");
    return read;
  }

  static void save_parameter(torch::serialize::OutputArchive& entry, const AdamW& optimizer,
                             const Tensor& param) {
    const auto found = optimizer.state().find(param.unsafeGetTensorImpl());
    const bool stepped = found != optimizer.state().end();
    entry.write("stepped", c10::IValue(stepped));
    if (stepped) {
      const auto& state = static_cast<const AdamWParamState&>(*found->second);
      entry.write("step", c10::IValue(state.step()));
      entry.write("exp_avg", state.exp_avg());
      entry.write("exp_avg_sq", state.exp_avg_sq());
    }
    const Tensor master = optimizer.masters_.find(param);
    if (master.defined()) entry.write("master", master);
  }

  static AdamWOptions load_options(torch::serialize::InputArchive& group) {
    return AdamWOptions(value(group, "lr").toDouble())
        .betas({value(group, "beta1").toDouble(), value(group, "beta2").toDouble()})
        .eps(value(group, "eps").toDouble())
        .weight_decay(value(group, "weight_decay").toDouble())
        .decay_vectors(value(group, "decay_vectors").toBool())
        .compact_state(value(group, "compact_state").toBool());
  }

  static Loaded load_parameter(torch::serialize::InputArchive& entry, const Tensor& param,
                               std::int64_t index) {
    const auto take = [&](const char* key, bool may_be_compact) {
      Tensor t;
      read(entry, key, t);
      TORCH_CHECK_VALUE(t.sizes() == param.sizes(), "alkn::AdamW: expected ", key, " of ",
                        param.sizes(), ", got ", t.sizes(), " (load, parameter ", index, ")");
      const bool compact = may_be_compact && t.scalar_type() == at::kBFloat16;
      return t.to(param.options().dtype(moment_dtype(param, compact)).requires_grad(false))
          .contiguous();
    };
    Loaded loaded;
    if (value(entry, "stepped").toBool()) {
      loaded.state = std::make_unique<AdamWParamState>();
      const std::int64_t step = value(entry, "step").toInt();
      TORCH_CHECK_VALUE(step >= 0, "alkn::AdamW: expected a step in [0, inf), got ", step,
                        " (load, parameter ", index, ")");
      loaded.state->step(step).exp_avg(take("exp_avg", true)).exp_avg_sq(take("exp_avg_sq", true));
    }
    c10::IValue master;
    if (is_low_precision(param) && entry.try_read("master", master))
      loaded.master = take("master", false);
    return loaded;
  }

  static void commit(AdamW& optimizer, const std::vector<AdamWOptions>& options,
                     std::vector<std::pair<const Tensor*, Loaded>>& states) {
    const at::NoGradGuard no_grad;
    torch::optim::Optimizer& base = optimizer;
    OptimizerState fresh;
    Masters masters;
    for (auto& [param, loaded] : states) {
      if (loaded.state) fresh[param->unsafeGetTensorImpl()] = std::move(loaded.state);
      masters.adopt(*param, loaded.master);
    }
    base.state().swap(fresh);  // nothing throws any more
    std::swap(optimizer.masters_, masters);
    for (std::size_t g = 0; g < options.size(); ++g) {
      static_cast<AdamWOptions&>(optimizer.param_groups()[g].options()) = options[g];
    }
  }
};

inline constexpr ArchiveTable kArchiveTable{&AdamWArchive::save, &AdamWArchive::load};
inline const bool archive_table_is_set = (archive_table.store(&kArchiveTable), true);

}  // namespace alkn::detail
