#include "model/decoder.h"

#include <algorithm>

#include "model/system.h"

namespace bg {

Decoder::Decoder(Model& model, int64_t rows, int64_t positions) : model_(model), rows_(rows) {
  const Config& c = model.config();
  BG_CHECK(model.system().decodes(), "patches of patch_size =", c.patch_size, "bytes have no steps of one id");
  BG_CHECK(rows >= 1 && positions >= 1, "decoding", rows, "rows of", positions, "positions");
  constexpr int64_t kStep = 256;  // so that a few ids more or fewer need no other memory
  positions_ = std::min((positions + kStep - 1) / kStep * kStep, std::max(positions, c.seq_len));
  const Ctx& ctx = model.ctx();
  plan_ = std::make_unique<Plan>(ctx, Purpose::decode);
  plan_->keep(numbers_, "step.numbers", {System::kStepNumbers * rows}, DType::i32);
  model.system().reserve_steps(*plan_, rows, positions_);
  model.commit(*plan_, words("caches of", rows, "rows of", positions_, "ids"), {});
  model.use(*plan_);
  in_ = Staging(ctx, static_cast<size_t>(System::kStepNumbers * rows) * sizeof(int32_t));
  out_ = Staging(ctx, static_cast<size_t>(rows * c.vocab_size()) * size_of(ctx.full_dtype()));
  model.system().begin_steps(ctx);
}

Decoder::~Decoder() {
  model_.forget(*plan_);
}

Tensor Decoder::prompt(int64_t row, std::span<const int32_t> ids, int64_t length) {
  const auto T = static_cast<int64_t>(ids.size());
  BG_CHECK(row >= 0 && row < rows_ && length >= 1 && length <= T && length <= positions_, "row", row,
           "of decoding with", length, "of", T, "ids where there is room for", rows_, "rows of", positions_);
  model_.use(*plan_);  // the caches; the pass itself has a plan of its own
  const Decoding decoding = model_.system().filling(model_.ctx(), row, length);
  return model_.logits(ids, decoding).slice(0, length - 1, length).reshape({model_.config().vocab_size()});
}

// Everything of a step but the host's part.
void Decoder::enqueue_step(bool prepared) {
  const Ctx& ctx = model_.ctx();
  enqueue_copy(ctx, numbers_.data(), in_.data(), numbers_.size_bytes());
  const Tensor logits = model_.system().step(ctx, numbers_, model_.pass(), prepared);
  enqueue_copy(ctx, out_.data(), logits.data(), logits.size_bytes());
}

Tensor Decoder::step(std::span<const NextId> next) {
  BG_CHECK(static_cast<int64_t>(next.size()) == rows_, "a step of", next.size(), "rows where there are", rows_);
  const int64_t V = model_.config().vocab_size();
  auto* const numbers = static_cast<int32_t*>(in_.data());
  for (int64_t b = 0; b < rows_; ++b) {
    const NextId& n = next[static_cast<size_t>(b)];
    BG_CHECK(n.position == -1 || (n.position >= 2 && n.position < positions_ && n.first >= 0 && n.first <= n.position),
             "a step of row", b, "at position", n.position, "seeing from", n.first, "of", positions_);
    for (int64_t i = 0; i < NextId::kIds; ++i) {
      BG_CHECK(n.ids[i] >= 0 && n.ids[i] < V, "a step of row", b, "holds id", n.ids[i], "outside the vocabulary 0 ..",
               V - 1);
      numbers[b * NextId::kIds + i] = n.ids[i];
    }
    numbers[NextId::kIds * rows_ + b] = n.position;
    numbers[(NextId::kIds + 1) * rows_ + b] = n.first;
    numbers[(NextId::kIds + 2) * rows_ + b] = n.inject_end;
  }
  model_.use(*plan_);
  if (steps_done_++ == 0) {
    enqueue_step(false);
  } else {
    if (!recording_) recording_ = Recording(model_.ctx(), [this] { enqueue_step(true); });
    recording_.replay();
  }
  synchronise(model_.ctx());
  return Tensor(out_.data(), {rows_, V}, model_.ctx().full_dtype(), Device::cpu);
}

}  // namespace bg
