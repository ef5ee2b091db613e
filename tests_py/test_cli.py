"""The command line: help of every verb, one-line errors, exit statuses, machine-readable output."""

import json
import subprocess
import sys

import pytest

from bytegolf.cli import app, main


def run(capsys, *arguments):
    """(status, standard output, standard error) of one command, in this process."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


VERBS = sorted(name for name in app.resolved_commands() if not name.startswith("-"))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys, verb):
    status, out, err = run(capsys, verb, "--help")
    assert status == 0
    assert f"bytegolf {verb}" in out
    assert not err


def test_without_arguments_the_help_is_shown(capsys):
    status, out, _ = run(capsys)
    assert status == 0
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["config", "byte999"], ["byte999", "byte260-jepa"]),
        (["config", "demo", "num_layer=3"], ["num_layer", "num_layers"]),
        (["config", "demo", "num_layers=0"], ["num_layers", "0"]),
        (["config", "demo", "num_layers"], ["name=value"]),
        (["config", "demo", "num_heads=7"], ["num_heads", "7"]),
        (["doctorr"], ["doctor"]),
        (["doctor", "--jsn"], ["--jsn"]),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert err.startswith("bytegolf: ")
    assert not out
    for word in words:
        assert word in err


def test_traceback_flag_shows_where_an_error_arose():
    with pytest.raises(ValueError, match="byte999"):
        main(["config", "byte999", "--traceback"])


def test_config_prints_toml_that_reads_back(capsys, tmp_path):
    status, first, _ = run(capsys, "config", "byte256", "num_layers=3", "--no-docs")
    assert status == 0
    (tmp_path / "c.toml").write_text(first)
    status, second, _ = run(capsys, "config", str(tmp_path / "c.toml"), "--no-docs")
    assert status == 0
    assert first == second
    assert "num_layers = 3\n" in first


def test_doctor_as_json(capsys):
    status, out, _ = run(capsys, "doctor", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["target"]
    assert found["cuda"]["live"] or found["cuda"]["why"]
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    assert found["cpu"]["target"] in out


def test_help_needs_no_heavy_import():
    code = "import sys; from bytegolf.cli import app; app.parse_args(['--help']); print(sorted(sys.modules))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("matplotlib", "pyarrow", "safetensors", "pydantic"):
        assert f"'{heavy}'" not in names
