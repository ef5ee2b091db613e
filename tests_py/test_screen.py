"""What reaches a terminal: names and texts of files as signs, never as orders; letters that it lacks as others; markup as itself."""

import codecs
import io
import json
import os
import pty
import subprocess
import sys

import pytest
from rich.text import Text

from bytegolf.cli import main
from bytegolf.log import RunLog
from bytegolf.screen import console
from bytegolf.screen.terminal import Terminal
from bytegolf.visible import VisibleBytes, one_line, visible

# What a terminal obeys (ECMA-48 escapes in 7 and 8 bits, controls), what turns the order of letters, what cannot be seen, and rich's
# own markup; with what must be shown of each.
ORDERS = {
    "red": ("\x1b[31mred", "\\x1b[31mred"),
    "title": ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    "eight bits": ("\x9b31mred", "\\x9b31mred"),
    "override": ("\u202egnp.exe", "\\u202egnp.exe"),
    "isolate": ("\u2066x\u2069", "\\u2066x\\u2069"),
    "back": ("abc\b\b\bxyz", "abc\\x08\\x08\\x08xyz"),
    "nul": ("a\x00b", "a\\x00b"),
    "delete": ("a\x7fb", "a\\x7fb"),
    "line": ("a\u2028b", "a\\u2028b"),
    "byte": ("r\udcffn", "r\\xffn"),
    "closing": ("[/x]", "[/x]"),
    "opening": ("[red]x", "[red]x"),
    "link": ("[link=file:///etc]x[/link]", "[link=file:///etc]x[/link]"),
    "emoji": (":smile:", ":smile:"),
}
OBEYED = [chr(c) for c in (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2069, 0x2028)]
EACH = pytest.mark.parametrize(("text", "shown"), ORDERS.values(), ids=ORDERS.keys())


def printed(*renderables, encoding="utf-8"):
    data = io.BytesIO()
    file = io.TextIOWrapper(data, encoding, errors="replace")
    Terminal(file=file, force_terminal=True, color_system=None, width=80).print(*renderables)
    file.flush()
    return data.getvalue().decode(encoding)


def run(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def harmless(text):
    return not any(sign in text for sign in OBEYED)


@EACH
def test_lines_tables_titles_and_texts_of_any_make_are_shown(text, shown):
    table = console.table(text, title=text)
    table.add_row(text)
    table.add_row(Text(text))
    table.add_row(console.text(text, "bold"))
    table.caption = text
    out = printed(text, table, Text(text))
    # rich's own Text loses some of these, such as the bell, when it is made.
    assert out.count(shown) in ((8,) if Text(text).plain == text else (6,))
    assert harmless(out)


def test_a_table_keeps_its_columns_around_an_escape():
    table = console.table("a", "b")
    table.add_row("\x1b[2Jx", "1")
    table.add_row("yyyyyyyyy", "2")
    rows = [row.rstrip() for row in printed(table).splitlines() if row.strip()][-2:]
    assert [row.split() for row in rows] == [["\\x1b[2Jx", "1"], ["yyyyyyyyy", "2"]]
    assert len({len(row) for row in rows}) == 1


def test_what_is_visible_stays():
    for text in ("plain", "é ü 漢字 👩\u200d👧 می\u200cخواهم", "a\tb\nc", "\u00a0", "e\u0301"):
        assert visible(text) == text
    assert visible(visible("\x1b")) == visible("\x1b")
    assert one_line("a\n b\x1b\tc") == "a b\\x1b c"


def test_bytes_become_signs_as_they_come():
    data = "é漢\x1b[0m".encode() + b"\xff\xe2\x82"
    show = VisibleBytes()
    parts = [show(data[i : i + 1]) for i in range(len(data))]
    assert "".join(parts) + show(b"", last=True) == "é漢\\x1b[0m\\xff\\xe2\\x82"
    assert parts[0] == ""  # é waits for its second byte


@EACH
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("start", "dtype"),
        ("start", "hardware"),
        ("start", "device"),
        ("end", "reason"),
        ("val", "weights"),
        ("config", "family"),
    ],
)
def test_no_field_of_a_log_is_obeyed(tmp_path, capsys, text, shown, kind, name):
    if name == "weights" and "\x00" in text:
        text = shown = "x"
    lines = [
        {"kind": "start", "time": 1.0, "step": 0, "seed": 1, "config": {"iterations": 9, "family": "byte260"}},
        {"kind": "step", "time": 2.0, "step": 1, "bpb": 8.0, "total": 5.0},
        {
            "kind": "val",
            "time": 3.0,
            "step": 1,
            "bpb": 8.0,
            "window": 8,
            "stride": 8,
            "weights": "raw",
            "from": "memory",
        },
        {"kind": "end", "time": 4.0, "step": 1, "reason": "done", "sliding": {"bpb": 7.5}},
    ]
    if kind == "config":
        lines[0]["config"][name] = text
    else:
        next(one for one in lines if one["kind"] == kind)[name] = text
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    _, out, err = run(capsys, "watch", tmp_path, "--once")
    assert harmless(out + err)
    assert shown[:8] in out.replace("\n", "")
    status, out, err = run(capsys, "report", tmp_path)
    assert harmless(out + err)
    assert status == (0 if name != "reason" else 2)


@pytest.mark.parametrize("text", [t for t, _ in ORDERS.values() if "\x00" not in t and "/" not in t])
def test_no_name_of_a_folder_is_obeyed(tmp_path, capsys, text):
    folder = tmp_path / text
    folder.mkdir()
    journal = RunLog(folder / "log.jsonl")
    journal.write("start", step=0, seed=1, config={"iterations": 5})
    journal.write("step", step=5, bpb=8.0, total=5.0)
    journal.write("end", reason="done", sliding={"bpb": 8.0})
    journal.close()
    for words in (
        ["watch", folder, "--once"],
        ["report", folder],
        ["report", folder, tmp_path / f"{text}2"],
        ["eval", folder, "x"],
    ):
        _, out, err = run(capsys, *words)
        assert harmless(out + err), words


@EACH
def test_no_error_is_obeyed(capsys, text, shown):
    for words in (["config", text], ["config", "demo", f"num_layers={text}"], ["report", "--values", f"{text}=x"]):
        status, out, err = run(capsys, *words)
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert harmless(err)
    assert visible(shown) == shown


@EACH
def test_group_names_are_shown_as_they_are(capsys, text, shown):
    status, out, err = run(capsys, "report", "--values", f"{text}=1.0,1.1")
    assert status == 0
    assert harmless(out + err)
    assert shown in out


def on_a_terminal(code):
    """What a program writes on a terminal of its own."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    data = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that nobody is left
            break
        if not part:
            break
        data += part
    os.close(ours)
    assert child.wait() == 0
    return data


WRITE = r"""
from bytegolf.stored.command import _writer
write = _writer()
for byte in b"\x1b]0;x\x07 \xc3\xa9\xff":
    write(bytes([byte]))
write(b"\n", last=True)
"""


def test_generated_bytes_are_signs_on_a_terminal_and_themselves_in_a_pipe():
    assert on_a_terminal(WRITE).decode() == "\\x1b]0;x\\x07 é\\xff\r\n"
    piped = subprocess.run([sys.executable, "-c", WRITE], capture_output=True, check=True).stdout
    assert piped == b"\x1b]0;x\x07 \xc3\xa9\xff\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_a_stream_lacks_end_no_command(tmp_path, encoding):
    folder = tmp_path / "größe漢"
    folder.mkdir()
    (folder / "results.csv").write_text("group,status,seed,bpb_sliding,folder\nå漢,done,0,1.5,r漢\n")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for words in (["report", folder], ["watch", folder, "--once"], ["config", "demo", "train_data=å漢"]):
        done = subprocess.run(
            [sys.executable, "-m", "bytegolf", *map(str, words)], capture_output=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert b"?" in done.stdout
        codecs.decode(done.stdout, encoding)
