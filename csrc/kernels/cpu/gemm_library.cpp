// oneDNN and OpenBLAS through dlopen: no build needs them, no thread of theirs runs.
#include "kernels/gemm_library.h"

#include <dlfcn.h>

#include <algorithm>

#include "base/library_folders.h"

namespace bg {
namespace {

// oneDNN: row-major; the status is 0 on success.
using DnnlSgemm = int (*)(char, char, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t,
                          float, float*, int64_t);
struct DnnlVersion {  // dnnl_version_t, its first fields
  int major, minor, patch;
};
// CBLAS with 32-bit integers.
using CblasSgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*,
                            int);
constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;

struct Loaded {
  GemmLibraryInfo info;
  DnnlSgemm dnnl = nullptr;
  CblasSgemm cblas = nullptr;
  void (*omp_threads)(int) = nullptr;  // OpenMP's setting is per thread, so each caller makes it
};

LibraryFolders& folders() {
  static LibraryFolders f;
  return f;
}

template <class F>
F symbol(void* handle, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (void* p = dlsym(handle, name)) return reinterpret_cast<F>(p);
  return nullptr;
}

// The first of the files that opens; otherwise null, and `why` says what the linker said about each.
void* open_first(std::initializer_list<const char*> files, std::string& path, std::string& why) {
  std::vector<std::string> candidates;
  for (const std::string& folder : folders().all())
    for (const char* file : files) candidates.push_back(folder + "/" + file);
  candidates.insert(candidates.end(), files.begin(), files.end());
  for (const std::string& candidate : candidates) {
    if (void* handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      path = candidate;
      return handle;
    }
    const char* error = dlerror();
    if (why.empty() || candidate.find('/') != std::string::npos) why = error ? error : "cannot open " + candidate;
  }
  return nullptr;
}

Loaded load_builtin() {
  return {{GemmLibrary::builtin, "builtin", true, "packed panels, instruction set chosen at run time"}, {}, {}, {}};
}

Loaded load_onednn() {
  Loaded l{{GemmLibrary::onednn, "onednn", false, ""}, {}, {}, {}};
  std::string path, why;
  void* handle = open_first({"libdnnl.so.3", "libdnnl.so.2"}, path, why);
  if (!handle) {
    l.info.detail = why;
    return l;
  }
  l.dnnl = symbol<DnnlSgemm>(handle, {"dnnl_sgemm"});
  l.omp_threads = symbol<void (*)(int)>(handle, {"omp_set_num_threads"});
  if (!l.dnnl) {
    l.info.detail = path + " has no dnnl_sgemm";
    return l;
  }
  l.info.available = true;
  l.info.detail = path;
  if (const auto version = symbol<const DnnlVersion* (*)()>(handle, {"dnnl_version"})) {
    const DnnlVersion* v = version();
    l.info.detail =
        words("oneDNN", std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch),
              "from", path);
  }
  return l;
}

Loaded load_openblas() {
  Loaded l{{GemmLibrary::openblas, "openblas", false, ""}, {}, {}, {}};
  std::string path, why;
  void* handle = open_first({"libscipy_openblas.so", "libopenblas.so.0", "libopenblas.so"}, path, why);
  if (!handle) {
    l.info.detail = why;
    return l;
  }
  l.cblas = symbol<CblasSgemm>(handle, {"scipy_cblas_sgemm", "cblas_sgemm"});
  const auto threads = symbol<void (*)(int)>(handle, {"scipy_openblas_set_num_threads", "openblas_set_num_threads"});
  const auto core = symbol<char* (*)()>(handle, {"scipy_openblas_get_corename", "openblas_get_corename"});
  const auto config = symbol<char* (*)()>(handle, {"scipy_openblas_get_config", "openblas_get_config"});
  if (!l.cblas || !threads) {
    l.info.detail = path + " has no cblas_sgemm or no openblas_set_num_threads";
    return l;
  }
  threads(1);
  const std::string core_name = core ? core() : "unknown";
  l.info.available = true;
  l.info.detail = words(config ? config() : "OpenBLAS", "core", core_name, "from", path);
  // Debian's 0.3.21 takes recent processors for old ones and then runs at a fifth of their speed.
  for (const char* old : {"Prescott", "Core2", "Generic", "Nehalem", "Barcelona"})
    if (core_name == old) l.info.detail += " (a core without AVX: slow here unless the processor is that old)";
  return l;
}

const Loaded& loaded(GemmLibrary library) {
  static const Loaded builtin = load_builtin();
  switch (library) {
    case GemmLibrary::builtin:
      return builtin;
    case GemmLibrary::onednn: {
      static const Loaded onednn = load_onednn();
      return onednn;
    }
    case GemmLibrary::openblas: {
      static const Loaded openblas = load_openblas();
      return openblas;
    }
  }
  return builtin;
}

}  // namespace

const GemmLibraryInfo& gemm_library_info(GemmLibrary library) {
  return loaded(library).info;
}

std::vector<GemmLibraryInfo> gemm_libraries() {
  return {gemm_library_info(GemmLibrary::builtin), gemm_library_info(GemmLibrary::onednn),
          gemm_library_info(GemmLibrary::openblas)};
}

void add_gemm_library_folder(const std::string& folder) {
  folders().add(folder);
}

GemmLibrary parse_gemm_library(const std::string& name) {
  for (const GemmLibrary library : {GemmLibrary::builtin, GemmLibrary::onednn, GemmLibrary::openblas})
    if (loaded(library).info.name == name) return library;
  BG_CHECK(false, "gemm library must be builtin, onednn or openblas, got", name);
  return GemmLibrary::builtin;
}

namespace cpu {

void library_gemm(const Ctx& ctx, float alpha, Tensor a, bool transpose_a, Tensor b, bool transpose_b, float beta,
                  Tensor c) {
  const Loaded& lib = loaded(ctx.gemm_library);
  BG_CHECK(lib.info.available, "gemm library", lib.info.name, "is not available:", lib.info.detail);
  const int64_t M = c.dim(0), N = c.dim(1), K = a.dim(transpose_a ? 0 : 1);
  BG_CHECK(std::max({M, N, K, a.stride(0), b.stride(0), c.stride(0)}) < (int64_t{1} << 31), "gemm library",
           lib.info.name, "takes 32-bit sizes only, got", M, N, K);
  const int64_t rows = M >= 1024 ? 256 : 128, cols = 512;
  const int64_t grid_rows = (M + rows - 1) / rows, grid_cols = (N + cols - 1) / cols;
  // A row stride of a single row may be anything; libraries want at least the row's length.
  const auto stride = [](const Tensor& t) { return std::max<int64_t>({t.stride(0), t.dim(1), 1}); };
  const int64_t lda = stride(a), ldb = stride(b), ldc = stride(c);
  const float *pa = a.ptr<float>(), *pb = b.ptr<float>();
  float* pc = c.ptr<float>();
  ctx.pool->parallel_for(grid_rows * grid_cols, [&](int64_t i) {
    const int64_t i0 = i / grid_cols * rows, j0 = i % grid_cols * cols;
    const int64_t m = std::min(rows, M - i0), n = std::min(cols, N - j0);
    const float* x = pa + (transpose_a ? i0 : i0 * lda);
    const float* y = pb + (transpose_b ? j0 * ldb : j0);
    float* z = pc + i0 * ldc + j0;
    if (lib.dnnl) {
      thread_local bool single = false;
      if (!single && lib.omp_threads) lib.omp_threads(1);
      single = true;
      const int status =
          lib.dnnl(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, K, alpha, x, lda, y, ldb, beta, z, ldc);
      BG_CHECK(status == 0, "oneDNN's sgemm failed with status", status, "for", m, n, K);
    } else {
      lib.cblas(kRowMajor, transpose_a ? kTrans : kNoTrans, transpose_b ? kTrans : kNoTrans, static_cast<int>(m),
                static_cast<int>(n), static_cast<int>(K), alpha, x, static_cast<int>(lda), y, static_cast<int>(ldb),
                beta, z, static_cast<int>(ldc));
    }
  });
}

}  // namespace cpu
}  // namespace bg
