// JSON is read strictly: whatever a file holds beside one value is an error that says where.
#include <string>
#include <string_view>

#include "alkn/io/input_file.hpp"
#include "alkn/io/json.hpp"
#include "catch.hpp"
#include "folder.hpp"

using alkn::io::JsonError;
using alkn::io::parse_json;
using Json = nlohmann::json;

namespace {

/// "expected, got (key) byte"
std::string problem(std::string_view text) {
  try {
    return "none: " + parse_json(text).dump();
  } catch (const JsonError& error) {
    CHECK(error.what() == "alkn::io: expected " + error.expected + ", got " + error.got);
    return error.expected + ", got " + error.got + " (" + error.key + ") " +
           std::to_string(error.byte);
  }
}

std::string nested(std::size_t depth, const std::string& inner = "") {
  return std::string(depth, '[') + inner + std::string(depth, ']');
}

}  // namespace

TEST_CASE("JSON of every kind is what the library makes of it", "[json]") {
  for (const char* text :
       {"null", " true\n", "-0.5e3", "18446744073709551615", "-9223372036854775808",
        R"("A\u00e9\ud83d\ude00\u0000")", "[]", "{}", R"([1, [2, {"a": [], "b": {"c": null}}]])",
        R"({"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]})", "\xEF\xBB\xBF[1]"}) {
    INFO(text);
    CHECK(parse_json(text) == Json::parse(text));
  }
  const std::string_view ordered = R"({"b":1,"a":{"d":2,"c":3}})";
  CHECK(parse_json<nlohmann::ordered_json>(ordered).dump() == ordered);
}

TEST_CASE("a NUL byte is no end of JSON", "[json]") {
  const std::string record = R"({"a": 1})";
  CHECK(problem(record + std::string("\0\0", 2) + record) ==
        R"(JSON, got "\x00\x00" at byte 9 () 8)");
  CHECK(problem(record + std::string("\n\0 anything", 11)) ==
        R"(JSON, got "\x00" at byte 10 () 9)");
  CHECK(problem(std::string("[1,\0 2]", 7)) == R"(JSON, got "\x00" at byte 4 (1) 3)");
  CHECK(problem(std::string("[\"a\0b\"]", 7)) == R"(JSON, got ""a\x00b"" at byte 4 (0) 3)");
  CHECK(problem(std::string("\0", 1)) == R"(JSON, got "\x00" at byte 1 () 0)");
  CHECK(problem(std::string("[1]\0", 4)) == R"(JSON, got "\x00" at byte 4 () 3)");
}

TEST_CASE("what follows a value is not the end", "[json]") {
  CHECK(problem("{} x") == R"(JSON, got "x" at byte 4 () 3)");
  CHECK(problem("{}}") == R"(JSON, got "}" at byte 3 () 2)");
  CHECK(problem("1 2") == R"(JSON, got "2" at byte 3 () 2)");
  CHECK(problem("{\"a\": 1") == "complete JSON, got the end after 7 bytes (a) 7");
  CHECK(problem("[1, \"ab") == "complete JSON, got the end after 7 bytes (1) 7");
  CHECK(problem("tru") == "complete JSON, got the end after 3 bytes () 3");
  CHECK(problem("") == "JSON, got nothing () 0");
  CHECK(problem(" \r\n") == "JSON, got nothing () 3");
}

TEST_CASE("an error says which key it is at, whatever the file holds", "[json]") {
  CHECK(problem(R"({"a": [1, {"b": nan}]})") == "a finite number, got nan (a/1/b) 17");
  CHECK(problem("[-Infinity]") == "a finite number, got -Infinity (0) 2");
  CHECK(problem(R"({"a": 1e999})") == "a finite number, got 1e999 (a) 11");
  CHECK(problem(R"({"a": })") == R"(JSON, got "}" at byte 7 (a) 6)");
  CHECK(problem("{\"\xE9\": x}") == R"(JSON, got ""\xE9"" at byte 4 () 3)");
  CHECK(problem("{\"\x1B[31m\": 1}") == R"(JSON, got ""\x1B" at byte 3 () 2)");
  CHECK(problem("{\"a\\u001b\": x}") == R"(JSON, got "x" at byte 13 (a\x1B) 12)");
  CHECK(problem("\xFF\xFE{\0}\0") == R"(JSON, got "\xFF\xFE" at byte 1 () 0)");
}

TEST_CASE("a key twice in one object is refused at any depth", "[json]") {
  CHECK(problem(R"({"a": 1, "a": 2})") == R"(every key once, got "a" twice (a) 12)");
  CHECK(problem(R"([{"x": {"b": 1, "c": 2, "b": 3}}])") ==
        R"(every key once, got "b" twice (0/x/b) 27)");
}

TEST_CASE("depth ends in an error and not in the stack", "[json]") {
  CHECK(parse_json(nested(64)) == Json::parse(nested(64)));
  const std::string tail = "JSON of at most 64 levels, got more (";
  CHECK(problem(nested(65)).rfind(tail, 0) == 0);
  CHECK(problem(nested(75'000)).rfind(tail, 0) == 0);
  CHECK(problem(std::string(1'000'000, '[')).rfind(tail, 0) == 0);
  std::string objects;
  for (int i = 0; i < 75'000; ++i) objects += "{\"a\":";
  CHECK(problem(objects).rfind(tail, 0) == 0);
}

TEST_CASE("bytes of files are shown as one line of ASCII, and cut", "[text]") {
  using alkn::io::printable;
  CHECK(printable("plain \"text\" ~") == "plain \"text\" ~");
  CHECK(printable(std::string_view("a\0b\n\t\x7F\x80\xFF", 8)) == R"(a\x00b\x0A\x09\x7F\x80\xFF)");
  CHECK(printable("abcdef", 6) == "abcdef");
  CHECK(printable("abcdefg", 6) == "abcdef...");
  CHECK(alkn::io::shown(Json("\u00e9")) == R"("\u00e9")");
  CHECK(alkn::io::line_of("a\nb\nc", 2) == 2);
  CHECK(alkn::io::line_of("a\nb\nc", 1) == 1);
}

TEST_CASE("one place takes a byte-order mark off", "[text]") {
  const files::Folder folder;
  const auto path = folder.file("text");
  files::put(path, "\xEF\xBB\xBF{}");
  CHECK(alkn::io::read_text(path) == "{}");
  CHECK(alkn::io::read_bytes(path) == "\xEF\xBB\xBF{}");
  files::put(path, "\xEF\xBB\xBF");
  CHECK(alkn::io::read_text(path).empty());
  for (const std::string& mark :
       {std::string("\xFF\xFE"), std::string("\xFE\xFF"), std::string("\0\0\xFE\xFF", 4)}) {
    files::put(path, mark + "{");
    CHECK(files::error_of([&] { alkn::io::read_text(path); }) ==
          "alkn::io: expected a text in UTF-8, got the byte-order mark of UTF-16 or UTF-32");
  }
}
