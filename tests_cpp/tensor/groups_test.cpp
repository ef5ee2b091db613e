#include "tensor/groups.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace bg {
namespace {

TEST(Groups, HaveTheStepSizesAndDecaysOfTheirOptions) {
  Config config;
  config.matrix_lr = 1, config.tied_embed_lr = 2, config.head_lr = 3, config.scalar_lr = 4, config.jepa_lr = 5;
  config.muon_wd = 6, config.adam_wd = 7;
  const std::map<std::string, std::pair<double, double>> expected = {{"matrix", {1, 6}}, {"table", {2, 7}},
                                                                     {"head", {3, 7}},   {"scalar", {4, 7}},
                                                                     {"jepa", {5, 0}},   {"scalar_no_decay", {4, 0}}};
  ASSERT_EQ(std::size(kGroups), expected.size());
  for (const GroupRow& row : kGroups) {
    EXPECT_EQ(&row, &row_of(row.group)) << row.name << " stands where its number says";
    const GroupRates rates = rates_of(config, row.group);
    EXPECT_EQ(std::pair(rates.lr, rates.weight_decay), expected.at(row.name)) << row.name;
    EXPECT_EQ(row.mover == Mover::muon, row.group == Group::matrix) << row.name;
  }
}

TEST(Groups, WithoutAStepSizeOrWithMuonAfterAdamDoNotCompile) {
  constexpr GroupRow muon{Group::matrix, "m", &Config::matrix_lr, nullptr, Mover::muon};
  constexpr GroupRow adam{Group::scalar, "a", &Config::scalar_lr, nullptr, Mover::adam};
  constexpr GroupRow still{Group::scalar, "s", nullptr, &Config::adam_wd, Mover::adam};
  const auto can = [](std::initializer_list<GroupRow> rows) { return can_be_moved({rows.begin(), rows.size()}); };
  EXPECT_TRUE(can({muon, muon, adam, adam}));
  EXPECT_FALSE(can({muon, adam, still}));
  EXPECT_FALSE(can({still}));
  EXPECT_FALSE(can({muon, adam, muon}));
}

}  // namespace
}  // namespace bg
