// Ranks, for Python: who connects them, and the tensors that a group hands round by itself.
#include "ranks/comm.h"

#include <memory>

#include "bindings/bindings.h"
#include "model/model.h"

namespace bg::bindings {

void bind_ranks(py::module_& m) {
  py::class_<Comm, std::shared_ptr<Comm>>(m, "Comm",
                                          "One rank's end of a group that sums gradients; see csrc/ranks/comm.h.")
      .def_property_readonly("rank", &Comm::rank)
      .def_property_readonly("world", &Comm::world);
  py::class_<Listener>(m, "Listener", "A TCP port of this process that other ranks connect to.")
      .def(py::init<const std::string&>(), py::arg("host") = "",
           "Binds a free port of `host`, or of all addresses of this machine. OSError when it cannot.")
      .def_property_readonly("port", &Listener::port);
  m.def(
      "socket_comm",
      [](const Listener& listener, int64_t rank, const std::vector<std::pair<std::string, int>>& peers,
         const std::string& key, double timeout_s) {
        std::vector<Peer> list;
        for (const auto& [host, port] : peers) list.push_back({host, port});
        const py::gil_scoped_release release;
        return make_socket_comm(listener, rank, list, key, timeout_s);
      },
      py::arg("listener"), py::arg("rank"), py::arg("peers"), py::arg("key"), py::arg("timeout_s"),
      "Connects the ranks of a CPU run: peers are (host, port) by rank, key is the same on all. OSError names the "
      "ranks "
      "that did not come.");
  m.def(
      "nccl_unique_id",
      [] {
        const std::vector<uint8_t> id = nccl_unique_id();
        return py::bytes(reinterpret_cast<const char*>(id.data()), id.size());
      },
      "A new NCCL id, made by rank 0. OSError where NCCL is not found.");
  m.def(
      "nccl_comm",
      [](const Model& model, int64_t rank, int64_t world, const py::bytes& id) {
        const std::string bytes = id;
        const py::gil_scoped_release release;
        return make_nccl_comm(model.ctx(), rank, world, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
      },
      py::arg("model"), py::arg("rank"), py::arg("world"), py::arg("unique_id"),
      "Connects the ranks of a run on GPUs, each on its model's; returns when all have called it.");
}

}  // namespace bg::bindings
