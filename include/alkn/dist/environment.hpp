// What a launcher tells a process of its place among the others: torchrun, mpirun or srun.
#pragma once

#include <c10/util/Exception.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace alkn::dist {

/// The place of this process, and where the processes meet.
struct Environment {
  int rank = 0, local_rank = 0, size = 1;
  std::string address = "127.0.0.1";  ///< of the process or agent that hosts the store
  std::uint16_t port = 29500;
  /// The launcher hosts the store, and every process is a client under this prefix; empty: process
  /// 0 hosts it.
  std::string agent_prefix = {};

  /// This machine's towards the others, for gloo_group(): empty, that of its name, where there are
  /// other machines.
  [[nodiscard]] std::string own_address() const {
    return address == "127.0.0.1" || address == "localhost" ? "127.0.0.1" : "";
  }
};

namespace detail {

using Lookup = std::function<const char*(const char*)>;

inline std::optional<int> number(const Lookup& lookup, const char* name, int low, int high) {
  const char* text = lookup(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  const std::string_view digits(text);
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  TORCH_CHECK_VALUE(
      error == std::errc() && end == digits.data() + digits.size() && value >= low && value <= high,
      "alkn::dist: expected ", name, " in [", low, ", ", high, "], got \"", text,
      "\" (environment)");
  return value;
}

}  // namespace detail

/// Reads RANK, WORLD_SIZE and LOCAL_RANK as torchrun sets them, or what mpirun (OMPI_COMM_WORLD_*)
/// or srun (SLURM_*) set; MASTER_ADDR and MASTER_PORT, which only torchrun sets: the others need
/// MASTER_ADDR where they start processes on several machines.
/// @param lookup as std::getenv
/// @returns none where no launcher has started this process
/// @throws c10::ValueError for a number that is none, a rank outside of the size, or half of what
/// is needed
inline std::optional<Environment> read_environment(const detail::Lookup& lookup =
                                                       [](const char* name) -> const char* {
  return std::getenv(name);
}) {
  struct Names {
    const char *rank, *size, *local_rank, *local_size;
  };
  constexpr std::array<Names, 3> kLaunchers = {
      Names{"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
      Names{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE"},
      Names{"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"}};
  constexpr int kMost = 1 << 20;
  for (const Names& names : kLaunchers) {
    const auto rank = detail::number(lookup, names.rank, 0, kMost);
    const auto size = detail::number(lookup, names.size, 1, kMost);
    if (!rank && !size) continue;
    TORCH_CHECK_VALUE(rank && size, "alkn::dist: expected both ", names.rank, " and ", names.size,
                      ", got ", rank ? names.rank : names.size, " alone (environment)");
    TORCH_CHECK_VALUE(*rank < *size, "alkn::dist: expected ", names.rank, " below ", names.size,
                      ", got ", *rank, " of ", *size, " (environment)");
    Environment found{.rank = *rank, .size = *size};
    found.local_rank = detail::number(lookup, names.local_rank, 0, kMost).value_or(0);
    const int local_size = detail::number(lookup, names.local_size, 1, kMost).value_or(0);
    const char* address = lookup("MASTER_ADDR");
    const bool given = address != nullptr && *address != '\0';
    TORCH_CHECK_VALUE(given || local_size == *size,
                      "alkn::dist: expected MASTER_ADDR for processes on several machines, got "
                      "none (environment)");
    if (given) found.address = address;
    found.port =
        static_cast<std::uint16_t>(detail::number(lookup, "MASTER_PORT", 1, 65535).value_or(29500));
    const char* agent = lookup("TORCHELASTIC_USE_AGENT_STORE");
    if (agent != nullptr && std::string_view(agent) == "True") {
      const char* attempt = lookup("TORCHELASTIC_RESTART_COUNT");
      found.agent_prefix =
          std::string("/worker/attempt_").append(attempt != nullptr ? attempt : "0");
    }
    return found;
  }
  return std::nullopt;
}

}  // namespace alkn::dist
