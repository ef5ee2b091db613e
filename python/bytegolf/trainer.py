"""How a run is driven from Python: steps, averages, checkpoints. The core does the work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf._bytegolf import FormatError, Losses, NumericsError, ShardSet
from bytegolf.checkpoint import STATE, read_newest, write_checkpoint
from bytegolf.config import Config
from bytegolf.data_identity import data_identity
from bytegolf.ids import AnyArray, as_ids
from bytegolf.model import Model
from bytegolf.ranks.group import Group

Array = npt.NDArray[Any]
_PROGRESS = {
    "step": int,
    "snapshots": int,
    "bytes": int,
    "elapsed_s": float,
    "first_step_s": float,
    "longest_step_s": float,
}


@dataclass(frozen=True)
class StepResult:
    """What one step did; losses are means over its micro-batches, taken before the weights moved."""

    step: int
    """its number, from 0"""
    losses: Losses
    """nats; of all ranks"""
    grad_norm: float
    """of all gradients together, before clipping"""
    lr_factor: float
    """share of the step sizes that the schedule left"""
    jepa_lambda: float
    """weight of the JEPA losses"""
    muon_momentum: float
    """Muon's momentum"""
    ids: int
    """targets that were scored"""
    bytes: int
    """those of them that are bytes"""
    seconds: float
    """of this step"""
    elapsed_s: float
    """on the run's clock when it ended"""

    @property
    def ce(self) -> float:
        """Cross-entropy in nats per target."""
        return self.losses.ce

    @property
    def total(self) -> float:
        """The loss whose gradient was taken, in nats."""
        return self.losses.total

    def __getattr__(self, name: str) -> float:
        """Any other loss by its name, unweighted: those of `Losses.as_dict()`."""
        if name == "losses" or name not in self.losses.as_dict():
            raise AttributeError(f"a step has no {name}")
        value: float = getattr(self.losses, name)
        return value


class Trainer:
    """Trains `model` (or a new one) by `config` on `data`.

    data: a shard folder, file, glob, list of those, 1-d integer array of ids, or ShardSet; None for `step_on` alone.

    seed: key of the initial weights of a new model, of the order of data and of the SIGReg directions; the config's own
    option `seed` when None.

    device and dtype: as for Model, which receives them; those of `model` when one is given, whose parameters are moved
    in place. Checkpoints hold float32 (float64 for a float64 model) whatever computed them: a run may stop on one device and
    resume on the other.

    group: the ranks that train together, each with a Trainer of its own that makes the same calls. The global batch
    (train_batch_ids) is theirs together, and all begin with rank 0's weights; checkpoints are rank 0's, and do not depend on the ranks.

    Raises ValueError for options that contradict each other or do not fit the model, FormatError for damaged shards.
    """

    def __init__(
        self,
        config: Config,
        data: Any,
        *,
        model: Model | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        seed: int | None = None,
        group: Group | None = None,
    ) -> None:
        if seed is not None and seed != config.seed:
            config = config.replace(seed=seed)
        self.config = config
        self.model = Model(config, device=device, dtype=dtype, seed=config.seed) if model is None else model
        if data is None or isinstance(data, ShardSet):
            self._data = data
        else:
            is_place = isinstance(data, (str, os.PathLike)) or (
                isinstance(data, (list, tuple)) and all(isinstance(item, (str, os.PathLike)) for item in data)
            )
            self._data = ShardSet(data if is_place else _bytegolf.host_array(data, "data"), config.vocab_name, "train")
        # Before the first step: what a file holds may change under the run.
        self._data_sha256 = data_identity(self._data) if self._data is not None else ""
        self.group = group
        self.stopped = False  # whether a rank has asked to stop; see proceed()
        self._agreed = False  # with all ranks, on the next step
        if group is None:
            self._core = _bytegolf.Trainer(config, self.model, self._data)
            return
        group.same("options", config.canonical(["model", "train"]))
        group.same("training data", self.data_sha256)
        group.same("device and numbers", f"{self.model.device}, {self.model.dtype}")
        self._core = _bytegolf.Trainer(config, self.model, self._data, group.comm(self.model))
        group.watch_marks(lambda: self._core.marks)

    def step(self) -> StepResult:
        """The next step on the run's data. The GIL is released during it.

        Raises NumericsError naming step and tensor for NaN or infinity in loss or gradient, nothing has changed then;
        ValueError when the run is over.
        """
        self.proceed()
        return self._stepped(self._core.step)

    def step_on(
        self, ids: AnyArray, targets: AnyArray, *, micro_batches: int = 1, sigreg_directions: AnyArray | None = None
    ) -> StepResult:
        """The next step on given integer ids and targets [B,T] (target -1: not scored), cut along B into equal micro-batches.

        sigreg_directions [latent, 256] float64, unit columns; those of the run when None.
        """
        x, y = as_ids(ids, 2), as_ids(targets, 2, "targets")
        directions = None if sigreg_directions is None else _bytegolf.host_array(sigreg_directions, "sigreg_directions")
        self.proceed()
        return self._stepped(lambda: self._core.step_on(x, y, micro_batches, directions))

    def proceed(self, stop: bool = False) -> bool:
        """Whether another step may begin: the same answer on all ranks, by rank 0's clock. False, too, at most a second after
        any rank has said `stop`; then `stopped` is true. All ranks make the same calls. A step that was not announced here announces itself.
        """
        if self.group is None or self._agreed:
            done = self.done
            self.stopped = stop and not done
            return not (done or stop)
        self.group.tick(f"step {self.steps_done}")
        if stop:
            self.group.ask_to_stop()
        asked = self.group.asked_to_stop()
        done, self.stopped, *clock = self.group.broadcast([self._core.done, asked, *self._core.clock])
        self.stopped = self.stopped and not done
        self._core.agree(*clock)
        self._agreed = not (done or self.stopped)
        return self._agreed

    def _stepped(self, step: Callable[[], dict[str, Any]]) -> StepResult:
        result = StepResult(**step())
        self._agreed = False
        every = self.config.rank_check_every
        if self.group is not None and every and (result.step + 1) % every == 0:
            self.check_ranks()
        return result

    def check_ranks(self) -> None:
        """NumericsError on all ranks, naming rank and tensor, when not all hold the same weights, moments and averages."""
        if self.group is None:
            return
        found = self.group.gather(self._core.fingerprints())
        words = ""
        for rank, theirs in enumerate(found):
            other = [name for name, number in theirs.items() if number != found[0][name]]
            if other and not words:
                more = f" and {len(other) - 1} more tensors" if len(other) > 1 else ""
                words = (
                    f"after step {self.steps_done - 1}: rank {rank} holds other bits than rank 0 in {other[0]}{more}"
                )
        words = self.group.broadcast(words)
        if words:
            raise NumericsError(words)

    def run(self, callback: Callable[[StepResult], object] | None = None) -> StepResult | None:
        """Steps until the run is done, or `callback` (called after each step) returns False. Returns the last result."""
        last = None
        while self.proceed():
            last = self.step()
            if callback is not None and callback(last) is False:
                break
        return last

    @property
    def done(self) -> bool:
        """Whether all iterations are done, or the next step would end past the wall-clock budget."""
        return self._core.done

    @property
    def steps_done(self) -> int:
        """Steps so far: the number of the next one."""
        return int(self._core.progress["step"])

    step_count = steps_done
    """The same."""

    @property
    def data_ids(self) -> int:
        """Ids that the training data holds; 0 without data."""
        return len(self._data) if self._data is not None else 0

    @property
    def data_sha256(self) -> str:
        """Identity of the training data: equal for equal ids in equal order, wherever they lie; "" without data."""
        return self._data_sha256

    @property
    def whole(self) -> bool:
        """Whether weights, moments and averages are those after `steps_done` steps: not after an error while a step moved them."""
        return self._core.whole

    @property
    def bytes(self) -> int:
        """Bytes trained on so far."""
        return int(self._core.progress["bytes"])

    @property
    def seconds(self) -> float:
        """The run's clock: seconds since the first step, those of earlier processes included, pauses left out."""
        return float(self._core.progress["elapsed_s"])

    def pause(self) -> None:
        """Stops the run's clock until the next step. Else the time between steps counts against the budget."""
        self._core.pause()

    @property
    def ema(self) -> dict[str, Array]:
        """Copies of the running averages, float in the master dtype; what is not averaged is as in the model. {} without EMA."""
        return self._average("ema") if self.config.ema_decay > 0 else {}

    @property
    def swa(self) -> dict[str, Array] | None:
        """Copies of the mean of snapshots, as `ema`; None before the first snapshot."""
        return self._average("swa") if self._core.progress["snapshots"] > 0 else None

    def views(self, prefix: str = "") -> dict[str, _bytegolf.Array]:
        """What the next steps depend on, live, read-only and without a copy, on any device; names that start with `prefix`.

        weights/NAME, first/NAME and second/NAME (moments), ema/NAME, swa/NAME (averaged tensors only), as in a checkpoint.
        """
        return self._core.views(prefix)

    def _average(self, kind: str) -> dict[str, Array]:
        averages = self._core.state(f"{kind}/")
        return {
            name: np.array(averages.get(f"{kind}/{name}", array)) for name, array in self.model.parameters().items()
        }

    def checkpoint(self, path: str | os.PathLike[str], *, held_out: str = "") -> Path:
        """Writes everything that `resume` needs as the newest checkpoint of the folder `path`, and removes older ones there.

        All or nothing: a kill or a full disk (OSError) leaves the last good one. Returns the numbered folder. `held_out`: the hash of
        what the run is scored on, which `resume` then compares. Of several ranks only rank 0 writes; the others return the folder
        at once. RuntimeError when an error has left a step half done.
        """
        if self.group is not None and self.group.rank != 0:
            return Path(path)
        if not self.whole:
            raise RuntimeError(
                f"step {self.steps_done} has moved a part of the weights only: there is nothing whole to write"
            )
        facts = {**self._identity(), "held_out_sha256": held_out, "progress": self._core.progress}
        return write_checkpoint(path, self._core.state(), facts)

    def resume(
        self, path: str | os.PathLike[str], *, held_out: str = "", say: Callable[[str], object] = warnings.warn
    ) -> None:
        """Goes back to the newest checkpoint of the folder `path`; the steps that follow have the same bits as without a stop.

        `held_out` is the hash that `checkpoint` was given, compared when both are. `say` gets what could not be compared with a
        checkpoint of an older version, and which damaged one was passed over for an older.

        Raises FileNotFoundError when there is none, FormatError naming file and tensor for a damaged one, ValueError for one
        of another config, dtype or data. Nothing has changed then. Of several ranks rank 0 reads, and hands it to the others;
        how many ranks wrote the checkpoint does not matter.
        """
        if self.group is None:
            self._read(path, held_out, say)
            return
        if self.group.rank == 0:
            self._read(path, held_out, say)
        progress = self.group.broadcast(self._core.progress)
        self._core.share_state()
        self._core.restore(**progress)

    def _read(self, path: str | os.PathLike[str], held_out: str, say: Callable[[str], object]) -> None:
        found = read_newest(path, say)
        folder, tensors, facts = found.folder, found.tensors, found.facts
        self._check_identity(folder, facts, held_out, say)
        progress = facts.get("progress")
        if not isinstance(progress, dict) or {k: type(v) for k, v in progress.items()} != _PROGRESS:
            raise FormatError(f"{folder}: its progress is not {', '.join(_PROGRESS)}")
        for name, array in tensors.items():  # a moment that is not finite would go unnoticed
            if not np.isfinite(array).all():
                raise FormatError(f"{folder / STATE}: tensor {name} holds NaN or infinity")
        try:
            self._core.load_state(tensors, **progress)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{folder / STATE}: {error}") from error

    def _identity(self) -> dict[str, Any]:
        dtype = "float64" if self.model.dtype == "float64" else "float32"  # bfloat16 models keep float32 masters
        return {
            "config": self.config.text(["model", "train"]),
            "dtype": dtype,
            "data_ids": self.data_ids,
            "data_sha256": self.data_sha256,
        }

    def _check_identity(self, folder: Path, facts: dict[str, Any], held_out: str, say: Callable[[str], object]) -> None:
        if not isinstance(facts.get("config"), str):
            raise FormatError(f"{folder}: holds no config")
        own, theirs = self._identity(), Config.stored(facts["config"], f"the options of {folder}")
        options = theirs.differences(self.config, ["model", "train"])
        differences = [f"`{name} = {there}` there, `{name} = {here}` here" for name, there, here in options]
        if facts.get("dtype") != own["dtype"]:
            differences.append(f"dtype {facts.get('dtype')} there, {own['dtype']} here")
        if facts.get("data_ids") != own["data_ids"]:
            differences.append(f"data of {facts.get('data_ids')} ids there, {own['data_ids']} here")
        elif "data_sha256" in facts and facts["data_sha256"] != own["data_sha256"]:
            differences.append("other training data: as many ids, but others, or in another order")
        was_held_out = facts.get("held_out_sha256")
        if held_out and was_held_out and was_held_out != held_out:
            differences.append("other held-out data than the run was scored on before")
        if differences:
            raise ValueError(f"{folder}: checkpoint of another run: {'; '.join(differences)}")
        if "data_sha256" not in facts:
            say(
                f"{folder}: an older version wrote it: of the training data only the number of ids could be compared, "
                "of the held-out data nothing"
            )
