#include "base/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"

namespace bg {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(Config, TextReadsBackEqual) {
  Config c = Config::preset("byte256");
  c.matrix_lr = 0.1 + 0.2;  // 17 digits
  c.train_data = "a \"quoted\" \\ path # not a comment";
  const Section all[] = {Section::model, Section::train, Section::run};
  EXPECT_EQ(Config::parse(c.text(all, true), "t", Config{}), c);
  EXPECT_EQ(Config::parse(c.text(all, false), "t", Config{}), c);
}

TEST(Config, EveryPresetIsConsistent) {
  for (const std::string& name : Config::preset_names()) EXPECT_NO_THROW(Config::preset(name).validate()) << name;
}

TEST(Config, UnknownNameSuggestsTheNearest) {
  EXPECT_THAT(
      [] { Config::parse("\nnum_layer = 3", "my.toml", Config{}); },
      ThrowsMessage<InvalidArgument>(HasSubstr("my.toml, line 2: unknown option num_layer; did you mean num_layers?")));
}

TEST(Config, OutOfRangeAndForeignTypesAreNamed) {
  EXPECT_THAT([] { Config{}.set("num_layers", "0"); },
              ThrowsMessage<InvalidArgument>(HasSubstr("option num_layers = 0 is outside 1 to 1024")));
  EXPECT_THROW(Config{}.set("num_layers", "3.5"), InvalidArgument);
  EXPECT_THROW(Config{}.set("matrix_lr", "nan"), InvalidArgument);
  EXPECT_THROW(Config{}.set("ln_scale", "yes"), InvalidArgument);
  EXPECT_THROW(Config{}.set("family", "byte999"), InvalidArgument);
}

TEST(Config, ContradictionsAreRefused) {
  Config c;
  c.num_heads = 3;
  EXPECT_THROW(c.validate(), InvalidArgument);
  c = Config::preset("byte256-patch");
  c.jepa_pred_k = 4;
  EXPECT_THROW(c.validate(), InvalidArgument);
}

TEST(Config, WindowsAreLengthsWithCommas) {
  Config c;
  EXPECT_TRUE(c.window_lengths().empty());
  c.set("attn_windows", "256, 0,64");
  EXPECT_EQ(c.window_lengths(), (std::vector<int64_t>{256, 0, 64}));
  c.attn_windows = "12,x";
  EXPECT_THROW(c.validate(), InvalidArgument);
}

TEST(Config, ABlockIsLayersAndBarsStandBetweenBlocksThatDiffer) {
  using Pattern = std::vector<std::vector<std::string>>;
  Config c;
  EXPECT_EQ(c.block_pattern(), (Pattern{{"attention", "mlp"}}));
  c.block = "attention mlp | mlp";
  EXPECT_EQ(c.block_pattern(), (Pattern{{"attention", "mlp"}, {"mlp"}}));
  for (const char* bad : {"", "|", "attention |", "| mlp", "mlp | | mlp"}) {
    c.block = bad;
    EXPECT_THROW(c.validate(), InvalidArgument) << bad;
  }
}

TEST(Config, VisitsAreBlockNumbersAndRepeatedGroups) {
  Config c;
  c.num_layers = 7;
  const auto order = [&](const char* text) {
    c.visits = text;
    c.validate();
    return c.visit_order();
  };
  EXPECT_EQ(order(""), std::vector<int64_t>{});
  EXPECT_EQ(order("0 1 2 (3 4 5)x2 6"), (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 3, 4, 5, 6}));
  EXPECT_EQ(order("(0)x3 1 (2 (3)x2 4)x2 5 6"), (std::vector<int64_t>{0, 0, 0, 1, 2, 3, 3, 4, 2, 3, 3, 4, 5, 6}));
  for (const char* bad : {"0 1 2 3 4 5", "0 1 2 3 4 5 6 7", "0 1 2 (3 4 5 6", "0 1 2 3 4 5 6)", "0 1 2 3 4 5 (6)",
                          "0 1 2 3 4 5 (6)x0", "0 1 2 3 4 5 (6)x99999", "0 1 2 3 4 5 -6", "0 1 2 3 4 5 six"}) {
    c.visits = bad;
    EXPECT_THROW(c.validate(), InvalidArgument) << bad;
  }
}

TEST(Config, TheVocabularyIsTheFamilysUnlessAnotherIsNamed) {
  Config c = Config::preset("byte256");
  EXPECT_EQ(c.vocab_size(), 256);
  c.vocabulary = "byte260";
  EXPECT_EQ(c.vocab_size(), 260);
  EXPECT_EQ(c.bos_id(), 1);
  c.doc_mask = true;
  c.validate();
  c.vocabulary = "auto";
  EXPECT_THROW(c.validate(), InvalidArgument) << "byte256 has no bos";
}

}  // namespace
}  // namespace bg
