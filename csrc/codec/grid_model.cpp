#include "codec/grid_model.h"

#include <memory>
#include <string>

#include "base/check.h"
#include "codec/range_coder.h"

namespace bg {
namespace {

constexpr int kClassBits = 7;   // residuals of classes, offset by 64
constexpr int kLengthBits = 4;  // binary length of a frequency, 0..15
constexpr uint32_t kEven = 1u << (kProbabilityBits - 1);

/// Counters of every kind of fact in the model; encoder and decoder keep equal copies.
struct Counters {
  BitCounter new_table[2];
  BitCounter length[2][16][1 << kLengthBits];
  BitCounter mantissa[16][2];
  BitCounter classes[2][7][1 << kClassBits];  // row or column; spread of the last residuals
};

/// Which of 7 contexts a residual is coded under: the mean of the last three, clamped to -3..3.
int context_of(int a, int b, int c) {
  const int sum = a + b + c;
  const int mean = sum >= 0 ? (sum + 1) / 3 : -((1 - sum) / 3);
  return 3 + (mean < -3 ? -3 : mean > 3 ? 3 : mean);
}

int length_of(uint32_t f) {
  int n = 0;
  while (f >> n) ++n;
  return n;
}

void write_fixed(BitEncoder& coder, int bits, uint32_t value) {
  for (int i = bits - 1; i >= 0; --i) coder.encode(static_cast<int>(value >> i & 1), kEven);
}
uint32_t read_fixed(BitDecoder& coder, int bits) {
  uint32_t value = 0;
  for (int i = 0; i < bits; ++i) value = value << 1 | static_cast<uint32_t>(coder.decode(kEven));
  return value;
}

void write_table(BitEncoder& coder, Counters& c, const Frequencies& f) {
  int first = 0, last = 255;
  while (f[first] == 0) ++first;
  while (f[last] == 0) --last;
  write_fixed(coder, 8, static_cast<uint32_t>(first));
  write_fixed(coder, 8, static_cast<uint32_t>(last));
  int previous = 0;
  for (int v = first; v <= last; ++v) {
    const int length = length_of(f[v]);
    encode_symbol(coder, c.length[v > 128][previous], kLengthBits, static_cast<uint32_t>(length));
    for (int bit = length - 2; bit >= 0; --bit) {
      const int value = f[v] >> bit & 1;
      if (bit == length - 2) {
        coder.encode(value, c.mantissa[length][v > 128].p1());
        c.mantissa[length][v > 128].update(value);
      } else {
        coder.encode(value, kEven);
      }
    }
    previous = length;
  }
}

void read_table(BitDecoder& coder, Counters& c, Frequencies& f, const std::string& what) {
  const int first = static_cast<int>(read_fixed(coder, 8)), last = static_cast<int>(read_fixed(coder, 8));
  if (first > last) throw FormatError(what + ": a frequency table ends before it starts");
  f.fill(0);
  uint32_t sum = 0;
  int previous = 0;
  for (int v = first; v <= last; ++v) {
    const int length = static_cast<int>(decode_symbol(coder, c.length[v > 128][previous], kLengthBits));
    uint32_t value = length > 0;
    for (int bit = length - 2; bit >= 0; --bit) {
      int b;
      if (bit == length - 2) {
        b = coder.decode(c.mantissa[length][v > 128].p1());
        c.mantissa[length][v > 128].update(b);
      } else {
        b = coder.decode(kEven);
      }
      value = value << 1 | static_cast<uint32_t>(b);
    }
    f[v] = static_cast<uint16_t>(value);
    sum += value;
    previous = length;
  }
  if (sum != kFrequencySum) throw FormatError(what + ": a frequency table adds up to " + std::to_string(sum));
}

int middle_of(std::span<const int8_t> classes) {
  int64_t sum = 0;
  for (int8_t k : classes) sum += k;
  const int64_t n = static_cast<int64_t>(classes.size());
  return n == 0 ? 0 : static_cast<int>((2 * sum + (sum >= 0 ? n : -n)) / (2 * n));
}

void write_classes(BitEncoder& coder, Counters& c, int kind, std::span<const int8_t> classes) {
  const int middle = middle_of(classes);
  write_fixed(coder, 8, static_cast<uint32_t>(middle + 128));
  int a = 0, b = 0, d = 0;
  for (int8_t k : classes) {
    const int residual = k - middle;
    // Residuals beyond the alphabet wrap around; the range check after reading undoes it.
    encode_symbol(coder, c.classes[kind][context_of(a, b, d)], kClassBits, static_cast<uint32_t>(residual + 64) & 127u);
    d = b, b = a, a = residual;
  }
}

void read_classes(BitDecoder& coder, Counters& c, int kind, int low, int high, int64_t count,
                  std::vector<int8_t>& classes, const std::string& what) {
  const int middle = static_cast<int>(read_fixed(coder, 8)) - 128;
  int a = 0, b = 0, d = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (coder.overrun()) throw FormatError(what + ": the classes end early");
    int residual = static_cast<int>(decode_symbol(coder, c.classes[kind][context_of(a, b, d)], kClassBits)) - 64;
    int k = middle + residual;
    if (k > high) k -= 128, residual -= 128;
    if (k < low) k += 128, residual += 128;
    if (k < low || k > high) throw FormatError(what + ": class " + std::to_string(k) + " is out of range");
    classes.push_back(static_cast<int8_t>(k));
    d = b, b = a, a = residual;
  }
}

}  // namespace

Bytes write_grid_model(const GridModel& model) {
  Bytes out;
  BitEncoder coder(out);
  const auto c = std::make_unique<Counters>();
  int written = -1;
  for (int k = 0; k < kClasses; ++k) {
    const int fresh = model.table_of[k] != written;
    if (k > 0) {
      const int before = model.table_of[k - 1] != (k > 1 ? model.table_of[k - 2] : -1);
      coder.encode(fresh, c->new_table[before].p1());
      c->new_table[before].update(fresh);
    }
    if (fresh) write_table(coder, *c, model.tables[model.table_of[k]]);
    written = model.table_of[k];
  }
  for (const GridClasses& g : model.classes) {
    write_classes(coder, *c, 0, g.row);
    write_classes(coder, *c, 1, g.column);
  }
  coder.finish();
  return out;
}

GridModel read_grid_model(std::span<const uint8_t> bytes, std::span<const GridView> shapes, const std::string& what) {
  // A class is 7 bits, each under a probability of at most 1 - 48 / 2^16: at most 1,085 of them fit into a byte.
  constexpr uint64_t kMaxClassesPerByte = 1100, kMaxClasses = uint64_t{1} << 26;
  uint64_t classes = 0;
  for (const GridView& shape : shapes) {
    classes += static_cast<uint64_t>(shape.rows) + static_cast<uint64_t>(shape.columns);
    if (classes > kMaxClasses || classes > kMaxClassesPerByte * (bytes.size() + 8))
      throw FormatError(what + ": " + words(bytes.size(), "bytes of classes for", classes, "rows and columns"));
  }
  GridModel model;
  BitDecoder coder(bytes);
  const auto c = std::make_unique<Counters>();
  int before = 1;
  for (int k = 0; k < kClasses; ++k) {
    int fresh = 1;
    if (k > 0) {
      fresh = coder.decode(c->new_table[before].p1());
      c->new_table[before].update(fresh);
    }
    if (fresh) read_table(coder, *c, model.tables.emplace_back(), what);
    model.table_of[k] = static_cast<uint8_t>(model.tables.size() - 1);
    before = fresh;
  }
  for (const GridView& shape : shapes) {
    GridClasses& g = model.classes.emplace_back();
    read_classes(coder, *c, 0, 0, kClasses - 1, shape.rows, g.row, what);
    read_classes(coder, *c, 1, -kColumnReach, kColumnReach - 1, shape.columns, g.column, what);
  }
  if (!coder.ended_exactly()) throw FormatError(what + ": tables and classes do not end where they should");
  return model;
}

}  // namespace bg
