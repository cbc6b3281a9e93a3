// Tensors in safetensors files, bit for bit.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sparse_coo_tensor.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "alkn/io/tensors.hpp"
#include "catch.hpp"

namespace {

std::filesystem::path temporary_file() {
  return std::filesystem::temp_directory_path() /
         ("alkn-tensors-" + std::to_string(::getpid()) + ".safetensors");
}

}  // namespace

TEST_CASE("tensors of every type come back bit for bit", "[tensors]") {
  const auto path = temporary_file();
  alkn::io::NamedTensors tensors;
  for (const auto type :
       {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf, at::kLong, at::kInt, at::kByte,
        at::kBool, at::kUInt64, at::kUInt32, at::kUInt16, at::kShort, at::kChar, at::kFloat8_e4m3fn,
        at::kFloat8_e5m2, at::kFloat8_e8m0fnu, at::kComplexFloat}) {
    tensors.emplace_back(std::string("t") + c10::toString(type),
                         at::arange(12, at::kLong).remainder(5).to(type).view({3, 4}));
  }
  tensors.emplace_back("strided", at::arange(12, at::kFloat).view({3, 4}).t());
  tensors.emplace_back("scalar", at::full({}, 2.5, at::kDouble));
  tensors.emplace_back("empty", at::full({0, 3}, 1.0, at::kFloat));
  tensors.emplace_back("leaf", at::full({2}, 1.5, at::kFloat).requires_grad_(true));
  alkn::io::save_tensors(path, tensors, {{"format", "pt"}});
  const auto loaded = alkn::io::load_tensors(path);
  std::filesystem::remove(path);
  REQUIRE(loaded.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    INFO(name);
    bool found = false;
    for (const auto& [loaded_name, other] : loaded) {
      if (loaded_name == name) {
        found = true;
        CHECK(other.scalar_type() == tensor.scalar_type());
        CHECK(other.sizes() == tensor.sizes());
        CHECK(std::memcmp(other.const_data_ptr(), tensor.contiguous().const_data_ptr(),
                          tensor.nbytes()) == 0);
      }
    }
    CHECK(found);
  }
}

TEST_CASE("tensors that the format does not have are refused", "[tensors]") {
  const auto path = temporary_file();
  const auto error_of = [&](const at::Tensor& tensor) -> std::string {
    try {
      alkn::io::save_tensors(path, {{"x", tensor}});
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  };
  const std::string expected = "alkn::io::save_tensors: expected a defined, strided tensor, got ";
  CHECK(error_of(at::Tensor()) == expected + "another (\"x\")");
  CHECK(error_of(at::full({2, 2}, 1.0, at::kFloat).to_sparse()) == expected + "another (\"x\")");
  CHECK(error_of(at::full({2}, 1.0, at::kComplexDouble)) ==
        "alkn::io::dtype_of: expected a type among Double Float BFloat16 Half Long Int Byte Bool "
        "UInt64 ComplexFloat UInt32 Short UInt16 Char Float8_e4m3fn Float8_e5m2 Float8_e8m0fnu, "
        "got ComplexDouble");
  CHECK_FALSE(std::filesystem::exists(path));
}
