// What a test draws from the bytes of libFuzzer's input.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fuzz {

/// The bytes of the input one after the other, zeros behind its end.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  /// A number of `count` bytes, the first one the highest.
  std::uint32_t next(int count = 1) {
    std::uint32_t x = 0;
    for (int i = 0; i < count; ++i) x = x << 8U | (at_ < size_ ? data_[at_++] : 0U);
    return x;
  }
  /// A number in [0, count), of one byte.
  std::size_t pick(std::size_t count) { return next() % count; }
  /// One of the elements of an array.
  template <class T, std::size_t N>
  const T& one_of(const T (&all)[N]) {
    return all[pick(N)];
  }
  [[nodiscard]] bool at_end() const { return at_ == size_; }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

}  // namespace fuzz
