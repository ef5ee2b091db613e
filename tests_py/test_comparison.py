"""`bytegolf plot`: what is drawn of which runs, how they are grouped, and the files that come out."""

import itertools
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs package matplotlib: pip install 'bytegolf[plots]'")

from bytegolf.artifact import pack
from bytegolf.cli import main
from bytegolf.compare import plot
from bytegolf.config import Config
from bytegolf.inspect import inspect_artifact
from bytegolf.model import Model
from bytegolf.pictures import curves
from bytegolf.sweep.results import write_results

SVG = "{http://www.w3.org/2000/svg}"


def write_log(folder, steps=30, done=True, bpb=2.0, **config):
    """A run's log with known numbers, a step each 0.5 s and 4096 bytes; a scoring each ten steps."""
    folder.mkdir(parents=True)
    lines = [{"kind": "start", "time": 1.0, "step": 0, "config": {"seed": 0, **config}}]
    for step in range(1, steps + 1):
        facts = {"total": 5.0 / step, "bpb": 8.0 / step, "grad_norm": 0.5, "lr_factor": 1 - step / 100}
        facts |= {"bytes": 4096 * step, "elapsed_s": 0.5 * step, "bytes_per_s": 8192.0}
        lines.append({"kind": "step", "time": 1.0 + step, "step": step, **facts})
        if step % 10 == 0:
            lines.append(
                {"kind": "val", "time": 1.0 + step, "step": step, "weights": "raw", "from": "memory", "bpb": 9.0 / step}
            )
    if done:
        score = {"weights": "ema", "from": "artifact", "window": 8, "stride": 4, "bpb": bpb}
        lines.append({"kind": "val", "time": 100.0, "step": steps, **score})
        end = {"reason": "done", "step": steps, "artifact_bytes": 3000, "parameters": 4000}
        lines.append({"kind": "end", "time": 101.0, **end})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def bytegolf(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def words_of(svg):
    """The texts that matplotlib notes as comments beside their outlines."""
    return [part.split("-->")[0].strip() for part in svg.read_text().split("<!--")[1:]]


@pytest.mark.parametrize(
    ("against", "x"),
    [("steps", range(1, 31)), ("bytes", range(4096, 4096 * 31, 4096)), ("seconds", np.arange(1, 31) / 2)],
)
def test_curves_are_those_of_the_log(tmp_path, against, x):
    (run,) = plot.load([write_log(tmp_path / "r")], against)
    assert run.x == list(x)
    assert run.curves["loss"] == [5.0 / step for step in range(1, 31)]
    assert run.curves["bpb"] == [8.0 / step for step in range(1, 31)]
    assert run.curves["speed"] == [8192.0] * 30
    assert run.curves["lr"] == [1 - step / 100 for step in range(1, 31)]
    assert run.curves["grad_norm"] == [0.5] * 30
    assert run.val == [(list(x)[step - 1], 9.0 / step) for step in (10, 20, 30)]
    assert run.final == (list(x)[-1], 2.0)
    assert run.bits.whole == 6.0  # 8 * 3000 / 4000


def test_a_score_between_two_lines_stands_between_them(tmp_path):
    folder = write_log(tmp_path / "r")
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"kind": "step"' not in line or json.loads(line)["step"] % 4 == 1]
    (folder / "log.jsonl").write_text("".join(kept))
    (run,) = plot.load([folder], "seconds")
    assert [at for at, _ in run.val[:2]] == pytest.approx([5.0, 10.0])


def test_pictures_are_png_and_svg_with_every_panel_and_the_same_each_time(tmp_path, capsys):
    write_log(tmp_path / "a", lr=1), write_log(tmp_path / "b", lr=2, done=False)
    files = []
    for number in (1, 2):
        words = [w for suffix in ("png", "svg") for w in ("-o", tmp_path / f"{number}.{suffix}")]
        assert bytegolf("plot", tmp_path / "a", tmp_path / "b", *words) == 0
        files.append([(tmp_path / f"{number}.{suffix}").read_bytes() for suffix in ("png", "svg")])
    assert files[0] == files[1]
    assert files[0][0].startswith(b"\x89PNG\r\n\x1a\n")
    assert ElementTree.fromstring(files[0][1]).tag == f"{SVG}svg"
    words = words_of(tmp_path / "1.svg")
    for word in ("training loss, nats", "bits per byte", "bytes per second", "step size, share of peak"):
        assert word in words
    for word in ("gradient norm, before clipping", "artifact, bits per weight", "a", "b", "2.0000", "6.00", "2 runs"):
        assert word in words
    assert capsys.readouterr().err.count("plot: ") == 4


def test_one_folder_gets_both_pictures_and_what_chooses_panels(tmp_path):
    folder = write_log(tmp_path / "r")
    assert bytegolf("plot", folder, "--what", "lr,bpb", "--title", "two panels") == 0
    assert (folder / "plot.png").is_file()
    words = words_of(folder / "plot.svg")
    assert "step size, share of peak" in words
    assert "two panels" in words
    assert "bytes per second" not in words


def test_seeds_of_a_sweep_share_the_colour_of_their_group(tmp_path):
    rows = []
    for group, seed in itertools.product(("full", "plain"), (0, 1)):
        write_log(tmp_path / "sw" / f"{group}-{seed}", seed=seed, smear=group == "full")
        rows.append({"group": group, "seed": seed, "status": "done", "folder": f"{group}-{seed}"})
    rows.append({"group": "plain", "seed": 2, "status": "waiting", "folder": "plain-2"})
    write_results(tmp_path / "sw", rows)
    runs = plot.load([tmp_path / "sw"], "bytes")
    assert [(run.label, run.group) for run in runs] == [
        ("full-0", "full"),
        ("full-1", "full"),
        ("plain-0", "plain"),
        ("plain-1", "plain"),
    ]
    assert bytegolf("plot", tmp_path / "sw", "--what", "bpb") == 0
    lines = ElementTree.parse(tmp_path / "sw" / "plot.svg").iter(f"{SVG}path")
    styles = [style for line in lines if (style := line.get("style", "")).startswith("fill: none; stroke: #")]
    drawn = [style.split("stroke: ")[1][:7].upper() for style in styles if "stroke-width" not in style]  # 1
    assert [drawn.count(color) for color in curves.COLORS[:3]] == [2, 2, 0]
    assert "full (n = 2)" in words_of(tmp_path / "sw" / "plot.svg")


def test_runs_without_a_sweep_are_grouped_by_the_options_in_which_they_differ(tmp_path):
    folders = [write_log(tmp_path / f"r{i}", seed=i, lr=lr, track=str(i)) for i, lr in enumerate((1, 1, 2))]
    assert [run.group for run in plot.load(folders, "bytes")] == ["lr=1", "lr=1", "r2"]
    assert [run.group for run in plot.load([tmp_path], "bytes")] == ["lr=1", "lr=1", "r2"]  # the folder above
    assert [run.group for run in plot.load(folders[:2], "bytes")] == ["2 runs", "2 runs"]


def test_logs_with_names_of_their_own_are_runs_too(tmp_path):
    write_log(tmp_path / "r").joinpath("log.jsonl").rename(tmp_path / "log-seed7.jsonl")
    (run,) = plot.load([tmp_path / "log-seed7.jsonl"], "bytes")
    assert run.label == "log-seed7"


def test_bits_of_an_artifact_account_for_its_bytes_and_its_weights(tmp_path):
    """Against the file's size and the parameters of the model that was packed."""
    folder = write_log(tmp_path / "r")
    config = Config.preset("demo", num_layers=2, model_dim=96)
    model = Model(config, "cpu", "float32")
    pack(model, folder / "artifact.bg", scheme="int6_mixed")
    count = sum(array.size for array in model.parameters().values())
    size = (folder / "artifact.bg").stat().st_size
    (run,) = plot.load([folder], "bytes")
    assert run.bits.whole == pytest.approx(8 * size / count)
    report = inspect_artifact(folder / "artifact.bg")
    assert sum(weights for _, weights in run.bits.groups.values()) == count
    assert sum(stored for stored, _ in run.bits.groups.values()) == size - report["frame_bytes"] - report["model_bytes"]


def test_scales_are_counted_to_the_matrix_that_they_scale():
    rows = [
        ("blocks.0.up.weight.q", 600, 1000),
        ("blocks.0.up.weight.scale", 40, 20),
        ("blocks.1.up.weight.q", 400, 1000),
    ]
    rows += [("blocks.1.up.weight.scale", 60, 20), ("gain.scale", 2, 1)]
    tensors = [{"name": name, "stored_bytes": size, "elements": count} for name, size, count in rows]
    found = plot.weights_of({"bits_per_weight": 4.5, "tensors": tensors})
    assert found.groups == {"up": (1100, 2000), "gain.scale": (2, 1)}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name at least one folder"),
        (["{tmp}/none"], "none"),
        (["{tmp}/r", "--what", "los"], "known panels are loss, bpb"),
        (["{tmp}/r", "-o", "{tmp}/x.doc"], "x.doc"),
        (["{tmp}/empty"], "no run with a step"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, told):
    write_log(tmp_path / "r")
    write_log(tmp_path / "empty", steps=0, done=False)
    assert bytegolf("plot", *[word.format(tmp=tmp_path) for word in words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("bytegolf: ")
    assert told in last


def test_one_step_and_missing_numbers_can_be_drawn(tmp_path):
    folder = write_log(tmp_path / "r", steps=1, done=False)
    with (folder / "log.jsonl").open("a") as file:
        file.write(
            json.dumps({"kind": "step", "time": 3.0, "step": 2, "bytes": 8192, "elapsed_s": 1.0, "total": None}) + "\n"
        )
    assert bytegolf("plot", folder) == 0


def lab(color, matrix):
    """CIE L*a*b* (D65) of a colour as an eye without one kind of cone sees it."""
    srgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ seen / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize(
    ("sight", "matrix"),
    [
        ("usual", np.eye(3)),
        # Machado, Oliveira and Fernandes 2009, severity 1.0.
        (
            "protanopia",
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        ),
        (
            "deuteranopia",
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        ),
        (
            "tritanopia",
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ),
    ],
)
def test_the_colours_of_groups_are_told_apart_by_every_eye(sight, matrix):
    """A distance of 10 is five times what the eye just notices."""
    for one, other in itertools.combinations(curves.COLORS, 2):
        assert np.linalg.norm(lab(one, matrix) - lab(other, matrix)) > 10, (sight, one, other)


def test_a_copy_is_drawn_once_and_other_validation_is_a_group_of_its_own(tmp_path, capsys):
    def run(name, val, seed):
        folder = write_log(tmp_path / name, seed=seed)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        lines[-1]["made"] = {"val_sha256": val * 64}
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    one, two, other = run("one", "a", 1), run("two", "a", 2), run("other", "b", 3)
    shutil.copytree(one, tmp_path / "copy")
    (tmp_path / "hard").mkdir()
    os.link(one / "log.jsonl", tmp_path / "hard" / "log.jsonl")
    drawn = plot.load([one, two, other, one, tmp_path / "copy", tmp_path / "hard"], "steps")
    assert [run.group for run in drawn] == ["3 runs (val aaaaaaaa)"] * 2 + ["3 runs (val bbbbbbbb)"]
    err = capsys.readouterr().err
    assert "drawn once: copy is a copy of one" in err
    assert "different validation data" in err


@pytest.mark.parametrize("name", ["$x", "$\\frac{", "_hidden", "a\x1b[31m", "[/x]"])
def test_a_name_is_no_formula_and_is_not_hidden(tmp_path, name):
    runs = [write_log(tmp_path / name), write_log(tmp_path / "b", num_layers=3)]
    assert bytegolf("plot", *runs, "-o", tmp_path / "p.svg", "--what", "loss", "--title", name) == 0
    assert any(curves.shown_name(name).strip() in words for words in words_of(tmp_path / "p.svg"))
