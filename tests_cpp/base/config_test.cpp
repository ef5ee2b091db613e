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

TEST(Config, WindowsRepeatOverLayers) {
  Config c;
  c.set("attn_windows", "256, 0,64");
  EXPECT_EQ(c.window_of_layer(0), 256);
  EXPECT_EQ(c.window_of_layer(1), 0);
  EXPECT_EQ(c.window_of_layer(5), 64);
  c.attn_windows = "12,x";
  EXPECT_THROW(c.validate(), InvalidArgument);
}

}  // namespace
}  // namespace bg
