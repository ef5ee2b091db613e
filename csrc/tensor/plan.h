// Where activations live: layers say what they need, then one arena is allocated and steps allocate nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/ctx.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace bg {

/// What a plan is for: `train` keeps what backward reads; `infer` lets every layer reuse the memory of the one before;
/// `decode` is `infer` for one position a row, and its `keep` lasts from step to step: caches, and what follows from
/// weights alone.
enum class Purpose : uint8_t { train, infer, decode };

/// Lifetimes, by which member declares a tensor:
///   keep      the whole step, in every purpose (residual stream, skips)
///   saved     from a layer's forward to its backward; under `infer` only inside its forward
///   scratch   inside one call of forward or backward of the layer (scope) that declares it, sublayers included
///   backward  like scratch, but absent (empty tensor) under `infer`
/// Handles are filled by commit(). Several plans may name the same handles: activate() points them at this plan's
/// memory.
class Plan {
 public:
  Plan(const Ctx& ctx, Purpose purpose) : ctx_(ctx), purpose_(purpose) {}
  Purpose purpose() const { return purpose_; }
  DType dtype() const { return ctx_.dtype; }
  DType full_dtype() const { return ctx_.full_dtype(); }
  Device device() const { return ctx_.device; }
  bool training() const { return purpose_ == Purpose::train; }
  bool decoding() const { return purpose_ == Purpose::decode; }

  void keep(Tensor& t, const char* name, Shape shape) { add(t, name, shape, ctx_.dtype, Life::keep); }
  void saved(Tensor& t, const char* name, Shape shape) { add(t, name, shape, ctx_.dtype, Life::saved); }
  void scratch(Tensor& t, const char* name, Shape shape) { add(t, name, shape, ctx_.dtype, Life::scratch); }
  void backward(Tensor& t, const char* name, Shape shape) { add(t, name, shape, ctx_.dtype, Life::backward); }
  void keep(Tensor& t, const char* name, Shape shape, DType dtype) { add(t, name, shape, dtype, Life::keep); }
  void saved(Tensor& t, const char* name, Shape shape, DType dtype) { add(t, name, shape, dtype, Life::saved); }
  void backward(Tensor& t, const char* name, Shape shape, DType dtype) { add(t, name, shape, dtype, Life::backward); }
  void scratch(Tensor& t, const char* name, Shape shape, DType dtype) { add(t, name, shape, dtype, Life::scratch); }

  /// A scope's overlaid memory begins after its parent's and goes to the next scope when it ends.
  class Scope {
   public:
    Scope(Plan& plan, const std::string& name) : plan_(plan), length_(plan.path_.size()), overlay_(plan.overlay_) {
      plan.path_ += name + ".";
    }
    ~Scope() {
      plan_.path_.resize(length_);
      plan_.overlay_ = overlay_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Plan& plan_;
    size_t length_, overlay_;
  };

  /// Allocates and fills all handles.
  void commit();
  /// Fills all handles again, after another plan did.
  void activate() const;
  size_t size_bytes() const { return buffer_->size_bytes(); }
  /// Keeps the memory that the handles point into alive after the plan.
  std::shared_ptr<const void> memory() const { return buffer_; }
  /// Bytes that commit() allocates.
  size_t needed_bytes() const { return kept_ + overlay_max_ + Buffer::kAlign; }
  /// A table: lifetime, name, shape, offset, bytes.
  std::string print() const;

 private:
  enum class Life : uint8_t { keep, saved, scratch, backward };
  struct Row {
    Tensor* handle;
    std::string name;
    Shape shape;
    DType dtype;
    Life life;
    bool present, overlaid;
    size_t offset;
  };
  void add(Tensor& t, const char* name, Shape shape, DType dtype, Life life);

  Ctx ctx_;
  Purpose purpose_;
  std::vector<Row> rows_;
  std::string path_;
  size_t kept_ = 0, overlay_ = 0, overlay_max_ = 0;  // bytes
  std::shared_ptr<const Buffer> buffer_ = std::make_shared<Buffer>();
};

}  // namespace bg
