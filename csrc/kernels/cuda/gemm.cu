// Matrix products on the GPU. cuBLASLt does nearly all of them; a plain tiled kernel does those that it refuses.
//
// Row-major C = op(A) op(B) is, to a library that counts by columns, C^T = op(B)^T op(A)^T: the same memory, operands
// exchanged. For each kind of product (shapes, strides, dtypes, alignment) the library's first suggestion is taken,
// once, and kept. Nothing is timed, and split sums are added by the library in a fixed order and in float32: equal
// calls give equal bits.
#include "kernels/cuda/gemm.cuh"

#include <algorithm>
#include <array>
#include <map>

#include "base/cuda/launch.cuh"
#include "kernels/cuda/cublas.h"

namespace bg::cuda {
namespace {

// One product, or a batch of them; a stride of 0 between matrices is allowed.
struct Product {
  int64_t M, N, K, batch, planned;  // planned: the batch that the algorithm is chosen for
  const void *a, *b, *add;
  void* c;
  int64_t lda, ldb, ldadd, ldc;              // elements between rows
  int64_t next_a, next_b, next_add, next_c;  // elements between matrices
  bool transpose_a, transpose_b;
  DType in, out;
  float alpha, beta;
};

// The plain kernel: a block makes 64 x 64 elements of C, a thread 4 x 4 of them, K in steps of 16. Any size, any
// stride; each element is summed in the order of k.
constexpr int kTile = 64, kDepth = 16;
template <class In, class Out>
__global__ void __launch_bounds__(256) gemm_kernel(Product p) {
  __shared__ float a_tile[kDepth][kTile + 1], b_tile[kDepth][kTile + 1];
  const int64_t tiles_n = ceil_div(p.N, int64_t{kTile});
  const int64_t i0 = blockIdx.x / tiles_n * kTile, j0 = blockIdx.x % tiles_n * kTile;
  const int t = threadIdx.x, row = t / 16, col = t % 16;
  float sum[4][4] = {};
  for (int64_t batch = blockIdx.y; batch < p.batch; batch += gridDim.y) {
    const In* const a = static_cast<const In*>(p.a) + batch * p.next_a;
    const In* const b = static_cast<const In*>(p.b) + batch * p.next_b;
    for (auto& r : sum)
      for (float& x : r) x = 0;
    for (int64_t k0 = 0; k0 < p.K; k0 += kDepth) {
      for (int e = t; e < kTile * kDepth; e += 256) {
        // Neighbouring threads read neighbouring elements, whichever way the matrix lies.
        const int ai = p.transpose_a ? e % kTile : e / kDepth, ak = p.transpose_a ? e / kTile : e % kDepth;
        const int bj = p.transpose_b ? e / kDepth : e % kTile, bk = p.transpose_b ? e % kDepth : e / kTile;
        const int64_t i = i0 + ai, j = j0 + bj, ka = k0 + ak, kb = k0 + bk;
        a_tile[ak][ai] = i < p.M && ka < p.K ? to_float(p.transpose_a ? a[ka * p.lda + i] : a[i * p.lda + ka]) : 0.0f;
        b_tile[bk][bj] = j < p.N && kb < p.K ? to_float(p.transpose_b ? b[j * p.ldb + kb] : b[kb * p.ldb + j]) : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kDepth; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] += a_tile[k][row + 16 * i] * b_tile[k][col + 16 * j];
      __syncthreads();
    }
    const Out* const add = static_cast<const Out*>(p.add) + batch * p.next_add;
    Out* const c = static_cast<Out*>(p.c) + batch * p.next_c;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        const int64_t m = i0 + row + 16 * i, n = j0 + col + 16 * j;
        if (m >= p.M || n >= p.N) continue;
        float value = p.alpha * sum[i][j];
        if (p.beta != 0) value += p.beta * to_float(add[m * p.ldadd + n]);
        c[m * p.ldc + n] = from_float<Out>(value);
      }
  }
}

void multiply_plainly(const Ctx& ctx, const Product& p) {
  const int64_t tiles = ceil_div(p.M, int64_t{kTile}) * ceil_div(p.N, int64_t{kTile});
  BG_CHECK(tiles < int64_t{1} << 31, "gemm: C is too large:", p.M, p.N);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(std::min<int64_t>(p.batch, 65535)));
  BG_CUDA_FLOATS(p.in, In, BG_CUDA_FLOATS(p.out, Out, BG_LAUNCH((gemm_kernel<In, Out>), grid, 256, 0, ctx, p)));
}

// Everything that the choice of an algorithm may depend on.
using Key = std::array<int64_t, 18>;

// The largest power of two, up to 256, that divides the address and, in a batch, the bytes between matrices.
int64_t alignment(const void* p, int64_t next, int64_t batch, DType dtype) {
  uint64_t bits = reinterpret_cast<uint64_t>(p) | 256;
  if (batch > 1) bits |= static_cast<uint64_t>(next) * size_of(dtype);
  return static_cast<int64_t>(bits & -bits);
}

Key key_of(const Product& p) {
  const int64_t flags = p.transpose_a | p.transpose_b << 1 | (p.in == DType::bf16) << 2 | (p.out == DType::bf16) << 3 |
                        (p.beta == 0) << 4 | (p.add == p.c) << 5;
  const bool many = p.planned > 1;
  return {p.M,
          p.N,
          p.K,
          p.batch,
          p.lda,
          p.ldb,
          p.ldadd,
          p.ldc,
          many * p.next_a,
          many * p.next_b,
          many * p.next_add,
          many * p.next_c,
          flags,
          alignment(p.a, p.next_a, p.planned, p.in),
          alignment(p.b, p.next_b, p.planned, p.in),
          alignment(p.add, p.next_add, p.planned, p.out),
          alignment(p.c, p.next_c, p.planned, p.out),
          p.planned};
}

cudaDataType_t library_type(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

// A matrix as the library sees it: rows and columns exchanged.
class Layout {
 public:
  Layout() = default;
  Layout(DType dtype, int64_t rows, int64_t cols, int64_t ld, int64_t batch, int64_t next) {
    BG_CUBLAS(cublas().MatrixLayoutCreate(&layout_, library_type(dtype), static_cast<uint64_t>(cols),
                                          static_cast<uint64_t>(rows), ld));
    if (batch <= 1) return;
    const auto count = static_cast<int32_t>(batch);
    BG_CUBLAS(cublas().MatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)));
    BG_CUBLAS(
        cublas().MatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next, sizeof(next)));
  }
  void set_batch(int64_t batch) {
    const auto count = static_cast<int32_t>(batch);
    BG_CUBLAS(cublas().MatrixLayoutSetAttribute(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)));
  }
  ~Layout() {
    if (layout_ != nullptr) cublas().MatrixLayoutDestroy(layout_);
  }
  Layout(Layout&& other) noexcept { std::swap(layout_, other.layout_); }
  Layout& operator=(Layout&& other) noexcept {
    std::swap(layout_, other.layout_);
    return *this;
  }
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  Layout a, b, add, c;
  cublasLtMatmulAlgo_t algorithm{};
  bool served = false;  // the library has an algorithm

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (product != nullptr) cublas().MatmulDescDestroy(product);
  }
};

struct Preference {
  cublasLtMatmulPreference_t get = nullptr;
  Preference() { BG_CUBLAS(cublas().MatmulPreferenceCreate(&get)); }
  ~Preference() { cublas().MatmulPreferenceDestroy(get); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t what, T value) {
    BG_CUBLAS(cublas().MatmulPreferenceSetAttribute(get, what, &value, sizeof(value)));
  }
};

// Context::gemm_state.
struct State {
  cublasLtHandle_t handle = nullptr;
  std::map<Key, Plan> plans;

  State() { BG_CUBLAS(cublas().Create(&handle)); }
  ~State() {
    plans.clear();
    cublas().Destroy(handle);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

void choose(const State& state, const Product& p, const Key& key, Plan& plan) {
  const Cublas& lib = cublas();
  BG_CUBLAS(lib.MatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t first = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  BG_CUBLAS(lib.MatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof(first)));
  BG_CUBLAS(lib.MatmulDescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof(second)));
  plan.a = Layout(p.in, p.transpose_a ? p.K : p.M, p.transpose_a ? p.M : p.K, p.lda, p.planned, p.next_a);
  plan.b = Layout(p.in, p.transpose_b ? p.N : p.K, p.transpose_b ? p.K : p.N, p.ldb, p.planned, p.next_b);
  plan.add = Layout(p.out, p.M, p.N, p.ldadd, p.planned, p.next_add);
  plan.c = Layout(p.out, p.M, p.N, p.ldc, p.planned, p.next_c);

  Preference preference;
  preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, size_t{Context::kGemmWorkspaceBytes});
  preference.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key[14]));  // the library's A is B
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key[13]));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key[15]));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key[16]));
  cublasLtMatmulHeuristicResult_t result{};
  int results = 0;
  const cublasStatus_t status =
      lib.MatmulAlgoGetHeuristic(state.handle, plan.product, plan.b.get(), plan.a.get(), plan.add.get(), plan.c.get(),
                                 preference.get, 1, &result, &results);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return;
  BG_CUBLAS(status);
  if (results == 0 || result.state != CUBLAS_STATUS_SUCCESS) return;
  plan.algorithm = result.algo;
  plan.served = true;
  if (p.batch != p.planned)
    for (Layout* layout : {&plan.a, &plan.b, &plan.add, &plan.c}) layout->set_batch(p.batch);
}

void multiply(const Ctx& ctx, const Product& p) {
  if (p.K == 0) return multiply_plainly(ctx, p);
  if (ctx.cuda->gemm_state == nullptr) ctx.cuda->gemm_state = std::make_shared<State>();
  State& state = *static_cast<State*>(ctx.cuda->gemm_state.get());
  const Key key = key_of(p);
  auto found = state.plans.find(key);
  if (found == state.plans.end()) {
    found = state.plans.try_emplace(key).first;
    try {
      choose(state, p, key, found->second);
    } catch (...) {
      state.plans.erase(found);
      throw;
    }
  }
  const Plan& plan = found->second;
  if (!plan.served) return multiply_plainly(ctx, p);
  BG_CUBLAS(cublas().Matmul(state.handle, plan.product, &p.alpha, p.b, plan.b.get(), p.a, plan.a.get(), &p.beta, p.add,
                            plan.add.get(), p.c, plan.c.get(), &plan.algorithm, ctx.cuda->gemm_workspace(),
                            Context::kGemmWorkspaceBytes, stream_of(ctx)));
}

// Of a tensor whose last two dimensions are a matrix. The stride of a single row may be anything.
int64_t leading(const Tensor& t) {
  return std::max<int64_t>({t.stride(-2), t.dim(-1), 1});
}

Product product(double alpha, const Tensor& a, Op op_a, const Tensor& b, Op op_b, double beta, const Tensor& add,
                const Tensor& c) {
  Product p{};
  p.transpose_a = op_a == Op::transpose, p.transpose_b = op_b == Op::transpose;
  p.M = c.dim(-2), p.N = c.dim(-1), p.K = a.dim(p.transpose_a ? -2 : -1);
  p.batch = p.planned = c.rank() == 3 ? c.dim(0) : 1;
  // Without beta the library still wants a C: the result's own place.
  const Tensor& read = beta == 0 ? c : add;
  p.a = a.data(), p.b = b.data(), p.add = read.data(), p.c = c.data();
  p.lda = leading(a), p.ldb = leading(b), p.ldadd = leading(read), p.ldc = leading(c);
  if (p.add == p.c) p.ldadd = p.ldc;  // of a single row the two may differ in name
  if (c.rank() == 3)
    p.next_a = a.stride(0), p.next_b = b.stride(0), p.next_add = read.stride(0), p.next_c = c.stride(0);
  p.in = a.dtype(), p.out = c.dtype();
  p.alpha = static_cast<float>(alpha), p.beta = static_cast<float>(beta);
  return p;
}

}  // namespace

void gemm(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c) {
  multiply(ctx, product(alpha, a, op_a, b, op_b, beta, c, c));
}

void gemm_add(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, Tensor add, Tensor c) {
  multiply(ctx, product(alpha, a, op_a, b, op_b, 1, add, c));
}

// All of it: the tensor cores are done before half of it could be copied.
void gemm_symmetric(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c) {
  multiply(ctx, product(alpha, a, op_a, b, op_b, beta, c, c));
}

void gemm_batched(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor add, Tensor c,
                  int64_t planned) {
  if (c.numel() == 0) return;
  Product p = product(alpha, a, op_a, b, op_b, beta, add, c);
  if (planned > 0) p.planned = planned;
  multiply(ctx, p);
}

void gemm_plain(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor add, Tensor c) {
  if (c.numel() > 0) multiply_plainly(ctx, product(alpha, a, op_a, b, op_b, beta, add, c));
}

}  // namespace bg::cuda
