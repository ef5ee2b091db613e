// Vocabularies, shards and batches, for Python.
#include <filesystem>

#include "base/check.h"
#include "bindings/bindings.h"
#include "bindings/paths.h"
#include "data/loader.h"
#include "data/shard.h"

namespace bg::bindings {
namespace {

// Files are held against the manifests beside them before they are opened. A manifest is JSON, which Python reads.
std::shared_ptr<const ShardSet> open_shards(const std::vector<std::string>& where, const Vocab& vocab,
                                            const std::string& split, bool hashes) {
  const auto found = find_shards(where, split);
  py::list places;
  for (const ShardFiles& files : found) {
    py::list names;
    for (const std::string& path : files.paths)
      names.append(path_text(std::filesystem::path(path).filename().string()));
    const py::cpp_function matches([files](const PathBytes& name) { return files.matches(name.bytes); });
    places.append(py::make_tuple(path_text(files.folder), names, matches));
  }
  py::module_::import("bytegolf.manifest").attr("hold")(places, vocab.name, hashes);
  auto set = ShardSet::open(found, vocab);
  for (const std::string& note : set->notes()) py::module_::import("warnings").attr("warn")(path_text(note));
  return set;
}

// One path, a sequence of paths, or an integer array of ids.
std::shared_ptr<const ShardSet> shard_set(const py::object& data, const std::string& family, const std::string& split,
                                          bool hashes = false) {
  const Vocab& vocab = vocab_of(family);
  if (py::isinstance<ShardSet>(data)) {
    auto set = data.cast<std::shared_ptr<ShardSet>>();
    if (!(set->vocab() == vocab))
      throw InvalidArgument(words("shards are", set->vocab().name, "but", family, "is asked for"));
    return set;
  }
  if (py::isinstance<py::array>(data)) {
    const auto any = py::reinterpret_borrow<py::array>(data);
    if (any.dtype().kind() != 'i' && any.dtype().kind() != 'u') throw InvalidArgument("ids must be integers");
    if (any.ndim() != 1) throw InvalidArgument(words("ids must have one dimension, got", any.ndim()));
    const auto wide = py::array_t<int64_t, py::array::c_style | py::array::forcecast>::ensure(any);
    if (!wide) throw py::error_already_set();
    const int64_t* ids = wide.data();
    std::vector<uint16_t> narrow(static_cast<size_t>(wide.size()));
    for (size_t i = 0; i < narrow.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= vocab.size)
        throw InvalidArgument(words("array of ids: id", ids[i], "at index", i, "is outside", describe(vocab)));
      narrow[i] = static_cast<uint16_t>(ids[i]);
    }
    return ShardSet::of_ids(std::move(narrow), vocab);
  }
  std::vector<std::string> where;
  const auto path_of = [](py::handle item) {
    try {
      return path_bytes(item);
    } catch (const py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      throw py::type_error("expected shards as a path, a list of paths or an array of ids, got " +
                           std::string(py::str(py::type::of(item))));
    }
  };
  if (py::isinstance<py::list>(data) || py::isinstance<py::tuple>(data)) {
    for (const py::handle item : data) where.push_back(path_of(item));
  } else {
    where.push_back(path_of(data));
  }
  return open_shards(where, vocab, split, hashes);
}

py::dict dict_of(const Vocab& v) {
  py::dict d;
  d["family"] = v.name;
  d["size"] = v.size;
  d["byte_offset"] = v.byte_offset;
  d["pad"] = v.pad;
  d["bos"] = v.bos;
  d["eos"] = v.eos;
  d["unk"] = v.unk;
  return d;
}

py::array_t<int32_t> rows(const std::vector<int32_t>& ids, int64_t B, int64_t T) {
  py::array_t<int32_t> out({B, T});
  std::copy(ids.begin(), ids.end(), out.mutable_data());
  return out;
}

}  // namespace

void bind_data(py::module_& m) {
  m.attr("SHARD_MAGIC") = kShardMagic;
  m.attr("SHARD_VERSION") = kShardVersion;
  m.attr("SHARD_HEADER_BYTES") = kShardHeaderBytes;
  m.def(
      "vocab", [](const std::string& family) { return dict_of(vocab_of(family)); }, py::arg("family"),
      "Dict of a family's vocabulary: family, size, byte_offset, and pad, bos, eos, unk (-1 where it has none).");

  py::class_<ShardSet, std::shared_ptr<ShardSet>>(m, "ShardSet",
                                                  "One checked stream of ids over shard files or an array.")
      .def(py::init([](const py::object& data, const std::string& family, const std::string& split, bool hashes) {
             return std::const_pointer_cast<ShardSet>(shard_set(data, family, split, hashes));
           }),
           py::arg("data"), py::arg("family") = "byte260", py::arg("split") = "", py::kw_only(),
           py::arg("hashes") = false,
           "data: a file, folder or glob, a list of those, or a 1-d integer array of ids. split: 'train', 'val' or '' "
           "picks in a folder that holds both. Files of a prepared folder must be those of its manifest "
           "(bytegolf.manifest); hashes: reads every byte to compare it, however much that is. ValueError or "
           "FormatError names path and offset; UserWarning: a shard declares no vocabulary.")
      .def_property_readonly("family", [](const ShardSet& s) { return s.vocab().name; })
      .def("__len__", [](const ShardSet& s) { return s.size(); })
      .def_property_readonly(
          "shards",
          [](const ShardSet& s) {
            py::list out;
            for (const auto& shard : s.shards()) out.append(py::make_tuple(path_text(shard.path), shard.ids));
            return out;
          },
          "List of (path, ids).")
      .def(
          "read",
          [](const ShardSet& s, int64_t first, int64_t count) {
            BG_CHECK(first >= 0 && count >= 0 && first <= s.size() && count <= s.size() - first, "ids", first, "to",
                     first + count, "of a stream of", s.size());
            py::array_t<int32_t> out(count);
            int32_t* to = out.mutable_data();
            py::gil_scoped_release free;
            s.read(first, count, to);
            return out;
          },
          py::arg("first"), py::arg("count"), "Ids first..first+count-1, int32.")
      .def("check", &ShardSet::check, py::arg("threads") = 1, py::call_guard<py::gil_scoped_release>(),
           "Reads every id once; FormatError names shard and offset of one outside the vocabulary.");

  py::class_<Loader>(m, "Loader",
                     "Batches x, y (B, T) as a pure function of (seed, step, micro, rank), prefetched by a thread.")
      .def(py::init([](const py::object& data, int64_t seq_len, int64_t micro_batch_ids, const std::string& family,
                       int64_t micro_batches, uint64_t seed, int64_t rank, int64_t world, bool shuffle, int prefetch,
                       const std::string& split) {
             LoaderOptions o;
             o.seq_len = seq_len;
             o.micro_batch_ids = micro_batch_ids;
             o.micro_batches = micro_batches;
             o.seed = seed;
             o.rank = rank;
             o.world = world;
             o.shuffle = shuffle;
             o.prefetch = prefetch;
             return std::make_unique<Loader>(shard_set(data, family, split), o);
           }),
           py::arg("data"), py::arg("seq_len"), py::arg("micro_batch_ids"), py::kw_only(),
           py::arg("family") = "byte260", py::arg("micro_batches") = 1, py::arg("seed") = 0, py::arg("rank") = 0,
           py::arg("world") = 1, py::arg("shuffle") = false, py::arg("prefetch") = 3, py::arg("split") = "",
           "data as for ShardSet, or a ShardSet. B = micro_batch_ids / seq_len rows; micro_batches per step and rank.")
      .def(
          "batch",
          [](Loader& self, int64_t step, int64_t micro) {
            const Batch* batch;
            {
              py::gil_scoped_release free;
              batch = &self.get(step, micro);
            }
            return py::make_tuple(rows(batch->x, batch->B, batch->T), rows(batch->y, batch->B, batch->T));
          },
          py::arg("step"), py::arg("micro") = 0,
          "(x, y), int32 (B, T), copies. Asked in order they are ready; any other place is a seek.");
  m.def("shuffled", &shuffled, py::arg("i"), py::arg("n"), py::arg("seed"), py::arg("epoch"),
        "The i-th of n in the pseudo-random order of (seed, epoch).");
}

}  // namespace bg::bindings
