"""`bytegolf train` end to end on a tiny model: what the run folder holds, that its score is the artifact's, and Ctrl-C."""

import gzip
import json
import lzma
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bytegolf import device
from bytegolf.cli import main
from bytegolf.config import Config
from bytegolf.data.shards import write_shards
from bytegolf.log import read_log

TINY = """
num_layers = 2
model_dim = 16
num_heads = 2
num_kv_heads = 1
rope_dims = 4
xsa_last_n = 1
bigram_vocab_size = 64
bigram_dim = 4
bigram_init = "normal"
jepa_latent_dim = 8
jepa_proj_hidden = 8
seq_len = 32
iterations = 20
train_batch_ids = 256
micro_batch_ids = 128
warmdown_iters = 5
muon_momentum_warmup_steps = 5
ema_decay = 0.9
log_every = 1
val_every = 8
val_ids = 200
eval_stride = 8
"""
WORDS = b"the byte of the bit is a word in the text that a model reads and a model writes with few bits".split()


def text(seed, words):
    return b" ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards, tiny.toml, and a finished run in `run`."""
    root = tmp_path_factory.mktemp("train place")  # with a space
    write_shards([text(i, 400) for i in range(8)], root / "data", prefix="train")
    write_shards([text(100 + i, 60) for i in range(3)], root / "data", prefix="val")
    lines = [f'{name}_data = "{root / "data"}"' for name in ("train", "val")]
    (root / "tiny.toml").write_text("\n".join([TINY, *lines]))
    status = bytegolf("train", root / "tiny.toml", "seed=7", "--run", root / "run")
    assert status == 0
    return root


def bytegolf(*arguments):
    """Exit status of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def test_the_run_folder_holds_everything(place):
    names = {p.name for p in (place / "run").iterdir()}
    assert {"config.toml", "log.jsonl", "checkpoints", "artifact.bg", "submission.json", "README.md"} <= names
    config = Config.from_toml(place / "run" / "config.toml")
    assert (config.seed, config.iterations, config.model_dim) == (7, 20, 16)


def test_the_log_has_one_line_for_each_step_and_score(place):
    lines = read_log(place / "run" / "log.jsonl")
    start = lines[0]
    assert start["kind"] == "start"
    assert start["config"]["model_dim"] == 16
    assert start["seed"] == 7
    assert start["machine"]["cores"] >= 1
    assert (start["device"], start["dtype"]) == device.resolve()
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 21))
    for line in steps:
        assert np.isfinite(
            [line[k] for k in ("total", "ce", "bpb", "grad_norm", "lr_factor", "bytes_per_s", "left_s")]
        ).all()
    assert steps[-1]["bytes"] > steps[0]["bytes"] > 0
    assert steps[-1]["ce"] < steps[0]["ce"]
    scores = [(line["step"], line["weights"], line["from"], line["stride"]) for line in lines if line["kind"] == "val"]
    during = [(8, "raw", "memory", 32), (16, "raw", "memory", 32)]
    assert scores == [
        *during,
        (20, "raw", "memory", 32),
        (20, "ema", "memory", 32),
        (20, "ema", "artifact", 32),
        (20, "ema", "artifact", 8),
    ]
    assert lines[-1]["kind"] == "end"
    assert lines[-1]["reason"] == "done"


def test_the_score_of_record_is_the_artifacts(place, capsys):
    capsys.readouterr()
    assert bytegolf("eval", place / "run", place / "data", "--json") == 0
    scored = json.loads(capsys.readouterr().out)
    submitted = json.loads((place / "run" / "submission.json").read_text())
    assert scored["bpb"] == submitted["val_bpb"]
    assert scored["targets"] + 1 == sum(len(text(100 + i, 60)) + 1 for i in range(3))
    assert submitted["artifact_bytes"] == (place / "run" / "artifact.bg").stat().st_size
    assert submitted["bytes_total"] == submitted["artifact_bytes"] + submitted["bytes_code"]
    assert submitted["seed_results"]["7"]["val_bpb"] == scored["bpb"]
    assert submitted["bytes_code"] == (place / "run" / "train_gpt.py").stat().st_size


def test_a_text_file_is_scored_as_one_document(place, tmp_path, capsys):
    (tmp_path / "held out.txt").write_bytes(text(5, 50))
    capsys.readouterr()
    assert bytegolf("eval", place / "run" / "artifact.bg", tmp_path / "held out.txt", "--stride", "32", "--json") == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["bytes"] == scored["targets"] == len(text(5, 50))
    assert scored["floored_bpb"] is not None


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.xz", "x.txt", "x.txt.gz", "packed.txt"])
def test_a_file_scores_as_the_shards_made_of_it(place, tmp_path, capsys, name):
    texts = [text(7, 9), text(8, 4), b"", text(9, 6)]
    data = texts[0] if ".txt" in name else b"".join(b'{"text": "%s"}\n' % t.replace(b"\n", b"\\n") for t in texts)
    pack = {".xz": lzma.compress, ".gz": gzip.compress}.get(
        Path(name).suffix, gzip.compress if "packed" in name else bytes
    )
    (tmp_path / name).write_bytes(pack(data))
    assert bytegolf("data", "prepare", tmp_path / name, "--split", "val", "-o", tmp_path / "shards") == 0
    scores = []
    for words in (["eval", place / "run", tmp_path / "shards"], ["eval", place / "run", tmp_path / name]):
        capsys.readouterr()
        assert bytegolf(*words, "--json") == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert [scores[1][k] for k in ("bpb", "nats", "bytes", "targets")] == [
        scores[0][k] for k in ("bpb", "nats", "bytes", "targets")
    ]
    assert scores[0]["bytes"] == sum(map(len, texts[:1] if ".txt" in name else texts))
    capsys.readouterr()
    assert bytegolf("surprise", place / "run", tmp_path / name, "--json") == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["bpb"] == pytest.approx(scores[0]["bpb"], rel=1e-12)
    assert costs["documents"] == (1 if ".txt" in name else 3) and costs["bytes"] == scores[0]["bytes"]
    assert sum(costs["nats"]) + costs["nats_between_documents"] == pytest.approx(scores[0]["nats"], rel=1e-12)


@pytest.mark.parametrize("verb", ["eval", "surprise"])
def test_what_is_no_text_is_not_scored_unless_forced(place, tmp_path, capsys, verb):
    with zipfile.ZipFile(tmp_path / "x.txt", "w") as archive:
        archive.writestr("a", "inner")
    capsys.readouterr()
    assert bytegolf(verb, place / "run", tmp_path / "x.txt", "--json") == 2
    assert "x.txt: this is a zip archive" in capsys.readouterr().err
    assert bytegolf(verb, place / "run", tmp_path / "x.txt", "--format", "text", "--json") == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == (tmp_path / "x.txt").stat().st_size


def test_a_score_says_where_and_in_which_numbers_it_was_computed(place, capsys):
    scores = []
    for dtype in ("float32", "float64"):
        capsys.readouterr()
        words = ["--device", "cpu", "--dtype", dtype, "--json"]
        assert bytegolf("eval", place / "run", place / "data", *words) == 0
        scores.append(json.loads(capsys.readouterr().out))
        assert (scores[-1]["device"], scores[-1]["dtype"]) == ("cpu", dtype)
    assert scores[0]["bpb"] != scores[1]["bpb"]
    assert scores[0]["bpb"] == pytest.approx(scores[1]["bpb"], rel=1e-5)


def test_generate_repeats_itself_for_a_seed(place, capfdbinary):
    outputs = []
    for seed in (1, 1, 2):
        capfdbinary.readouterr()
        assert bytegolf("generate", place / "run", "the ", "--n", "40", "--seed", str(seed)) == 0
        outputs.append(capfdbinary.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert outputs[0].startswith(b"the ")
    assert len(outputs[0]) == 4 + 40 + 1


def test_generate_shows_several_prompts_row_by_row_and_as_json(place, capfdbinary):
    words = ["--n", "30", "--top-p", "0.9", "--seed", "3", "--device", "cpu"]
    capfdbinary.readouterr()
    assert bytegolf("generate", place / "run", "the ", *words) == 0
    single = capfdbinary.readouterr().out
    assert bytegolf("generate", place / "run", "the ", "a ", *words) == 0
    rows = capfdbinary.readouterr().out
    assert rows.startswith(b"--- 0\n" + single + b"\n--- 1\na ")
    assert bytegolf("generate", place / "run", "the ", "a ", *words, "--json") == 0
    found = json.loads(capfdbinary.readouterr().out)
    assert [row["prompt"] for row in found["rows"]] == ["the ", "a "]
    texts = [bytes.fromhex(row["hex"]) for row in found["rows"]]
    assert rows == b"--- 0\nthe %s\n\n--- 1\na %s\n" % tuple(texts)
    assert (found["n"], found["top_p"], found["seed"], found["device"]) == (30, 0.9, 3, "cpu")


def test_generate_stops_at_a_text_given(place, capfdbinary):
    words = ["--n", "40", "--seed", "1", "--device", "cpu"]
    capfdbinary.readouterr()
    assert bytegolf("generate", place / "run", "the ", *words) == 0
    whole = capfdbinary.readouterr().out[4:-1]
    stop = next(c for c in whole[8:] if 32 <= c < 127)  # a byte that a command line takes
    assert bytegolf("generate", place / "run", "the ", *words, "--stop", "never written", "--stop", chr(stop)) == 0
    assert capfdbinary.readouterr().out == b"the " + whole[: whole.index(stop) + 1] + b"\n"


def test_inspect_accounts_for_every_byte(place, capsys):
    capsys.readouterr()
    assert bytegolf("inspect", place / "run" / "artifact.bg", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file_bytes"] == (place / "run" / "artifact.bg").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "preset"),
        (["train", "nothing.toml"], "nothing.toml"),
        (["train", "{root}/tiny.toml", "num_layer=3"], "num_layers"),
        (["train", "{root}/tiny.toml", "val_data=", "--run", "{tmp}/r"], "val_data"),
        (["train", "{root}/tiny.toml", "train_data={tmp}/none", "--run", "{tmp}/r"], "none"),
        (["train", "{root}/tiny.toml", "family=byte256", "jepa_chunk_size=0", "--run", "{tmp}/r"], "byte256"),
        (["train", "{root}/tiny.toml", "--run", "{root}/run"], "--resume"),
        (["train", "{root}/tiny.toml", "device=gpu", "--run", "{tmp}/r"], "device"),
        (["train", "{root}/tiny.toml", "device=cpu", "dtype=bfloat16", "--run", "{tmp}/r"], "bfloat16"),
        (["train", "--resume"], "--run"),
        (["train", "--resume", "--run", "{tmp}"], "config.toml"),
        (["eval", "{tmp}/none.bg", "{root}/data"], "none.bg"),
        (["eval", "{root}/tiny.toml", "{root}/data"], "tiny.toml"),
        (["eval", "{root}/run", "{tmp}/empty.txt"], "nothing to score"),
        (["eval", "{root}/run", "{root}/data", "--window", "8", "--stride", "9"], "stride"),
        (["inspect", "{root}/tiny.toml"], "tiny.toml"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(place, tmp_path, capsys, arguments, words):
    (tmp_path / "empty.txt").write_bytes(b"")
    capsys.readouterr()
    assert bytegolf(*[a.format(root=place, tmp=tmp_path) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not captured.out
    assert not (tmp_path / "r").exists()


def test_ctrl_c_writes_a_checkpoint_and_resume_finishes_the_run(place):
    folder = place / "stopped"
    command = [sys.executable, "-m", "bytegolf", "train", str(place / "tiny.toml"), "iterations=1500", "val_every=0"]
    with subprocess.Popen(
        [*command, "--run", str(folder)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        limit = time.monotonic() + 300
        while time.monotonic() < limit:
            time.sleep(0.05)
            if (folder / "log.jsonl").exists() and '"step": 10,' in (folder / "log.jsonl").read_text():
                break
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "--resume --run" in err
    stopped = read_log(folder / "log.jsonl")
    at = [line["step"] for line in stopped if line["kind"] == "checkpoint"][-1]
    assert 10 <= at < 1500
    assert not (folder / "artifact.bg").exists()
    assert bytegolf("train", "--resume", "--run", folder) == 0
    lines = read_log(folder / "log.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 1501))
    assert [line["step"] for line in lines if line["kind"] == "start"] == [0, at]
    assert (folder / "artifact.bg").exists()
