#include "optim/clip.h"

#include <algorithm>
#include <cmath>

#include "kernels/update.h"

namespace bg {

void refuse_gradient(const Ctx& ctx, const ParamTable& params) {
  Tensor grads = params.grads();
  const Buffer host(grads.device() == Device::cpu ? 0 : grads.size_bytes());
  if (host.data() != nullptr) {
    copy_bytes(ctx, host.data(), Device::cpu, grads.data(), grads.device(), grads.size_bytes());
    grads = Tensor(host.data(), grads.shape(), grads.dtype(), Device::cpu);
  }
  const ParamSpec* largest = nullptr;
  double peak = -1;
  for (const ParamSpec& spec : params.specs()) {
    const Tensor grad = ParamTable::view(spec, grads);
    for (int64_t i = 0; i < grad.numel(); ++i) {
      double value = 0;
      BG_FLOATS(grad.dtype(), T, value = static_cast<double>(grad.ptr<T>()[i]));
      if (!std::isfinite(value)) throw NumericsError(words("gradient of", spec.name, "is", value, "at element", i));
      if (std::abs(value) > peak) peak = std::abs(value), largest = &spec;
    }
  }
  throw NumericsError(words("the gradient's norm overflows; largest element:", peak, "in",
                            largest == nullptr ? "nothing" : largest->name));
}

double gradient_norm(const Ctx& ctx, const ParamTable& params, std::span<double> partial) {
  const double norm = std::sqrt(sum_of_squares(ctx, params.grads(), partial));
  if (!std::isfinite(norm)) refuse_gradient(ctx, params);
  return norm;
}

double clip_factor(double norm, double max_norm) {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace bg
