"""What bytegolf.checkpoint promises: all or nothing on the disk, and a reader that trusts nothing."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bytegolf import FormatError
from bytegolf.checkpoint import newest, read_checkpoint, read_newest, write_checkpoint


def tensors_of(seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "weights/a": draw.standard_normal((3, 5)).astype(np.float32),
        "weights/scalar": np.array(draw.standard_normal()),
        "first/empty": np.zeros((0, 4), np.float32),
        "ema/\N{GREEK SMALL LETTER LAMDA}": draw.standard_normal((2, 2, 2, 2)),
    }


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()


def test_tensors_and_facts_come_back_to_the_bit(tmp_path: Path) -> None:
    facts = {"step": 7, "elapsed_s": 0.1 + 0.2, "config": "a = 1\n"}
    folder = write_checkpoint(tmp_path / "run" / "c", tensors_of(1), facts)
    got, back = read_checkpoint(tmp_path / "run" / "c")
    assert_same(got, tensors_of(1))
    assert back == facts
    assert_same(load_file(folder / "state.safetensors"), tensors_of(1))  # the library reads what we wrote


def test_the_newest_replaces_the_older_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for step in range(3):
        write_checkpoint(tmp_path, tensors_of(step), {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-000003", "latest"]
    got, facts = read_checkpoint(tmp_path)
    assert facts == {"step": 2}
    assert_same(got, tensors_of(2))


def test_strided_views_are_written_as_their_values(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 6)[::2, ::3]
    write_checkpoint(tmp_path, {"x": array}, {})
    np.testing.assert_array_equal(read_checkpoint(tmp_path)[0]["x"], array)


def test_foreign_dtypes_are_refused_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tensors_of(1), {})
    with pytest.raises(ValueError, match="tensor ids is int64"):
        write_checkpoint(tmp_path, {"ids": np.arange(3)}, {})
    assert_same(read_checkpoint(tmp_path)[0], tensors_of(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-000001", "latest"]


def test_nothing_there_is_said_so(tmp_path: Path) -> None:
    for path in [tmp_path, tmp_path / "missing"]:
        with pytest.raises(FileNotFoundError, match="no checkpoint there"):
            read_checkpoint(path)


def test_without_a_pointer_the_highest_number_counts(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tensors_of(1), {"step": 1})
    (tmp_path / "latest").unlink()
    assert read_checkpoint(tmp_path)[1] == {"step": 1}


@pytest.mark.parametrize(
    "content", [b"", b"../evil\n", b"checkpoint-000009\n", b"\xff\x00", b"x" * 1000, b"checkpoint-000001\n"]
)
def test_a_pointer_that_is_damaged_dangling_or_old_hides_nothing(tmp_path: Path, content: bytes) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, tensors_of(step), {"step": step})
    (tmp_path / "latest").write_bytes(content)
    assert newest(tmp_path) == tmp_path / "checkpoint-000002"
    assert_same(read_checkpoint(tmp_path)[0], tensors_of(2))


def two_checkpoints(place: Path) -> tuple[Path, Path]:
    """Both whole, as a disk that failed at the very end leaves them."""
    older = write_checkpoint(place, tensors_of(1), {"step": 1})
    kept = place.with_name("kept")
    shutil.copytree(older, kept)
    newer = write_checkpoint(place, tensors_of(2), {"step": 2})
    kept.rename(older)
    return older, newer


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_an_older_one_is_taken_when_the_newer_is_damaged_and_both_are_named(tmp_path: Path, name: str) -> None:
    older, newer = two_checkpoints(tmp_path / "c")
    said: list[str] = []
    assert read_newest(tmp_path / "c", said.append).facts == {"step": 2} and not said
    good = (newer / name).read_bytes()
    (newer / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    found = read_newest(tmp_path / "c", said.append)
    assert found.folder == older and found.facts == {"step": 1}
    assert_same(found.tensors, tensors_of(1))
    assert len(said) == 1 and str(newer / name) in said[0] and str(older) in said[0]
    with pytest.warns(UserWarning, match="is taken instead"):
        read_checkpoint(tmp_path / "c")
    (older / name).unlink()
    with pytest.raises(FormatError, match=f"checkpoint-000002/{name}"):
        read_checkpoint(tmp_path / "c")


def test_the_next_save_clears_what_a_failed_one_left(tmp_path: Path) -> None:
    two_checkpoints(tmp_path / "c")
    (tmp_path / "c" / ".tmp-left").mkdir()
    write_checkpoint(tmp_path / "c", tensors_of(3), {"step": 3})
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["checkpoint-000003", "latest"]


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
def test_every_truncation_and_every_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, {"x": np.arange(3.0, dtype=np.float32)}, {"step": 1})
    file = folder / name
    good = file.read_bytes()
    for length in range(len(good)):
        file.write_bytes(good[:length])
        with pytest.raises(FormatError, match=name):
            read_checkpoint(tmp_path)
    for place in range(len(good)):
        for bit in range(8):
            file.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
            with pytest.raises(FormatError, match=name):
                read_checkpoint(tmp_path)
    file.write_bytes(good + b"\n")
    with pytest.raises(FormatError, match=name):
        read_checkpoint(tmp_path)
    file.unlink()
    with pytest.raises(FormatError, match=f"{name}: No such file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100000, "1", "{}", '{"format": "bytegolf checkpoint", "version": 2}', "\x00"])
def test_a_foreign_manifest_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_checkpoint(tmp_path, tensors_of(1), {})
    (folder / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        read_checkpoint(tmp_path)


def test_a_manifest_that_is_sealed_but_lies_is_refused(tmp_path: Path) -> None:
    from bytegolf.checkpoint import _manifest_bytes

    folder = write_checkpoint(tmp_path, tensors_of(1), {})
    body = json.loads((folder / "manifest.json").read_text())
    del body["seal"]
    for files in [{}, {"state.safetensors": 3}, {"state.safetensors": {"bytes": "1", "sha256": "x"}}, []]:
        (folder / "manifest.json").write_bytes(_manifest_bytes({**body, "files": files}))
        with pytest.raises(FormatError, match="lacks the size and hash"):
            read_checkpoint(tmp_path)


def test_a_full_disk_is_an_error_and_keeps_the_last_good_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tensors_of(1), {"step": 1})
    program = f"""
import resource, sys, numpy as np
from bytegolf.checkpoint import write_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_checkpoint({str(tmp_path)!r}, {{"big": np.zeros(1 << 20)}}, {{}})
except OSError as error:
    print(error)
    sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "checkpoint not written, an older one is kept: File too large" in done.stdout
    assert f"{(8 << 20) + (1 << 16):,} bytes are needed" in done.stdout and "make room" in done.stdout
    assert str(tmp_path) in done.stdout
    assert read_checkpoint(tmp_path)[1] == {"step": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-000001", "latest"]


WRITER = """
import sys, numpy as np
from bytegolf.checkpoint import write_checkpoint
step = int(sys.argv[2])
while True:
    step += 1
    write_checkpoint(sys.argv[1], {"x": np.full(20_000, float(step)), "y": np.full((7, 3), step, np.float32)}, {"step": step})
    print(step, flush=True)
"""


def test_kill_at_any_moment_leaves_a_whole_checkpoint_that_is_never_older_than_reported(tmp_path: Path) -> None:
    draw = random.Random(5)
    reached = 0
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(reached)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in [first, *process.stdout.read().split(b"\n")] if line.strip()]
        process.wait()
        process.stdout.close()
        tensors, facts = read_checkpoint(tmp_path)
        assert facts["step"] >= reported[-1]
        assert np.all(tensors["x"] == facts["step"]) and np.all(tensors["y"] == facts["step"])
        assert newest(tmp_path).parent == tmp_path
        reached = facts["step"]
    write_checkpoint(tmp_path, tensors_of(1), {})
    assert len(list(tmp_path.iterdir())) == 2  # leftovers of the killed are gone
