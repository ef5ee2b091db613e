// What a step costs: the losses of losses.def, as they are computed, read back and added up.
#pragma once

#include <cstdint>
#include <span>

#include "base/config.h"

namespace bg {

enum class LossPart : uint8_t { sum, mean };

struct LossRow {
  const char* name;
  LossPart part;
  bool scheduled;
  double (*weight)(const Config& c);
  const char* doc;
};
inline constexpr LossRow kLosses[] = {
#define BG_LOSS(name, part, scheduled, weight, doc) \
  {#name, LossPart::part, scheduled, []([[maybe_unused]] const Config& c) -> double { return weight; }, doc},
#include "model/losses.def"
};
inline constexpr int64_t kNumLosses = static_cast<int64_t>(std::size(kLosses));

/// Rows of kLosses.
enum class Loss : uint8_t {
#define BG_LOSS(name, part, scheduled, weight, doc) name,
#include "model/losses.def"
};

/// Means over the scored positions of one batch, in nats. Losses that a config switches off are 0.
struct Losses {
#define BG_LOSS(name, part, scheduled, weight, doc) double name = 0;
#include "model/losses.def"
  double total = 0;  // what backward() differentiates

  /// Row by row of kLosses; total is not among them.
  double& operator[](int64_t row) {
    return *all(*this)[row];
  }
  double operator[](int64_t row) const {
    return *all(*this)[row];
  }
  /// Adds share * other, total included.
  void add(const Losses& other, double share) {
    for (int64_t i = 0; i < kNumLosses; ++i) (*this)[i] += share * other[i];
    total += share * other.total;
  }

 private:
  template <class L>
  struct Members {
    L* rows[kNumLosses];
    L* operator[](int64_t row) const { return rows[row]; }
  };
  static Members<double> all(Losses& l) {
    return {{
#define BG_LOSS(name, part, scheduled, weight, doc) &l.name,
#include "model/losses.def"
    }};
  }
  static Members<const double> all(const Losses& l) {
    return {{
#define BG_LOSS(name, part, scheduled, weight, doc) &l.name,
#include "model/losses.def"
    }};
  }
};

/// From the parts (kNumLosses) of a batch with `scored` targets. Throws NumericsError naming a loss that is not finite.
Losses read_losses(const Config& config, std::span<const double> parts, int64_t scored, double scheduled_weight);

}  // namespace bg
