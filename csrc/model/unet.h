// The flat architecture: bytes (or static patches) through one stack of blocks, with the JEPA path and the latent head
// beside it. Both published programs are settings of it.
#pragma once

#include <memory>

#include "model/head.h"
#include "model/input.h"
#include "model/jepa.h"
#include "model/system.h"

namespace bg {

class Unet final : public System {
 public:
  /// Keeps a reference to `config`; `seed` draws the directions of SIGReg.
  Unet(const Config& config, uint64_t seed);

  void declare(ParamTable& params) override;
  void reserve(Plan& plan, int64_t B, int64_t T) override;
  void begin(const Ctx& ctx) override;
  void check_sizes(int64_t B, int64_t T, bool training) const override;
  void check_targets(std::span<const int32_t> targets, int64_t B, int64_t T) const override;
  Flops flops(int64_t B, int64_t T, Pass pass) const override;

  Tensor forward(const Ctx& ctx, Tensor ids, Pass pass, const Decoding& decoding) override;
  void nll(const Ctx& ctx, Tensor targets, Tensor nll) override;
  void losses(const Ctx& ctx, Tensor ids, Tensor targets, Pass pass, Tensor nll,
              std::span<const Tensor> parts) override;
  void backward(const Ctx& ctx, Tensor ids, Tensor targets, const LossScale& scale,
                const GradientsReady& ready) override;
  void set_directions(const Ctx& ctx, std::span<const double> directions) override;

  bool decodes() const override { return config_.patch_size == 1; }
  void reserve_steps(Plan& plan, int64_t rows, int64_t positions) override;
  void begin_steps(const Ctx& ctx) override;
  Flops step_flops(int64_t rows, int64_t positions) const override;
  Tensor step(const Ctx& ctx, Tensor numbers, Pass pass, bool prepared) override;
  Decoding filling(const Ctx& ctx, int64_t row, int64_t length) override;

 private:
  // parts: where the losses of JEPA go, by row of kLosses; empty: they are not computed.
  Tensor pass(const Ctx& ctx, Tensor ids, Pass pass, const Decoding& decoding, std::span<const Tensor> parts);
  void fill_rope(const Ctx& ctx, Tensor table) const;

  const Config& config_;
  uint64_t seed_;
  InputStage input_;
  Trunk trunk_;
  std::unique_ptr<Jepa> jepa_;
  OutputStage output_;
  std::unique_ptr<LatentHead> latent_;
  bool directions_drawn_ = false;

  Grid grid_;
  Tensor dx_;
  Tensor x0_;  // of the last pass
  // Steps of decoding.
  Grid steps_;
  Tensor step_last_, step_rope_table_, step_x0_, fill_numbers_;
};

}  // namespace bg
