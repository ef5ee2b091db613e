"""bytegolf: train, squeeze and score byte-level language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bytegolf._bytegolf import Array, FormatError, NumericsError, __version__

if TYPE_CHECKING:
    from bytegolf.artifact import load, pack
    from bytegolf.codec import dequantise, pack_tensors, quantise, unpack_tensors
    from bytegolf.config import Config
    from bytegolf.model import Losses, Model
    from bytegolf.scoring import Score, evaluate
    from bytegolf.surprise.shown import show
    from bytegolf.trainer import Trainer
    from bytegolf.weights import load_safetensors, save_safetensors

__all__ = [
    "Array",
    "Config",
    "FormatError",
    "Losses",
    "Model",
    "NumericsError",
    "Score",
    "Trainer",
    "__version__",
    "dequantise",
    "evaluate",
    "load",
    "load_safetensors",
    "pack",
    "pack_tensors",
    "quantise",
    "save_safetensors",
    "show",
    "unpack_tensors",
]

# Where each public name lives; loaded when first asked for, so that `bytegolf --help` need not wait for NumPy.
_HOMES = {
    "artifact": ("load", "pack"),
    "codec": ("dequantise", "pack_tensors", "quantise", "unpack_tensors"),
    "config": ("Config",),
    "scoring": ("Score", "evaluate"),
    "model": ("Losses", "Model"),
    "surprise.shown": ("show",),
    "trainer": ("Trainer",),
    "weights": ("load_safetensors", "save_safetensors"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"bytegolf.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'bytegolf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
