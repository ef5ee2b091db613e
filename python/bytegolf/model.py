"""The model as Python sees it: parameters as dicts of arrays, forward, loss, gradients, scores and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf._bytegolf import Losses
from bytegolf.config import Config
from bytegolf.device import resolve
from bytegolf.ids import LARGEST, LARGEST_SEED, AnyArray, as_ids, document_ids, in_range
from bytegolf.scoring import evaluate

__all__ = ["Losses", "Model"]

Array = npt.NDArray[Any]


class Model(_bytegolf.Model):
    """A byte-level language model of either family, with its parameters on `device` in `dtype`.

    device: cpu, cuda (or cuda:1, the second visible GPU) or auto. dtype: float32 or float64 on the CPU, bfloat16 or float32 on CUDA,
    auto for the first of each. First values are drawn from `seed`. threads: 0 means one per core; results have the same bits at
    any number.

    What comes out are NumPy's arrays, parameters and gradients float32 where dtype is bfloat16; the methods named `..view` share the
    model's own memory instead (see bytegolf.Array). What goes in may be any library's (DLPack, NumPy's or CUDA's array interface);
    ids are integer arrays [B,T]. The GIL is released during work; one model serves one thread at a time. ValueError for options
    that contradict each other, ids outside the vocabulary (naming row and position) and shapes that do not fit.
    """

    def __init__(
        self, config: Config, device: str = "cpu", dtype: str = "auto", seed: int = 0, threads: int = 0
    ) -> None:
        seed = in_range("seed", seed, 0, LARGEST_SEED)
        super().__init__(config, *resolve(device, dtype), seed, threads)
        self._config = config if isinstance(config, Config) else Config.from_text(config.text())

    @property
    def config(self) -> Config:
        """The options this model was made with."""
        return self._config

    def parameters(self) -> dict[str, Array]:
        """Published name -> fresh copy in the master dtype, in order of declaration; 0-d stays 0-d."""
        return super().parameters()

    def load_parameters(self, params: Mapping[str, AnyArray]) -> None:
        """Replaces all parameters. Every name must be there and fit in shape, else ValueError and nothing changes.

        Arrays of the master dtype on the model's own GPU are copied inside it; others pass through host memory.
        """
        super().load_parameters(dict(params))

    def views(self) -> dict[str, _bytegolf.Array]:
        """Published name -> the live parameter itself, without a copy: it changes with the model, and the model with it.

        Call refresh() after writing. On a GPU a view that another library took over before further calls of the model is
        ready again after synchronise(). A view stays valid when the model is gone.
        """
        return super().views()

    def gradient_views(self) -> dict[str, _bytegolf.Array]:
        """Name -> what backward() adds to, without a copy; as `views`."""
        return super().gradient_views()

    def operand_views(self) -> dict[str, _bytegolf.Array]:
        """Name -> what matrix products read, read-only: in bfloat16 models a bfloat16 copy, elsewhere the parameter."""
        return super().operand_views()

    def refresh(self, stream: int | None = None) -> None:
        """Makes the model use what was written into `views`: in bfloat16 models the operands are rounded again.

        stream: the CUDA stream that wrote, as an integer (torch.cuda.current_stream().cuda_stream); the model waits for it.
        None waits for the whole GPU. On the CPU there is nothing to wait for.
        """
        super().refresh(stream)

    def synchronise(self) -> None:
        """Waits until the model's work is done. Needed only when another library shares its memory on a GPU."""
        super().synchronise()

    def gradients(self) -> dict[str, Array]:
        """Name -> fresh copy of what backward() has added up since zero_gradients()."""
        return super().gradients()

    def logits(self, ids: AnyArray) -> Array:
        """[B,T] ids -> [B,T,V] logits after the soft cap; row t depends on ids 0..t only."""
        return super().logits(as_ids(ids, 2))

    def logits_view(self, ids: AnyArray) -> _bytegolf.Array:
        """As `logits`, where the model computed them, without a copy: the next call of the model overwrites them.

        While the view exists, the memory of activations that it is part of is kept.
        """
        return super().logits_view(as_ids(ids, 2))

    def loss(
        self, ids: AnyArray, targets: AnyArray, jepa_lambda: float = 0.0, sigreg_directions: AnyArray | None = None
    ) -> Losses:
        """Means in nats over one batch [B,T]: ce, jepa_pred, jepa_sigreg, latent and their weighted sum, total.

            total = ce + jepa_lambda * (jepa_pred + jepa_sigreg_weight * jepa_sigreg) + jepa_weight * latent

        Targets of -1 are not scored. sigreg_directions [latent, 256]: unit columns, drawn from the seed when None.
        NumericsError when a part is not finite.
        """
        directions = None if sigreg_directions is None else _bytegolf.host_array(sigreg_directions, "sigreg_directions")
        return super().loss(as_ids(ids, 2), as_ids(targets, 2, "targets"), jepa_lambda, directions)

    def backward(self, scale: float = 1.0) -> None:
        """Adds scale * d total / d parameter of the last loss() to the gradients; once per loss()."""
        super().backward(scale)

    def nll(self, ids: AnyArray) -> npt.NDArray[np.float64]:
        """[B,T] ids -> float64 nats [B,T-1] of ids[:, 1:], each given the ids before it in its row."""
        return super().nll(as_ids(ids, 2))

    def bpb(self, data: bytes, window: int | None = None, stride: int | None = None) -> float:
        """Bits per byte of `data` as one document (bos first where the family has one).

        window defaults to seq_len, stride to eval_stride: see `evaluate`. A family without bos takes its first byte as
        context only.
        """
        stream = document_ids(data, self.config.byte_offset, self.config.bos_id)
        return evaluate(self, stream, window, stride).bpb

    def surprise(
        self,
        data: bytes,
        window: int | None = None,
        stride: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Nats of each byte of `data` given the bytes before it, float64 [len(data)]; `bytegolf.show` draws them.

        One document, scored as `bpb` does (bos first where the family has one; window, stride and progress as for
        `evaluate`): the sum of all over ln 2 and their count is bpb(data). A family without bos cannot score the first
        byte, which is NaN and no part of that mean. Empty data has no byte to score: an array of none.
        """
        stream = document_ids(data, self.config.byte_offset, self.config.bos_id)
        missing = len(data) + 1 - len(stream)  # 1 where the first byte is context only
        head = np.full(min(missing, len(data)), np.nan)
        if len(stream) < 2:
            return head
        return np.concatenate([head, evaluate(self, stream, window, stride, progress).nll])

    @overload
    def generate(
        self,
        prompt: bytes,
        n: int,
        temperature: float = 1.0,
        seed: int = 0,
        emit: Callable[[bytes], bool | None] | None = None,
        *,
        top_p: float = 1.0,
        stop: bytes | Sequence[bytes] = (),
        cache: bool = True,
    ) -> bytes: ...

    @overload
    def generate(
        self,
        prompt: Sequence[bytes],
        n: int,
        temperature: float = 1.0,
        seed: int = 0,
        emit: Callable[[int, bytes], bool | None] | None = None,
        *,
        top_p: float = 1.0,
        stop: bytes | Sequence[bytes] = (),
        cache: bool = True,
    ) -> list[bytes]: ...

    def generate(
        self,
        prompt: bytes | Sequence[bytes],
        n: int,
        temperature: float = 1.0,
        seed: int = 0,
        emit: Callable[..., bool | None] | None = None,
        *,
        top_p: float = 1.0,
        stop: bytes | Sequence[bytes] = (),
        cache: bool = True,
    ) -> bytes | list[bytes]:
        """`n` bytes that follow `prompt` (which is not repeated), or each of several prompts. Special ids are never drawn.

        temperature 0 takes the likeliest byte. top_p in (0, 1] draws from the smallest set of likeliest bytes that holds
        this probability, after the temperature. A row ends once it ends with one of `stop`, which it keeps. Draws depend
        on (seed, row, bytes of the row so far) alone: a row's bytes do not depend on the other prompts, and row 0 draws as
        a single prompt does. When seq_len is full, the oldest quarter is dropped.

        `emit` receives each byte as it comes, after its row where there are several prompts; returning False ends the
        row. cache=False recomputes the whole window for each byte, as patch models always do: on the CPU the bytes are
        the same. ValueError for options outside their range, an empty stop, or an empty prompt where the family has no bos.
        """
        if single := isinstance(prompt, bytes | bytearray | memoryview):
            prompts = [bytes(prompt)]
        else:
            prompts = [bytes(p) for p in prompt]
        if not prompts:
            return []
        run = self._generation(prompts, n, temperature, seed, top_p, stop, cache)
        while drawn := run.advance():
            for row, byte in drawn:
                if emit is not None and (emit(byte) if single else emit(row, byte)) is False:
                    run.end(row)
        texts = [run.text(row) for row in range(len(prompts))]
        return texts[0] if single else texts

    def stream(
        self,
        prompt: bytes,
        n: int,
        temperature: float = 1.0,
        seed: int = 0,
        *,
        top_p: float = 1.0,
        stop: bytes | Sequence[bytes] = (),
        cache: bool = True,
    ) -> Iterator[bytes]:
        """The bytes of generate(prompt, n, ...), one at a time as they are asked for.

        The model may do other things in between, but its weights must stay as they are until the last byte.
        """
        run = self._generation([prompt], n, temperature, seed, top_p, stop, cache)

        def pull() -> Iterator[bytes]:
            while drawn := run.advance():
                yield drawn[0][1]

        return pull()

    def _generation(
        self,
        prompts: list[bytes],
        n: int,
        temperature: float,
        seed: int,
        top_p: float,
        stop: bytes | Sequence[bytes],
        cache: bool,
    ) -> _bytegolf.Generation:
        stops = [stop] if isinstance(stop, bytes) else list(stop)
        seed, n = in_range("seed", seed, 0, LARGEST_SEED), in_range("n", n, 0, LARGEST)
        return _bytegolf.Generation(self, prompts, n, temperature, seed, top_p, stops, cache)
