"""Work of older versions stays valid: a run that 7cd2052 wrote resumes to the same bits, scores the same, is submitted and verified.

Each is tried as it was written, and as if some of today's options had been added since: without their lines in any file.
"""

import hashlib
import json
import platform
import shutil
import tarfile
from pathlib import Path

import pytest

from bytegolf import checkpoint, codec
from bytegolf._bytegolf import cpu_target
from bytegolf.artifact import load
from bytegolf.bundle import script
from bytegolf.cli import main
from bytegolf.compare.places import names_of_groups
from bytegolf.config import Config
from bytegolf.errors import UserError
from bytegolf.log import read_log
from bytegolf.record.facts import read_facts
from bytegolf.submission.verify import check_folder
from bytegolf.sweep.folder import look

OLD = Path(__file__).parent / "old_runs" / "7cd2052"
EXPECTED = json.loads((OLD / "expected.json").read_text())
# Each at its default in that run: of the model, of training, and of the run.
ADDED = {"byte_embed_dim", "newton_schulz_steps", "rank_check_every"}
# Where the run's bits can be asked for: float64 is the same with every instruction set that fuses multiply and add, while glibc
# computes exp and tanh; elsewhere its figures must be the same to 1e-9.
EXACT = cpu_target() not in ("scalar", "SSE2", "SSSE3") and platform.libc_ver() == ("glibc", "2.36")


def bytegolf(*arguments):
    """Exit status of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def same(figure):
    return figure if EXACT else pytest.approx(figure, rel=1e-9)


def fingerprint(arrays):
    """SHA-256 of names, types, shapes and bytes, by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {list(arrays[name].shape)}\n".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def without(text, names):
    return "".join(line for line in text.splitlines(keepends=True) if line.split("=")[0].strip() not in names)


def edit_log(log, change):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    change(lines)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))


def edit_checkpoint(run, change):
    """Rewrites the options of the newest checkpoint and seals them."""
    manifest = checkpoint.newest(run / "checkpoints") / checkpoint.MANIFEST
    body = json.loads(manifest.read_bytes())
    del body["seal"]
    body["facts"]["config"] = change(body["facts"]["config"])
    manifest.write_bytes(checkpoint._manifest_bytes(body))


def written_before(names, place):
    """Rewrites both runs as a version without these options would have written them."""
    half, done = place / "half", place / "runs" / "done"
    edit_checkpoint(half, lambda text: without(text, names))
    for run in (half, done):
        (run / "config.toml").write_text(without((run / "config.toml").read_text(), names))
    code = (done / script.NAME).read_text()
    carried = script.read(code.encode(), script.NAME).config
    (done / script.NAME).write_text(code.replace(carried, without(carried, names)))
    options, tensors = codec.read_artifact(done / "artifact.bg")
    codec.pack_tensors(tensors, done / "artifact.bg", without(options, names))
    (done / "submission.json").unlink()

    def change(lines):
        for line in lines:
            if line["kind"] == "start":
                line["config"] = {name: value for name, value in line["config"].items() if name not in names}
                line["code_sha256"] = hashlib.sha256((done / script.NAME).read_bytes()).hexdigest()
        if "made" in lines[-1]:
            sizes = [(done / name).stat().st_size for name in (script.NAME, "artifact.bg")]
            lines[-1]["artifact_bytes"] = sizes[1]
            lines[-1]["made"] |= {
                # What 7cd2052 hashed is the text that train_gpt.py carries.
                "config_sha256": hashlib.sha256(without(carried, names).encode()).hexdigest(),
                "code_sha256": lines[0]["code_sha256"],
                "code_bytes": sizes[0],
                "total_bytes": sum(sizes),
                "artifact_sha256": hashlib.sha256((done / "artifact.bg").read_bytes()).hexdigest(),
            }

    for run in (half, done):
        edit_log(run / "log.jsonl", change)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    place = tmp_path_factory.mktemp("old")
    with tarfile.open(OLD / "run.tar.xz") as tar:
        tar.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    shutil.copy(place / "records/track_non_record_16mb/2026-01-02_Tiny" / script.NAME, place / "runs/done")
    return place


@pytest.fixture(params=[(), ADDED], ids=["as it was", "before some options"])
def place(request, kept, tmp_path):
    """`half` (stopped after step 5 of 8), `runs/done` (not stopped), `records` and `data`, to be changed."""
    shutil.copytree(kept, tmp_path / "old")
    if request.param:
        written_before(request.param, tmp_path / "old")
    return tmp_path / "old"


def resume(place, *changes):
    data = [f"{name}_data={place / 'data'}" for name in ("train", "val")]
    return bytegolf("train", *data, *changes, "--resume", "--run", place / "half")


def test_it_resumes_to_the_bits_of_the_run_that_was_not_stopped(place):
    assert resume(place) == 0
    there, here = read_log(place / "runs/done/log.jsonl"), read_log(place / "half/log.jsonl")
    steps = [[line for line in lines if line["kind"] == "step"] for lines in (there, here)]
    assert [line["step"] for line in steps[1]] == list(range(1, 9))
    for old, new in zip(*steps, strict=True):
        for name in ("ce", "jepa_pred", "jepa_sigreg", "total", "grad_norm", "lr_factor"):
            assert new[name] == same(old[name])
    for score in ("raw", "unquantised", "whole", "sliding"):
        assert here[-1][score]["nats"] == same(there[-1][score]["nats"])
    state, facts = checkpoint.read_checkpoint(place / "half/checkpoints")
    assert facts["progress"]["step"] == 8
    if EXACT:
        assert fingerprint(state) == EXPECTED["state"]
        assert fingerprint(load(place / "half/artifact.bg").parameters()) == EXPECTED["weights"]


def test_its_artifact_reads_to_the_same_weights_and_scores_the_same(place, capsys):
    done = place / "runs/done"
    assert fingerprint(load(done / "artifact.bg").parameters()) == EXPECTED["weights"]
    capsys.readouterr()
    assert bytegolf("eval", done / "artifact.bg", place / "data", "--stride", 8, "--dtype", "float64", "--json") == 0
    claim = read_log(done / "log.jsonl")[-1]["sliding"]
    got = json.loads(capsys.readouterr().out)
    assert (got["targets"], got["bytes"]) == (claim["targets"], claim["bytes"])
    assert got["bpb"] == same(claim["bpb"])


def test_it_can_be_submitted_and_what_is_made_verifies(place, capsys):
    words = ["--name", "Again", "--author", "A. Author", "--github-id", "author", "--track", "non_record_16mb"]
    words += ["--date", "2026-01-03", "--val-data", place / "data", "--out", place / "new"]
    assert bytegolf("submit", place / "runs/done", *words) == 0, capsys.readouterr().err
    made = place / "new/track_non_record_16mb/2026-01-03_Again"
    assert bytegolf("verify", made, "--quick") == 0, capsys.readouterr().out
    said = json.loads((made / "submission.json").read_text())
    assert said["config_sha256"] == read_log(place / "runs/done/log.jsonl")[-1]["made"]["config_sha256"]


def test_its_submission_verifies(kept, capsys):
    assert bytegolf("verify", kept / "records/track_non_record_16mb/2026-01-02_Tiny", "--quick") == 0, (
        capsys.readouterr().out
    )


def test_its_page_may_be_worded_otherwise_but_its_figures_must_be_the_same(kept, tmp_path):
    folder = tmp_path / "track_non_record_16mb/2026-01-02_Tiny"
    shutil.copytree(kept / "records/track_non_record_16mb/2026-01-02_Tiny", folder)

    def wrong():
        return [claim.what for claim in check_folder(folder, folder.name, folder.parent.name) if claim.ok is False]

    page = (folder / "README.md").read_text()
    (folder / "README.md").write_text(page.replace("read back from disk", "as it was read from the disk"))
    assert wrong() == []
    score = next(line for line in page.splitlines() if line.startswith("| 5 |")).split(" | ")[1]
    (folder / "README.md").write_text(page.replace(score, f"{float(score) - 0.1:.6f}", 1))
    assert wrong() == ["README.md: results, statistics and options"]


def test_other_options_are_refused_with_both_values(place, capsys):
    assert resume(place, "matrix_lr=0.5") == 2
    assert "`matrix_lr = 0.025` there, `matrix_lr = 0.5` here" in capsys.readouterr().err.replace("\n", " ")
    assert resume(place, "newton_schulz_steps=4") == 2  # which the checkpoint may lack
    assert "`newton_schulz_steps = 5` there, `newton_schulz_steps = 4` here" in capsys.readouterr().err.replace(
        "\n", " "
    )


def test_a_run_that_is_there_is_found_again_by_what_its_options_mean(place):
    done = place / "runs/done"
    config = Config.of_run(done / "config.toml")
    assert look(done, config).status == "done"
    with pytest.raises(UserError, match="its run has newton_schulz_steps = 5, the sweep file now gives 4"):
        look(done, config.replace(newton_schulz_steps=4))


def test_a_changed_option_is_still_found(place):
    log = place / "runs/done/log.jsonl"
    assert not read_facts(log).disagreements
    edit_log(log, lambda lines: lines[0]["config"].update(newton_schulz_steps=4))
    (found,) = read_facts(log).disagreements
    assert found.startswith("sha256 of the options")


def test_what_a_newer_version_wrote_says_so(place, capsys):
    done, newer = (
        place / "runs/done",
        "option fourier_mix is unknown to this version: a newer version of bytegolf wrote it",
    )
    edit_checkpoint(place / "half", lambda text: text + 'fourier_mix = "0 1 1"\n')
    assert resume(place) == 2
    assert newer in " ".join(capsys.readouterr().err.split())
    options, tensors = codec.read_artifact(done / "artifact.bg")
    codec.pack_tensors(tensors, done / "artifact.bg", options + 'fourier_mix = "0 1 1"\n')
    with pytest.raises(ValueError, match=newer):
        load(done / "artifact.bg")
    edit_log(done / "log.jsonl", lambda lines: lines[0]["config"].update(fourier_mix="0 1 1"))
    with pytest.raises(ValueError, match=rf"log\.jsonl, line \d+: {newer}"):
        read_facts(done / "log.jsonl")


def test_an_option_that_is_absent_means_its_first_default():
    # defaults.toml: every option of 7cd2052 with its default then. A default that has changed since needs a line in
    # Config::absent, or older texts and the hashes of newer ones change their meaning.
    then = Config.stored((OLD / "defaults.toml").read_text(), "defaults.toml")
    assert Config.absent().differences(then) == []
    assert Config.stored("", "nothing").differences(then) == []


def test_runs_of_two_versions_are_one_group_when_they_mean_the_same():
    now = Config().to_dict()
    then = {name: value for name, value in now.items() if name not in ADDED}
    assert names_of_groups([now, then]) == ["runs", "runs"]
    changed = now | {"newton_schulz_steps": 4}
    assert names_of_groups([changed, then]) == ["newton_schulz_steps=4", "newton_schulz_steps=5"]
