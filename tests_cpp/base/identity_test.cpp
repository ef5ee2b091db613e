#include "base/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"

namespace bg {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr Section kAll[] = {Section::model, Section::train, Section::run};

TEST(Identity, AnAbsentOptionMeansItsFirstDefault) {
  const Config whole = Config::preset("byte256");
  std::string text = whole.text(kAll, false);
  for (const std::string line : {"byte_embed_dim = 128\n", "newton_schulz_steps = 5\n", "log_every = 10\n"}) {
    const size_t at = text.find(line);
    ASSERT_NE(at, std::string::npos) << line;
    text.erase(at, line.size());
  }
  EXPECT_EQ(stored_options(text, "t"), whole);
  EXPECT_EQ(stored_options("", "t"), absent_options());
}

TEST(Identity, UnknownOptionsWereWrittenByANewerVersion) {
  EXPECT_THAT([] { stored_options("seed = 1\nfourier_mix = 3  # new\n", "old.toml"); },
              ThrowsMessage<InvalidArgument>(
                  HasSubstr("old.toml, line 2: option fourier_mix is unknown to this version: a newer "
                            "version of bytegolf wrote it")));
  EXPECT_THAT([] { stored_options("num_layers = 0", "t"); },
              ThrowsMessage<InvalidArgument>(HasSubstr("t, line 1: option num_layers = 0 is outside")));
}

TEST(Identity, DifferencesAreOfTheSectionsAskedFor) {
  Config one, other;
  other.seed = 7;
  other.num_layers = 3;
  other.train_data = "there";
  const std::vector<OptionDifference> all = differences(one, other, kAll);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_STREQ(all[0].name, "num_layers");
  EXPECT_EQ(all[0].one, "13");
  EXPECT_EQ(all[0].other, "3");
  EXPECT_STREQ(all[1].name, "seed");
  EXPECT_EQ(all[2].other, "\"there\"");
  const Section model[] = {Section::model};
  EXPECT_EQ(differences(one, other, model).size(), 1U);
  EXPECT_TRUE(differences(other, other, kAll).empty());
}

TEST(Identity, CanonicalTextHoldsWhatIsNotDefaultByName) {
  EXPECT_EQ(canonical(absent_options(), kAll), "");
  Config c;
  c.set("seed", "0_7");
  c.set("matrix_lr", "5e-1");
  c.set("block", "mlp");
  EXPECT_EQ(canonical(c, kAll), "block = \"mlp\"\nmatrix_lr = 0.5\nseed = 7\n");
  const Section train[] = {Section::train};
  EXPECT_EQ(canonical(c, train), "matrix_lr = 0.5\nseed = 7\n");
  EXPECT_EQ(stored_options(canonical(c, kAll), "t"), c);
}

}  // namespace
}  // namespace bg
