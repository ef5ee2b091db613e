"""The parsers that are Python, or a library behind Python: what valid input looks like, how it is forged, and what must hold.

Each is called as the commands call it, by its public function, on files in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from bytegolf.bundle import script
from bytegolf.checkpoint import read_checkpoint, write_checkpoint
from bytegolf.config import Config
from bytegolf.data.shards import read_ids, write_shards
from bytegolf.log import read_log
from bytegolf.model import Model
from bytegolf.ranks.environment import Ranks, free_port
from bytegolf.ranks.rendezvous import meet
from bytegolf.weights import load_safetensors
from campaign import forge
from campaign.stage import Context, Outcome, Parser, Report, in_processes

TINY = {
    "num_layers": 1, "model_dim": 4, "num_heads": 1, "num_kv_heads": 1, "rope_dims": 2, "xsa_last_n": 0, "bigram_vocab_size": 4,
    "bigram_dim": 2, "jepa_chunk_size": 0, "seq_len": 8, "eval_stride": 8, "micro_batch_ids": 8, "train_batch_ids": 8,
}  # fmt: skip


def seal(body: Any) -> bytes:
    """A manifest as a checkpoint holds it, its seal right: what somebody who forges one would write."""
    if not isinstance(body, dict):
        return forge.text_of(body)
    body = {key: value for key, value in body.items() if key != "seal"}
    whole = hashlib.sha256(json.dumps(body, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps({**body, "seal": whole}, indent=1, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n"


class Checkpoint(Parser):
    """`read_checkpoint`: the pointer, the manifest (often sealed anew) and the state (often with its hash made right)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tensors = {
            "weights/a": np.arange(6, dtype=np.float32).reshape(2, 3),
            "first/a": np.zeros(0),
            "s": np.array(2.5),
        }
        facts = {
            "config": "num_layers = 2\n",
            "dtype": "float32",
            "data_ids": 7,
            "progress": {"step": 3, "elapsed_s": 0.5},
        }
        self.place = write_checkpoint(folder / "c", tensors, facts)
        self.files = [folder / "c" / "latest", self.place / "manifest.json", self.place / "state.safetensors"]
        self.good = [file.read_bytes() for file in self.files]
        self.now = list(self.good)

    def seeds(self) -> list[bytes]:
        """One whole checkpoint."""
        return [forge.join(*self.good)]

    def mutate(self, draw: random.Random, data: bytes) -> bytes:
        """Mostly forged with the right seals; plain damage else."""
        latest, manifest, state = forge.split(data, 3)
        kind = draw.random()
        if kind < 0.45:
            try:
                body = json.loads(manifest)
            except (ValueError, RecursionError):
                body = json.loads(self.good[1])
            manifest = seal(forge.changed(draw, body))
        elif kind < 0.7:
            state = self._state(draw, state)
            try:
                body = json.loads(manifest)
                body["files"]["state.safetensors"] = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
                manifest = seal(body)
            except (ValueError, TypeError, KeyError, AttributeError):
                manifest = self.good[1]
        elif kind < 0.85:
            manifest = forge.flip(draw, manifest)
        elif kind < 0.92:
            state = forge.flip(draw, state)
        elif kind < 0.9995:
            latest = forge.flip(draw, latest)
        else:
            manifest = forge.deep_json(draw)
        return forge.join(latest, manifest, state)

    def _state(self, draw: random.Random, state: bytes) -> bytes:
        size = int.from_bytes(state[:8], "little")
        if draw.random() < 0.3 or size > len(state):
            return forge.flip(draw, state)
        try:
            header = forge.text_of(forge.changed(draw, json.loads(state[8 : 8 + size])))
        except (ValueError, RecursionError):
            header = forge.flip(draw, state[8 : 8 + size])
        length = len(header) if draw.random() < 0.9 else draw.choice((0, 1, 2**32, 2**63, len(header) + 8))
        return length.to_bytes(8, "little") + header + state[8 + size :]

    def attempt(self, data: bytes) -> None:
        """Reads it. What is not sealed is refused, unless nothing was changed."""
        parts = forge.split(data, 3)
        for at, file in enumerate(self.files):
            if parts[at] != self.now[at]:
                file.write_bytes(parts[at])
                self.now[at] = parts[at]
        tensors, facts = read_checkpoint(self.folder / "c")
        assert isinstance(facts, dict) and all(isinstance(array, np.ndarray) for array in tensors.values())
        body = json.loads(parts[1])
        assert parts[1] == seal(body), "a manifest that was changed after its sealing is believed"
        assert hashlib.sha256(parts[2]).hexdigest() == body["files"]["state.safetensors"]["sha256"]


class Log(Parser):
    """`read_log`: lines of a run's log."""

    def seeds(self) -> list[bytes]:
        """A finished run, and one that was resumed."""
        start = {
            "kind": "start",
            "time": 1.5,
            "step": 0,
            "version": "0",
            "seed": 0,
            "locked": True,
            "config": {"seed": 0},
        }
        step = {
            "kind": "step",
            "time": 2.5,
            "step": 1,
            "ce": 5.5,
            "bpb": 8.0,
            "elapsed_s": 0.5,
            "left_s": 1.5,
            "bytes": 128,
        }
        val = {
            "kind": "val",
            "time": 3.0,
            "step": 2,
            "bpb": 2.0,
            "nats": 9.5,
            "bytes": 7,
            "targets": 8,
            "from": "artifact",
        }
        end = {"kind": "end", "time": 4.5, "reason": "done", "step": 2, "sliding": {"bpb": 2.0}, "made": {"val_ids": 9}}
        again = [start, step, {**start, "step": 1}, {**step, "step": 2}, val, end, {"kind": "track", "tracker": "x"}]
        return [b"".join(forge.text_of(line) + b"\n" for line in lines) for lines in ([start, step, val, end], again)]

    def mutate(self, draw: random.Random, data: bytes) -> bytes:
        """A value, a line, or the bytes."""
        lines = data.splitlines(keepends=True)
        if not lines or draw.random() < 0.3:
            return forge.flip(draw, data)
        at = int(draw.random() * len(lines))
        kind = draw.random()
        if kind < 0.7:
            try:
                lines[at] = forge.text_of(forge.changed(draw, json.loads(lines[at]))) + b"\n"
            except (ValueError, RecursionError):
                lines[at] = forge.flip(draw, lines[at])
        elif kind < 0.8:
            del lines[at]
        elif kind < 0.9:
            lines.insert(int(draw.random() * len(lines)), lines[at])
        elif kind < 0.9995:
            lines[at] = lines[at][: int(draw.random() * len(lines[at]))]
        else:
            lines[at] = forge.deep_json(draw) + b"\n"
        return b"".join(lines[:40])

    def attempt(self, data: bytes) -> None:
        """Reads it; every line that counts has a kind, and none of them is new."""
        path = self.folder / "log.jsonl"
        path.write_bytes(data)
        kept = read_log(path)
        assert kept and all(isinstance(line["kind"], str) for line in kept)
        assert len(kept) <= data.count(b"\n") + data.count(b"\r") + 1


class Toml(Parser):
    """`Config.from_toml`: files that people write."""

    options = tuple(Config().to_dict().items())

    def seeds(self) -> list[bytes]:
        """A few options."""
        return [
            b'# run\nnum_layers = 5\nmatrix_lr = 1e-2\nshuffle = true\nattn_windows = "8,0"\n',
            b"iterations = 1_000  # steps\ntrain_budget_s = 1e1\nseed = 0x10\ntrain_data = 'a'\n",
        ]

    def mutate(self, draw: random.Random, data: bytes) -> bytes:
        """A line with a known option and an unusual value, or changed bytes."""
        if draw.random() < 0.4:
            return forge.flip(draw, data)
        lines = data.splitlines(keepends=True)
        if len(lines) > 12 and draw.random() < 0.9:
            lines = draw.sample(lines, 8)
        name, value = draw.choice(self.options)
        values = (
            "0x10",
            "1_000",
            "+1",
            "1e3",
            "nan",
            "inf",
            "[1]",
            "{a = 1}",
            "'x'",
            '"""x"""',
            '"\\u0001"',
            "1979-05-27",
            "true",
            '"a',
            "",
        )
        text = draw.choice((draw.choice(values), json.dumps(value), json.dumps(forge.change(draw, value))))
        key = (
            name
            if draw.random() < 0.9
            else draw.choice((f'"{name}"', f"model.{name}", f"[{name}]", name.upper(), name + " " + name))
        )
        lines.insert(int(draw.random() * (len(lines) + 1)), f"{key} = {text}\n".encode("utf-8", "surrogatepass"))
        return b"".join(lines)

    def attempt(self, data: bytes) -> None:
        """Reads it; what is accepted comes back from its own text."""
        path = self.folder / "config.toml"
        path.write_bytes(data)
        config = Config.from_toml(path)
        if len(data) % 8:  # the rest takes long: now and then
            return
        again = Config.from_text(config.text())
        assert again == config, "options change on their way through their own text"


class Safetensors(Parser):
    """`load_safetensors`: weights, with the options inside."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = Config.preset("byte256", **TINY)
        self.tensors = Model(self.config, threads=1).parameters()

    def seeds(self) -> list[bytes]:
        """One of ours."""
        return [save(self.tensors, metadata={"format": "pt", "bytegolf": self.config.text(["model"])})]

    def mutate(self, draw: random.Random, data: bytes) -> bytes:
        """The header as JSON, one option, numbers of the data, or bytes."""
        size = int.from_bytes(data[:8], "little")
        kind = draw.random()
        if size + 8 > len(data) or kind < 0.15:
            return forge.flip(draw, data)
        header, rest = data[8 : 8 + size], data[8 + size :]
        if kind < 0.3:
            at = int(draw.random() * max(len(rest) - 4, 1))
            value = draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0"))
            return data[: 8 + size] + rest[:at] + value + rest[at + 4 :]
        try:
            value = json.loads(header)
            if kind < 0.5:
                lines = str(value["__metadata__"]["bytegolf"]).splitlines(keepends=True)
                at = int(draw.random() * len(lines))
                lines[at] = forge.flip(draw, lines[at].encode("utf-8", "replace")).decode("utf-8", "replace")
                value["__metadata__"]["bytegolf"] = "".join(lines)
            else:
                value = forge.changed(draw, value)
            header = forge.text_of(value)
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            header = forge.flip(draw, header)
        length = len(header) if draw.random() < 0.95 else draw.choice((0, 1, 2**31, 2**63, 2**64 - 1))
        return length.to_bytes(8, "little") + header + rest

    def attempt(self, data: bytes) -> None:
        """Loads it; what is accepted is finite."""
        path = self.folder / "w.safetensors"
        path.write_bytes(data)
        model = load_safetensors(path, threads=1)
        assert all(np.isfinite(array).all() for array in model.parameters().values())


class TrainGpt(Parser):
    """`script.read`: a train_gpt.py taken apart without running it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.good = script.assemble("num_layers = 2\n", {"a.py": b"x = 1\n", "csrc/b.h": b"// b\n"})
        self.short = b"\n".join(
            line for line in self.good.splitlines() if line.startswith((b"CONFIG", b"num", b"'''", b"SHA", b"ARCH"))
        )

    def seeds(self) -> list[bytes]:
        """A whole one, and its constants alone."""
        script.read(self.good, "x")
        return [self.short + b"\n"]

    def mutate(self, draw: random.Random, data: bytes) -> bytes:
        """A line, or the bytes."""
        if draw.random() < 0.7:
            return forge.flip(draw, data)
        lines = data.splitlines(keepends=True) or [b""]
        at = int(draw.random() * len(lines))
        kind = draw.random()
        if kind < 0.4:
            lines.insert(int(draw.random() * len(lines)), lines[at])
        elif kind < 0.7:
            lines[at] = draw.choice(
                (
                    b"CONFIG = 1\n",
                    b"ARCHIVE = b''\n",
                    b'SHA256 = f"{1}"\n',
                    b"CONFIG: str = 'x'\n",
                    b'ARCHIVE = ("a" "b")\n',
                )
            )
        else:
            at = int(draw.random() * (len(lines) + 1))
            lines.insert(
                at,
                draw.choice(
                    (b"(" * 200, b"-" * 5000 + b"1\n", b"[" * 90 + b"\n", b"x" + b"()" * 300 + b"\n", b"'" * 3, b"\f\n")
                ),
            )
        return b"".join(lines)[: 1 << 16]

    def attempt(self, data: bytes) -> None:
        """Reads it; the files are those that the hash names."""
        found = script.read(data, "train_gpt.py")
        assert isinstance(found.config, str) and all(isinstance(file, bytes) for file in found.files.values())


class Manifest(Parser):
    """`read_ids`: a folder of shards with its manifest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        write_shards([b"one", b"two", b"three"], self.data, prefix="val", shard_ids=6)
        self.manifest = self.data / "val_manifest.json"
        self.good = self.manifest.read_bytes()
        self.ids = read_ids(self.data, split="val")

    def seeds(self) -> list[bytes]:
        """The one that was written."""
        return [self.good]

    def mutate(self, draw: random.Random, data: bytes) -> bytes:
        """A value, or bytes."""
        kind = draw.random()
        if kind > 0.9995:
            return forge.deep_json(draw)
        if kind < 0.4:
            return forge.flip(draw, data)
        try:
            return json.dumps(forge.changed(draw, json.loads(data)), indent=1).encode("utf-8", "surrogatepass") + b"\n"
        except (ValueError, RecursionError):
            return forge.flip(draw, self.good)

    def attempt(self, data: bytes) -> None:
        """Reads the shards: the ids that they hold, or a refusal."""
        self.manifest.write_bytes(data)
        assert np.array_equal(read_ids(self.data, split="val"), self.ids)


# The greeting of ranks is met over TCP: hostile callers between two good ones.

MEETING_CALLERS = 40
MEETING_S = 30.0


def greeting(context: Context) -> Outcome:
    """Meetings of two ranks that strangers disturb; each stranger is one execution."""
    end = time.monotonic() + context.seconds
    goal = -(-context.goal // context.jobs) if context.goal else 0

    def body(number: int, report: Report) -> None:
        draw, count = context.random(number), 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # rank 0 names the strangers
        if context.input is not None:
            words = _meeting(draw, [_Stranger(*_unpacked(line)) for line in context.input.read_bytes().splitlines()])
            report.done(1)
            if words:
                report.found(context.input.read_bytes(), words)
            return
        while time.monotonic() < end and not (goal and count >= goal):
            strangers = [_stranger(draw) for _ in range(MEETING_CALLERS)]
            packed = b"\n".join(stranger.packed() for stranger in strangers)
            report.trying(packed)
            words = _meeting(draw, strangers)
            count += len(strangers)
            report.done(count)
            if words:
                report.found(packed, words)
                return

    return in_processes(body, context, jobs=1 if context.input is not None else 0)


def _unpacked(line: bytes) -> tuple[str, bytes]:
    how, data = line.decode().split(" ")
    return how, b"" if data == "-" else bytes.fromhex(data)


KEY = "secret of this run"
CHALLENGE, CLAIM = (
    struct.Struct(">16s32s"),
    struct.Struct(">BII32s32s"),
)  # magic, fresh; kind, rank, world, fresh, proof


class _Stranger:
    """One hostile caller. how: what it does with its bytes: "reset", "close" or "read" afterwards, or "prove": they are a claim whose
    proof is made right."""

    def __init__(self, how: str, data: bytes) -> None:
        self.how, self.data = how, data

    def packed(self) -> bytes:
        """As a line of text."""
        return f"{self.how} {self.data.hex() or '-'}".encode()

    def call(self, port: int) -> None:
        """Calls and leaves, whatever the other side does."""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
                if self.how == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if self.how == "prove":
                    magic, challenge = CHALLENGE.unpack(connection.recv(CHALLENGE.size, socket.MSG_WAITALL))
                    connection.sendall(_proved(self.data, magic, challenge, port))
                else:
                    connection.sendall(self.data)
                if self.how in ("read", "prove"):
                    connection.settimeout(0.05)
                    connection.recv(4096)
        except (OSError, struct.error):
            pass


def _proved(claim: bytes, magic: bytes, challenge: bytes, port: int) -> bytes:
    """A claim with the proof that only a rank of this run can give: HMAC-SHA256 of all that both sides have said."""
    kind, rank, world, fresh, _ = CLAIM.unpack(claim)
    text = b"\0".join([magic, b"caller", struct.pack(">BIII", kind, rank, world, port) + challenge + fresh])
    return CLAIM.pack(kind, rank, world, fresh, hmac.digest(KEY.encode(), text, hashlib.sha256))


def _stranger(draw: random.Random) -> _Stranger:
    kind, how = draw.random(), draw.choice(("reset", "reset", "close", "read"))
    claim = CLAIM.pack(
        draw.randrange(3),
        draw.choice((0, 1, 2, 2**32 - 1)),
        draw.choice((0, 1, 2, 3)),
        draw.randbytes(32),
        draw.randbytes(32),
    )
    if kind < 0.3:
        return _Stranger(how, claim)
    if kind < 0.45:
        return _Stranger(how, forge.flip(draw, claim))
    if kind < 0.5:  # with the right proof, but for no place among these ranks
        wrong = draw.choice(
            ((0, 0, 2), (0, 2, 2), (1, 2**32 - 1, 2), (2, 1, 2), (255, 1, 2), (0, 1, 3), (1, 1, 2**32 - 1))
        )
        return _Stranger("prove", CLAIM.pack(*wrong, draw.randbytes(32), bytes(32)))
    if kind < 0.6:  # what looks like a message between ranks: its two lengths, JSON
        hello: Any = {"kind": "talk", "rank": 1, "world": 2, "challenge": "00" * 16, "proof": "00" * 32}
        text = forge.deep_json(draw) if draw.random() < 0.1 else forge.text_of(forge.changed(draw, hello))
        size = len(text) if draw.random() < 0.8 else draw.choice((0, 2**26, 2**31, 2**32 - 1))
        length = 0 if draw.random() < 0.7 else draw.choice((1, 2**20, 2**32, 2**36, 2**63, 2**64 - 1))
        return _Stranger(how, (size.to_bytes(4, "big") + length.to_bytes(8, "big") + text)[: 1 << 19])
    return _Stranger(how, draw.randbytes(draw.choice((0, 1, 3, 12, 31, 32, 48, 72, 73, 74, 100, 200, 5000))))


def _meeting(draw: random.Random, strangers: list[_Stranger]) -> str:
    """What went wrong when two ranks met among strangers, or ""."""
    port, wrong = free_port(), ""
    ranks = [Ranks(rank, 2, rank, 2, "127.0.0.1", port, KEY) for rank in range(2)]
    links: list[Any] = [None, None]
    errors: list[str] = []

    def one(rank: int) -> None:
        try:
            links[rank] = meet(ranks[rank], MEETING_S)
        except BaseException as error:
            errors.append(f"rank {rank} does not meet: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(2)]
    threads[0].start()
    for at, stranger in enumerate(strangers):
        if at == len(strangers) // 2:
            threads[1].start()
        stranger.call(port)
    for thread in threads:
        thread.join(MEETING_S + 10)
    wrong = errors[0] if errors else ""
    if not wrong and (links[0] is None or links[1] is None or set(links[0].talk) != {1} or set(links[0].watch) != {1}):
        wrong = "the ranks did not come together"
    for link in links:
        for channel in [*link.talk.values(), *link.watch.values()] if link is not None else []:
            channel.close()
    return wrong


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "checkpoint": Checkpoint,
    "log": Log,
    "toml": Toml,
    "safetensors": Safetensors,
    "train_gpt": TrainGpt,
    "manifest": Manifest,
}
