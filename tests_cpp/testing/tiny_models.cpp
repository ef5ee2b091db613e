#include "testing/tiny_models.h"

#include <algorithm>
#include <cmath>

namespace bg {

Config tiny_config(const std::string& preset, const std::string& options) {
  const bool byte260 = !preset.starts_with("byte256");
  const std::string sizes = std::string(R"(
num_layers = 3
model_dim = 12
num_heads = 2
seq_len = 12
eval_stride = 1
micro_batch_ids = 12
train_batch_ids = 12
bigram_vocab_size = 31
bigram_dim = 5
norm_eps = 1e-6
jepa_latent_dim = 6
jepa_proj_hidden = 7
byte_embed_dim = 5
)") + (byte260 ? "num_kv_heads = 1\nrope_dims = 4\nxsa_last_n = 1\n" : "num_kv_heads = 2\n") +
                            (preset == "byte260-jepa" || preset == "demo" ? "jepa_chunk_size = 4\n" : "") +
                            (preset == "byte256-jepa" ? "jepa_pred_k = 2\n" : "") +
                            (preset == "byte256-patch" ? "patch_size = 2\n" : "");
  Config config = Config::parse(options, "options", Config::parse(sizes, "sizes", Config::preset(preset)));
  config.validate();
  return config;
}

TinyModel tiny_model(const std::string& preset, const std::string& options, int64_t B, int64_t T) {
  std::string flat = options;
  for (char& c : flat)
    if (c == '\n') c = ';';
  TinyModel m{words(preset, flat, "B", B, "T", T), tiny_config(preset, options), B, T, {}, {}};
  const int64_t V = m.config.vocab_size(), half = V / 2;
  const Owned in = Owned::random_ids({B, T}, 4, half - 1, m.name + "in"),
              out = Owned::random_ids({B, T}, half, V - 1, m.name + "out");
  m.ids.assign(in.view().ptr<int32_t>(), in.view().ptr<int32_t>() + B * T);
  m.targets.assign(out.view().ptr<int32_t>(), out.view().ptr<int32_t>() + B * T);
  if (m.config.doc_mask)
    for (int64_t b = 0; b < B; ++b) m.ids[b * T + (3 + 2 * b) % T] = static_cast<int32_t>(m.config.bos_id());
  return m;
}

const std::vector<TinyModel>& tiny_models() {
  static const std::vector<TinyModel> models = {
      tiny_model("byte260", "", 2, 7),
      tiny_model("byte260", "num_layers = 1", 3, 5),
      tiny_model("byte260", "num_layers = 2\nmodel_dim = 16\nnum_heads = 4\nnum_kv_heads = 2\nxsa_last_n = 2", 1, 9),
      tiny_model("byte260", "num_layers = 5\nxsa_last_n = 3\nbigram_hash = \"product\"", 1, 6),
      tiny_model("byte260", "num_layers = 4\nbigram_vocab_size = 0", 1, 5),
      tiny_model("byte260", "smear = false\nln_scale = false", 2, 5),
      tiny_model("byte260", "tie_embeddings = false\nlogit_softcap = 0.0", 2, 5),
      tiny_model("byte260", "activation = \"gelu\"\nmlp_mult = 1.25", 1, 6),
      tiny_model("byte260", "activation = \"silu\"\nlogit_softcap = 2.0", 1, 6),
      tiny_model("byte260", "activation = \"relu2\"", 1, 6),
      tiny_model("byte260", "attn_windows = \"4,0,2\"", 2, 11),
      tiny_model("byte260", "doc_mask = true", 2, 9),
      tiny_model("byte260", "doc_mask = true\nattn_windows = \"3\"\nnum_layers = 2", 1, 10),
      tiny_model("byte260", "rope_train_len = 8", 1, 11),
      tiny_model("byte260", "block = \"mlp attention\"\nnum_layers = 2", 1, 5),
      tiny_model("byte260", "block = \"attention\"\nnum_layers = 2", 1, 5),
      tiny_model("byte260", "", 1, 1),
      tiny_model("byte260-jepa", "", 2, 12),
      tiny_model("byte260-jepa", "num_layers = 2", 2, 11),
      tiny_model("byte260-jepa", "num_layers = 1", 2, 3),
      tiny_model("byte260-jepa", "jepa_chunk_size = 1", 1, 5),
      tiny_model("byte260-jepa", "num_layers = 2", 1, 6),
      tiny_model("byte260-jepa", "jepa_sigreg_weight = 0.0", 1, 8),
      tiny_model("demo", "num_heads = 3\nnum_layers = 4", 1, 9),
      tiny_model("byte256", "", 2, 7),
      tiny_model("byte256", "num_layers = 2\nsmear = false\nbigram_vocab_size = 0", 1, 6),
      tiny_model("byte256", "num_layers = 1\ntie_embeddings = false", 1, 1),
      tiny_model("byte256-jepa", "", 2, 7),
      tiny_model("byte256-jepa", "jepa_pred_k = 1\nnum_layers = 2", 3, 4),
      tiny_model("byte256-patch", "", 2, 10),
      tiny_model("byte256-patch", "patch_size = 3\nnum_layers = 2", 2, 9),
      tiny_model("byte256-patch", "patch_size = 3\nsmear = false\nbigram_vocab_size = 0\nnum_layers = 1", 1, 3),
  };
  return models;
}

namespace {

// Whether a tensor starts at given numbers other than 0, which are factors of something: noise is added to them.
bool starts_as_gains(const ParamSpec& s) {
  const std::vector<double> first = initial_values(s, 1);
  return first == initial_values(s, 2) && std::any_of(first.begin(), first.end(), [](double v) { return v != 0; });
}

}  // namespace

std::unique_ptr<Model> random_model(const Config& config, DType dtype, int threads) {
  auto model = std::make_unique<Model>(config, context(dtype, threads), 1);
  for (const ParamSpec& s : model->params().specs()) {
    const Tensor t = ParamTable::view(s, model->params().values());
    const Random random(23, s.name);
    const int64_t n = s.shape.numel();
    if (n == 0) continue;  // skips of a single block
    const bool matrix = s.shape.rank() >= 2 && !starts_as_gains(s);
    const bool of_ids = s.group == Group::table || s.group == Group::head;
    const double inputs = matrix ? static_cast<double>(n / s.shape[0]) : 1;
    const double scale = !matrix ? 0.3 : of_ids ? 0.5 : 1 / std::sqrt(inputs);
    BG_FLOATS(dtype, F, {
      F* p = t.ptr<F>();
      for (int64_t i = 0; i < n; ++i) {
        const double drawn = scale * random.normal(static_cast<uint64_t>(i));
        p[i] = static_cast<F>(static_cast<float>(matrix ? drawn : static_cast<double>(p[i]) + drawn));
      }
    });
  }
  return model;
}

std::vector<double> gradients_of(const Model& model) {
  const Tensor t = model.params().grads();
  std::vector<double> out;
  BG_FLOATS(t.dtype(), F, out.assign(t.ptr<F>(), t.ptr<F>() + t.numel()));
  return out;
}

std::string bits_of(Tensor t) {
  return std::string(static_cast<const char*>(t.data()), t.size_bytes());
}

bool starts_with(const std::string& name, const char* prefix) {
  return name.rfind(prefix, 0) == 0;
}

}  // namespace bg
