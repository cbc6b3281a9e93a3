// The definitions of agreement.hpp.
#pragma once

#include <alkn/definitions.hpp>

#include <alkn/task/agreement.hpp>
#include <alkn/text.hpp>
#include <alkn/version.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace alkn::detail {

/// What one process says of a call. Sent as it is: all run the same build.
struct CallRecord {
  static constexpr std::uint16_t kTag = 0x414c;  ///< tells it from the message of Group::share()
  std::uint16_t version = ALKN_VERSION_MAJOR * 256 + ALKN_VERSION_MINOR;
  std::uint16_t tag = kTag;
  std::uint16_t call = 0;
  std::uint16_t threw = 0;  ///< its checks did
  std::int64_t task = 0, step = 0;
  double argument = 0;
  std::uint64_t settings = 0;
  std::uint64_t unlearner = 0;  ///< its number among those of the group
  std::uint64_t unused[2] = {};
};
static_assert(sizeof(CallRecord) == sizeof(GroupMessage));

template <class T>
GroupMessage to_message(const T& record) {
  static_assert(sizeof(T) == sizeof(GroupMessage));
  GroupMessage message;
  std::memcpy(message.data(), &record, sizeof record);
  return message;
}

inline CallRecord to_record(const GroupMessage& message) {
  CallRecord record;
  std::memcpy(&record, message.data(), sizeof record);
  return record;
}

ALKN_COMPILED_INLINE const char* call_name(Call call) {
  constexpr const char* kNames[] = {"construction",
                                    "add_named_parameters()",
                                    "begin_task()",
                                    "accumulate_retain_gradient()",
                                    "step()",
                                    "last_tensors()",
                                    "start_weights()",
                                    "weights_at()",
                                    "end()",
                                    "a judge of end()",
                                    "abandon()",
                                    "save_checkpoint()",
                                    "load_checkpoint()",
                                    "broadcast()"};
  const auto index = static_cast<std::size_t>(call);
  return index < std::size(kNames) ? kNames[index] : "an unknown call";
}

ALKN_COMPILED_INLINE std::vector<double> Agreement::meet(
    const CallState& mine, const std::function<void()>& checks,
    const std::function<std::vector<std::string>()>& settings) {
  const auto check_works = [&] {
    TORCH_CHECK(failure_.empty(), "alkn::", owner_, ": expected a group that works, got one that ",
                failure_, " (", call_name(mine.call),
                "); start the processes again from the last checkpoint");
  };
  check_works();
  std::exception_ptr error;
  try {
    checks();
  } catch (const OtherCall&) {  // of a call among the checks: the others know of this process
    throw;
  } catch (...) {
    error = std::current_exception();
  }
  if (error && !failure_.empty()) std::rethrow_exception(error);  // of a call among the checks
  check_works();
  CallRecord own;
  own.call = static_cast<std::uint16_t>(mine.call);
  own.threw = error ? 1 : 0;
  own.task = mine.task;
  own.step = mine.step;
  own.argument = mine.argument;
  own.settings = mine.settings;
  own.unlearner = number_;
  const auto all = watch(mine.call, [&] {
    std::vector<CallRecord> records;
    for (const GroupMessage& message : group_->gather(to_message(own)))
      records.push_back(to_record(message));
    return records;
  });
  if (error) std::rethrow_exception(error);
  const CallRecord& first = all[0];
  const auto place = [](const CallRecord& r) {
    return text_of(
        {call_name(static_cast<Call>(r.call)), " of task ", r.task, " after ", r.step, " steps"});
  };
  std::vector<int> threw;
  std::vector<double> arguments;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const CallRecord& other = all[i];
    if (other.tag != CallRecord::kTag) {
      throw_other_call("alkn::", owner_,
                       ": expected the same call on every process, got share() on process ", i,
                       " and ", call_name(mine.call), " on this one");
    }
    if (other.threw != 0) threw.push_back(static_cast<int>(i));
    arguments.push_back(other.argument);
    TORCH_CHECK(other.version == first.version, "alkn::", owner_,
                ": expected one version of alkn on every process, got others on 0 and on ", i);
    if (other.unlearner != first.unlearner) {
      const auto whose = [](const CallRecord& r) {
        return text_of({call_name(static_cast<Call>(r.call)), " of unlearner ", r.unlearner});
      };
      throw_other_call("alkn::", owner_,
                       ": expected a call of the same unlearner on every process, got ",
                       whose(first), " on process 0 and ", whose(other), " on process ", i,
                       " (numbered in the order of their construction)");
    }
    if (other.call != first.call || other.task != first.task || other.step != first.step) {
      throw_other_call("alkn::", owner_, ": expected the same call on every process, got ",
                       place(first), " on process 0 and ", place(other), " on process ", i);
    }
  }
  TORCH_CHECK(threw.empty(), "alkn::", owner_, ": expected ", call_name(mine.call),
              " to go on on every process, got an error on process ", listed(threw),
              "; nothing was changed");
  for (std::size_t i = 1; i < all.size(); ++i) {
    const CallRecord& other = all[i];
    TORCH_CHECK(!mine.same_argument || other.argument == first.argument, "alkn::", owner_,
                ": expected the same arguments of ", call_name(mine.call),
                " on every process, got ",
                text_of({first.argument, " on process 0 and ", other.argument, " on process ", i}));
    if (other.settings == first.settings) continue;
    const std::vector<std::string> lines = settings();
    const auto these = watch(mine.call, [&] { return other_lines(lines, 0); });
    const auto those = watch(mine.call, [&] { return other_lines(lines, static_cast<int>(i)); });
    std::size_t k = 0;
    while (k < these.size() && k < those.size() && these[k] == those[k]) ++k;
    TORCH_CHECK(false, "alkn::", owner_,
                ": expected the same parameters and options on every process, got ",
                text_of({k < these.size() ? these[k] : "nothing more", " on process 0 and ",
                         k < those.size() ? those[k] : "nothing more", " on process ", i, " (",
                         call_name(mine.call), ")"}));
  }
  return arguments;
}

/// The lines of one process, on all of them, in messages of 64 bytes.
ALKN_COMPILED_INLINE std::vector<std::string> Agreement::other_lines(
    const std::vector<std::string>& mine, int process) {
  std::string text;
  for (const std::string& line : mine) text.append(line).push_back('\n');
  const auto gather = [&](const GroupMessage& message) {
    return group_->gather(message)[static_cast<std::size_t>(process)];
  };
  GroupMessage message{};
  const std::uint64_t own_size = text.size();
  std::memcpy(message.data(), &own_size, sizeof own_size);
  const GroupMessage theirs = gather(message);
  std::uint64_t size = 0;
  std::memcpy(&size, theirs.data(), sizeof size);
  std::string all;
  while (all.size() < size) {
    message = {};
    const std::size_t at = std::min(all.size(), text.size());
    std::memcpy(message.data(), text.data() + at, std::min(message.size(), text.size() - at));
    const GroupMessage part = gather(message);
    all.append(static_cast<const char*>(static_cast<const void*>(part.data())), part.size());
  }
  all.resize(size);
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t end = 0; (end = all.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(all.substr(begin, end - begin));
  return lines;
}

ALKN_COMPILED_INLINE void refuse_construction(const Processes& processes, const char* owner) {
  if (!processes.group) return;
  const std::exception_ptr error = std::current_exception();
  Agreement(processes.group, owner)
      .meet({.call = Call::construction}, [&] { std::rethrow_exception(error); }, {});
}

ALKN_COMPILED_INLINE void Agreement::fail(Call call) {
  std::string what = "an exception that is no std::exception";
  try {
    throw;
  } catch (const c10::Error& error) {
    what = error.what_without_backtrace();
  } catch (const std::exception& error) {
    what = error.what();
  } catch (...) {  // keeps the words above
  }
  mark_failed(text_of({"failed in ", call_name(call)}));
  std::vector<int> missing;
  try {
    missing = group_->missing();
  } catch (const std::exception&) {  // the store is gone as well
  }
  TORCH_CHECK(false, "alkn::", owner_, ": expected all ", group_->size(), " processes in ",
              call_name(call), ", got ", what,
              missing.empty() ? "" : text_of({" (not there: process ", listed(missing), ")"}),
              "; this process's weights are unspecified, the last checkpoint is whole");
}

}  // namespace alkn::detail
