// Safetensors files: what is written is read by a reader made from the format's description alone,
// and every kind of damage is named.
#include <sys/resource.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "alkn/io/safetensors.hpp"
#include "catch.hpp"
#include "folder.hpp"

namespace {

namespace fs = std::filesystem;
using alkn::io::ArrayView;
using alkn::io::DType;
using alkn::io::SafetensorsFile;
using files::bytes_of;
using files::Folder;
using files::put;

/// A file with this header and these data, however wrong.
std::string raw_file(const std::string& header, const std::string& data) {
  std::string bytes;
  for (unsigned i = 0; i < 8; ++i) {
    bytes += static_cast<char>((header.size() >> (8 * i)) & 0xFFU);
  }
  return bytes + header + data;
}

/// The text of the error, without the file's name at its end.
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    const std::string text = error.what();
    return text.substr(0, text.rfind(" (/"));
  }
  return "no error";
}

std::string error_of_file(const fs::path& path, const std::string& bytes) {
  put(path, bytes);
  return error_of([&] { SafetensorsFile file(path); });
}

/// A second reader, from the description of the format and nothing else: finds an array's entry by
/// plain text search and returns its bytes.
struct PlainArray {
  std::string dtype, shape, bytes;
  std::size_t offset_in_file = 0;
};
PlainArray plain_read(const std::string& file, const std::string& name) {
  std::uint64_t header_size = 0;
  for (unsigned i = 0; i < 8; ++i) {
    header_size |= static_cast<std::uint64_t>(static_cast<unsigned char>(file[i])) << (8 * i);
  }
  const std::string header = file.substr(8, header_size);
  const std::size_t entry = header.find("\"" + name + "\":{");
  const auto between = [&](const std::string& key, const std::string& close) {
    const std::size_t begin = header.find(key, entry) + key.size();
    return header.substr(begin, header.find(close, begin) - begin);
  };
  PlainArray array;
  array.dtype = between("\"dtype\":\"", "\"");
  array.shape = between("\"shape\":[", "]");
  const std::string offsets = between("\"data_offsets\":[", "]");
  const std::size_t begin = std::stoull(offsets);
  const std::size_t end = std::stoull(offsets.substr(offsets.find(',') + 1));
  array.offset_in_file = 8 + header_size + begin;
  array.bytes = file.substr(array.offset_in_file, end - begin);
  return array;
}

const std::array<double, 3> kDoubles{0.5, -2.25, 1e300};
const std::array<float, 4> kFloats{1.F, -0.F, 3.5F, 1e-40F};
const std::array<std::uint16_t, 3> kHalves{0x3F80, 0xC000, 0x7FC0};
const std::array<std::int64_t, 2> kLongs{-5, std::int64_t{1} << 60U};
const std::array<std::int32_t, 1> kInts{-7};
const std::array<std::uint8_t, 5> kBytes{0, 1, 255, 3, 4};

std::vector<ArrayView> sample() {
  return {{"flags", DType::boolean, {2}, kBytes.data(), 2},
          {"bytes", DType::u8, {5}, kBytes.data(), 5},
          {"layer.weight", DType::f32, {2, 2}, kFloats.data(), 16},
          {"bf16", DType::bf16, {3}, kHalves.data(), 6},
          {"f16", DType::f16, {1, 3}, kHalves.data(), 6},
          {"scalar", DType::i32, {}, kInts.data(), 4},
          {"empty", DType::f32, {0, 7}, nullptr, 0},
          {"long", DType::i64, {2}, kLongs.data(), 16},
          {"double", DType::f64, {3}, kDoubles.data(), 24}};
}

}  // namespace

TEST_CASE("a reader made from the format's description finds every array", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  alkn::io::save_safetensors(path, sample(), {{"format", "pt"}, {"quote", "a \"b\"\n"}});
  const std::string file = bytes_of(path);
  CHECK(folder.num_files() == 1);
  for (const ArrayView& array : sample()) {
    const PlainArray found = plain_read(file, array.name);
    CHECK(found.dtype == alkn::io::to_string(array.dtype));
    std::string shape;
    for (const auto extent : array.shape) {
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    }
    CHECK(found.shape == shape);
    const std::string expected(static_cast<const char*>(array.data),
                               static_cast<std::size_t>(array.num_bytes));
    CHECK((found.bytes == expected));
  }
  CHECK(plain_read(file, "double").offset_in_file % 8 == 0);
  CHECK(plain_read(file, "layer.weight").offset_in_file % 4 == 0);
  CHECK(plain_read(file, "bf16").offset_in_file % 2 == 0);
  for (std::string name; name.size() < 8; name += 'n') {  // the data begin at a multiple of 8
    alkn::io::save_safetensors(path, {{name, DType::f64, {3}, kDoubles.data(), 24}});
    CHECK(plain_read(bytes_of(path), name).offset_in_file % 8 == 0);
  }
}

TEST_CASE("our reader returns what was written", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  alkn::io::save_safetensors(path, sample(), {{"format", "pt"}});
  const SafetensorsFile file(path);
  CHECK(file.arrays().size() == sample().size());
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.verify());
  for (const ArrayView& array : sample()) {
    const auto* info = file.find(array.name);
    REQUIRE(info != nullptr);
    CHECK(info->dtype == array.dtype);
    CHECK(info->shape == array.shape);
    std::vector<char> bytes(static_cast<std::size_t>(info->num_bytes()) + 1);
    file.read(*info, bytes.data());
    CHECK(std::memcmp(bytes.data(), array.data == nullptr ? "" : array.data,
                      static_cast<std::size_t>(array.num_bytes)) == 0);
  }
  CHECK(file.find("layer") == nullptr);
}

TEST_CASE("files of other writers are read", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  put(path, raw_file(R"({"b":{"data_offsets":[4,6],"shape":[2],"dtype":"U8"},)"
                     R"("a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}   )",
                     "abcdef"));
  const SafetensorsFile file(path);
  CHECK_FALSE(file.verify());
  std::string text = "  ";
  file.read(*file.find("b"), text.data());
  CHECK(text == "ef");
  put(path, raw_file("{}", ""));
  CHECK(SafetensorsFile(path).arrays().empty());
}

TEST_CASE("every damaged file is refused with its reason", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("bad.safetensors");
  const std::string name = "alkn::io::SafetensorsFile: expected ";
  CHECK(error_of([&] { SafetensorsFile file(path); }) == name + "a readable file, got none");
  CHECK(error_of([&] { SafetensorsFile file(path.parent_path()); }) ==
        name + "a file, got a folder: give a file in it, or open it as alkn::io::ModelFolder");
  CHECK(error_of([&] { SafetensorsFile file(folder.file("model.safetensors.index.json")); }) ==
        name +
            "a safetensors file, got an index of shards: give the folder to "
            "alkn::io::ModelFolder");
  CHECK(error_of([&] { SafetensorsFile file(folder.file("config.json")); }) ==
        name + "a safetensors file, got a JSON file");
  CHECK(error_of_file(path, "1234567") == name + "at least 8 bytes, got 7");
  CHECK(error_of_file(path, std::string("\x05\0\0\0\0\0\0\0{}", 10)) ==
        name + "a header inside the file, got 5 bytes");
  CHECK(error_of_file(path, std::string(8, '\xFF')) ==
        name + "a header inside the file, got 18446744073709551615 bytes");
  CHECK(error_of_file(path, raw_file("{\"a\":\n", "")) ==
        name + "complete JSON in the header, got the end after 6 bytes");
  CHECK(error_of_file(path, raw_file("[1]", "")) ==
        name + "a header that is a JSON object, got \"[1]\"");
  CHECK(error_of_file(path, raw_file(R"({"__metadata__":{"a":1}})", "")) ==
        name + R"(__metadata__ with strings alone, got {"a":1})");
  CHECK(error_of_file(path,
                      raw_file(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "x")) ==
        name + R"(dtype, shape and two data_offsets of "a", got )"
               R"({"data_offsets":[0,1],"dtype":"U8","shape":[-1]})");
  CHECK(error_of_file(path,
                      raw_file(R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}})", "x")) ==
        name + R"(a dtype among F64 F32 BF16 F16 I64 I32 U8 BOOL U64 C64 U32 I16 U16 I8 )"
               R"(F8_E4M3 F8_E5M2 F8_E8M0, got Q4 of "a")");
  CHECK(error_of_file(path,
                      raw_file(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", "x")) ==
        name + R"(data_offsets of "a" that fit its shape, got )"
               R"({"data_offsets":[0,1],"dtype":"U8","shape":[2]})");
  CHECK(error_of_file(path, raw_file(R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],)"
                                     R"("data_offsets":[0,0]}})",
                                     "")) ==
        name + R"(data_offsets of "a" that fit its shape, got )"
               R"({"data_offsets":[0,0],"dtype":"F64","shape":[4294967296,4294967296]})");
  CHECK(error_of_file(path, raw_file(R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],)"
                                     R"("data_offsets":[1,0]}})",
                                     "")) ==
        name + R"(data_offsets of "a" that fit its shape, got )"
               R"({"data_offsets":[1,0],"dtype":"F64","shape":[4294967296,4294967296]})");
  CHECK(error_of_file(
            path, raw_file(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", "x")) ==
        name + R"(dtype, shape and two data_offsets of "a", got )"
               R"({"data_offsets":[0,1],"dtype":"U8","shape":[1.5]})");
  CHECK(error_of_file(
            path, raw_file(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", "x")) ==
        name + R"(dtype, shape and two data_offsets of "a", got )"
               R"({"data_offsets":[0,1,1],"dtype":"U8","shape":[1]})");
  CHECK(error_of_file(path, raw_file(" {}", "")) ==
        name + "a header that is a JSON object, got \" {}\"");
  const std::string one = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  CHECK(error_of_file(path, raw_file("{" + one + "," + one + "}", "xy")) ==
        name + R"(every key once in the header, got "a" twice)");
  CHECK(error_of_file(path, raw_file("{" + one + "}", "x")) == name + "2 bytes of data, got 1");
  CHECK(error_of_file(path, raw_file("{" + one + "}", "xyz")) == name + "2 bytes of data, got 3");
  for (const char* overlapping : {"[1,3]", "[0,2]"}) {
    const std::string two = R"("b":{"dtype":"U8","shape":[2],"data_offsets":)";
    const std::string error =
        error_of_file(path, raw_file("{" + one + "," + two + overlapping + "}}", "xyz"));
    CHECK(error.find("to begin at byte 2, got ") != std::string::npos);
  }
}

TEST_CASE("a single changed bit of the data is found", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  alkn::io::save_safetensors(path, sample());
  const std::string good = bytes_of(path);
  const std::size_t data = good.size() - (24 + 16 + 16 + 4 + 6 + 6 + 5 + 2);
  for (std::size_t at = data; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    put(path, bad);
    const SafetensorsFile file(path);
    CHECK(error_of([&] { file.verify(); }).find("expected data with checksum") !=
          std::string::npos);
  }
  put(path, good);
  CHECK(SafetensorsFile(path).verify());

  const std::vector<char> large((1 << 20) + 9);  // more than is read at a time
  const auto size = static_cast<std::int64_t>(large.size());
  alkn::io::save_safetensors(path, {{"x", DType::u8, {size}, large.data(), size}});
  CHECK(SafetensorsFile(path).verify());
  std::string bad = bytes_of(path);
  bad.back() = 1;
  put(path, bad);
  CHECK_THROWS_AS(SafetensorsFile(path).verify(), std::runtime_error);
}

TEST_CASE("arrays that contradict themselves are not written", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  const auto save_error = [&](const std::vector<ArrayView>& arrays,
                              const alkn::io::Metadata& metadata = {}) {
    return error_of([&] { alkn::io::save_safetensors(path, arrays, metadata); });
  };
  const std::string name = "alkn::io::save_safetensors: expected ";
  const ArrayView bytes{"x", DType::u8, {5}, kBytes.data(), 5};
  CHECK(save_error({{"x", DType::f32, {2}, kFloats.data(), 4}}) == name + "8 bytes, got 4 (\"x\")");
  CHECK(save_error({{"x", DType::f32, {-2}, kFloats.data(), 4}}) ==
        name + "-1 bytes, got 4 (\"x\")");
  CHECK(save_error({bytes, bytes}) ==
        name + "distinct names other than __metadata__, got \"x\" again");
  CHECK(save_error({{"__metadata__", DType::u8, {5}, kBytes.data(), 5}}) ==
        name + "distinct names other than __metadata__, got \"__metadata__\" again");
  CHECK(save_error({bytes}, {{"key", "\xFF"}}) ==
        name + "names and metadata in UTF-8, got other bytes");
  CHECK(folder.num_files() == 0);
}

TEST_CASE("what cannot be written leaves nothing behind", "[safetensors]") {
  const Folder folder;
  CHECK(error_of([&] {
          alkn::io::save_safetensors(folder.file("none") / "a.safetensors", sample());
        }).find("expected a writable folder for") != std::string::npos);

  // A limit on the size of files stands for a full disk: the write fails half-way.
  const fs::path path = folder.file("a.safetensors");
  put(path, "what was there before");
  ::rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  ::rlimit small = before;
  small.rlim_cur = 1 << 16;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::vector<char> large(1 << 20);
  const std::string error = error_of([&] {
    alkn::io::save_safetensors(path, {{"x", DType::u8, {1 << 20}, large.data(), 1 << 20}});
  });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(error.find("alkn::io::AtomicFile: expected to write ") == 0);
  CHECK(error.find("File too large") != std::string::npos);
  CHECK(bytes_of(path) == "what was there before");
  CHECK(folder.num_files() == 1);
  const fs::path full = folder.file("folder");
  fs::create_directories(full / "inner");
  CHECK(error_of([&] { alkn::io::save_safetensors(full, sample()); }) ==
        "alkn::io::AtomicFile: expected a regular file, or none, at " + full.string() +
            ", got a folder");
  CHECK(folder.num_files() == 2);
}

TEST_CASE("a bit that flips anywhere is found, or changes nothing", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  std::vector<ArrayView> arrays = sample();
  arrays.push_back({"none", DType::u8, {0}, nullptr, 0});  // empty ones lie at one place
  arrays.push_back({"another", DType::i64, {3, 0}, nullptr, 0});
  arrays.push_back({"empty too", DType::f32, {0}, nullptr, 0});
  alkn::io::save_safetensors(path, arrays, {{"format", "pt"}, {"alkn.what", "model"}});
  const std::string good = bytes_of(path);
  const auto contents = [&] {
    const SafetensorsFile file(path);
    std::string text = file.verify() ? "" : "without checksum ";
    for (const auto& [key, value] : file.metadata()) text += key + "=" + value + ";";
    for (const auto& array : file.arrays()) {
      text += array.name + alkn::io::to_string(array.dtype);
      for (const auto extent : array.shape) text += " " + std::to_string(extent);
      std::string bytes(static_cast<std::size_t>(array.num_bytes()), ' ');
      file.read(array, bytes.data());
      text += ":" + bytes;
    }
    return text;
  };
  const std::string want = contents();
  CHECK(want.find("without") == std::string::npos);
  std::size_t refused = 0, same = 0;
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    put(path, bad);
    try {
      if (contents() != want) FAIL("bit " << bit << " changed what was read");
      ++same;
    } catch (const std::runtime_error&) {
      ++refused;
    }
  }
  CHECK(refused > 5000);
  CHECK(same < 10);
  // Two at once: the keys of both checksums lie 40 bytes apart.
  const auto flip = [&](const std::string& from, const std::string& to) {
    std::string bad = good;
    for (auto at = bad.find(from); at != std::string::npos; at = bad.find(from)) {
      bad.replace(at, from.size(), to);
    }
    return error_of_file(path, bad);
  };
  const std::string name =
      "alkn::io::SafetensorsFile: expected twice the checksum that begins with ";
  CHECK(flip("alkn.what", "alkn.that").rfind(name, 0) == 0);
  CHECK(flip("alkn.checksum.copy", "alkn.checksum.cozy").rfind(name, 0) == 0);
  CHECK(flip("alkn.checksum\"", "alkn.checksun\"").rfind(name, 0) == 0);
  CHECK(flip("bf16\":", "bf17\":").rfind(name, 0) == 0);
  CHECK(flip("[1,3]", "[3,1]").rfind(name, 0) == 0);
  CHECK(flip("\"F16\"", "\"I16\"").rfind(name, 0) == 0);
}

TEST_CASE("files with the checksum of version 0.1.0 are read, and compared", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  const auto old = [](const std::string& data) {
    return raw_file(R"({"__metadata__":{"alkn.checksum":"448004954688197727"},)"
                    R"("x":{"dtype":"U8","shape":[11],"data_offsets":[0,11]}})",
                    data);
  };
  put(path, old("hello world"));
  CHECK(SafetensorsFile(path).verify());
  put(path, old("hello worle"));
  CHECK(error_of([&] {
          SafetensorsFile(path).verify();
        }).find("expected data with checksum 448004954688197727, got ") != std::string::npos);
}

TEST_CASE("a header is JSON and nothing else", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("bad.safetensors");
  const std::string name = "alkn::io::SafetensorsFile: expected ";
  CHECK(error_of_file(path, raw_file(std::string("{}\0 x", 5), "")) ==
        name + R"(JSON in the header, got "\x00" at byte 3)");
  const std::string deep(75'000, '[');
  for (const std::string& header :
       {deep, "{\"__metadata__\":" + deep, "{\"a\":{\"dtype\":\"U8\",\"shape\":" + deep,
        "{\"a\":" + deep + std::string(75'000, ']') + "}"}) {
    CHECK(error_of_file(path, raw_file(header, "")) ==
          name + "JSON of at most 64 levels in the header, got more");
  }
  CHECK(error_of_file(path, raw_file(R"({"__metadata__":{"a":"b","a":"c"}})", "")) ==
        name + R"(every key once in the header, got "a" twice)");
  CHECK(error_of_file(path, raw_file(R"({"a\n\u001b[1m":{"dtype":"U8"}})", "")) ==
        name + R"(dtype, shape and two data_offsets of "a\x0A\x1B[1m", got {"dtype":"U8"})");
}

TEST_CASE("a reader beside a writer sees one file or the other", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a.safetensors");
  const auto save = [&](std::size_t size) {
    const std::vector<unsigned char> bytes(size, static_cast<unsigned char>(size));
    const auto length = static_cast<std::int64_t>(size);
    alkn::io::save_safetensors(path, {{"x", DType::u8, {length}, bytes.data(), length}});
  };
  save(1);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (std::size_t i = 0; !done; ++i) save(1 + i % 200);
  });
  std::string error;
  for (int i = 0; i < 3000 && error.empty(); ++i) {
    try {
      const SafetensorsFile file(path);
      file.verify();
    } catch (const std::exception& caught) {
      error = caught.what();
    }
  }
  done = true;
  writer.join();
  CHECK(error.empty());
  // The same without chance: the file is replaced while it is open.
  save(100);
  const SafetensorsFile file(path);
  save(50);
  CHECK(file.verify());
  CHECK(file.arrays()[0].num_bytes() == 100);
}

TEST_CASE("two writers of one file do not meet: the last to finish stays", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a");
  alkn::io::AtomicFile first(path), second(path);
  first.write("first");
  second.write("second");
  second.commit();
  CHECK(bytes_of(path) == "second");
  first.commit();
  CHECK(bytes_of(path) == "first");
  CHECK(folder.num_files() == 1);
}

TEST_CASE("a file that is replaced keeps its mode, and a link its target", "[safetensors]") {
  const Folder folder;
  const fs::path path = folder.file("a"), link = folder.file("link");
  put(path, "before");
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  fs::create_symlink("a", link);
  alkn::io::write_file(link, "after");
  CHECK(fs::is_symlink(link));
  CHECK(bytes_of(path) == "after");
  CHECK(fs::status(path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
  CHECK(folder.num_files() == 2);
}
