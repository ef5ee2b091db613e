// What the grid coder knows about an int8 matrix: a spread class for each row and each column, whose sum chooses one of
// a few frequency tables that all matrices of an artifact share. Trained matrices are close to Gaussian with a spread
// of (row factor) x (column factor); the factors cost about 3 bits each, the tables a few kilobytes for the whole
// artifact.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/file.h"
#include "base/threads.h"

namespace bg {

constexpr int kClasses = 96;  // spreads 2^(-4), 2^(-4 + 1/8), ..., of the integers' root mean square
constexpr int kStepsPerOctave = 8;
constexpr int kClassOfOne = 32;     // class whose spread is 1
constexpr int kColumnReach = 64;    // column classes lie in [-64, 63]; row classes in [0, kClasses)
constexpr int kFrequencyBits = 14;  // a table's frequencies add up to 2^14
constexpr uint32_t kFrequencySum = 1u << kFrequencyBits;

/// One int8 matrix to be coded; values stay where they are.
struct GridView {
  std::span<const int8_t> values;  // rows x columns
  int64_t rows = 0, columns = 0;
};

struct GridClasses {
  std::vector<int8_t> row, column;
};

using Frequencies = std::array<uint16_t, 256>;  // by value + 128

struct GridModel {
  std::vector<Frequencies> tables;           // each adds up to kFrequencySum
  std::array<uint8_t, kClasses> table_of{};  // class -> index into tables; never decreases
  std::vector<GridClasses> classes;          // one per matrix
};

inline int clamp_class(int k) {
  return k < 0 ? 0 : k >= kClasses ? kClasses - 1 : k;
}

/// Chooses classes and tables that make the whole small. Integer arithmetic throughout: the same model on every machine
/// and at any thread count. Every value that occurs under a table has a frequency there.
GridModel fit_grid(ThreadPool& pool, std::span<const GridView> grids);

/// The model as bytes, and back. shapes gives rows and columns per matrix; memory grows with what is decoded, to their
/// sum at most, which is refused above 2^26 and above what so few bytes can hold.
/// read_grid_model throws FormatError starting with `what` unless every table adds up and every class is in range.
Bytes write_grid_model(const GridModel& model);
GridModel read_grid_model(std::span<const uint8_t> bytes, std::span<const GridView> shapes, const std::string& what);

}  // namespace bg
