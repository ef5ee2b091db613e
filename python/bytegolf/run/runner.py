"""A whole run: train, choose weights, pack, read back, score, report. What `bytegolf train` and `demo` do.

The run folder holds config.toml, train_gpt.py, log.jsonl, checkpoints/, artifact.bg, curves.png, submission.json and README.md.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bytegolf import log
from bytegolf._bytegolf import NumericsError, ShardSet, __version__
from bytegolf.artifact import load, pack
from bytegolf.bundle import script
from bytegolf.bundle.meter import sha256, weigh
from bytegolf.codec import UNLIMITED
from bytegolf.config import Config
from bytegolf.device import of_rank
from bytegolf.disk import TEMPORARY, is_full, what_to_free, write_whole
from bytegolf.errors import Stopped, UserError
from bytegolf.ids import Ids, ids_sha256
from bytegolf.model import Model
from bytegolf.ranks.group import Group
from bytegolf.record import fingerprint
from bytegolf.record.facts import config_hash
from bytegolf.record.files import CHECKPOINTS
from bytegolf.record.lock import RunLock
from bytegolf.screen import console
from bytegolf.screen.interrupt import Interrupts
from bytegolf.screen.progress import Progress
from bytegolf.streams import StreamScore, read_stream, score
from bytegolf.trackers import names_of
from bytegolf.trackers.attend import attend
from bytegolf.trainer import StepResult, Trainer

ARTIFACT = "artifact.bg"


@dataclass(frozen=True)
class Provenance:
    """What the figures of a run rest on. code_* are of the train_gpt.py that holds its sources and options, None where the
    package runs without sources; total_bytes is what counts: code + artifact. *_ids: length of the shards. train_sha256: see
    `data_identity`; val_sha256: of all ids."""

    config_sha256: str
    code_bytes: int | None
    code_sha256: str | None
    artifact_sha256: str
    total_bytes: int | None
    train_ids: int
    train_sha256: str
    val_ids: int
    val_sha256: str


@dataclass
class Report:
    """What a finished run came to. Sizes in bytes, times in seconds.

    `raw` and `unquantised` score the last weights and the chosen ones in memory, in whole chunks; `whole` and `sliding` the
    artifact read back from disk.
    """

    folder: str
    parameters: int
    steps: int
    train_bytes: int
    train_seconds: float
    weights: str
    raw: StreamScore
    unquantised: StreamScore
    artifact_bytes: int
    pack_seconds: float
    load_seconds: float
    whole: StreamScore
    sliding: StreamScore
    made: Provenance


def run(
    config: Config, folder: Path, *, resume: bool = False, what: str = "train", group: Group | None = None
) -> Report | None:
    """Trains by `config` into `folder`, packs and scores. With `group` all ranks call it; rank 0 alone writes into the folder and
    returns the report, the others None.

    With `resume` the folder's newest checkpoint is the start. Raises UserError for a folder in use (naming the process) or for
    missing data, Stopped after Ctrl-C, NumericsError naming the tensor when a loss or gradient is not finite; errors of the
    core or the disk propagate, after a checkpoint of the last whole step where one can be written.
    """
    for name in ("train_data", "val_data"):
        if not config.get(name).strip('"'):
            raise UserError(f"option {name} is empty: name a shard folder, file or glob (see `bytegolf data --help`)")
    device = config.device if group is None else of_rank(config.device, group.ranks.local_rank)
    names_of(config.track)
    if group is not None and group.rank != 0:
        return _run(config, folder, device, resume, what, group, "")
    with RunLock(folder, console.say) as lock:
        if not resume and (folder / log.NAME).exists():
            raise UserError(
                f"{folder} holds a run already; resume it with --resume, or choose another folder with --run"
            )
        _remove_unfinished(folder)
        return _run(config, folder, device, resume, what, group, lock.kind)


def _run(
    config: Config, folder: Path, device: str, resume: bool, what: str, group: Group | None, lock: str
) -> Report | None:
    first = group is None or group.rank == 0
    held_out = read_stream(config.val_data, config.vocab_name)
    val_sha256 = ids_sha256(held_out)
    if group is not None:
        group.same("held-out data", val_sha256)
    data = ShardSet(config.train_data, config.vocab_name, "train")
    trainer = Trainer(config, data, device=device, dtype=config.dtype, seed=config.seed, group=group)
    if resume:
        trainer.resume(folder / CHECKPOINTS, held_out=val_sha256, say=console.say)
    elif first:
        write_whole(folder / "config.toml", config.text(docs=True).encode())
    journal: log.RunLog | log.NoLog = log.NoLog()
    if first:
        script.keep(config, folder)
        journal = log.RunLog(folder / log.NAME)
        attend(journal, config.track, folder)
    if group is not None:
        group.on_failure(lambda words: journal.write("end", reason=words, step=trainer.steps_done))
    try:
        with Progress(what, quiet=not first) as progress, saying_what_to_free(folder):
            going = _Run(config, folder, device, trainer, held_out, val_sha256, journal, progress, group, lock)
            going.saved = trainer.steps_done if resume else -1
            going.start()
            going.train()
            report = going.finish()
        journal.close()
        return report
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk may be what has failed; the words are still shown
            if isinstance(error, Stopped):
                journal.write("end", reason="interrupted", step=trainer.steps_done, status=error.status)
            elif isinstance(error, Exception):
                cause = group.cause(error) if group is not None else None
                journal.write("end", reason=cause or f"{type(error).__name__}: {error}", step=trainer.steps_done)
        with contextlib.suppress(OSError):
            journal.close()
        raise


def _remove_unfinished(folder: Path) -> None:
    """What a killed writer of this folder's files has left. Whoever calls holds the folder's lock."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.name.startswith((TEMPORARY, f"{ARTIFACT}.tmp.")) and not entry.is_dir():
                entry.unlink()


@contextlib.contextmanager
def saying_what_to_free(folder: Path) -> Iterator[None]:
    """Inside, an error for want of room says where room is needed, and how to go on."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        words = str(error) if "make room" in str(error) else f"{error}; {what_to_free(folder)}"
        found = OSError(f"{words}; then resume with: {_resume_words(folder)}")
        found.errno = error.errno
        raise found from error


def _resume_words(folder: Path) -> str:
    return f"bytegolf train --resume --run {shlex.quote(str(folder))}"


def parameter_count(model: Model) -> int:
    """Elements of all parameters."""
    return sum(int(array.size) for array in model.parameters().values())


@dataclass
class _Run:
    """One run under way, on one of its ranks: what its stages share."""

    config: Config
    folder: Path
    device: str
    trainer: Trainer
    held_out: Ids
    val_sha256: str
    journal: log.RunLog | log.NoLog
    progress: Progress
    group: Group | None
    lock: str
    saved: int = -1  # the step of the newest checkpoint
    saving: bool = False

    def start(self) -> None:
        """The log's first line."""
        step = self.trainer.steps_done
        facts = {"version": __version__, "commit": fingerprint.commit(), "machine": fingerprint.machine()}
        parameters = parameter_count(self.trainer.model)
        seed, options = self.config.seed, self.config.to_dict()
        where = {"device": self.trainer.model.device, "dtype": self.trainer.model.dtype}
        world = self.group.world if self.group is not None else 1
        where["hardware"] = fingerprint.hardware(self.trainer.model.device, world)
        code = self.folder / script.NAME
        facts["code_sha256"] = sha256(code) if code.is_file() else None
        data = {"train_sha256": self.trainer.data_sha256, "val_sha256": self.val_sha256}
        facts |= {"lock": self.lock, **where, **data}
        self.journal.write(
            "start", step=step, **facts, world_size=world, seed=seed, parameters=parameters, config=options
        )
        if step:
            self.progress.say(f"resumes after step {step}")

    def train(self) -> None:
        """Steps until the run is over, a signal comes or something fails; ends with a checkpoint in any case, but for steps whose
        loss or gradient is not finite: the older one is worth more then."""
        config, trainer = self.config, self.trainer
        message = "interrupted: writing a checkpoint after this step; press Ctrl-C again to leave at once"
        with Interrupts(message) as interrupts, self._saving_what_is_whole():
            while trainer.proceed(interrupts.asked):
                result = trainer.step()
                step = result.step + 1
                facts = self._facts(result)
                if step % config.log_every == 0 or step == 1 or trainer.done:
                    self.journal.write("step", **facts)
                self.progress.update(facts, self._share_done())
                # By the step alone, since all ranks must do it or none.
                if config.val_every and step % config.val_every == 0 and step < config.iterations:
                    self._score_meanwhile(step)
                if config.checkpoint_every and step % config.checkpoint_every == 0:
                    self._checkpoint()
            if self.saved != trainer.steps_done:
                self._checkpoint()
            if trainer.stopped:
                line = f"stopped after step {trainer.steps_done}; resume with: {_resume_words(self.folder)}"
                raise Stopped(interrupts.status or 130, line)

    @contextlib.contextmanager
    def _saving_what_is_whole(self) -> Iterator[None]:
        """Inside, an error other than NumericsError is followed by a checkpoint of the last whole step, if there is something new to
        write and it was not the checkpoint itself that failed."""
        try:
            yield
        except (Stopped, NumericsError):
            raise
        except Exception:
            step = self.trainer.steps_done
            if not self.saving and self.trainer.whole and step > max(self.saved, 0):
                with contextlib.suppress(OSError):
                    self._checkpoint()
                    self.progress.say(
                        f"a checkpoint of step {step} is written; resume with: {_resume_words(self.folder)}"
                    )
            raise

    def finish(self) -> Report | None:
        """Chooses weights, packs them, reads them back and scores: whole chunks, then sliding windows. None but on rank 0."""
        config, window, steps = self.config, self.config.seq_len, self.trainer.steps_done
        self.progress.say(f"trained {steps:,} steps; scoring the weights in memory")
        raw = self._score(self.trainer.model, window, "raw", "memory")
        name, weights, unquantised = self._choose(raw)
        artifact = self.folder / ARTIFACT
        self.progress.say(f"packing the {name} weights")
        started = time.perf_counter()
        if self.group is None or self.group.rank == 0:
            pack(self.trainer.model, artifact, scheme=config.pack_scheme, weights=weights)
        packed = time.perf_counter()
        model = self._load(artifact)
        loaded = time.perf_counter()
        self.progress.say(f"scoring {len(self.held_out) - 1:,} held-out ids from the artifact")
        whole = self._score(model, window, name, "artifact")
        sliding = whole
        if config.eval_stride < window:
            sliding = self._score(model, config.eval_stride, name, "artifact")
        if self.group is not None and self.group.rank != 0:
            return None
        report = Report(
            folder=str(self.folder),
            parameters=parameter_count(self.trainer.model),
            steps=steps,
            train_bytes=self.trainer.bytes,
            train_seconds=self.trainer.seconds,
            weights=name,
            raw=raw,
            unquantised=unquantised,
            artifact_bytes=artifact.stat().st_size,
            pack_seconds=packed - started,
            load_seconds=loaded - packed,
            whole=whole,
            sliding=sliding,
            made=self._provenance(artifact),
        )
        self.journal.write("end", reason="done", step=steps, **asdict(report))
        return report

    def _load(self, artifact: Path) -> Model:
        """The artifact as rank 0 reads it from its disk; other ranks may have another."""
        if self.group is None:
            return load(artifact, self.device, self.config.dtype, max_decoded_bytes=UNLIMITED)
        data = self.group.broadcast_bytes(artifact.read_bytes() if self.group.rank == 0 else None)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / artifact.name
            copy.write_bytes(data)
            source = artifact if self.group.rank == 0 else copy
            return load(source, self.device, self.config.dtype, max_decoded_bytes=UNLIMITED)

    def _provenance(self, artifact: Path) -> Provenance:
        code = self.folder / script.NAME
        size = weigh(code, artifact) if code.is_file() else None
        return Provenance(
            config_sha256=config_hash(self.config),
            code_bytes=size.code_bytes if size else None,
            code_sha256=sha256(code) if size else None,
            artifact_sha256=sha256(artifact),
            total_bytes=size.total_bytes if size else None,
            train_ids=self.trainer.data_ids,
            train_sha256=self.trainer.data_sha256,
            val_ids=len(self.held_out),
            val_sha256=self.val_sha256,
        )

    def _facts(self, result: StepResult) -> dict[str, Any]:
        """The `step` line of the log: losses in nats, BPB of the batch, speed, and the time left."""
        losses = result.losses
        return {
            "step": result.step + 1,
            **losses.as_dict(),
            "bpb": losses.ce * result.ids / (math.log(2) * max(result.bytes, 1)),
            "grad_norm": result.grad_norm,
            "lr_factor": result.lr_factor,
            "bytes": self.trainer.bytes,
            "bytes_per_s": result.bytes / max(result.seconds, 1e-9),
            "elapsed_s": result.elapsed_s,
            "left_s": self._seconds_left(),
        }

    def _share_done(self) -> float:
        """How much of the run is done, 0 to 1, by steps or by the clock, whichever ends first."""
        budget = self.config.train_budget_s
        by_clock = self.trainer.seconds / budget if budget else 0.0
        return 1.0 if self.trainer.done else min(max(self.trainer.steps_done / self.config.iterations, by_clock), 1.0)

    def _seconds_left(self) -> float:
        done, elapsed, budget = self.trainer.steps_done, self.trainer.seconds, self.config.train_budget_s
        by_steps = elapsed / max(done, 1) * (self.config.iterations - done)
        return max(0.0, min(by_steps, budget - elapsed if budget else math.inf))

    def _score_meanwhile(self, step: int) -> None:
        """Scores the raw weights on the first val_ids held-out ids, with the run's clock stopped."""
        self.trainer.pause()
        count = self.config.val_ids + 1 if self.config.val_ids else len(self.held_out)
        got = score(
            self.trainer.model, self.held_out[:count], self.config.seq_len, self.config.seq_len, group=self.group
        )
        self._log_score(got, "raw", "memory")
        self.progress.say(f"step {step}: held-out {got.bpb:.4f} bpb over {got.bytes:,} bytes")

    def _score(self, model: Model, stride: int, weights: str, source: str) -> StreamScore:
        got = score(model, self.held_out, self.config.seq_len, stride, self.progress.share, self.group)
        self._log_score(got, weights, source)
        return got

    def _log_score(self, got: StreamScore, weights: str, source: str) -> None:
        self.journal.write("val", step=self.trainer.steps_done, weights=weights, **{"from": source}, **asdict(got))

    def _checkpoint(self) -> None:
        """Writes one with the run's clock stopped."""
        self.trainer.pause()
        step, started = self.trainer.steps_done, time.perf_counter()
        self.saving = True
        self.trainer.checkpoint(self.folder / CHECKPOINTS, held_out=self.val_sha256)
        self.saving, self.saved = False, step
        self.journal.write("checkpoint", step=step, path=CHECKPOINTS, seconds=time.perf_counter() - started)

    def _choose(self, raw: StreamScore) -> tuple[str, dict[str, NDArray[Any]], StreamScore]:
        """Which weights become the artifact, by the option pack_weights, and their score before quantisation."""
        sets = {"raw": self.trainer.model.parameters()}
        sets |= {name: weights for name, weights in (("ema", self.trainer.ema), ("swa", self.trainer.swa)) if weights}
        wanted = self.config.pack_weights
        if wanted != "best" and wanted not in sets:
            raise UserError(f"option pack_weights = {wanted}, but this run only has {', '.join(sets)} weights")
        scores, scratch = {"raw": raw}, Model(self.config, self.device, self.config.dtype)
        for name, weights in sets.items():
            if name != "raw" and wanted in (name, "best"):
                scratch.load_parameters(weights)
                scores[name] = self._score(scratch, self.config.seq_len, name, "memory")
        chosen = min(scores, key=lambda name: scores[name].bpb) if wanted == "best" else wanted
        return chosen, sets[chosen], scores[chosen]
