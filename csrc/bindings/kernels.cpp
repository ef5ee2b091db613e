// Single kernels on NumPy arrays, for Python: rms_norm, attention, softmax_xent. Arrays go to the device and come back.
#include <string>
#include <vector>

#include "base/memory.h"
#include "bindings/arrays.h"
#include "kernels/attention.h"
#include "kernels/rms_norm.h"
#include "kernels/softmax_xent.h"
#include "tensor/buffer.h"

namespace bg::bindings {
namespace {

template <class T>
using Floats = py::array_t<T, py::array::c_style>;

// Tensors of one call, and their memory.
class Operands {
 public:
  explicit Operands(const Ctx& ctx) : ctx_(ctx) {}

  Tensor zeros(const Shape& shape, DType dtype) {
    int64_t n = 1;
    for (int i = 0; i < shape.rank(); ++i) n *= shape[i];
    buffers_.emplace_back(static_cast<size_t>(n) * size_of(dtype), ctx_.device);
    return Tensor(buffers_.back().data(), shape, dtype, ctx_.device);
  }
  template <class T>
  Tensor copy(const Floats<T>& a, const char* what, DType dtype) {
    const Tensor t = zeros(shape_of(a, what), dtype);
    upload(ctx_, std::vector<double>(a.data(), a.data() + a.size()), t);
    return t;
  }
  Tensor copy(const Ids& a, const char* what) {
    const Tensor t = zeros(shape_of(a, what), DType::i32);
    copy_bytes(ctx_, t.data(), ctx_.device, a.data(), Device::cpu, t.size_bytes());
    return t;
  }

 private:
  const Ctx& ctx_;
  std::vector<Buffer> buffers_;
};

template <class T>
Ctx context(int threads, const std::string& device, const std::string& dtype) {
  return make_ctx(device_named(device), dtype.empty() ? DTypeOf<T>::value : dtype_named(dtype), threads);
}

template <class T>
py::array rms_norm_of(const Floats<T>& x, double scale, double eps, int threads, const std::string& device,
                      const std::string& dtype) {
  BG_CHECK(x.ndim() == 2, "rms_norm takes x (N, D), got", x.ndim(), "dimensions");
  const Ctx ctx = context<T>(threads, device, dtype);
  Operands own(ctx);
  const Tensor from = own.copy(x, "x", ctx.dtype), y = own.zeros(from.shape(), ctx.dtype);
  const Tensor rstd = own.zeros({from.dim(0)}, ctx.full_dtype());
  {
    const py::gil_scoped_release release;
    if (y.numel() > 0) rms_norm_forward(ctx, from, scale, eps, y, rstd);
  }
  return copy_of(ctx, y);
}

template <class T>
py::array attention_of(const Floats<T>& q, const Floats<T>& k, const Floats<T>& v, int64_t window, int threads,
                       const std::string& device, const std::string& dtype) {
  BG_CHECK(q.ndim() == 4, "attention takes q (B, T, H, d), got", q.ndim(), "dimensions");
  const Ctx ctx = context<T>(threads, device, dtype);
  Operands own(ctx);
  const Tensor Q = own.copy(q, "q", ctx.dtype), K = own.copy(k, "k", ctx.dtype), V = own.copy(v, "v", ctx.dtype);
  const Tensor y = own.zeros(Q.shape(), ctx.dtype), lse = own.zeros({Q.dim(0), Q.dim(2), Q.dim(1)}, ctx.full_dtype());
  {
    const py::gil_scoped_release release;
    attention_forward(ctx, Q, K, V, window, Tensor(), y, lse);
  }
  return copy_of(ctx, y);
}

template <class T>
py::array softmax_xent_of(const Floats<T>& logits, const Ids& targets, int threads, const std::string& device,
                          const std::string& dtype) {
  BG_CHECK(logits.ndim() == 2 && targets.ndim() == 1 && targets.shape(0) == logits.shape(0),
           "softmax_xent takes logits (N, V) and targets (N), got", shape_of(logits, "logits").str(), "and",
           shape_of(targets, "targets").str());
  for (py::ssize_t n = 0; n < targets.size(); ++n)
    BG_CHECK(-1 <= targets.data()[n] && targets.data()[n] < logits.shape(1), "target", n, "is", targets.data()[n],
             "and not in -1 ..", logits.shape(1) - 1);
  const Ctx ctx = context<T>(threads, device, dtype);
  Operands own(ctx);
  const Tensor raw = own.copy(logits, "logits", ctx.full_dtype()), wanted = own.copy(targets, "targets");
  const Tensor nll = own.zeros({raw.dim(0)}, DType::f64), lse = own.zeros({raw.dim(0)}, ctx.full_dtype());
  {
    const py::gil_scoped_release release;
    if (raw.numel() > 0) softmax_xent_forward(ctx, raw, wanted, nll, lse);
  }
  return copy_of(ctx, nll);
}

template <class T>
void bind_for(py::module_& m) {
  m.def("rms_norm", &rms_norm_of<T>, py::arg("x").noconvert(), py::arg("scale") = 1.0, py::arg("eps") = 1e-7,
        py::arg("threads") = 0, py::arg("device") = "cpu", py::arg("dtype") = "",
        "kernels/rms_norm.h on an array (N, D); see bytegolf.kernels.");
  m.def("attention", &attention_of<T>, py::arg("q").noconvert(), py::arg("k").noconvert(), py::arg("v").noconvert(),
        py::arg("window") = 0, py::arg("threads") = 0, py::arg("device") = "cpu", py::arg("dtype") = "",
        "kernels/attention.h on arrays (B, T, H, d) and (B, T, G, d); see bytegolf.kernels.");
  m.def("softmax_xent", &softmax_xent_of<T>, py::arg("logits").noconvert(), py::arg("targets").noconvert(),
        py::arg("threads") = 0, py::arg("device") = "cpu", py::arg("dtype") = "",
        "kernels/softmax_xent.h on arrays (N, V) and (N); see bytegolf.kernels.");
}

}  // namespace

void bind_kernels(py::module_& m) {
  bind_for<double>(m);
  bind_for<float>(m);
}

}  // namespace bg::bindings
