// Which optimiser and which options move a tensor: one row per group. Everything that treats groups differently (layout
// of the arenas, step sizes, moments, checkpoints, bindings) is made from this table.
#pragma once

#include <cstdint>
#include <iterator>
#include <span>

#include "base/config.h"

namespace bg {

/// What moves the tensors of a group: Muon (matrices, one moment) or Adam with decoupled weight decay (two moments).
enum class Mover : uint8_t { muon, adam };

// Name, option with the step size, option with the weight decay (null: none), what moves it. The order is that of the
// arenas and hence of sums over them: groups of Muon first, and a new group of Adam at the end, so that models without
// it keep their bits. A group needs nothing else.
#define BG_GROUPS(ROW)                                              \
  ROW(matrix, &Config::matrix_lr, &Config::muon_wd, Mover::muon)    \
  ROW(table, &Config::tied_embed_lr, &Config::adam_wd, Mover::adam) \
  ROW(head, &Config::head_lr, &Config::adam_wd, Mover::adam)        \
  ROW(scalar, &Config::scalar_lr, &Config::adam_wd, Mover::adam)    \
  ROW(jepa, &Config::jepa_lr, nullptr, Mover::adam)                 \
  ROW(scalar_no_decay, &Config::scalar_lr, nullptr, Mover::adam)

/// The group of a tensor, as its declaration names it.
enum class Group : uint8_t {
#define BG_ROW(name, lr, decay, mover) name,
  BG_GROUPS(BG_ROW)
#undef BG_ROW
};

using RealOption = double Config::*;
struct GroupRow {
  Group group;
  const char* name;
  RealOption lr;            // option with the step size
  RealOption weight_decay;  // option with the decay; null: none
  Mover mover;
};

inline constexpr GroupRow kGroups[] = {
#define BG_ROW(name, lr, decay, mover) {Group::name, #name, lr, decay, mover},
    BG_GROUPS(BG_ROW)
#undef BG_ROW
};
constexpr int kNumGroups = static_cast<int>(std::size(kGroups));

/// Whether each group has a step size and the groups of Muon stand first, so that Adam's second moments are one arena.
constexpr bool can_be_moved(std::span<const GroupRow> rows) {
  bool adam = false;
  for (const GroupRow& row : rows) {
    if (row.lr == nullptr || (adam && row.mover == Mover::muon)) return false;
    adam = row.mover == Mover::adam;
  }
  return true;
}
static_assert(can_be_moved(kGroups));

constexpr const GroupRow& row_of(Group group) {
  return kGroups[static_cast<int>(group)];
}
constexpr const char* name_of(Group group) {
  return row_of(group).name;
}
constexpr Mover mover_of(Group group) {
  return row_of(group).mover;
}

/// Step size and decay of a group, before the schedule's factor.
struct GroupRates {
  double lr = 0, weight_decay = 0;
};
inline GroupRates rates_of(const Config& config, Group group) {
  const GroupRow& row = row_of(group);
  return {config.*row.lr, row.weight_decay == nullptr ? 0 : config.*row.weight_decay};
}

}  // namespace bg
