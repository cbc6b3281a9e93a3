// Where a process stands, by the environment that its launcher has made.
#include <alkn/dist/environment.hpp>
#include <map>
#include <string>

#include "catch.hpp"

using alkn::dist::Environment;

namespace {

std::optional<Environment> read(const std::map<std::string, std::string>& variables) {
  return alkn::dist::read_environment([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

std::string error_of(const std::map<std::string, std::string>& variables) {
  try {
    static_cast<void>(read(variables));
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

}  // namespace

TEST_CASE("torchrun, mpirun, srun, or none of them") {
  CHECK_FALSE(read({}));
  CHECK_FALSE(read({{"MASTER_ADDR", "host"}}));

  const auto torchrun = read({{"RANK", "5"},
                              {"WORLD_SIZE", "8"},
                              {"LOCAL_RANK", "1"},
                              {"LOCAL_WORLD_SIZE", "4"},
                              {"MASTER_ADDR", "node0"},
                              {"MASTER_PORT", "1234"},
                              {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                              {"TORCHELASTIC_RESTART_COUNT", "2"}});
  REQUIRE(torchrun);
  CHECK((torchrun->rank == 5 && torchrun->local_rank == 1 && torchrun->size == 8));
  CHECK((torchrun->address == "node0" && torchrun->port == 1234));
  CHECK(torchrun->agent_prefix == "/worker/attempt_2");

  const auto mpirun = read({{"OMPI_COMM_WORLD_RANK", "1"},
                            {"OMPI_COMM_WORLD_SIZE", "2"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  REQUIRE(mpirun);
  CHECK((mpirun->rank == 1 && mpirun->local_rank == 1 && mpirun->size == 2));
  CHECK((mpirun->address == "127.0.0.1" && mpirun->port == 29500 && mpirun->agent_prefix.empty()));

  const auto srun = read({{"SLURM_PROCID", "3"},
                          {"SLURM_NTASKS", "4"},
                          {"SLURM_LOCALID", "3"},
                          {"MASTER_ADDR", "node7"}});
  REQUIRE(srun);
  CHECK((srun->rank == 3 && srun->local_rank == 3 && srun->address == "node7"));
}

TEST_CASE("half an environment, and numbers that are none, are refused") {
  CHECK(error_of({{"RANK", "0"}}) ==
        "alkn::dist: expected both RANK and WORLD_SIZE, got RANK alone (environment)");
  CHECK(error_of({{"WORLD_SIZE", "2"}}) ==
        "alkn::dist: expected both RANK and WORLD_SIZE, got WORLD_SIZE alone (environment)");
  CHECK(error_of({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}) ==
        "alkn::dist: expected RANK below WORLD_SIZE, got 2 of 2 (environment)");
  CHECK(error_of({{"RANK", "1x"}, {"WORLD_SIZE", "2"}}) ==
        "alkn::dist: expected RANK in [0, 1048576], got \"1x\" (environment)");
  CHECK(error_of({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}) ==
        "alkn::dist: expected RANK in [0, 1048576], got \"-1\" (environment)");
  CHECK(error_of(
            {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "70000"}}) ==
        "alkn::dist: expected MASTER_PORT in [1, 65535], got \"70000\" (environment)");
  CHECK(error_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}}) ==
        "alkn::dist: expected MASTER_ADDR for processes on several machines, got none "
        "(environment)");
}
