"""The model as Python sees it: parameters as dicts of arrays, forward, loss, gradients, scores and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf._bytegolf import Losses
from bytegolf.config import Config
from bytegolf.device import resolve
from bytegolf.ids import as_ids, document_ids
from bytegolf.scoring import evaluate

__all__ = ["Losses", "Model"]

Array = npt.NDArray[Any]


class Model(_bytegolf.Model):
    """A byte-level language model of either family, with its parameters on `device` in `dtype`.

    device: cpu, cuda or auto. dtype: float32 or float64 on the CPU, bfloat16 or float32 on CUDA, auto for the first of each.
    First values are drawn from `seed`. threads: 0 means one per core; results have the same bits at any number.

    Arrays are NumPy's, parameters and gradients float32 where dtype is bfloat16; ids are integer arrays [B,T]. The GIL is
    released during work; one model serves one thread at a time. ValueError for options that contradict each other, ids
    outside the vocabulary (naming row and position) and shapes that do not fit.
    """

    def __init__(
        self, config: Config, device: str = "cpu", dtype: str = "auto", seed: int = 0, threads: int = 0
    ) -> None:
        super().__init__(config, *resolve(device, dtype), seed, threads)
        self._config = config if isinstance(config, Config) else Config.from_text(config.text())

    @property
    def config(self) -> Config:
        """The options this model was made with."""
        return self._config

    def parameters(self) -> dict[str, Array]:
        """Published name -> fresh copy in the master dtype, in order of declaration; 0-d stays 0-d."""
        return super().parameters()

    def load_parameters(self, params: Mapping[str, Array]) -> None:
        """Replaces all parameters. Every name must be there and fit in shape, else ValueError and nothing changes."""
        super().load_parameters(dict(params))

    def gradients(self) -> dict[str, Array]:
        """Name -> fresh copy of what backward() has added up since zero_gradients()."""
        return super().gradients()

    def logits(self, ids: Array) -> Array:
        """[B,T] ids -> [B,T,V] logits after the soft cap; row t depends on ids 0..t only."""
        return super().logits(as_ids(ids, 2))

    def loss(
        self, ids: Array, targets: Array, jepa_lambda: float = 0.0, sigreg_directions: Array | None = None
    ) -> Losses:
        """Means in nats over one batch [B,T]: ce, jepa_pred, jepa_sigreg, latent and their weighted sum, total.

            total = ce + jepa_lambda * (jepa_pred + jepa_sigreg_weight * jepa_sigreg) + jepa_weight * latent

        Targets of -1 are not scored. sigreg_directions [latent, 256]: unit columns, drawn from the seed when None.
        NumericsError when a part is not finite.
        """
        return super().loss(as_ids(ids, 2), as_ids(targets, 2, "targets"), jepa_lambda, sigreg_directions)

    def backward(self, scale: float = 1.0) -> None:
        """Adds scale * d total / d parameter of the last loss() to the gradients; once per loss()."""
        super().backward(scale)

    def nll(self, ids: Array) -> npt.NDArray[np.float64]:
        """[B,T] ids -> float64 nats [B,T-1] of ids[:, 1:], each given the ids before it in its row."""
        return super().nll(as_ids(ids, 2))

    def bpb(self, data: bytes, window: int | None = None, stride: int | None = None) -> float:
        """Bits per byte of `data` as one document (bos first where the family has one).

        window defaults to seq_len, stride to eval_stride: see `evaluate`. A family without bos takes its first byte as
        context only.
        """
        stream = document_ids(data, self.config.byte_offset, self.config.bos_id)
        return evaluate(self, stream, window, stride).bpb

    def generate(
        self,
        prompt: bytes,
        n: int,
        temperature: float = 1.0,
        seed: int = 0,
        emit: Callable[[bytes], bool | None] | None = None,
    ) -> bytes:
        """`n` bytes that follow `prompt` (which is not repeated). Special ids are never drawn.

        temperature 0 takes the likeliest byte; otherwise the draw depends on (seed, position) alone. When seq_len is
        full the oldest quarter is forgotten. `emit` receives each byte as it comes; returning False stops.
        """
        return super().generate(prompt, n, temperature, seed, emit)
