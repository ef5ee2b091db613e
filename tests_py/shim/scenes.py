"""What the program writes, as scenes for driver.py: how the old came to be, the act that puts the new in its place, and which is there."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np

from bytegolf.checkpoint import read_newest, write_checkpoint
from bytegolf.codec import pack_tensors, unpack_tensors
from bytegolf.config import Config
from bytegolf.log import RunLog, parse, read_log
from bytegolf.model import Model
from bytegolf.weights import load_safetensors, save_safetensors

OLD_RUN = Path(__file__).resolve().parents[1] / "old_runs" / "7cd2052" / "run.tar.xz"


def tensors(step: int) -> dict[str, np.ndarray]:
    """Other bits for each step."""
    return {"weights/x": np.full(3000, float(step)), "first/x": np.full((7, 3), step, np.float32)}


class Scene:
    """`place` is a folder; nothing outside it is changed by `act`."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def prepare(self, place: Path) -> None:
        """The old."""

    def act(self, place: Path) -> None:
        """From the old, or what a failure left, to the new."""

    def left(self, place: Path, helpless: bool) -> str:
        """old or new; an exception for anything else. helpless: the act was killed, or could not undo what it had begun."""


class Checkpoint(Scene):
    """A save over an older one. What is left is found whatever `latest` says."""

    def prepare(self, place: Path) -> None:
        write_checkpoint(place / "c", tensors(1), {"step": 1})

    def act(self, place: Path) -> None:
        write_checkpoint(place / "c", tensors(2), {"step": 2})

    def left(self, place: Path, helpless: bool) -> str:
        steps = set()
        for pointer in ("as it is", "missing"):
            if pointer == "missing":
                (place / "c" / "latest").unlink(missing_ok=True)
            found = read_newest(place / "c", say=_nothing_to_say)
            step = found.facts["step"]
            for name, array in tensors(step).items():
                assert found.tensors[name].tobytes() == array.tobytes()
            steps.add(step)
        assert len(steps) == 1
        return "old" if steps == {1} else "new"


class FirstCheckpoint(Checkpoint):
    """The first save of a run: nothing, or all of it."""

    def prepare(self, place: Path) -> None:
        pass

    def left(self, place: Path, helpless: bool) -> str:
        try:
            return super().left(place, helpless)
        except FileNotFoundError as error:
            assert "no checkpoint there" in str(error) or not (place / "c").exists()
            return "old"


class Artifact(Scene):
    """An artifact over another."""

    def prepare(self, place: Path) -> None:
        pack_tensors(tensors(1), place / "a.bg", threads=1)

    def act(self, place: Path) -> None:
        pack_tensors(tensors(2), place / "a.bg", threads=1)

    def left(self, place: Path, helpless: bool) -> str:
        found = unpack_tensors(place / "a.bg", threads=1)
        return _told_apart(found, place, helpless)


class Export(Scene):
    """Weights as safetensors over others."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        config = Config.preset(
            "byte260", num_layers=2, model_dim=16, num_heads=2, num_kv_heads=1, rope_dims=4, xsa_last_n=1
        )
        self.models = {step: Model(config, seed=step, threads=1) for step in (1, 2)}

    def prepare(self, place: Path) -> None:
        save_safetensors(self.models[1], place / "w.safetensors")

    def act(self, place: Path) -> None:
        save_safetensors(self.models[2], place / "w.safetensors")

    def left(self, place: Path, helpless: bool) -> str:
        found = load_safetensors(place / "w.safetensors", threads=1).parameters()
        for step, model in self.models.items():
            if all(found[name].tobytes() == array.tobytes() for name, array in model.parameters().items()):
                _no_litter(place, helpless)
                return ["old", "new"][step - 1]
        raise AssertionError("neither")


class Log(Scene):
    """Lines of a resumed run after those of its first part. What is left is whole lines, from the first on."""

    def prepare(self, place: Path) -> None:
        self._write(place, 1)

    def act(self, place: Path) -> None:
        self._write(place, 2)

    def _write(self, place: Path, part: int) -> None:
        log = RunLog(place / "log.jsonl")
        for step in range(3 * part, 3 * part + 3):
            log.write("step", step=step, bpb=1.5)
        log.close()

    def left(self, place: Path, helpless: bool) -> str:
        text = (place / "log.jsonl").read_bytes()
        cut = [line for line in text.splitlines() if parse(line) is None]
        assert len(cut) <= 1  # by a kill, or where the disk refused to take the piece back; a later line stands alone
        assert helpless or text.endswith(b"\n")
        steps = [line["step"] for line in read_log(place / "log.jsonl")]
        assert steps[:3] == [3, 4, 5] and set(steps) <= set(range(3, 9))
        return "new" if steps[-1] == 8 else "old"


class Submit(Scene):
    """A submission's folder: not there, or whole by every check that `verify` makes without running it."""

    def __init__(self, scratch: Path) -> None:
        super().__init__(scratch)
        self.runs = scratch / "runs"
        with tarfile.open(OLD_RUN) as tar:
            tar.extractall(self.runs, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        code = self.runs / "records/track_non_record_16mb/2026-01-02_Tiny/train_gpt.py"
        code.rename(self.runs / "runs/done/train_gpt.py")

    def prepare(self, place: Path) -> None:
        (place / "records").mkdir()

    def act(self, place: Path) -> None:
        from bytegolf.submission.folder import SubmissionOptions, submit

        if self._made(place).exists():
            return
        options = SubmissionOptions(
            "Tiny",
            "A. Author",
            "author",
            "non_record_16mb",
            out=place / "records",
            date="2026-01-03",
            val_data=str(self.runs / "data"),
        )
        submit([self.runs / "runs/done"], options)

    def left(self, place: Path, helpless: bool) -> str:
        from bytegolf.submission.verify import check_folder

        made = self._made(place)
        if not made.exists():
            return "old"
        wrong = [claim for claim in check_folder(made, made.name, made.parent.name) if claim.ok is False]
        assert not wrong
        return "new"

    def _made(self, place: Path) -> Path:
        return place / "records/track_non_record_16mb/2026-01-03_Tiny"


SCENES = {
    "checkpoint": Checkpoint,
    "first-checkpoint": FirstCheckpoint,
    "artifact": Artifact,
    "export": Export,
    "log": Log,
    "submit": Submit,
}


def _nothing_to_say(text: str) -> None:
    raise AssertionError(f"a damaged checkpoint has its number: {text}")


def _told_apart(found: dict[str, np.ndarray], place: Path, helpless: bool) -> str:
    for step in (1, 2):
        if all(found[name].tobytes() == array.tobytes() for name, array in tensors(step).items()):
            _no_litter(place, helpless)
            return ["old", "new"][step - 1]
    raise AssertionError("neither")


def _no_litter(place: Path, helpless: bool) -> None:
    """What was not finished is removed, where that is possible."""
    assert helpless or len(list(place.iterdir())) == 1
