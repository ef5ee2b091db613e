// How the grid model is chosen: classes start from the root mean squares of rows and columns, then rows, columns and
// tables are improved in turn, each matrix on its own thread, the histograms summed in order. Integers only.
#include <algorithm>
#include <bit>
#include <limits>
#include <memory>

#include "codec/grid_model.h"

namespace bg {
namespace {

constexpr int kRounds = 3;     // of improving rows, columns and tables
constexpr int kReach = 2;      // classes a row or column may move in one round
constexpr int kCostBits = 10;  // costs are in units of 2^-10 bit
constexpr uint32_t kCostUnknown = 20u << kCostBits;
constexpr int64_t kTableCost = int64_t{8 * 60} << kCostBits;  // what one more table takes in the file, roughly

using Histogram = std::array<int64_t, 256>;
using Histograms = std::array<Histogram, kClasses>;
using Costs = std::array<std::array<uint32_t, 256>, kClasses>;
using ResidualCosts = std::array<std::array<uint32_t, 256>, 2>;  // rows, columns; by residual + 128

/// log2(x) in units of 2^-kCostBits, rounded down; x >= 1. By repeated squaring, hence equal on every machine.
uint32_t log2_fixed(uint64_t x) {
  const int whole = 63 - std::countl_zero(x);
  uint64_t m = whole >= 31 ? x >> (whole - 31) : x << (31 - whole);  // in [2^31, 2^32)
  uint32_t out = static_cast<uint32_t>(whole);
  for (int i = 0; i < kCostBits; ++i) {
    m = (m * m) >> 31;
    const uint32_t bit = m >> 32 ? 1 : 0;
    m >>= bit;
    out = out << 1 | bit;
  }
  return out;
}

/// log2 of the root of sum / count, in classes (rounded), relative to spread 1; very small for sum 0.
int octave_steps(uint64_t sum, uint64_t count) {
  if (sum == 0) return -kClassOfOne;
  const int64_t twice = static_cast<int64_t>(log2_fixed(sum)) - static_cast<int64_t>(log2_fixed(count));
  const int64_t scaled = twice * kStepsPerOctave;  // of 2 * 2^kCostBits
  constexpr int64_t kUnit = int64_t{2} << kCostBits;
  return static_cast<int>((scaled >= 0 ? scaled + kUnit / 2 : scaled - kUnit / 2) / kUnit);
}

GridClasses first_classes(const GridView& g) {
  GridClasses out;
  out.row.resize(static_cast<size_t>(g.rows));
  out.column.resize(static_cast<size_t>(g.columns));
  std::vector<uint64_t> of_column(out.column.size());
  uint64_t all = 0;
  for (size_t i = 0; i < out.row.size(); ++i) {
    const int8_t* q = g.values.data() + i * out.column.size();
    uint64_t sum = 0;
    for (size_t j = 0; j < out.column.size(); ++j) {
      const uint64_t square = static_cast<uint64_t>(q[j] * q[j]);
      sum += square;
      of_column[j] += square;
    }
    all += sum;
    out.row[i] = static_cast<int8_t>(clamp_class(kClassOfOne + octave_steps(sum, out.column.size())));
  }
  const int middle = octave_steps(all, g.values.size());
  for (size_t j = 0; j < out.column.size(); ++j) {
    const int k = octave_steps(of_column[j], out.row.size()) - middle;
    out.column[j] = static_cast<int8_t>(std::clamp(k, -kColumnReach, kColumnReach - 1));
  }
  return out;
}

void add_histogram(const GridView& g, const GridClasses& c, Histograms& h) {
  for (size_t i = 0; i < c.row.size(); ++i) {
    const int8_t* q = g.values.data() + i * c.column.size();
    for (size_t j = 0; j < c.column.size(); ++j) ++h[clamp_class(c.row[i] + c.column[j])][q[j] + 128];
  }
}

/// Costs of every value under every class, the histograms smoothed by their neighbours so that a move into a class that
/// is rare today is judged fairly.
void costs_of(const Histograms& h, Costs& costs) {
  for (int k = 0; k < kClasses; ++k) {
    Histogram smooth{};
    int64_t sum = 0;
    for (int v = 0; v < 256; ++v) {
      const int64_t beside = (k > 0 ? h[k - 1][v] : 0) + (k + 1 < kClasses ? h[k + 1][v] : 0);
      smooth[v] = 64 * h[k][v] + beside;
      sum += smooth[v];
    }
    for (int v = 0; v < 256; ++v) {
      costs[k][v] = smooth[v] == 0 ? kCostUnknown
                                   : std::min(kCostUnknown, log2_fixed(static_cast<uint64_t>(sum)) -
                                                                log2_fixed(static_cast<uint64_t>(smooth[v])));
    }
  }
}

int8_t best_of(const int64_t (&cost)[2 * kReach + 1], int8_t now, int middle, int low, int high,
               const std::array<uint32_t, 256>& residual_cost) {
  int64_t least = std::numeric_limits<int64_t>::max();
  int best = now;
  for (int d = -kReach; d <= kReach; ++d) {
    const int k = now + d;
    if (k < low || k > high) continue;
    const int64_t total =
        cost[d + kReach] + residual_cost[static_cast<size_t>(std::clamp(k - middle, -128, 127) + 128)];
    if (total < least) least = total, best = k;
  }
  return static_cast<int8_t>(best);
}

int median_of(std::vector<int8_t> v) {
  if (v.empty()) return 0;
  const auto at = v.begin() + static_cast<ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), at, v.end());
  return *at;
}

void improve(const GridView& g, GridClasses& c, const Costs& costs, const ResidualCosts& residuals) {
  constexpr int kCandidates = 2 * kReach + 1;
  const size_t rows = c.row.size(), columns = c.column.size();
  const int row_middle = median_of(c.row);
  for (size_t i = 0; i < rows; ++i) {
    const int8_t* q = g.values.data() + i * columns;
    int64_t cost[kCandidates] = {};
    for (size_t j = 0; j < columns; ++j) {
      for (int d = 0; d < kCandidates; ++d)
        cost[d] += costs[clamp_class(c.row[i] + c.column[j] + d - kReach)][q[j] + 128];
    }
    c.row[i] = best_of(cost, c.row[i], row_middle, 0, kClasses - 1, residuals[0]);
  }
  struct Sums {
    int64_t cost[kCandidates];
  };
  std::vector<Sums> sums(columns);
  for (size_t i = 0; i < rows; ++i) {
    const int8_t* q = g.values.data() + i * columns;
    for (size_t j = 0; j < columns; ++j) {
      for (int d = 0; d < kCandidates; ++d) {
        sums[j].cost[d] += costs[clamp_class(c.row[i] + c.column[j] + d - kReach)][q[j] + 128];
      }
    }
  }
  const int column_middle = median_of(c.column);
  for (size_t j = 0; j < columns; ++j) {
    c.column[j] = best_of(sums[j].cost, c.column[j], column_middle, -kColumnReach, kColumnReach - 1, residuals[1]);
  }
}

ResidualCosts residual_costs(const std::vector<GridClasses>& classes) {
  std::array<Histogram, 2> h;
  for (Histogram& one : h) one.fill(1);
  for (const GridClasses& c : classes) {
    const int row_middle = median_of(c.row), column_middle = median_of(c.column);
    for (int8_t k : c.row) h[0][static_cast<size_t>(std::clamp(k - row_middle, -128, 127) + 128)] += 4;
    for (int8_t k : c.column) h[1][static_cast<size_t>(std::clamp(k - column_middle, -128, 127) + 128)] += 4;
  }
  ResidualCosts out;
  for (int kind = 0; kind < 2; ++kind) {
    uint64_t sum = 0;
    for (int64_t n : h[kind]) sum += static_cast<uint64_t>(n);
    for (int v = 0; v < 256; ++v) out[kind][v] = log2_fixed(sum) - log2_fixed(static_cast<uint64_t>(h[kind][v]));
  }
  return out;
}

/// Cost of coding a histogram with its own ideal table, in units of 2^-kCostBits bit.
int64_t own_cost(const Histogram& h) {
  int64_t sum = 0, cost = 0;
  for (int64_t n : h) sum += n;
  if (sum == 0) return 0;
  const uint32_t whole = log2_fixed(static_cast<uint64_t>(sum));
  for (int64_t n : h) {
    if (n > 0) cost += n * (whole - log2_fixed(static_cast<uint64_t>(n)));
  }
  return cost;
}

/// Scales counts to frequencies that add up to kFrequencySum, none of a value that occurs below 1.
Frequencies frequencies_of(const Histogram& h) {
  Frequencies f{};
  int64_t sum = 0, used = 0;
  for (int64_t n : h) sum += n;
  if (sum == 0) {
    f[128] = kFrequencySum;
    return f;
  }
  for (int v = 0; v < 256; ++v) {
    if (h[v] == 0) continue;
    f[v] = static_cast<uint16_t>(std::max<int64_t>(1, (h[v] * kFrequencySum + sum / 2) / sum));
    used += f[v];
  }
  // The largest frequencies absorb what rounding left over; there are at most 256 entries, so this ends.
  while (used != kFrequencySum) {
    uint16_t& largest = *std::max_element(f.begin(), f.end());
    const int64_t step = used < kFrequencySum ? 1 : -1;
    largest = static_cast<uint16_t>(largest + step);
    used += step;
  }
  return f;
}

void choose_tables(const Histograms& h, GridModel& model) {
  std::vector<Histogram> merged;
  for (int k = 0; k < kClasses; ++k) {
    const bool empty = own_cost(h[k]) == 0 && *std::max_element(h[k].begin(), h[k].end()) == 0;
    bool join = !merged.empty() && empty;
    if (!merged.empty() && !empty) {
      Histogram both = merged.back();
      for (int v = 0; v < 256; ++v) both[v] += h[k][v];
      join = own_cost(both) <= own_cost(merged.back()) + own_cost(h[k]) + kTableCost;
    }
    if (merged.empty())
      merged.push_back(h[k]);
    else if (!join)
      merged.push_back(h[k]);
    else
      for (int v = 0; v < 256; ++v) merged.back()[v] += h[k][v];
    model.table_of[k] = static_cast<uint8_t>(merged.size() - 1);
  }
  for (const Histogram& one : merged) model.tables.push_back(frequencies_of(one));
}

}  // namespace

GridModel fit_grid(ThreadPool& pool, std::span<const GridView> grids) {
  GridModel model;
  const int64_t n = static_cast<int64_t>(grids.size());
  model.classes.resize(grids.size());
  std::vector<std::unique_ptr<Histograms>> parts(grids.size());
  const auto all_histograms = [&] {
    pool.parallel_for(n, [&](int64_t t) {
      parts[t] = std::make_unique<Histograms>();
      add_histogram(grids[t], model.classes[t], *parts[t]);
    });
    auto sum = std::make_unique<Histograms>();
    for (const auto& part : parts) {
      for (int k = 0; k < kClasses; ++k) {
        for (int v = 0; v < 256; ++v) (*sum)[k][v] += (*part)[k][v];
      }
    }
    return sum;
  };

  pool.parallel_for(n, [&](int64_t t) { model.classes[t] = first_classes(grids[t]); });
  auto histograms = all_histograms();
  const auto costs = std::make_unique<Costs>();
  for (int round = 0; round < kRounds; ++round) {
    costs_of(*histograms, *costs);
    const ResidualCosts residuals = residual_costs(model.classes);
    pool.parallel_for(n, [&](int64_t t) { improve(grids[t], model.classes[t], *costs, residuals); });
    histograms = all_histograms();
  }
  choose_tables(*histograms, model);
  return model;
}

}  // namespace bg
