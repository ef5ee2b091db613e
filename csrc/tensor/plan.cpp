#include "tensor/plan.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace bg {

void Plan::add(Tensor& t, const char* name, Shape shape, DType dtype, Life life) {
  const bool present = life != Life::backward || training();
  const bool overlaid = life == Life::scratch || life == Life::backward || (life == Life::saved && !training());
  size_t& at = overlaid ? overlay_ : kept_;
  rows_.push_back({&t, path_ + name, shape, dtype, life, present, overlaid, at});
  if (!present) return;
  const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  at += (bytes + Buffer::kAlign - 1) / Buffer::kAlign * Buffer::kAlign;
  overlay_max_ = std::max(overlay_max_, overlay_);
}

void Plan::commit() {
  buffer_ = std::make_shared<Buffer>(needed_bytes(), ctx_.device);  // the last line gives empty tensors an address
  for (Row& r : rows_)
    if (r.overlaid) r.offset += kept_;
  activate();
}

void Plan::activate() const {
  for (const Row& r : rows_)
    *r.handle = r.present ? Tensor(buffer_->at(r.offset), r.shape, r.dtype, ctx_.device) : Tensor();
}

std::string Plan::print() const {
  constexpr const char* kLives[] = {"keep", "saved", "scratch", "backward"};
  std::ostringstream out;
  out << std::left << std::setw(9) << "life" << std::setw(40) << "tensor" << std::setw(24) << "shape" << std::right
      << std::setw(14) << "offset" << std::setw(14) << "bytes"
      << "\n";
  for (const Row& r : rows_)
    if (r.present)
      out << std::left << std::setw(9) << kLives[static_cast<int>(r.life)] << std::setw(40) << r.name << std::setw(24)
          << r.shape.str() << std::right << std::setw(14) << r.offset << std::setw(14)
          << static_cast<size_t>(r.shape.numel()) * size_of(r.dtype) << "\n";
  out << "total " << buffer_->size_bytes() << " bytes, of which " << overlay_max_ << " are shared by scopes in turn\n";
  return out.str();
}

}  // namespace bg
