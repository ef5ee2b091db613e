// CUDA graphs: captured from the context's stream, launched on it.
#include "base/recording.h"

#include "base/cuda/context.h"

namespace bg::cuda {
namespace {

struct Graph {
  std::shared_ptr<Context> context;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ~Graph() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
};

}  // namespace

void record(const Ctx& ctx, const std::function<void()>& work, std::function<void()>& replay) {
  auto graph = std::make_shared<Graph>();
  graph->context = ctx.cuda;
  const cudaStream_t stream = stream_of(ctx);
  BG_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  try {
    work();
  } catch (...) {  // leave capture mode, whatever happened
    cudaGraph_t broken = nullptr;
    cudaStreamEndCapture(stream, &broken);
    if (broken != nullptr) cudaGraphDestroy(broken);
    cudaGetLastError();
    throw;
  }
  BG_CUDA(cudaStreamEndCapture(stream, &graph->graph));
  BG_CUDA(cudaGraphInstantiate(&graph->executable, graph->graph, 0));
  replay = [graph] { BG_CUDA(cudaGraphLaunch(graph->executable, graph->context->stream())); };
}

}  // namespace bg::cuda
