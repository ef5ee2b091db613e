// Every kind of model this program knows, shrunk until finite differences are cheap, with ids to feed it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "testing/tensors.h"

namespace bg {

struct TinyModel {
  std::string name;
  Config config;
  int64_t B, T;
  std::vector<int32_t> ids, targets;  // (B,T)
};

/// A preset with sizes shrunk, then `options` ("name = value" lines) on top.
Config tiny_config(const std::string& preset, const std::string& options);
/// Inputs come from the lower half of the vocabulary, targets from the upper half: a row of the token table then is
/// looked up or predicted, never both. doc_mask configs get a bos inside each row.
TinyModel tiny_model(const std::string& preset, const std::string& options, int64_t B, int64_t T);
/// All of them.
const std::vector<TinyModel>& tiny_models();

/// A model whose every parameter is random, so that no branch is silent.
std::unique_ptr<Model> random_model(const Config& config, DType dtype, int threads = 1);

std::vector<double> gradients_of(const Model& model);
/// Raw bytes of the values or gradients of a model.
std::string bits_of(Tensor t);
bool starts_with(const std::string& name, const char* prefix);

}  // namespace bg
