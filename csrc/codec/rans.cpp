#include "codec/rans.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"

namespace bg {
namespace {

constexpr int kLanes = 4;
constexpr uint32_t kLow = 1u << 16;  // a state lies in [2^16, 2^32)

uint16_t load_word(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}

}  // namespace

GridTables::GridTables(const GridModel& model) {
  for (const Frequencies& f : model.tables) {
    Table& t = *tables_.emplace_back(std::make_unique<Table>());
    uint32_t at = 0;
    for (int v = 0; v < 256; ++v) {
      t.frequency[v] = f[v];
      t.start[v] = static_cast<uint16_t>(at);
      std::memset(t.value_of_slot + at, v, f[v]);
      at += f[v];
    }
  }
  for (int i = 0; i < static_cast<int>(by_class_.size()); ++i) {
    by_class_[i] = tables_[model.table_of[clamp_class(i - kColumnReach)]].get();
  }
}

Bytes encode_grid(const GridTables& tables, const GridClasses& classes, const GridView& grid) {
  const size_t rows = classes.row.size(), columns = classes.column.size();
  uint32_t state[kLanes] = {kLow, kLow, kLow, kLow};
  std::vector<uint16_t> words;
  words.reserve(grid.values.size() / 3);
  for (size_t i = rows; i-- > 0;) {
    const int8_t* q = grid.values.data() + i * columns;
    const auto of_column = tables.of_class_zero() + classes.row[i];
    for (size_t j = columns; j-- > 0;) {
      const GridTables::Table& t = *of_column[classes.column[j]];
      const int v = q[j] + 128;
      const uint32_t f = t.frequency[v];
      BG_CHECK(f != 0, "value", v - 128, "has no frequency");
      uint32_t& x = state[j % kLanes];
      if (x >= uint64_t{f} << (32 - kFrequencyBits)) {
        words.push_back(static_cast<uint16_t>(x));
        x >>= 16;
      }
      x = (x / f << kFrequencyBits) + x % f + t.start[v];
    }
  }
  Bytes out;
  out.reserve(4 * kLanes + 2 * words.size());
  for (uint32_t x : state) {
    for (int b = 0; b < 4; ++b) out.push_back(static_cast<uint8_t>(x >> (8 * b)));
  }
  for (size_t i = words.size(); i-- > 0;) {
    out.push_back(static_cast<uint8_t>(words[i]));
    out.push_back(static_cast<uint8_t>(words[i] >> 8));
  }
  return out;
}

namespace {

constexpr size_t kPieceColumns = 1 << 14;  // a multiple of kLanes

/// place(i, j) is where the up to kPieceColumns values of row i from column j on go.
template <class Place>
void decode(const GridTables& tables, const GridClasses& classes, std::span<const uint8_t> bytes, const Place& place,
            const std::string& what) {
  const size_t rows = classes.row.size(), columns = classes.column.size();
  if (bytes.size() < 4 * kLanes) throw FormatError(what + ": a stream of fewer than 16 bytes");
  uint32_t state[kLanes];
  for (int s = 0; s < kLanes; ++s) {
    state[s] = load_word(&bytes[4 * s]) | uint32_t{load_word(&bytes[4 * s + 2])} << 16;
  }
  const uint8_t* word = bytes.data() + 4 * kLanes;
  const uint8_t* const end = bytes.data() + bytes.size();
  const auto early_end = [&] { throw FormatError(what + ": the stream ends before its values"); };
  const auto take = [](uint32_t& x, const GridTables::Table& t) {
    const uint32_t slot = x & (kFrequencySum - 1);
    const uint8_t v = t.value_of_slot[slot];
    x = t.frequency[v] * (x >> kFrequencyBits) + slot - t.start[v];
    return static_cast<int8_t>(v - 128);
  };
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  for (size_t i = 0; i < rows; ++i) {
    const auto of_column = tables.of_class_zero() + classes.row[i];
    for (size_t from = 0; from < columns; from += kPieceColumns) {
      const size_t count = std::min(kPieceColumns, columns - from);
      const int8_t* const column = classes.column.data() + from;
      int8_t* const q = place(i, from);
      size_t j = 0;
      for (; j + kLanes <= count && end - word >= 2 * kLanes; j += kLanes) {
        q[j] = take(a, *of_column[column[j]]);
        q[j + 1] = take(b, *of_column[column[j + 1]]);
        q[j + 2] = take(c, *of_column[column[j + 2]]);
        q[j + 3] = take(d, *of_column[column[j + 3]]);
        const auto refill = [&](uint32_t& x) {  // without a branch: whether a word is due is close to a coin's toss
          const uint32_t due = x < kLow;
          const uint32_t fuller = x << 16 | load_word(word);
          x = due ? fuller : x;
          word += 2 * due;
        };
        refill(a);
        refill(b);
        refill(c);
        refill(d);
      }
      for (; j < count; ++j) {  // the piece's tail, and all that follows once fewer than 4 words are left
        uint32_t& x = j % kLanes == 0 ? a : j % kLanes == 1 ? b : j % kLanes == 2 ? c : d;
        q[j] = take(x, *of_column[column[j]]);
        if (x < kLow) {
          if (end - word < 2) early_end();
          x = x << 16 | load_word(word);
          word += 2;
        }
      }
    }
  }
  if (a != kLow || b != kLow || c != kLow || d != kLow || word != end) {
    throw FormatError(what + ": the stream does not end where its values do");
  }
}

}  // namespace

void decode_grid(const GridTables& tables, const GridClasses& classes, std::span<const uint8_t> bytes,
                 std::span<int8_t> out, const std::string& what) {
  const size_t columns = classes.column.size();
  decode(
      tables, classes, bytes, [&](size_t i, size_t j) { return out.data() + i * columns + j; }, what);
}

void check_grid(const GridTables& tables, const GridClasses& classes, std::span<const uint8_t> bytes,
                const std::string& what) {
  std::array<int8_t, kPieceColumns> piece;
  decode(
      tables, classes, bytes, [&](size_t, size_t) { return piece.data(); }, what);
}

}  // namespace bg
