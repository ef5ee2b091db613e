#include "model/family.h"

namespace bg {

StackSpec stack_of(const Config& c) {
  const bool byte260 = c.family == "byte260";
  StackSpec s;
  s.attention_name = byte260 ? "attn" : "mixer";
  s.skip_name = "skip_weights";
  s.layers = c.num_layers;
  s.D = c.model_dim;
  s.H = c.num_heads;
  s.G = c.num_kv_heads;
  s.d = c.head_dim();
  s.F = c.mlp_dim();
  s.pattern = c.block_pattern();
  s.windows = c.window_lengths();
  s.visits = c.visit_order();
  s.xsa_last = c.xsa_last_n;
  s.parallel_last = c.parallel_last_n;
  s.rope_dims = c.rotary_dims();
  s.ln_scale = c.ln_scale;
  s.norm_eps = c.norm_eps;
  s.q_gain_init = c.q_gain_init;
  s.orthogonal = byte260;
  s.activation = Activation::parse(c.activation, c.activation_slope);
  return s;
}

}  // namespace bg
