// How an int8 matrix becomes bytes under known frequencies: four interleaved range asymmetric numeral systems, one per
// column modulo 4, with 16-bit words. Source: Duda 2013, arXiv:1311.2540; interleaving: Giesen 2014, arXiv:1402.3392.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "codec/grid_model.h"

namespace bg {

/// The tables of a model in the form the decoder reads: from a slot of 0..2^14-1 to its value, frequency and start.
class GridTables {
 public:
  explicit GridTables(const GridModel& model);

  struct Table {
    uint16_t frequency[256];
    uint16_t start[256];
    uint8_t value_of_slot[kFrequencySum];  // value + 128
  };
  /// Table of class k for any k in [-kColumnReach, kClasses + kColumnReach): clamped to the classes there are.
  const Table* const* of_class_zero() const { return by_class_.data() + kColumnReach; }

 private:
  std::vector<std::unique_ptr<Table>> tables_;
  std::array<const Table*, kClasses + 2 * kColumnReach> by_class_{};
};

/// Every value of `grid` must have a frequency under its class (fit_grid promises it).
Bytes encode_grid(const GridTables& tables, const GridClasses& classes, const GridView& grid);

/// Fills out (rows x columns, as classes say). Throws FormatError starting with `what` unless the words end exactly
/// where the values do.
void decode_grid(const GridTables& tables, const GridClasses& classes, std::span<const uint8_t> bytes,
                 std::span<int8_t> out, const std::string& what);
/// The same checks without keeping a value.
void check_grid(const GridTables& tables, const GridClasses& classes, std::span<const uint8_t> bytes,
                const std::string& what);

}  // namespace bg
