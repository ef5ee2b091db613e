// Every layer of the registry, one line each; what is proved stands in testing/layer_case.h.
#include "testing/layer_case.h"

namespace bg {

BG_PROVE_LAYER(Attention, "attention")
BG_PROVE_LAYER(Mlp, "mlp")

}  // namespace bg
