"""verify: a stranger's folder is read within limits, its code runs only when asked and in a sandbox, and the score is our own."""

import base64
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

from bytegolf import codec
from bytegolf.bundle import bootstrap, script
from bytegolf.cli import main
from bytegolf.data.shards import write_shards
from bytegolf.submission import sandbox, verify
from bytegolf.submission.verify import check_folder, printed_score

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
iterations = 2
train_batch_ids = 128
micro_batch_ids = 128
warmdown_iters = 1
eval_stride = 8
device = "cpu"
"""
BOOTSTRAP = "python/bytegolf/bundle/bootstrap.py"
AT = "track_non_record_16mb/2026-01-02_Tiny"


def bytegolf(*arguments):
    """Exit status of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def submit(run, out):
    words = [
        "--name",
        "Tiny",
        "--author",
        "A",
        "--github-id",
        "a",
        "--track",
        "non_record_16mb",
        "--date",
        "2026-01-02",
    ]
    assert bytegolf("submit", run, *words, "--out", out) == 0
    return out / AT


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Shards in `data`, a finished run in `run`, its submission in `records`."""
    root = tmp_path_factory.mktemp("verify")
    words = b"a byte of the bit is a word in the text that a model reads and writes with few bits".split()
    text = [b" ".join(np.random.default_rng(i).choice(words, 300 if i else 60)) for i in range(3)]
    write_shards(text[1:], root / "data", prefix="train")
    write_shards(text[:1], root / "data", prefix="val")
    lines = [f'{name}_data = "{root / "data"}"' for name in ("train", "val")]
    (root / "tiny.toml").write_text("\n".join([TINY, *lines]))
    assert bytegolf("train", root / "tiny.toml", "seed=1", "--run", root / "run") == 0
    submit(root / "run", root / "records")
    return root


@pytest.fixture
def submitted(place, tmp_path):
    """A copy of the submission, to be changed."""
    return Path(shutil.copytree(place / "records" / AT, tmp_path / AT))


def edit_log(log, change):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    change(lines)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def forged(place, out, monkeypatch, lines, bpb=None, without=None):
    """A submission that is right in every hash, size and table, whose train_gpt.py begins with `lines`; its logs claim `bpb` times
    the score, and its artifact lacks the tensor `without`."""
    run = Path(shutil.copytree(place / "run", out / "run"))
    (run / "submission.json").unlink()
    honest = script.read((run / script.NAME).read_bytes(), "it")
    first = "from __future__ import annotations\n"
    evil = out / "bootstrap.py"
    evil.write_text(Path(bootstrap.__file__).read_text().replace(first, f"{first}\n{lines}\n", 1))
    with monkeypatch.context() as patched:
        patched.setattr(bootstrap, "__file__", str(evil))
        text = script.assemble(honest.config, honest.files | {BOOTSTRAP: evil.read_bytes()})
    (run / script.NAME).write_bytes(text)
    if without:
        options, tensors = codec.read_artifact(run / "artifact.bg")
        del tensors[without]
        codec.pack_tensors(tensors, run / "artifact.bg", options)

    def change(log):
        made, artifact = log[-1]["made"], (run / "artifact.bg").read_bytes()
        made["artifact_sha256"] = hashlib.sha256(artifact).hexdigest()
        log[-1]["artifact_bytes"] = len(artifact)
        made |= {"code_bytes": len(text), "code_sha256": hashlib.sha256(text).hexdigest()}
        made["total_bytes"] = len(text) + log[-1]["artifact_bytes"]
        log[0]["code_sha256"] = made["code_sha256"]
        scores = [line for line in log if line["kind"] == "val" and line["stride"] == 8] + [log[-1]["sliding"]]
        for score in scores:
            score["bpb"], score["nats"] = score["bpb"] * (bpb or 1), score["nats"] * (bpb or 1)

    edit_log(run / "log.jsonl", change)
    return submit(run, out / "records")


def verified(capsys, folder, *words):
    """Status and JSON of one verify."""
    capsys.readouterr()
    status = bytegolf("verify", folder, "--json", *words)
    return status, json.loads(capsys.readouterr().out)


def wrong(told):
    return [claim["what"] for claim in told["claims"] if claim["ok"] is False]


def marks(path):
    """Code that leaves a file where it ran."""
    return f'open({str(path)!r}, "w").write("ran")'


def prints(score):
    """Code that answers `--version` and `eval` with a constant."""
    return f"""import sys
if "--version" in sys.argv: print("0.1.0"); sys.exit()
if "eval" in sys.argv: print({json.dumps(score)!r}); sys.exit()"""


# What is scored, and by whom


def test_nothing_of_the_folder_runs_unless_that_is_asked_for(place, tmp_path, monkeypatch, capsys):
    folder = forged(place, tmp_path, monkeypatch, marks(tmp_path / "mark"))
    status, told = verified(capsys, folder, "--val-data", place / "data")
    claimed = json.loads((folder / "submission.json").read_text())
    assert (status, wrong(told), told["ran_carried_code"]) == (0, [], False)
    assert told["score"]["bpb"] == pytest.approx(
        claimed["val_bpb"], abs=1e-9
    )  # though the folder's code was never asked
    assert told["score"]["targets"] == claimed["val_targets"]
    assert not (tmp_path / "mark").exists()


def test_a_score_that_only_the_folders_code_confirms_does_not_verify(place, tmp_path, monkeypatch, capsys):
    honest = json.loads((place / "records" / AT / "submission.json").read_text())
    lie = {"bpb": honest["val_bpb"] * 0.9, "targets": honest["val_targets"], "bytes": honest["val_bytes"]}
    lie |= {"device": "cpu", "dtype": "float32"}
    code = marks(tmp_path / "mark") + "\n" + prints(lie)
    folder = forged(place, tmp_path, monkeypatch, code, bpb=0.9)
    assert not [
        c for c in check_folder(folder, folder.name, folder.parent.name) if c.ok is False
    ]  # all hashes are right
    status, told = verified(capsys, folder, "--val-data", place / "data", "--run-code", "--no-venv")
    assert status == 1
    assert wrong(told) == ["bits per byte of seed 1"]
    assert told["score"]["bpb"] == pytest.approx(honest["val_bpb"], abs=1e-9)
    assert not told["ran_carried_code"]
    assert not (tmp_path / "mark").exists()


def test_carried_code_that_disagrees_with_our_own_score_is_a_mismatch(place, tmp_path, monkeypatch, capsys):
    other = {"bpb": 1.0, "targets": 1, "bytes": 1, "device": "cpu", "dtype": "float32"}
    folder = forged(place, tmp_path, monkeypatch, prints(other))
    status, told = verified(capsys, folder, "--val-data", place / "data", "--run-code", "--no-venv")
    assert (status, wrong(told), told["ran_carried_code"]) == (1, ["score by the carried code"], True)
    assert told["sandbox"]


def test_an_artifact_that_is_no_model_is_a_mismatch_before_anything_runs(place, tmp_path, monkeypatch, capsys):
    name = next(iter(codec.read_artifact(place / "run" / "artifact.bg")[1]))
    folder = forged(place, tmp_path, monkeypatch, marks(tmp_path / "mark"), without=name)
    status, told = verified(capsys, folder, "--val-data", place / "data", "--run-code", "--no-venv")
    assert (status, wrong(told), told["score"]) == (1, ["score by our own code"], None)
    assert name in next(claim["found"] for claim in told["claims"] if claim["ok"] is False)
    assert not (tmp_path / "mark").exists()


def test_a_program_that_its_sources_do_not_hold_stops_everything(submitted, tmp_path, place, capsys):
    # The field's forgery: lines put into train_gpt.py, and every hash and size made right.
    text = (submitted / script.NAME).read_text()
    first = "from __future__ import annotations\n"
    lines = text[: text.index(first)].count("\n") + 2
    (submitted / script.NAME).write_text(text.replace(first, f"{first}{marks(tmp_path / 'mark')}\n", 1))
    said = submitted / "submission.json"
    digest = hashlib.sha256((submitted / script.NAME).read_bytes()).hexdigest()
    said.write_text(json.dumps(json.loads(said.read_text()) | {"code_sha256": digest}))
    status, told = verified(capsys, submitted, "--val-data", place / "data", "--run-code", "--no-venv")
    assert status == 1
    found = {claim["what"]: claim["found"] for claim in told["claims"]}
    assert found["program of train_gpt.py"] == f"line {lines} is not theirs"
    assert found["score by our own code"].startswith("not tried, and nothing was run")
    assert told["score"] is None
    assert not (tmp_path / "mark").exists()


def test_the_carried_code_sees_no_secret_no_network_and_no_file_of_mine(place, tmp_path, monkeypatch, capsys):
    if sandbox.best_level(sandbox.python_paths()).name != "bubblewrap":
        pytest.skip("bubblewrap does not work here")
    (tmp_path / "private").write_text("mine")
    monkeypatch.setenv("WANDB_API_KEY", "a-secret")
    code = f"""import os, socket, sys
found = [name for name in ("WANDB_API_KEY", "USER", "SSH_AUTH_SOCK") if name in os.environ]
found += [path for path in ({str(tmp_path / "private")!r}, "/etc/passwd") if os.path.exists(path)]
try: open({str(tmp_path / "mark")!r}, "w").write("into a /tmp of its own")
except OSError: pass
for path in ({str(script.ROOT / "mark")!r}, "/mark", "/usr/mark", __file__):
    try: open(path, "a"); found.append("wrote " + path)
    except OSError: pass
found += [name for _, name in socket.if_nameindex() if name != "lo"]
sys.exit(f"found {{found}}")"""
    folder = forged(place, tmp_path, monkeypatch, code)
    _, told = verified(capsys, folder, "--val-data", place / "data", "--run-code", "--no-venv")
    (claim,) = [claim for claim in told["claims"] if claim["ok"] is False]
    assert claim["found"] == "the submission's code ended with 1: found []"
    assert "no network" in told["sandbox"]
    assert not (tmp_path / "mark").exists()


def test_a_person_is_asked_at_a_terminal_and_anything_but_yes_runs_nothing(place, tmp_path, monkeypatch, capsys):
    folder = forged(
        place, tmp_path, monkeypatch, prints({"bpb": 1.0, "targets": 1, "bytes": 1, "device": "", "dtype": ""})
    )
    asked = []

    def answer(says):
        return lambda plan: asked.append(plan) or says

    checking = verify.Checking(fresh_environment=False, val_data=str(place / "data"))
    refused = verify.verify(folder, checking, answer(False))
    assert (refused.mismatches, refused.sandbox) == ([], None)
    agreed = verify.verify(folder, checking, answer(True))
    assert [claim.what for claim in agreed.mismatches] == ["score by the carried code"]
    assert "train_gpt.py in this sandbox" in asked[0]


@pytest.mark.parametrize(
    "text",
    ["", "1.5", "[]", "[" * 100_000, "{}", "NaN", '{"bpb": 1}', "x" * 70_000, "\x1b[2J", '{"bpb": 1.0, "targets": 2}']
    + [
        json.dumps({"bpb": bpb, "targets": targets, "bytes": 1, "device": "cpu", "dtype": "float32"})
        for bpb, targets in ((float("nan"), 1), (float("-inf"), 1), ("1", 1), (True, 1), (1.0, 1.0), (1.0, None))
    ],
)
def test_what_carried_code_prints_in_place_of_a_score_is_refused_in_one_line(text):
    with pytest.raises(sandbox.Failed) as refused:
        printed_score(text)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


# The sandbox


def levels():
    return [level for level in sandbox.LEVELS if not level.own_user or os.geteuid() == 0]


def in_sandbox(tmp_path, code, limits, level=None):
    level = level or sandbox.best_level(sandbox.python_paths())
    work = sandbox.Work([sys.executable, "-I", "-c", code], tmp_path / "work", sandbox.python_paths())
    return sandbox.run(level, work, limits)


def test_the_environment_is_empty_at_every_level(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    tried = 0
    for number, level in enumerate(levels()):
        try:
            said = in_sandbox(
                tmp_path / str(number), "import os; print(*os.environ)", sandbox.Limits(seconds=300), level
            )
        except (sandbox.Failed, OSError):
            continue  # this level does not work here
        tried += 1
        assert set(said.split()) <= {"PATH", "LANG", "LC_CTYPE", "HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "PWD"}
    assert tried


def test_code_that_does_not_end_is_ended(tmp_path):
    with pytest.raises(sandbox.Failed, match="still running after 2 s"):
        in_sandbox(tmp_path, "import time; time.sleep(600)", sandbox.Limits(seconds=2))


def test_code_that_leaves_a_child_behind_does_not_hold_us(tmp_path):
    code = "import os, time\nif os.fork(): print('done', flush=True); os._exit(0)\ntime.sleep(600)"
    assert in_sandbox(tmp_path, code, sandbox.Limits(seconds=300)) == "done\n"


def test_code_that_prints_for_ever_is_ended(tmp_path):
    with pytest.raises(sandbox.Failed, match=r"wrote more than 10,000 bytes of output"):
        in_sandbox(tmp_path, "while True: print('x' * 1000)", sandbox.Limits(seconds=300, output_bytes=10_000))


@pytest.mark.parametrize(
    ("code", "limits", "words"),
    [
        ("bytearray(1 << 31)", {"memory_bytes": 1 << 30}, "MemoryError"),
        ("open('big', 'wb').write(bytes(1 << 20))", {"file_bytes": 1 << 16}, "File too large"),
    ],
)
def test_memory_and_files_are_limited(tmp_path, code, limits, words):
    with pytest.raises(sandbox.Failed, match=words):
        in_sandbox(tmp_path, code, sandbox.Limits(seconds=300, **limits))


# The folder


def test_names_and_files_that_are_no_plain_ones_are_refused(submitted, tmp_path):
    def faults():
        return [claim for claim in check_folder(submitted, submitted.name, submitted.parent.name) if claim.ok is False]

    (tmp_path / "log").write_text("{}")
    (submitted / "\x1b[2Jlink").symlink_to(tmp_path / "log")
    (fault,) = faults()
    assert "is not a plain file" in fault.found
    assert fault.found.isprintable()
    (submitted / "\x1b[2Jlink").unlink()
    os.mkfifo(submitted / "pipe")
    assert "pipe is not a plain file" in faults()[0].found
    (submitted / "pipe").unlink()
    page = submitted / "README.md"
    with page.open("r+b") as file:
        file.truncate(1 << 33)  # a hole: nothing is read of it
    assert "README.md has 8,589,934,592 bytes, more than" in faults()[0].found


@pytest.mark.parametrize(
    "line",
    [
        "evil-package>=1",
        "numpy @ file:///tmp/x",
        "--index-url elsewhere",
        "-r more.txt",
        "git+ssh://x",
        "numpy>=1.26; evil",
    ],
)
def test_requirements_that_we_do_not_know_are_a_mismatch(submitted, line):
    path = submitted / "requirements.txt"
    path.write_text(path.read_text() + line + "\n")
    faults = {claim.what: claim.found for claim in check_folder(submitted, "x", "y") if claim.ok is False}
    assert line in faults["packages"]


def test_text_of_a_stranger_is_neither_markup_nor_control(submitted, capsys):
    said = json.loads((submitted / "submission.json").read_text())
    said |= {"author": "[/x][bold]\x1b[2J\x07", "hardware": "[red"}
    (submitted / "submission.json").write_text(json.dumps(said))
    capsys.readouterr()
    assert bytegolf("verify", submitted, "--quick") == 1
    shown = capsys.readouterr().out
    assert "[red" in shown
    assert not {c for c in shown if not c.isprintable()} - {"\n"}


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log[0].update(device=5),
        lambda log: log[0].update(config=[]),
        lambda log: log[0].update(hardware=None),
        lambda log: log[-1]["sliding"].update(targets=0),
        lambda log: log[-1]["sliding"].update(bpb="x"),
        lambda log: log[-1].update(train_seconds=[]),
        lambda log: log[-1].update(made=[]),
        lambda log: log[-1]["sliding"].update(window=1 << 60, stride=1),
    ],
)
def test_a_log_of_other_types_is_a_mismatch_not_a_traceback(submitted, change):
    edit_log(submitted / "train_seed1.jsonl", change)
    assert [claim for claim in check_folder(submitted, submitted.name, submitted.parent.name) if claim.ok is False]


# train_gpt.py of a stranger


def crafted(raw, **options):
    """A file with the three lines, around what LZMA makes of `raw`."""
    archive = base64.b85encode(lzma.compress(raw, **options)).decode()
    return _with(archive, hashlib.sha256(raw).hexdigest())


def _with(archive, digest):
    return f"import os\nCONFIG = '''a = 1\n'''\nSHA256 = \"{digest}\"\nARCHIVE = \"{archive}\"\n\nprint()\n".encode()


def archived(*rows, more=b""):
    """A file whose archive holds (path, contents)."""
    lines = [f"{hashlib.sha256(data).hexdigest()} {len(data)} {path}" for path, data in rows]
    return crafted("\n".join(lines).encode() + b"\n\n" + b"".join(data for _, data in rows) + more)


def test_a_file_of_this_form_is_read():
    found = script.read(archived(("a/b.py", b"x"), ("a/c.py", b"")), "it")
    assert (found.config, found.files) == ("a = 1\n", {"a/b.py": b"x", "a/c.py": b""})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("../a.py", b"x")], "outside its folder"),
        ([("a/../../b.py", b"x")], "outside its folder"),
        ([("/etc/passwd", b"x")], "outside its folder"),
        ([("a.py", b"x"), ("a.py", b"y")], "twice: a.py and a.py"),
        ([("a.py", b"x"), ("A.py", b"y")], "twice: a.py and A.py"),
        ([("a", b"x"), ("a/b", b"y")], "both a file and a folder: a"),
        ([("a/b", b"y"), ("A", b"x")], "both a file and a folder: A"),
        ([("./a.py", b"x")], "not every system"),
        ([("a//b.py", b"x")], "not every system"),
        ([("a\\..\\b.py", b"x")], "not every system"),
        ([("C:/b.py", b"x")], "not every system"),
        ([("a\0b", b"x")], "not every system"),
        ([("\x1b[2J", b"x")], "not every system"),
        ([("a/" * 200 + "b", b"x")], "not every system"),
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(rows, words):
    with pytest.raises(ValueError, match=words) as refused:
        script.read(archived(*rows), "it")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "row", ["x", f"{'0' * 64} -1 a", f"{'0' * 64} 1_0 a", f"{'0' * 64}  a", f"{'0' * 64} 9999999999 a", "\xff"]
)
def test_a_table_with_another_row_is_refused(row):
    with pytest.raises(ValueError, match="line 1 of its table is no row"):
        script.read(crafted(f"{row}\n\n".encode()), "it")


def packed(raw=b"x" * 1000):
    return base64.b85encode(lzma.compress(raw)).decode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "holds no lines"),
        (b"x = " + b"(" * 1_000_000, "holds no lines"),
        (b"CONFIG = " * 100_000, "holds no lines"),
        (crafted(b"") + b'\nCONFIG = ""\n', "CONFIG 2 times"),
        (crafted(b"") + b'\nARCHIVE = ""\n', "ARCHIVE 2 times"),
        (crafted(b"") + b"\0", "NUL byte at"),
        (crafted(b"").replace(b"a = 1", b"a = '''"), "CONFIG is not one text"),
        (crafted(b"").replace(b"a = 1", b"a = \\x27"), "CONFIG is not one text"),
        (archived(("a", b"x")).replace(b"a = 1", b"a = \xff"), "utf-8"),
        (_with("~~", "0" * 64), "damaged"),
        (_with("", "0" * 64), "cut off"),
        (_with(packed()[:-10], "0" * 64), "damaged"),
        (_with(base64.b85encode(lzma.compress(b"x") + b"more").decode(), "0" * 64), "bytes after its end"),
        (_with(base64.b85encode(lzma.compress(b"x" * 9) * 2).decode(), "0" * 64), "bytes after its end"),
        (_with("0" * 5_000_000, "0" * 64), "at most 4,000,000"),
        (crafted(bytes(40_000_000), preset=0), "more than 32,000,000"),
        (crafted(b"x" * 3_000_000, preset=0), "no table of files ends within 2,000,000"),
        (crafted(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]), "[Mm]emory"),
        (archived(("a", b"x"), more=b"more"), "4 bytes follow its last file"),
    ],
    ids=range(19),
)
def test_anything_else_is_refused_in_one_line(text, words):
    with pytest.raises(ValueError, match=words) as refused:
        script.read(text, "it")
    assert str(refused.value).isprintable()


def test_a_bomb_takes_little_memory(tmp_path):
    # 268 MB of zeros as one stream; whoever unpacks it whole takes more than is allowed below.
    stream = lzma.LZMACompressor(preset=0)
    pieces = [stream.compress(bytes(1 << 24)) for _ in range(16)] + [stream.flush()]
    path = tmp_path / script.NAME
    path.write_bytes(_with(base64.b85encode(b"".join(pieces)).decode(), "0" * 64))
    code = """import resource, sys
from pathlib import Path
from bytegolf.bundle import script
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: script.load(Path(sys.argv[1]))
except ValueError as error: print(error, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "more than 32,000,000 bytes" in done.stderr
    assert int(done.stdout) < 150_000  # kB


def test_nothing_is_unpacked_through_a_link(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/python").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"out/python is a symbolic link"):
        bootstrap.unpack({"a.py": b"x", "python/b.py": b"x"}, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not (tmp_path / "out/a.py").exists()
