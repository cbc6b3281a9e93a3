// One process of a group over Gloo, for test_gloo.cpp: takes a task to its end and writes what it
// has, or what it was told went wrong. Can fail on purpose at one of its collectives.
//
//   worker OUT TIMEOUT_MS [FAULT WHEN KIND K]
//     FAULT: kill, stop, throw, sleep   WHEN: before, during, after
//     KIND: all_reduce, reduce, broadcast, gather, any; its K-th, counted from the first step on
//   ALKN_DIST_FOLDER: where it saves after every step, and goes on from
#include <ATen/core/Tensor.h>
#include <c10/util/Logging.h>
#include <fmt/format.h>
#include <alkn/alkn.hpp>
#include <alkn/checkpoint/checkpoint.hpp>
#include <alkn/dist/gloo.hpp>
#include <alkn/io/input_file.hpp>

#include <unistd.h>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "method/tiny.hpp"

namespace {

using namespace std::chrono_literals;
using c10d::Work;
using Tensors = std::vector<at::Tensor>;
template <class T>
using Ptr = c10::intrusive_ptr<T>;

struct Fault {
  std::string what, when, kind;
  int at = 0;
  bool armed = false;
  int seen = 0;

  void happen() const {
    if (what == "kill") ::kill(::getpid(), SIGKILL);
    if (what == "stop") ::kill(::getpid(), SIGSTOP);
    if (what == "throw") throw std::runtime_error("the wire is cut");
    if (what == "sleep") std::this_thread::sleep_for(60s);
  }
  template <class Start>
  Ptr<Work> around(const char* name, const Start& start) {
    if (!armed || (kind != "any" && name != kind) || ++seen != at) return start();
    if (when == "before") happen();
    Ptr<Work> work = start();
    if (when == "during") happen();
    work->wait();
    if (when == "after") happen();
    return work;
  }
};

/// Gloo, but for the fault.
class Faulty final : public c10d::Backend {
 public:
  Faulty(Ptr<c10d::Backend> real, Fault& fault)
      : Backend(real->getRank(), real->getSize()), real_(std::move(real)), fault_(fault) {}
  Ptr<Work> allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return fault_.around("all_reduce", [&] { return real_->allreduce(tensors, options); });
  }
  Ptr<Work> reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    return fault_.around("reduce", [&] { return real_->reduce(tensors, options); });
  }
  Ptr<Work> broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    return fault_.around("broadcast", [&] { return real_->broadcast(tensors, options); });
  }
  Ptr<Work> allgather(std::vector<Tensors>& out, Tensors& in,
                      const c10d::AllgatherOptions& options) override {
    return fault_.around("gather", [&] { return real_->allgather(out, in, options); });
  }

 private:
  Ptr<c10d::Backend> real_;
  Fault& fault_;
};

/// As from_environment(), with the fault in both backends.
std::shared_ptr<alkn::Group> make_group(std::chrono::milliseconds timeout, Fault& fault) {
  const auto place = alkn::dist::read_environment();
  if (!place) throw std::runtime_error("worker: expected RANK and so on, got none");
  // not the group's timeout: a loaded machine may be slow to start
  const Ptr<c10d::Store> store = alkn::dist::environment_store(*place, alkn::dist::kTimeout);
  const auto backend = [&](const char* prefix) -> Ptr<c10d::Backend> {
    const Ptr<c10d::Store> own = c10::make_intrusive<c10d::PrefixStore>(prefix, store);
    return c10::make_intrusive<Faulty>(
        alkn::dist::gloo_backend(own, place->rank, place->size, timeout, "127.0.0.1"), fault);
  };
  return std::make_shared<alkn::dist::C10dGroup>(backend("data"), backend("control"), timeout,
                                                 store);
}

std::string weights_text(const tiny::Model& model) {
  std::string text;
  for (const at::Tensor& t : model.copies()) {
    for (std::int64_t i = 0; i < t.numel(); ++i)
      text += fmt::format("{:a} ", t.const_data_ptr<float>()[i]);
  }
  return text;
}

}  // namespace

/// Whether every thread but this one has SIGPIPE blocked, and this one has not.
bool others_block_sigpipe() {
  int others = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream status(entry.path() / "status");
    std::string word;
    while (status >> word && word != "SigBlk:") {
    }
    if (!(status >> word)) continue;  // it has ended
    const bool blocked = (std::stoull(word, nullptr, 16) >> (SIGPIPE - 1) & 1) != 0;
    const bool own = entry.path().filename() == std::to_string(::getpid());
    if (blocked == own) return false;
    others += own ? 0 : 1;
  }
  return others > 0;
}

/// What docs/processes.md begins with, without a launcher.
int alone() {
  const tiny::Model model;
  // [group]
  const std::shared_ptr<alkn::Group> group = alkn::dist::from_environment();
  alkn::ALKN<> unlearner(model.params, alkn::ALKNOptions(), alkn::AdamWOptions(1e-2), group);
  // [group]
  auto task = unlearner.begin_task({.steps = 1});
  task.abandon();
  return group == nullptr ? 0 : 1;
}

int main(int argc, char** argv) {
  if (argc == 1) return alone();
  if (argc != 3 && argc != 7) return 2;
  c10::initLogging();  // reads TORCH_CPP_LOG_LEVEL, which in Python its import does
  Fault fault;
  if (argc == 7) {
    fault.what = argv[3];
    fault.when = argv[4];
    fault.kind = argv[5];
    fault.at = std::atoi(argv[6]);
  }
  const std::string out = argv[1];
  const std::chrono::milliseconds timeout(std::atoi(argv[2]));
  std::ofstream file(out);
  try {
    const auto group =
        argc == 7 ? make_group(timeout, fault) : alkn::dist::from_environment(timeout);
    if (!others_block_sigpipe())
      throw std::runtime_error("a process that is gone may end this one");
    tiny::Model model;
    alkn::ALKN<> method(model.params, {}, alkn::AdamWOptions(1e-2), group);
    const int rank = group ? group->rank() : 0;
    const auto set_gradients = [&](int moment) {
      for (std::size_t i = 0; i < model.params.size(); ++i) {
        const at::Tensor& param = model.params[i].tensor;
        model.params[i].tensor.mutable_grad() =
            tiny::wave(param.sizes(), moment + 3.0 * rank + static_cast<double>(i), 0.1);
      }
    };
    const char* variable = std::getenv("ALKN_DIST_FOLDER");
    const std::filesystem::path folder = variable != nullptr ? variable : "";
    std::optional<alkn::ALKN<>::TaskType> task;
    if (!folder.empty() && std::filesystem::exists(folder / "index.json")) {
      auto saved = alkn::load_checkpoint(folder, method);
      if (saved) task.emplace(std::move(*saved));
    } else {
      task.emplace(method.begin_task({.steps = 3}));
      task->accumulate_retain_gradient(model["head"].square().sum());
    }
    fault.armed = true;
    const auto begin = std::chrono::steady_clock::now();
    try {
      for (auto step = tiny::core_of(method).task().done; step < 3; ++step) {
        set_gradients(static_cast<int>(step));
        method.step();
        if (!folder.empty()) alkn::save_checkpoint(folder, method);
      }
      { const auto scope = task->start_weights(); }
      task->end();
    } catch (const std::exception& error) {
      const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      file << "error\n"
           << (torch_error != nullptr ? torch_error->what_without_backtrace() : error.what())
           << "\n"
           << seconds << "\n"
           << tiny::error_of([&] { method.step(); }) << "\n";
      file.close();
      std::_Exit(3);  // the group's threads may wait for ever
    }
    file << "weights\n" << weights_text(model) << "\n";
  } catch (const std::exception& error) {
    file << "early error\n" << error.what() << "\n";
    file.close();
    std::_Exit(4);
  }
  file.close();
  return 0;
}
