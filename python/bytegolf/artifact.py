"""From a model to the file that is scored, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from bytegolf import _bytegolf
from bytegolf._bytegolf import MAX_DECODED_BYTES, FormatError
from bytegolf.codec import StoredParameters, pack_parameters
from bytegolf.config import Config
from bytegolf.ids import AnyArray
from bytegolf.model import Model

__all__ = ["artifact_options", "chosen_weights", "load", "pack"]


def pack(
    model: Any,
    path: str | os.PathLike[str],
    scheme: str = "int6_mixed",
    weights: Literal["ema", "swa", "raw"] | Mapping[str, AnyArray] | None = None,
) -> int:
    """Quantises a model, writes its artifact, and returns the bytes written.

    `model` is a Model or a Trainer. `weights`: "raw" (the model's own), "ema" or "swa" (a Trainer's averages), or a dict
    of parameters; None means "ema" for a Trainer and "raw" for a Model. Tensors that only training uses are left out. The
    model section of the options travels along. ValueError when averages are asked of a Model that has none.
    """
    model, params = chosen_weights(model, weights)
    specs = model.specs()
    stored = [row["name"] for row in specs if row["codec"] != "left_out"]
    missing = [name for name in stored if name not in params]
    if missing:
        raise ValueError(f"weights lack {', '.join(missing)}")
    text = model.config.text(["model"])
    chosen = {name: _bytegolf.host_array(params[name], name) for name in stored}
    return pack_parameters(chosen, path, scheme, text, specs, threads=model.threads)


def chosen_weights(
    model: Any, weights: Literal["ema", "swa", "raw"] | Mapping[str, AnyArray] | None
) -> tuple[Model, dict[str, Any]]:
    """The Model itself and the weights that `pack` was asked for."""
    trainer = None if isinstance(model, Model) else model
    model = model if trainer is None else trainer.model
    if weights is None:
        weights = "raw" if trainer is None else "ema"
    if not isinstance(weights, str):
        return model, dict(weights)
    if weights == "raw":
        return model, model.parameters()
    params = getattr(trainer, weights, None) if weights in ("ema", "swa") else None
    if params is None:
        raise ValueError(f'no "{weights}" weights available: pass a Trainer that keeps them, or a dict')
    return model, params


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 0,
    *,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
) -> Model:
    """The model of an artifact, read back from disk.

    Names and shapes are compared with the options inside before a tensor is decoded or a model built, and no more than
    max_decoded_bytes of parameters, as float32, are read. FormatError naming path, offset or tensor when the file is damaged,
    larger, or not what its options say; ValueError when it holds no options.
    """
    stored = StoredParameters(path, max_decoded_bytes)
    if not stored.config_text:
        raise ValueError(f"{path} holds tensors but no model options: it was not written by `pack`")
    config = Config.stored(stored.config_text, f"the options inside {path}")
    config = config.replace(jepa_pred_k=0)  # the latent head is used in training only and left out
    check_shapes(str(path), config, stored.shapes)
    params = stored.read(threads)
    model = Model(config, device, dtype, threads=threads)
    model.load_parameters(params)
    return model


def check_shapes(what: str, config: Config, shapes: Mapping[str, tuple[int, ...]], *, whole: bool = False) -> None:
    """FormatError, starting with `what`, unless these are names and shapes of all parameters of `config`: of those that an artifact
    stores, or with `whole` of those that only training uses, too.

    Neither memory nor time depend on how large the config says that they are.
    """
    if config.num_layers > len(shapes):  # every block has tensors of its own
        raise FormatError(f"{what}: {len(shapes)} tensors for num_layers = {config.num_layers}")
    wanted = {
        str(row["name"]): tuple(row["shape"])
        for row in _bytegolf.declared_parameters(config)
        if whole or row["codec"] != "left_out"
    }
    missing = [name for name in wanted if name not in shapes]
    if missing:
        raise FormatError(f"{what}: lacks {some(missing)}, which its options ask for")
    for name, shape in shapes.items():
        if name not in wanted:
            raise FormatError(f"{what}: its options have no tensor {name}")
        if shape != wanted[name]:
            raise FormatError(f"{what}: tensor {name} has shape {shape}, its options make it {wanted[name]}")


def some(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def artifact_options(path: str | os.PathLike[str]) -> str:
    """The model section of the options that an artifact carries, as TOML. Every byte of the file is checked and nothing kept;
    FormatError when it is damaged."""
    return str(_bytegolf.ArtifactReader(os.fspath(path)).check()["config"])
