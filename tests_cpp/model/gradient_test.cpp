// Finite differences of whole models in float64: each layer, stage and preset in its place.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "testing/gradcheck.h"
#include "testing/tiny_models.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

constexpr double kLambda = 0.7;  // large, so that a leak of the JEPA losses into the backbone shows

// What a parameter's gradient is the derivative of. Where a stop-gradient cuts the loss, only the part that is left.
using Part = double (*)(const Config&, const Losses&);
double total(const Config&, const Losses& l) {
  return l.total;
}
double ce(const Config&, const Losses& l) {
  return l.ce;
}
double jepa(const Config& c, const Losses& l) {
  return kLambda * (l.jepa_pred + c.jepa_sigreg_weight * l.jepa_sigreg);
}

// Three elements spread over the tensor, and five of those that have a gradient.
std::vector<int64_t> chosen(const double* gradient, int64_t n) {
  std::vector<int64_t> alive, out = some_of(n, 3);
  for (int64_t i = 0; i < n; ++i)
    if (gradient[i] != 0) alive.push_back(i);
  for (int64_t i : some_of(static_cast<int64_t>(alive.size()), 5)) out.push_back(alive[i]);
  return out;
}

// Checks d part / d spec, `part` chosen by name and element; an empty choice leaves the tensor out. Returns the number
// of elements checked, so that a choice that finds nothing is seen.
template <class Choose>
[[nodiscard]] int64_t check(Model& model, const TinyModel& m, Choose choose) {
  SCOPED_TRACE(m.name);
  int64_t checked = 0;
  model.zero_gradients();
  model.loss(m.ids, m.targets, m.B, m.T, kLambda);
  model.backward();
  const std::vector<double> gradients = gradients_of(model);
  for (const ParamSpec& s : model.params().specs()) {
    const double* gradient = &gradients[s.offset];
    const int64_t n = s.shape.numel();
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(gradient[i]));
    double* value = ParamTable::view(s, model.params().values()).ptr<double>();
    for (int64_t i : chosen(gradient, n)) {
      const Part part = choose(s, i);
      if (part == nullptr) continue;
      ++checked;
      const double x = value[i], allowed = tolerance::kModelDifference * largest + tolerance::kModelFloor;
      double expected = 0;
      for (double h : {1e-4, 1e-6}) {  // a smaller step where the larger one straddles the kink of an activation
        expected = difference(x, h, [&](double at) {
          value[i] = at;
          return part(model.config(), model.loss(m.ids, m.targets, m.B, m.T, kLambda));
        });
        value[i] = x;
        if (std::abs(expected - gradient[i]) <= allowed) break;
      }
      EXPECT_NEAR(gradient[i], expected, allowed) << s.name << "[" << i << "], largest " << largest;
    }
  }
  return checked;
}

// The least that check() finds in those tensors of a model for which `is` holds: chosen() takes three elements of each.
template <class Is>
int64_t three_of_each(const Model& model, Is is) {
  int64_t n = 0;
  for (const ParamSpec& s : model.params().specs())
    if (is(s)) n += std::min<int64_t>(3, s.shape.numel());
  return n;
}
int64_t three_of_each(const Model& model) {
  return three_of_each(model, [](const ParamSpec&) { return true; });
}

bool of_jepa(const ParamSpec& s) {
  return starts_with(s.name, "jepa_projector") || starts_with(s.name, "jepa_predictor");
}

void zero(Model& model, const char* name) {
  const ParamSpec* s = model.params().find(name);
  ASSERT_NE(s, nullptr) << name;
  const Tensor t = ParamTable::view(*s, model.params().values());
  std::memset(t.data(), 0, t.size_bytes());
}

TEST(Gradients, OfEveryParameterOfEveryPlainModelEqualFiniteDifferences) {
  for (const TinyModel& m : tiny_models()) {
    if (m.config.jepa_chunk_size > 0 || m.config.jepa_pred_k > 0) continue;
    auto model = random_model(m.config, DType::f64);
    EXPECT_GE(check(*model, m, [](const ParamSpec&, int64_t) -> Part { return total; }), three_of_each(*model));
  }
}

TEST(Gradients, OfJepasBackboneAreThoseOfTheCrossEntropyAlone) {
  for (const TinyModel& m : tiny_models()) {
    if (m.config.jepa_chunk_size == 0) continue;
    // Without injection the cross-entropy does not see the latents, which finite differences would move.
    auto model = random_model(m.config, DType::f64);
    zero(*model, "jepa_injection.weight");
    const int64_t backbone = three_of_each(*model, [](const ParamSpec& s) { return s.group != Group::jepa; });
    EXPECT_GE(check(*model, m, [](const ParamSpec& s, int64_t) -> Part { return of_jepa(s) ? nullptr : ce; }),
              backbone);
    // With injection of a latent that does not depend on the backbone: z = 0, and the guess follows from the start
    // token.
    model = random_model(m.config, DType::f64);
    zero(*model, "jepa_projector.fc2.weight");
    EXPECT_GE(check(*model, m, [](const ParamSpec& s, int64_t) -> Part { return of_jepa(s) ? nullptr : total; }),
              backbone);
  }
}

TEST(Gradients, OfJepasInjectionAreThoseOfTheCrossEntropyAndOfItsPredictorThoseOfItsLosses) {
  for (const TinyModel& m : tiny_models()) {
    if (m.config.jepa_chunk_size == 0) continue;
    auto model = random_model(m.config, DType::f64);
    const auto of = [](const char* prefix, Part part) {
      return [=](const ParamSpec& s, int64_t) { return starts_with(s.name, prefix) ? part : nullptr; };
    };
    EXPECT_GE(check(*model, m, of("jepa_injection", ce)), 3);        // one matrix
    EXPECT_GE(check(*model, m, of("jepa_predictor", jepa)), 3 * 3);  // a start token and two matrices
  }
}

TEST(Gradients, OfTheLatentHeadsModelLeaveItsTargetsOut) {
  for (const TinyModel& m : tiny_models()) {
    if (m.config.jepa_pred_k == 0) continue;
    const int64_t row = m.config.model_dim, half = m.config.vocab_size() / 2;
    auto model = random_model(m.config, DType::f64);
    const auto part = [=](const ParamSpec& s, int64_t i) -> Part {
      return s.name == "tok_emb.weight" && i / row >= half ? ce : total;  // the upper half is only ever a target
    };
    EXPECT_GE(check(*model, m, part), three_of_each(*model));
  }
}

TEST(Gradients, CoverOnlyTargetsThatAreScored) {
  TinyModel m = tiny_model("byte260", "num_layers = 2", 2, 6);
  for (size_t i = 0; i < m.targets.size(); i += 3) m.targets[i] = -1;
  auto model = random_model(m.config, DType::f64);
  EXPECT_GE(check(*model, m, [](const ParamSpec&, int64_t) -> Part { return total; }), three_of_each(*model));
}

TEST(Gradients, AddUpAndScale) {
  for (const TinyModel& m : tiny_models()) {
    SCOPED_TRACE(m.name);
    auto model = random_model(m.config, DType::f64);
    model->loss(m.ids, m.targets, m.B, m.T, kLambda);
    model->backward();
    const std::vector<double> once = gradients_of(*model);
    model->loss(m.ids, m.targets, m.B, m.T, kLambda);
    model->backward(-0.5);
    const std::vector<double> more = gradients_of(*model);
    double size = 0, error = 0;
    for (size_t i = 0; i < once.size(); ++i) {
      size = std::max(size, std::abs(once[i]));
      error = std::max(error, std::abs(more[i] - 0.5 * once[i]));
    }
    EXPECT_GT(size, 0);
    EXPECT_LE(error, tolerance::kReordered * size);
    model->zero_gradients();
    for (double g : gradients_of(*model)) ASSERT_EQ(g, 0);
  }
}

TEST(Gradients, EveryParameterOfARandomModelHasOne) {
  for (const TinyModel& m : tiny_models()) {
    SCOPED_TRACE(m.name);
    if (m.T == 1) continue;  // a single position has no past: no query, key, smear or skip of time learns
    auto model = random_model(m.config, DType::f64);
    model->loss(m.ids, m.targets, m.B, m.T, kLambda);
    model->backward();
    const std::vector<double> gradients = gradients_of(*model);
    for (const ParamSpec& s : model->params().specs()) {
      if (starts_with(s.name, "jepa_") && m.T < m.config.jepa_chunk_size) continue;  // no whole chunk
      if (starts_with(s.name, "jepa_projector") && m.B * (m.T / m.config.jepa_chunk_size) < 2) continue;  // alone
      if (starts_with(s.name, "blocks.0.") && s.name.find("resid_mix") == std::string::npos &&
          m.T / m.config.patch_size < 2)
        continue;
      if (s.shape.numel() == 0) continue;
      const double* g = &gradients[s.offset];
      EXPECT_TRUE(std::any_of(g, g + s.shape.numel(), [](double v) { return v != 0; })) << s.name;
    }
  }
}

}  // namespace
}  // namespace bg
