// Several processes of this program: how they find each other, and how one starts them all.
#pragma once

#include <alkn/group.hpp>

#include <memory>

namespace continual {

/// The processes that a launcher has started with this one: torchrun, mpirun, srun, or
/// start_processes(). Null: it is alone.
/// @param asked how many there are to be; 0: as many as there are
/// Throws std::runtime_error for another number, or where the program was built without Gloo.
std::shared_ptr<alkn::Group> meet(int asked);

/// Whether a launcher has started this process.
bool was_launched();

/// Whether torchrun has started the processes again after one of them died.
bool was_restarted();

/// Starts this program `count` times on this machine, with the same arguments, and waits for all.
/// SIGINT and SIGTERM are passed on; where one fails, what is left of the others after ten seconds
/// is ended. Returns the exit code of the first that failed, 128 and the signal where one ended it;
/// else EXIT_SUCCESS.
int start_processes(int count, char** arguments);

}  // namespace continual
