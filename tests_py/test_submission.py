"""Submissions: the folder is whole and says one size everywhere, what breaks a rule is refused by name, and any change is found."""

import base64
import dataclasses
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bytegolf.bundle import bootstrap, meter, script
from bytegolf.cli import main
from bytegolf.data import prepare
from bytegolf.data.shards import write_shards
from bytegolf.record import fields
from bytegolf.record.facts import read_facts
from bytegolf.submission import check, folder, verify

pytestmark = pytest.mark.skipif(not script.source_paths(script.ROOT), reason="the package runs without its sources")

TINY = """
num_layers = 2
model_dim = 16
num_heads = 2
num_kv_heads = 1
rope_dims = 4
xsa_last_n = 1
bigram_vocab_size = 64
bigram_dim = 4
jepa_latent_dim = 8
jepa_proj_hidden = 8
seq_len = 32
iterations = 6
train_batch_ids = 128
micro_batch_ids = 128
warmdown_iters = 2
ema_decay = 0.5
log_every = 1
eval_stride = 8
device = "cpu"
"""
WORDS = b"a byte of the bit is a word in the text that a model reads and writes with few bits".split()
# Source: the challenge's description of submission.json.
ASKED = "author github_id name blurb date val_loss val_bpb bytes_total bytes_code track hardware seeds seed_results val_bpb_std"
ASKED += " pre_quant_val_bpb wallclock_seconds step_stop eval_time_seconds artifact_bytes"


def text(seed, words):
    return b" ".join(np.random.default_rng(seed).choice(WORDS, words))


def bytegolf(*arguments):
    """Exit status of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def submit(runs, out, *more, track="track_non_record_16mb"):
    words = [
        "--name",
        "Tiny",
        "--author",
        "A. Author",
        "--github-id",
        "author",
        "--track",
        track,
        "--date",
        "2026-01-02",
    ]
    return bytegolf("submit", *runs, *words, "--out", out, *more)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Shards in `data`, runs `run1` to `run3`, `other` (another step size), and the submission of the three."""
    root = tmp_path_factory.mktemp("submit place")  # with a space
    write_shards([text(i, 300) for i in range(4)], root / "data", prefix="train")
    write_shards([text(100 + i, 60) for i in range(2)], root / "data", prefix="val")
    write_shards([text(100 + i, 60) for i in range(3)], root / "more", prefix="val")
    lines = [f'{name}_data = "{root / "data"}"' for name in ("train", "val")]
    (root / "tiny.toml").write_text("\n".join([TINY, *lines]))
    for seed in (1, 2, 3):
        assert bytegolf("train", root / "tiny.toml", f"seed={seed}", "--run", root / f"run{seed}") == 0
    assert bytegolf("train", root / "tiny.toml", "seed=4", "matrix_lr=0.01", "--run", root / "other") == 0
    assert submit(runs(root), root / "records", "--other-validation", track="10min_16mb") == 0
    return root


def runs(root, *names):
    return [root / name for name in names or ("run1", "run2", "run3")]


@pytest.fixture
def submitted(place, tmp_path):
    """A copy of the submission, to be changed."""
    at = "track_10min_16mb/2026-01-02_Tiny"
    return Path(shutil.copytree(place / "records" / at, tmp_path / at))


def fields_of(where):
    return json.loads((where / "submission.json").read_text())


def edit_log(log, change):
    """Rewrites a log.jsonl: `change` gets the list of its lines."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    change(lines)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


# The folder


def test_the_folder_holds_all_that_is_asked(submitted):
    names = {path.name for path in submitted.iterdir()}
    logs = {f"train_seed{seed}.jsonl" for seed in (1, 2, 3)}
    assert (
        names
        == {"README.md", "submission.json", "train_gpt.py", "requirements.txt", "config.toml", "artifact.bg"} | logs
    )
    said = fields_of(submitted)
    assert set(ASKED.split()) <= said.keys()
    assert said["seeds"] == [1, 2, 3]
    scores = [said["seed_results"][str(seed)]["val_bpb"] for seed in (1, 2, 3)]
    assert said["val_bpb"] == pytest.approx(sum(scores) / 3)
    assert "is timed on 8 H100; these runs were not made on them" in (submitted / "README.md").read_text()
    assert said["artifact_seed"] == 1 + scores.index(min(scores))


def test_one_size_stands_everywhere(place, submitted, tmp_path, capsys):
    said = fields_of(submitted)
    counted = (submitted / "train_gpt.py").stat().st_size + (submitted / "artifact.bg").stat().st_size
    log = json.loads((submitted / f"train_seed{said['artifact_seed']}.jsonl").read_text().splitlines()[-1])
    assert said["bytes_total"] == said["bytes_code"] + said["artifact_bytes"] == counted
    assert log["made"]["total_bytes"] == counted
    assert said["seed_results"][str(said["artifact_seed"])]["bytes_total"] == counted
    run = json.loads((place / f"run{said['artifact_seed']}" / "submission.json").read_text())
    assert run["bytes_total"] == counted
    assert f"{counted:,} bytes count" in (submitted / "README.md").read_text()
    capsys.readouterr()
    assert submit(runs(place), tmp_path / "again", "--other-validation", track="10min_16mb") == 0
    screen = " ".join(capsys.readouterr().out.split())
    assert f"code + artifact {counted:,} bytes {16_000_000 - counted:,} bytes below the limit" in screen


def test_the_named_seeds_artifact_is_carried(place, tmp_path):
    assert submit(runs(place), tmp_path, "--artifact-seed", "2") == 0
    made = tmp_path / "track_non_record_16mb" / "2026-01-02_Tiny"
    assert (made / "artifact.bg").read_bytes() == (place / "run2" / "artifact.bg").read_bytes()
    assert fields_of(made)["artifact_seed"] == 2


def test_statistics_are_the_published_ones():
    # Source: four seeds published with these figures against 1.2244 and, by the record's rule, a mean.
    values = (1.21456865, 1.21197405, 1.21744342, 1.21660625)
    got = fields.statistics_of(values, 1.2244, margin_nats=0.0)
    assert got.mean == pytest.approx(1.21514809, abs=5e-9)
    assert (round(got.t, 2), round(got.p, 4)) == (-7.60, 0.0024)
    assert (round(got.low, 4), round(got.high, 4)) == (1.2080, 1.2223)
    assert fields.statistics_of(values, 1.2244).p > got.p
    alone = fields.statistics_of(values[:1], 1.2244)
    assert (alone.sd, alone.p) == (None, None)


# Refusals


def refused(place, tmp_path, capsys, folders, *more, track="track_non_record_16mb"):
    """Reasons by name of a submission that must be refused and leave nothing."""
    out = tmp_path / "refused"
    capsys.readouterr()
    assert submit(folders, out, "--json", *more, track=track) == 1
    found = {}
    for reason in json.loads(capsys.readouterr().out)["refused"]:
        found[reason["name"]] = f"{found.get(reason['name'], '')} {reason['text']}"
    assert not out.exists()
    return found


def test_over_the_limit(place, tmp_path, capsys, monkeypatch):
    total = read_facts(place / "run1" / "log.jsonl").total_bytes
    monkeypatch.setattr(meter, "LIMIT_BYTES", total - 7)
    assert "7 bytes OVER the limit" in refused(place, tmp_path, capsys, runs(place, "run1"))["over-limit"]


@pytest.mark.parametrize(
    ("name", "what", "key"), [("training-time", None, "train_seconds"), ("evaluation-time", "sliding", "seconds")]
)
def test_over_600_seconds(place, tmp_path, capsys, name, what, key):
    run = shutil.copytree(place / "run1", tmp_path / "run")

    def change(lines):
        (lines[-1][what] if what else lines[-1])[key] = 601.3

    edit_log(run / "log.jsonl", change)
    (run / "submission.json").unlink()
    found = refused(place, tmp_path, capsys, [run])
    assert found.keys() == {name}
    assert " 1.3" in found[name]
    assert "over 600 s" in found[name]
    assert submit([run], tmp_path / "unlimited", "--unlimited-time") == 0
    assert "for unlimited time" in next((tmp_path / "unlimited").glob("*/*/README.md")).read_text()
    assert bytegolf("verify", next((tmp_path / "unlimited").glob("*/*")), "--quick") == 0


def test_partial_coverage_by_the_log_and_by_the_shards(place, tmp_path, capsys):
    run = shutil.copytree(place / "run1", tmp_path / "run")

    def change(lines):
        lines[-1]["made"]["val_ids"] += 100

    edit_log(run / "log.jsonl", change)
    assert "100 missing" in refused(place, tmp_path, capsys, [run])["partial-validation"]
    found = refused(place, tmp_path, capsys, runs(place), "--val-data", place / "more")
    assert f"{len(text(102, 60)) + 1} missing" in found["partial-validation"]


def _bpb(lines):
    lines[-1]["sliding"]["bpb"] -= 0.01


def _seed(lines):
    lines[0]["seed"] = 9


def _option(lines):
    lines[0]["config"]["matrix_lr"] = 0.5


def _sum(lines):
    lines[-1]["made"]["total_bytes"] -= 1


def _steps(lines):
    lines[-1]["steps"] -= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [(_bpb, "bpb"), (_seed, "seed"), (_option, "matrix_lr"), (_sum, "total_bytes"), (_steps, "last step")],
)
def test_a_log_that_disagrees_with_itself_or_the_report(place, tmp_path, capsys, change, words):
    run = shutil.copytree(place / "run1", tmp_path / "run")
    edit_log(run / "log.jsonl", change)
    assert words in refused(place, tmp_path, capsys, [run])["log-disagrees"]


@pytest.mark.parametrize(
    ("file", "words"),
    [("artifact.bg", "sha256 of artifact"), ("train_gpt.py", "sha256 of code"), ("config.toml", "option")],
)
def test_a_log_that_disagrees_with_the_files(place, tmp_path, capsys, file, words):
    run = shutil.copytree(place / "run1", tmp_path / "run")
    shutil.copy(place / "other" / file, run / file)
    assert words in refused(place, tmp_path, capsys, [run])["log-disagrees"]


def test_missing_duplicated_and_unfinished_seeds(place, tmp_path, capsys):
    assert "seed 4" in refused(place, tmp_path, capsys, runs(place), "--seeds", "1,2,3,4")["missing-seed"]
    assert (
        "2 of the 3"
        in refused(place, tmp_path, capsys, runs(place, "run1", "run2"), track="10min_16mb")["missing-seed"]
    )
    twice = runs(place, "run1", "run1", "run2")
    assert "seed 1 comes 2 times" in refused(place, tmp_path, capsys, twice)["duplicate-seed"]
    run = shutil.copytree(place / "run1", tmp_path / "run")
    edit_log(run / "log.jsonl", lambda lines: lines.pop())
    assert "no last line" in refused(place, tmp_path, capsys, [run])["unfinished"]


def test_the_record_track_needs_the_whole_validation_set_or_the_word_for_another(place, submitted, tmp_path, capsys):
    found = refused(place, tmp_path, capsys, runs(place), track="10min_16mb")
    assert found.keys() == {"other-validation"}
    run = read_facts(place / "run1" / "log.jsonl")
    assert f"{run.bytes:,} bytes in {run.val_ids:,} ids; --other-validation" in found["other-validation"]
    # What was asked for is said in the JSON, on the page, on the screen and by verify.
    assert fields_of(submitted)["challenge_validation"] is False
    assert "these scores are of other text, as was asked for" in " ".join((submitted / "README.md").read_text().split())
    assert submit(runs(place), tmp_path / "again", "--other-validation", track="10min_16mb") == 0
    assert f"not the challenge's own validation set: {run.bytes:,} bytes" in capsys.readouterr().out
    assert bytegolf("verify", submitted, "--quick") == 0
    assert "not the challenge's own" in " ".join(capsys.readouterr().out.split())
    # A folder that claims the challenge's set is found out; one of a version that said nothing is shown, and not held to it.
    said = fields_of(submitted)
    for claim, verdict in ((True, False), (None, None)):
        changed = (
            said | {"challenge_validation": claim} if claim else {k: v for k, v in said.items() if "challenge" not in k}
        )
        (submitted / "submission.json").write_text(json.dumps(changed))
        claims = verify.check_folder(submitted, submitted.name, submitted.parent.name)
        assert {c.what: c.ok for c in claims}["validation set"] is verdict


@pytest.mark.parametrize(
    ("family", "ids", "scored", "whole"),
    [
        # Source: the challenge's 50,000 documents of 151,080,891 bytes; byte260 puts a bos before each, byte256 nothing.
        ("byte260", 151_130_891, 151_080_891, True),
        ("byte256", 151_080_891, 151_080_890, True),
        ("byte260", 151_130_112, 151_080_112, False),
        ("byte256", 151_130_891, 151_080_891, False),
    ],
)
def test_the_challenges_validation_set_is_known_by_its_counts(place, family, ids, scored, whole):
    run = read_facts(place / "run1" / "log.jsonl")
    config = run.config.replace(family=family)
    run = dataclasses.replace(run, config=config, val_ids=ids, targets=ids - 1, bytes=scored)
    assert fields.is_challenge_validation(run) is whole
    names = [problem.name for problem in check.rules([run], check.TRACKS[0])]
    assert ("other-validation" in names) is not whole


def test_prepare_and_submit_mean_the_same_validation_set():
    assert prepare.EXPECTED["fineweb-val"] == ("val", meter.VAL_DOCUMENTS, meter.VAL_BYTES)


def test_runs_of_different_options(place, tmp_path, capsys):
    assert "matrix_lr" in refused(place, tmp_path, capsys, runs(place, "run1", "other"))["different-configs"]


def _on_gpus(count, ranks):
    """Changes a log into that of a run on H100s."""

    def change(lines):
        for line in lines:
            if line["kind"] == "start":
                line.update(hardware=f"{count} x NVIDIA H100 80GB HBM3", world_size=ranks)

    return change


def test_runs_on_eight_gpus_say_so_on_their_page(place, submitted, tmp_path):
    assert "python train_gpt.py\n" in (submitted / "README.md").read_text()
    made = [shutil.copytree(place / f"run{seed}", tmp_path / f"run{seed}") for seed in (1, 2, 3)]
    for run in made:
        edit_log(run / "log.jsonl", _on_gpus(8, 8))
        (run / "submission.json").unlink()
    assert submit(made, tmp_path / "out", "--other-validation", track="10min_16mb") == 0
    (where,) = (tmp_path / "out").glob("*/*")
    page = (where / "README.md").read_text()
    assert fields_of(where)["hardware"] == "8 x NVIDIA H100 80GB HBM3"
    assert "Hardware: 8 x NVIDIA H100 80GB HBM3." in page
    assert "is timed on 8 H100" not in page
    assert "in float32 by 8 processes:" in page
    assert "torchrun --standalone --nproc_per_node=8 train_gpt.py\n" in page
    assert bytegolf("verify", where, "--quick") == 0
    # As many GPUs as ranks: a log that tells otherwise is found.
    edit_log(where / "train_seed2.jsonl", _on_gpus(8, 4))
    assert bytegolf("verify", where, "--quick") == 1


def test_ranks_must_agree_between_seeds_with_the_gpus_and_where_a_run_was_resumed(place, tmp_path, capsys):
    run = shutil.copytree(place / "run2", tmp_path / "run")
    edit_log(run / "log.jsonl", _on_gpus(2, 2))
    (run / "submission.json").unlink()
    found = refused(place, tmp_path, capsys, [place / "run1", run])
    assert found.keys() == {"different-configs"}
    assert "world_size 1 and 2" in found["different-configs"]
    edit_log(run / "log.jsonl", _on_gpus(8, 2))
    assert "ranks and GPUs: 2 and 8" in refused(place, tmp_path, capsys, [run])["log-disagrees"]

    def resumed(lines):
        _on_gpus(2, 2)(lines)
        lines.insert(2, {**lines[0], "step": lines[1]["step"], "world_size": 4, "hardware": "4 x NVIDIA H200"})

    edit_log(run / "log.jsonl", resumed)
    step = json.loads((run / "log.jsonl").read_text().splitlines()[1])["step"]
    said = refused(place, tmp_path, capsys, [run])["log-disagrees"]
    assert f"world_size changed where the run was resumed at step {step}" in said
    assert read_facts(run / "log.jsonl").hardware == "2 x NVIDIA H100 80GB HBM3, then 4 x NVIDIA H200"


def test_runs_of_different_sources(place):
    one, two = (read_facts(place / name / "log.jsonl") for name in ("run1", "run2"))
    changed = dataclasses.replace(two, code_sha256="0" * 64)
    assert [p.name for p in check.rules([one, changed], check.TRACKS[1])] == ["different-code"]


def test_a_failure_midway_leaves_no_folder(place, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "page", fail)
    assert submit(runs(place), tmp_path / "out") == 2
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() or "Tiny" in path.name]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--date", "2026-13-01"], "YYYY-MM-DD"),
        (["--name", "../x"], "folder"),
        (["--track", "fast"], "track_10min_16mb"),
    ],
)
def test_words_that_cannot_be(place, tmp_path, capsys, more, words):
    capsys.readouterr()
    assert (
        bytegolf("submit", place / "run1", "--author", "A", "--github-id", "a", *_with(more), "--out", tmp_path / "o")
        == 2
    )
    assert words in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def _with(more):
    usual = {"--name": "Tiny", "--track": "10min_16mb"} | dict(zip(more[::2], more[1::2], strict=True))
    return [word for pair in usual.items() for word in pair]


def test_an_existing_submission_is_not_overwritten(place, capsys):
    assert submit(runs(place), place / "records", track="10min_16mb") == 2
    assert "exists" in capsys.readouterr().err


# Verifying


def test_an_honest_submission_holds(submitted, place, capsys):
    capsys.readouterr()
    assert bytegolf("verify", submitted, "--run-code", "--no-venv", "--val-data", place / "data", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    held = {claim["what"] for claim in told["claims"] if claim["ok"]}
    seed = fields_of(submitted)["artifact_seed"]
    assert {f"bits per byte of seed {seed}", "rebuild", "score by the carried code", "bytes_total", "rules"} <= held


def test_other_shards_are_found(submitted, place, capsys):
    capsys.readouterr()
    assert bytegolf("verify", submitted, "--no-venv", "--val-data", place / "more") == 1
    shown = capsys.readouterr().out
    assert "mismatches: " in shown
    assert "targets of the shards" in shown.splitlines()[-1]


def wrong(where):
    return {claim.what for claim in verify.check_folder(where, where.name, where.parent.name) if claim.ok is False}


def test_a_change_of_any_file_is_found(submitted):
    assert not wrong(submitted)
    for path in sorted(submitted.iterdir()):
        honest = path.read_bytes()
        at = len(honest) // 2
        path.write_bytes(honest[:at] + bytes([honest[at] ^ 1]) + honest[at + 1 :])
        assert wrong(submitted), path.name
        path.write_bytes(honest + b"\n")
        if path.name not in ("README.md", "submission.json"):  # where blank space at the end means nothing
            assert wrong(submitted), path.name
        path.unlink()
        assert wrong(submitted), path.name
        path.write_bytes(honest)
    (submitted / "extra.py").write_text("")
    assert wrong(submitted) == {"files"}


def test_a_change_of_any_field_is_found(submitted):
    honest = fields_of(submitted)
    other = {str: lambda v: f"{v}x", int: lambda v: v + 1, float: lambda v: v + 1e-3, bool: lambda v: not v}
    other |= {list: lambda v: v[:-1], dict: lambda v: dict(list(v.items())[:-1]), type(None): lambda v: 1.5}
    for name, value in honest.items():
        changed = other[type(value)](value)
        (submitted / "submission.json").write_text(json.dumps(honest | {name: changed}))
        assert wrong(submitted), name
    (submitted / "submission.json").write_text(json.dumps(honest | {"unknown": 1}))
    assert wrong(submitted) == {"submission.json"}


def test_every_figure_of_the_results_table_is_checked(submitted):
    page = (submitted / "README.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| 2 |"))
    for cell in row.strip("| ").split(" | ")[1:]:
        forged = row.replace(f" {cell} ", f" {cell}1 ")
        (submitted / "README.md").write_text(page.replace(row, forged))
        assert wrong(submitted) == {"README.md: results, statistics and options"}


def test_a_consistent_lie_about_the_score_is_found_by_scoring(place, tmp_path, capsys):
    # Log, report, JSON and README all agree on a score that the artifact does not have.
    run = shutil.copytree(place / "run1", tmp_path / "run")
    (run / "submission.json").unlink()

    def change(lines):
        for score in [line for line in lines if line["kind"] == "val" and line["stride"] == 8] + [lines[-1]["sliding"]]:
            score["bpb"], score["nats"] = score["bpb"] * 0.99, score["nats"] * 0.99

    edit_log(run / "log.jsonl", change)
    assert submit([run], tmp_path / "out") == 0
    made = next((tmp_path / "out").glob("*/*"))
    assert not wrong(made)
    capsys.readouterr()
    assert bytegolf("verify", made, "--no-venv", "--val-data", place / "data", "--json") == 1
    claims = json.loads(capsys.readouterr().out)["claims"]
    assert [claim["what"] for claim in claims if claim["ok"] is False] == ["bits per byte of seed 1"]


# train_gpt.py


def test_a_script_carries_the_sources_as_they_are(submitted):
    got = script.read((submitted / "train_gpt.py").read_bytes(), "it")
    assert got.config == (submitted / "config.toml").read_text()
    assert {
        "csrc/base/config.def",
        "CMakeLists.txt",
        "pyproject.toml",
        "python/bytegolf/run/runner.py",
    } <= got.files.keys()
    assert any(path.endswith(".cu") for path in got.files)
    for path, data in got.files.items():
        assert data == (script.ROOT / path).read_bytes(), path


def test_what_a_script_unpacks_assembles_to_itself(submitted, tmp_path):
    text = (submitted / "train_gpt.py").read_bytes()
    command = [sys.executable, submitted / "train_gpt.py", "--unpack", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True)
    paths = script.source_paths(tmp_path / "out")
    files = {path: (tmp_path / "out" / path).read_bytes() for path in paths}
    assert files == script.read(text, "it").files
    assert script.assemble(script.read(text, "it").config, files) == text


def test_a_damaged_script_says_so(submitted, tmp_path):
    text = (submitted / "train_gpt.py").read_text()
    at = text.index('ARCHIVE = "') + 5000
    damaged = tmp_path / "train_gpt.py"
    damaged.write_text(text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :])
    done = subprocess.run([sys.executable, damaged, "--unpack", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "the archive is damaged" in done.stderr
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"train_gpt\.py: the archive is damaged"):
        script.read(damaged.read_bytes(), "train_gpt.py")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (f"{hashlib.sha256(b'x').hexdigest()} 1 ../a.py", "outside its folder"),
        (f"{hashlib.sha256(b'x').hexdigest()} 1 /a.py", "outside its folder"),
        (f"{hashlib.sha256(b'y').hexdigest()} 1 a.py", "a.py is not what its sha256 says"),
        (f"{hashlib.sha256(b'x').hexdigest()} 2 a.py", "a.py is not what its sha256 says"),
    ],
)
def test_an_archive_is_checked_file_by_file(table, words):
    raw = f"{table}\n\nx".encode()
    packed = base64.b85encode(lzma.compress(raw)).decode()
    with pytest.raises(ValueError, match=words):
        bootstrap.carried(packed, hashlib.sha256(raw).hexdigest())


def test_a_script_trains_by_the_challenges_variables_and_its_run_can_be_submitted(submitted, place, tmp_path):
    command = verify.lay_out(submitted, tmp_path)
    variables = {"DATA_PATH": str(place / "data"), "SEED": "5", "RUN_ID": "by hand", "MAX_WALLCLOCK_SECONDS": "0"}
    environment = os.environ | variables | {"BYTEGOLF_CACHE": str(tmp_path / "cache"), "RANK": "0", "WORLD_SIZE": "1"}
    command.append("device=cpu")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "by hand"
    facts = read_facts(run / "log.jsonl")
    assert facts.seed == 5
    assert facts.code_bytes == (submitted / "train_gpt.py").stat().st_size
    assert (run / "train_gpt.py").read_bytes() == (submitted / "train_gpt.py").read_bytes()
    assert submit([run, place / "run1"], tmp_path / "out") == 0


def test_a_changed_cache_is_made_anew(submitted, tmp_path):
    command = verify.lay_out(submitted, tmp_path)
    changed = next((tmp_path / "cache").glob("*/python/bytegolf/scoring.py"))
    changed.write_text(changed.read_text() + "# changed\n")
    environment = os.environ | {"BYTEGOLF_CACHE": str(tmp_path / "cache"), "PATH": "", "CXX": "no-such-compiler"}
    done = subprocess.run([*command, "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot build, missing here" in done.stderr
    assert "a C++20 compiler (Debian: g++, or set CXX)" in done.stderr


@pytest.mark.slow
def test_a_fresh_environment_builds_and_scores(submitted, place, capsys, monkeypatch):
    monkeypatch.setenv("BYTEGOLF_CUDA", "OFF")
    capsys.readouterr()
    assert bytegolf("verify", submitted, "--run-code", "--val-data", place / "data", "--json") == 0, (
        capsys.readouterr().out
    )
    claims = {claim["what"]: claim for claim in json.loads(capsys.readouterr().out)["claims"]}
    assert "built in a fresh environment" in claims["rebuild"]["found"]
    assert claims[f"bits per byte of seed {fields_of(submitted)['artifact_seed']}"]["ok"]
