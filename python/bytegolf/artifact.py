"""From a model to the file that is scored, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from bytegolf import _bytegolf
from bytegolf.codec import load_parameters, pack_parameters, read_artifact
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


def load(path: str | os.PathLike[str], device: str = "cpu", dtype: str = "auto", threads: int = 0) -> Model:
    """The model of an artifact, read back from disk. FormatError naming path, offset or tensor when the file is damaged."""
    text, params = load_parameters(path, threads=threads)
    if not text:
        raise ValueError(f"{path} holds tensors but no model options: it was not written by `pack`")
    config = Config.stored(text, f"the options inside {path}")
    config = config.replace(jepa_pred_k=0)  # the latent head is used in training only and left out
    model = Model(config, device, dtype, threads=threads)
    model.load_parameters(params)
    return model


def artifact_options(path: str | os.PathLike[str]) -> str:
    """The model section of the options that an artifact carries, as TOML. FormatError when the file is damaged."""
    return read_artifact(path)[0]
