"""The codec as Python sees it: quantisation bit for bit, artifacts there and back, damage refused."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bytegolf
from bytegolf import cli, codec, inspect
from bytegolf.errors import UserError

SHARED = Path(os.environ.get("BYTEGOLF_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def load_fixture(name: str) -> dict[str, Any]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with np.load(path) as arrays:
        return dict(arrays)


def expected_of(fixture: dict[str, Any]) -> dict[str, Any]:
    """The stored form in one naming: NAME.q, NAME.scale, NAME."""
    renamed = {"stored/": "", "q/": ".q", "scale/": ".scale", "pass/": ""}
    return {
        key.removeprefix(prefix) + suffix: array
        for key, array in fixture.items()
        for prefix, suffix in renamed.items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("scheme", ["int6_mixed", "int6_byte256"])
def test_quantised_values_are_those_of_the_fixture(scheme: str) -> None:
    fixture = load_fixture(f"fixtures/quant_{scheme}.npz")
    params = {key.removeprefix("param/"): a for key, a in fixture.items() if key.startswith("param/")}
    stored, expected = codec.quantise(params, scheme), expected_of(fixture)
    assert set(stored) == set(expected)
    for name, array in expected.items():
        assert (stored[name].dtype, stored[name].shape) == (array.dtype, array.shape), name
        assert stored[name].tobytes() == array.tobytes(), name
    for name, array in codec.dequantise(stored).items():
        if f"dequant/{name}" in fixture:
            assert array.dtype == np.float32
            assert array.tobytes() == fixture[f"dequant/{name}"].tobytes(), name


def test_quantise_does_not_depend_on_threads_or_input_precision() -> None:
    weights = np.random.default_rng(0).normal(0, 0.2, (300, 257))
    one = codec.quantise({"blocks.0.w": weights}, "int6_mixed", threads=1)
    for other in (
        codec.quantise({"blocks.0.w": weights.astype(np.float32)}, "int6_mixed", threads=3),
        codec.quantise({"blocks.0.w": np.asfortranarray(weights)}, "int6_mixed"),
    ):
        assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


def test_scalars_stay_scalars() -> None:
    stored = codec.quantise({"bigram.scale": np.array(0.05)}, "int6_mixed")
    assert stored["bigram.scale"].shape == () and stored["bigram.scale"].dtype == np.float16
    assert codec.dequantise(stored)["bigram.scale"].shape == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39, 70000.0])
def test_quantise_refuses_what_is_not_a_number_and_names_the_tensor(bad: float) -> None:
    for shape in [(3,), (300, 300)]:
        weights = np.zeros(shape)
        weights.flat[2] = bad
        if bad == 70000.0 and len(shape) == 2:
            continue  # a large weight of a quantised row is just a large step
        with pytest.raises(bytegolf.NumericsError, match=r"blocks\.3\.w"):
            codec.quantise({"blocks.3.w": weights}, "int6_mixed")


def test_quantise_refuses_foreign_input() -> None:
    with pytest.raises(ValueError, match="unknown scheme int5"):
        codec.quantise({"a": np.zeros(3)}, "int5")
    with pytest.raises(ValueError, match="tensor a is int32"):
        codec.quantise({"a": np.zeros(3, np.int32)}, "int6_mixed")
    with pytest.raises(ValueError, match=r"no a\.scale"):
        codec.dequantise({"a.q": np.zeros((2, 2), np.int8)})


def is_storable(text: str) -> bool:
    return text.isprintable()


DTYPES = [np.int8, np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.uint16]


def assert_same(found: dict[str, Any], given: dict[str, Any]) -> None:
    assert list(found) == list(given)
    for name, array in given.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Any dtype and shape; bytes from zeros to noise, so that NaN payloads and every coding occur."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=8)))
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 90)), draw(st.integers(1, 90)))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0, 1, 20, 200]))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.clip(rng.normal(0, spread, size), -128, 127).astype(np.int8)
    return raw.view(dtype).reshape(shape)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(st.text(min_size=1, max_size=20).filter(is_storable), arrays(), max_size=6),
    config=st.text(max_size=30).filter(is_storable),
)
def test_whatever_is_packed_comes_back(tmp_path: Path, tensors: dict[str, Any], config: str) -> None:
    path = tmp_path / "a.bg"
    size = codec.pack_tensors(tensors, path, config, threads=1)
    assert path.stat().st_size == size
    found_config, found = codec.read_artifact(path, threads=2)
    assert found_config == config
    assert_same(found, tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bg"]


def test_memory_order_and_byte_order_do_not_matter(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for form in (array, np.asfortranarray(array), array.astype(">f4"), np.repeat(array, 2, axis=1)[:, ::2]):
        codec.pack_tensors({"a": form}, tmp_path / "a.bg")
        assert_same(codec.unpack_tensors(tmp_path / "a.bg"), {"a": array})


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    for bad in (np.array(["a"]), np.array([None]), np.zeros(3, np.complex64), np.zeros(2, [("x", "f4")])):
        with pytest.raises(ValueError, match="cannot be stored"):
            codec.pack_tensors({"a": bad}, tmp_path / "a.bg")
    with pytest.raises(ValueError, match="name"):
        codec.pack_tensors({"": np.zeros(3)}, tmp_path / "a.bg")
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_and_flip_is_refused_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "small.bg"
    codec.pack_tensors({"w": np.arange(40, dtype=np.float16), "b": np.float32(3.0)}, path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(bytegolf.FormatError, match=r"small\.bg: byte \d+"):
                codec.unpack_tensors(path)


def test_system_errors_end_with_the_systems_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.bg: No such file or directory$"):
        codec.unpack_tensors(tmp_path / "none.bg")
    with pytest.raises(OSError, match=r"No such file or directory$"):
        codec.pack_tensors({"a": np.zeros(1)}, tmp_path / "no" / "a.bg")


def test_the_container_reads_as_documented(tmp_path: Path) -> None:
    """Header, checksum, index and zstd records with nothing but the standard library and another zstd decoder."""
    zstandard = pytest.importorskip("zstandard")
    # Long repeats of noise: what zstd is best at.
    block = np.random.default_rng(0).integers(0, 2**16, 4000).astype(np.uint16)
    tensors = {"repeats": np.tile(block, 12), "blocks.0.w": np.float32(1.5)}
    path = tmp_path / "a.bg"
    codec.pack_tensors(tensors, path, "num_layers = 2\n")
    data = path.read_bytes()
    magic, version, zero, index_raw, index_stored, size = struct.unpack_from("<8sIIQQQ", data)
    assert (magic, version, zero, size) == (b"BYTEGOLF", 1, 0, len(data))
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    index = zstandard.ZstdDecompressor().decompress(data[40 : 40 + index_stored])
    assert len(index) == index_raw

    at = 0

    def take(form: str) -> Any:
        nonlocal at
        values = struct.unpack_from("<" + form, index, at)
        at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    assert take(f"{take('I')}s") == b"num_layers = 2\n"
    records = [take("BQQ") for _ in range(take("I"))]
    held: list[list[tuple[str, int, tuple[int, ...]]]] = [[] for _ in records]
    for _ in range(take("I")):
        name = take(f"{take('H')}s").decode()
        dtype, rank = take("BB")
        shape = tuple(take("Q") for _ in range(rank))
        held[take("I")].append((name, dtype, shape))
    assert at == len(index)
    offset, seen = 40 + index_stored, 0
    for (coding, raw, stored), contents in zip(records, held, strict=True):
        if coding == 1:
            planes = zstandard.ZstdDecompressor().decompress(data[offset : offset + stored])
            assert len(planes) == raw
            [(name, dtype, shape)] = contents
            assert (name, dtype, shape) == ("repeats", 7, (48000,))
            low, high = np.frombuffer(planes, np.uint8).reshape(2, -1).astype(np.uint16)
            assert np.array_equal(low | high << 8, tensors["repeats"])
            seen += 1
        offset += stored
    assert seen == 1 and offset == len(data) - 32


def test_parameters_survive_quantisation_and_packing(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    params = {
        "tok_emb.weight": rng.normal(0, 0.3, (260, 300)),
        "bigram.scale": np.array(0.05),
        "blocks.0.mlp.fc.weight": rng.normal(0, 0.2, (300, 256)),
    }
    size = codec.pack_parameters(params, tmp_path / "a.bg", "int6_mixed", "num_layers = 1\n")
    config, loaded = codec.load_parameters(tmp_path / "a.bg")
    assert config == "num_layers = 1\n" and size < 130_000
    assert_same(loaded, codec.dequantise(codec.quantise(params, "int6_mixed")))
    # Half a step of 1/31, and of the largest weight / 127.
    assert np.abs(loaded["blocks.0.mlp.fc.weight"] - params["blocks.0.mlp.fc.weight"]).max() <= 0.5 / 31 * 1.01
    assert np.abs(loaded["tok_emb.weight"] - params["tok_emb.weight"]).max() <= 0.02


# Wide enough that matrices of blocks and the token table have more than 65,536 elements.
WIDE = {
    "num_layers": 2,
    "xsa_last_n": 0,
    "model_dim": 320,
    "num_heads": 5,
    "seq_len": 16,
    "eval_stride": 16,
    "micro_batch_ids": 16,
    "train_batch_ids": 16,
}


@pytest.mark.parametrize("preset", bytegolf.Config.preset_names())
def test_declarations_and_published_names_give_every_tensor_the_same_codec(preset: str) -> None:
    heads = {"num_kv_heads": 5 if preset.startswith("byte256") else 1}
    model = bytegolf.Model(bytegolf.Config.preset(preset, **WIDE, **heads), threads=2)
    specs = model.specs()
    stored = [row for row in specs if row["codec"] != "left_out"]
    assert {row["codec"] for row in stored} == {"matrix", "other"}
    assert {row["name"]: row["codec"] for row in stored} == {
        row["name"]: codec.codec_by_name(row["name"], len(row["shape"])) for row in stored
    }
    draw = np.random.default_rng(6)
    params = {row["name"]: draw.normal(0, 0.1, row["shape"]) for row in stored}
    for scheme in ("int6_mixed", "int6_byte256"):
        declared, named = codec.quantise(params, scheme, specs), codec.quantise(params, scheme)
        assert sum(name.endswith(".q") for name in declared) >= 8
        assert_same(declared, named)


def test_a_second_stack_gets_six_bits_by_its_declaration_whatever_its_prefix(tmp_path: Path) -> None:
    table = {  # name: shape, codec
        "local_encoder.blocks.0.attn.c_q.weight": ((300, 256), "matrix"),
        "local_encoder.blocks.0.mlp.fc.weight": ((300, 16, 16), "matrix"),
        "local_encoder.embed.weight": ((300, 256), "other"),
        "blocks.0.table": ((300, 256), "other"),
        "patcher.head.weight": ((300, 256), "left_out"),
    }
    specs = [{"name": name, "shape": shape, "codec": kind} for name, (shape, kind) in table.items()]
    draw = np.random.default_rng(8)
    params = {name: draw.normal(0, 0.3, shape) for name, (shape, _) in table.items()}
    path = tmp_path / "a.bg"
    codec.pack_parameters(params, path, "int6_mixed", specs=specs)
    stored = codec.unpack_tensors(path)
    assert {name.removesuffix(".q") for name in stored if not name.endswith(".scale")} == {
        name for name, (_, kind) in table.items() if kind != "left_out"
    }
    for name, (_, kind) in table.items():
        if kind == "left_out":
            continue
        assert (stored[f"{name}.q"].dtype, stored[f"{name}.q"].shape) == (np.int8, params[name].shape), name
        rows = np.asarray(params[name], np.float32).reshape(300, 256)
        if kind == "matrix":  # the step of a row is its largest weight / 31
            step = np.maximum(np.abs(rows).max(axis=1) / np.float32(31), np.float32(1 / 31))
            assert np.array_equal(stored[f"{name}.scale"], step.astype(np.float16)), name
            assert np.abs(stored[f"{name}.q"]).max() in (31, 32), name
        else:
            assert np.abs(stored[f"{name}.q"]).max() == 127, name
    bits = codec.quantise(params, "int6_byte256", specs)
    assert {name for name in bits if name.endswith(".q")} == {
        f"{name}.q" for name, (_, kind) in table.items() if kind == "matrix"
    }


def test_a_tensor_without_declaration_or_of_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="tensor b is not declared in specs"):
        codec.quantise({"a": np.ones(2), "b": np.ones(2)}, "int6_mixed", [{"name": "a", "codec": "other"}])
    with pytest.raises(ValueError, match="unknown codec int5"):
        codec.quantise({"a": np.ones(2)}, "int6_mixed", [{"name": "a", "codec": "int5"}])


def test_trained_weights_fit_well_below_the_limit(tmp_path: Path) -> None:
    tensors = load_fixture("data/trained_int6.npz")
    del tensors["kinds"]
    path = tmp_path / "trained.bg"
    assert codec.pack_tensors(tensors, path) <= 13_450_000
    assert_same(codec.unpack_tensors(path), tensors)


def test_inspect_accounts_for_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    params = {f"blocks.{i}.w": rng.normal(0, 0.2, (300, 256)) for i in range(3)} | {"gain": np.ones(7)}
    size = codec.pack_parameters(params, tmp_path / "a.bg", "int6_mixed", "num_layers = 3\n")
    report = inspect.inspect_artifact(tmp_path / "a.bg")
    assert report["file_bytes"] == size
    for rows in (report["tensors"], report["groups"]):
        assert sum(r["stored_bytes"] for r in rows) + report["frame_bytes"] + report["model_bytes"] == size
    assert report["weights"] == 3 * 300 * 256 + 7
    assert [(g["name"], g["count"]) for g in report["groups"]][:2] == [("blocks.*.w.q", 3), ("blocks.*.w.scale", 3)]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["inspect", str(tmp_path / "a.bg"), "--json"])
    assert json.loads(capsys.readouterr().out) == report
    with pytest.raises(SystemExit, match="0"):
        cli.main(["inspect", str(tmp_path / "a.bg")])
    shown = capsys.readouterr().out
    assert "num_layers = 3" in shown and "blocks.*.w.q" in shown


def frame_of(data: bytes) -> bytes:
    """A zstd frame of one raw block (RFC 8878): one segment, a content size of 4 bytes."""
    assert len(data) < 1 << 17
    return (
        bytes.fromhex("28b52ffd a0") + struct.pack("<I", len(data)) + (1 | len(data) << 3).to_bytes(3, "little") + data
    )


ZEROS = 256 << 20


def bomb(size: int = ZEROS) -> bytes:
    """A zstd frame of `size` zero bytes as RLE blocks of 128 KiB; its window is 128 KiB."""
    blocks = [(1 << 1 | 1 << 17 << 3).to_bytes(3, "little") + b"\0"] * (size >> 17)
    blocks[-1] = (1 | 1 << 1 | 1 << 17 << 3).to_bytes(3, "little") + b"\0"
    return bytes.fromhex("28b52ffd 80 38") + struct.pack("<I", size) + b"".join(blocks)


RAW, ZSTD, MIX, GRID = range(4)
DTYPE_CODES = {"float32": 0, "float16": 1, "bfloat16": 2, "int8": 3}
Row = tuple[str, str, tuple[int, ...], int]  # name, dtype, shape, record


def forged(config: str, records: list[tuple[int, int, bytes]], rows: list[Row]) -> bytes:
    """An artifact of any records (coding, raw bytes, stored) and tensors, with the right checksum: FORMAT.md by hand."""
    index = struct.pack("<I", len(config.encode())) + config.encode() + struct.pack("<I", len(records))
    index += b"".join(struct.pack("<BQQ", coding, raw, len(stored)) for coding, raw, stored in records)
    index += struct.pack("<I", len(rows))
    for name, dtype, shape, record in rows:
        index += (
            struct.pack("<H", len(name.encode())) + name.encode() + struct.pack("<BB", DTYPE_CODES[dtype], len(shape))
        )
        index += b"".join(struct.pack("<Q", size) for size in shape) + struct.pack("<I", record)
    frame, body = frame_of(index), b"".join(stored for _, _, stored in records)
    total = 40 + len(frame) + len(body) + 32
    data = b"BYTEGOLF" + struct.pack("<IIQQQ", 1, 0, len(index), len(frame), total) + frame + body
    return data + hashlib.sha256(data).digest()


def one(name: str, dtype: str, shape: tuple[int, ...], coding: int, raw: int, stored: bytes, config: str = "") -> bytes:
    return forged(config, [(coding, raw, stored)], [(name, dtype, shape, 0)])


LARGE = "family = byte260\nnum_layers = 24\nmodel_dim = 2048\nnum_heads = 16\nnum_kv_heads = 8\n"
HOSTILE = {  # name: bytes, what loading says
    "raw_lie": (one("a", "int8", (400_000_000,), RAW, 400_000_000, b"abc"), "3 raw bytes for 400000000"),
    "zstd_lie": (one("a", "int8", (400_000_000,), ZSTD, 400_000_000, frame_of(b"abc")), "no a.scale"),
    "zstd_bomb": (one("a", "float32", (ZEROS >> 2,), ZSTD, ZEROS, bomb()), "no model options"),
    "beyond": (one("a", "int8", (1 << 30,), ZSTD, 1 << 30, b"abc"), "more than max_decoded_bytes = 512000000"),
    "wide_beyond": (one("a", "float16", (1 << 27,), ZSTD, 1 << 28, bomb()), "536870912 bytes as float32"),
    "mix_lie": (one("a", "float32", (1 << 22,), MIX, 1 << 24, b"abc"), "mixed records of 3 bytes unpack to 16777216"),
    "grid_lie": (one("a.q", "int8", (1, 400_000_000), GRID, 400_000_000, bytes(64)), "no a.scale"),
    "escape": (one("\x1b]0;owned\a", "int8", (3,), RAW, 3, b"abc"), r"control character: \x1b]0;owned\x07"),
    "nul": (one("a\0b", "int8", (3,), RAW, 3, b"abc"), r"control character: a\x00b"),
    "config_escape": (one("a", "int8", (3,), RAW, 3, b"abc", "# \x1b[2J"), "the config holds a control character"),
    "twice": (forged("", [(RAW, 2, b"ab")], [("a", "int8", (1,), 0)] * 2), "tensor a is listed twice"),
    "overflow": (one("a", "int8", (1 << 32, 1 << 32), RAW, 0, b""), "impossible dimension"),
    "bfloat16": (
        one("w", "bfloat16", (2,), RAW, 4, b"abcd"),
        "tensor w is bfloat16; expected int8, float16 or float32",
    ),
    "no_scale": (one("w.q", "int8", (2, 2), RAW, 4, b"abcd"), "no w.scale"),
    "large_config": (one("a", "float16", (), RAW, 2, b"ab", LARGE), "1 tensors for num_layers = 24"),
    "large_shapes": (
        forged(LARGE, [(RAW, 48, b"ab" * 24)], [(f"blocks.{i}.attn_scale", "float16", (1,), 0) for i in range(24)]),
        "lacks skip_weights, tok_emb.weight",
    ),
}


def test_hostile_artifacts_take_no_memory_and_end_with_one_line(tmp_path: Path) -> None:
    """Each is inspected, scored, sampled and exported in one child, whose memory is compared with what it had before."""
    (tmp_path / "t.txt").write_text("some text")
    for name, (data, _) in HOSTILE.items():
        assert len(data) < 10_000
        (tmp_path / f"{name}.bg").write_bytes(data)
    code = f"""
import contextlib, io, json, resource, sys
import bytegolf.artifact, bytegolf.stored.command, bytegolf.stored.packing
from bytegolf import cli
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
said, before = {{}}, peak()
for name in {list(HOSTILE)!r}:
    file = name + ".bg"
    for verb, *rest in (["inspect", file], ["eval", file, "t.txt"], ["generate", file, "a"], ["export", file, "o.safetensors"]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main([verb, *rest])
            except SystemExit as left:
                said[name + " " + verb] = [left.code, err.getvalue()]
print(json.dumps([peak() - before, said]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    grown_mib, said = json.loads(ran.stdout.splitlines()[-1])
    assert grown_mib < 100
    assert not (tmp_path / "o.safetensors").exists()
    readable = {
        "zstd_bomb",
        "bfloat16",
        "no_scale",
        "large_config",
        "large_shapes",
        "wide_beyond",
    }  # what they hold is there
    for name, (_, words) in HOSTILE.items():
        for verb in ("eval", "generate", "export"):
            status, text = said[f"{name} {verb}"]
            assert status == 2 and text.count("\n") == 1, (name, verb, text)
            assert words in text and f"{name}.bg" in text and "\x1b" not in text, (name, verb, text)
        assert said[f"{name} inspect"][0] == (0 if name in readable else 2), name


def test_the_limit_of_what_is_decoded_is_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.bg"
    codec.pack_tensors({"a": np.zeros(5000, np.float32), "b": np.zeros(5000, np.float32)}, path)
    for read in (codec.unpack_tensors, inspect.inspect_artifact, codec.load_parameters):
        with pytest.raises(bytegolf.FormatError, match=r"tensor b of 20000 bytes.* max_decoded_bytes = 39999"):
            read(path, max_decoded_bytes=39_999)
        read(path, max_decoded_bytes=40_000)
    half = tmp_path / "half.bg"
    codec.pack_tensors({"a": np.zeros(5000, np.float16), "b": np.zeros(5000, np.float16)}, half)
    codec.unpack_tensors(half, max_decoded_bytes=20_000)
    with pytest.raises(bytegolf.FormatError, match=r"tensor b of 20000 bytes as float32.* max_decoded_bytes = 39999"):
        codec.load_parameters(half, max_decoded_bytes=39_999)
    for verb in ("inspect", "eval", "generate", "surprise"):
        words = [str(path)] if verb in ("inspect", "generate") else [str(path), str(path)]
        with pytest.raises(SystemExit, match="2"):
            cli.main([verb, *words, "--max-decoded-bytes", "39999"])
        assert "max_decoded_bytes = 39999" in capsys.readouterr().err


def test_bfloat16_without_its_package_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # import fails
    path = tmp_path / "b.bg"
    path.write_bytes(HOSTILE["bfloat16"][0])
    with pytest.raises(UserError, match=r"b\.bg: tensor w is bfloat16: install ml-dtypes"):
        codec.unpack_tensors(path)
    assert inspect.inspect_artifact(path)["tensors"][0]["raw_bytes"] == 4


def small_model() -> bytegolf.Model:
    config = bytegolf.Config.preset(
        "byte260", num_layers=2, model_dim=8, num_heads=2, num_kv_heads=1, seq_len=8, xsa_last_n=0, rope_dims=4
    )
    return bytegolf.Model(config, threads=1)


@pytest.mark.parametrize("scale", [False, True])
def test_numbers_that_are_none_are_refused_when_a_model_is_loaded(tmp_path: Path, scale: bool) -> None:
    model = small_model()
    stored = codec.quantise(model.parameters(), "int6_mixed", model.specs())
    name = "blocks.0.mlp.fc.weight"
    if scale:
        stored[f"{name}.q"] = np.ones(stored[name].shape, np.int8)
        stored[f"{name}.scale"] = np.full(stored.pop(name).shape[0], np.nan, np.float16)
    else:
        stored[name] = np.full_like(stored[name], np.inf)
    path = tmp_path / "n.bg"
    codec.pack_tensors(stored, path, model.config.text(["model"]))
    with pytest.raises(bytegolf.FormatError, match=rf"n\.bg: tensor {name}(\.scale)? holds NaN or infinity"):
        bytegolf.load(path)


def test_names_and_shapes_are_compared_before_anything_is_decoded(tmp_path: Path) -> None:
    model = small_model()
    stored = codec.quantise(model.parameters(), "int6_mixed", model.specs())
    text = model.config.text(["model"])
    path = tmp_path / "s.bg"
    other = {name: array for name, array in stored.items() if name != "smear.gate"}
    codec.pack_tensors(other, path, text)
    if "smear.gate" in stored:
        with pytest.raises(bytegolf.FormatError, match=r"s\.bg: lacks smear\.gate, which its options ask for"):
            bytegolf.load(path)
    codec.pack_tensors(stored | {"foreign": np.zeros(2, np.float16)}, path, text)
    with pytest.raises(bytegolf.FormatError, match=r"s\.bg: its options have no tensor foreign"):
        bytegolf.load(path)
    codec.pack_tensors(stored | {"blocks.1.attn_scale": np.zeros(9, np.float16)}, path, text)
    with pytest.raises(
        bytegolf.FormatError, match=r"tensor blocks\.1\.attn_scale has shape \(9,\), its options make it \(8,\)"
    ):
        bytegolf.load(path)
    codec.pack_tensors(stored, path, text)
    assert bytegolf.load(path).num_parameters == model.num_parameters


def test_declared_parameters_are_those_of_the_model() -> None:
    model = small_model()
    assert bytegolf._bytegolf.declared_parameters(model.config) == model.specs()
