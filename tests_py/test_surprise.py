"""bytegolf.show and the command: characters out of bytes, nothing unescaped, a scale that everybody can read."""

import html.parser
import io
import itertools
import json
import math
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_model import tiny

import bytegolf
from bytegolf.cli import main
from bytegolf.surprise.cells import lines_of
from bytegolf.surprise.scale import LEVELS, contrast, ramp
from bytegolf.surprise.shown import Shown

LN2 = math.log(2)


def show(data: bytes, bits: object = None, **options: object) -> Shown:
    """`data` with so many bits for each byte; by default 1, 2, 3, ..."""
    cost = np.arange(1, len(data) + 1) if bits is None else np.asarray(bits, dtype=float)
    return bytegolf.show(data, cost * LN2, **options)  # type: ignore[arg-type]


def printed(shown: object, **options: object) -> str:
    console = Console(**{"width": 60, **options})  # type: ignore[arg-type]
    with console.capture() as capture:
        console.print(shown, end="")
    return capture.get()


class Spans(html.parser.HTMLParser):
    """The text inside <pre>, the spans' titles, and every tag of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.text, self.inside = "", False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = self.inside or tag == "pre"
        if self.inside and tag == "span":
            assert [name for name, _ in attributes] == ["class", "title"]
            self.titles.append(dict(attributes)["title"] or "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.text += data


# By hand: UTF-8 of ü is c3 bc, of € e2 82 ac, of 😀 f0 9f 98 80.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"ab", [("a", 1), ("b", 2)]),
        ("aü€😀".encode(), [("a", 1), ("ü", 2 + 3), ("€", 4 + 5 + 6), ("😀", 7 + 8 + 9 + 10)]),
        (b"\xff\xc3", [("\\xff", 1), ("\\xc3", 2)]),
        (b"\xe2\x82a", [("\\xe2", 1), ("\\x82", 2), ("a", 3)]),  # a character that breaks off
        (b"\xed\xa0\x80", [("\\xed", 1), ("\\xa0", 2), ("\\x80", 3)]),  # a surrogate is not UTF-8
        (b"\xc0\x80", [("\\xc0", 1), ("\\x80", 2)]),  # nor is an overlong form
        (b"\r\n\x00\x1b\x7f", [("^M", 1), ("↵", 2), ("^@", 3), ("^[", 4), ("^?", 5)]),
        ("\u0085\u00a0\u202e\U000e0001".encode(),
         [("\\u0085", 3), ("\\u00a0", 7), ("\\u202e", 5 + 6 + 7), ("\\U000e0001", 8 + 9 + 10 + 11)]),
        ("e\u0301x".encode(), [("e\u0301", 1 + 2 + 3), ("x", 4)]),  # a combining accent belongs to its letter
        ("\u0301".encode(), [("\\u0301", 3)]),  # and has no shape without one
        ("\n\u0301".encode(), [("↵", 1), ("\\u0301", 2 + 3)]),
        ("👩\u200d🔬".encode(), [("👩\u200d🔬", sum(range(1, 12)))]),
        (b"a\tb\n\tc", [("a", 1), ("→      ", 2), ("b", 3), ("↵", 4), ("→       ", 5), ("c", 6)]),  # tab stops of 8
        (b"", []),
    ],
)  # fmt: skip
def test_a_character_costs_the_sum_of_its_bytes_and_what_has_no_shape_is_escaped(data, expected):
    cells = show(data).cells
    assert [cell.text for cell in cells] == [text for text, _ in expected]
    assert [cell.bits for cell in cells] == pytest.approx([bits for _, bits in expected])


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_cells_cover_every_byte_once_and_the_page_says_exactly_their_text(data):
    shown = show(data, np.ones(len(data)))
    at = 0
    for cell in shown.cells:
        assert cell.first == at and cell.count >= 1 and cell.text
        at += cell.count
    assert at == len(data)
    page = Spans(shown.html())
    assert page.text == "".join(cell.text + "\n" * cell.ends_line for cell in shown.cells)
    assert len(page.titles) == len(shown.cells)
    for kind in ("truecolor", None):
        lines = [line for line in printed(shown, color_system=kind, force_terminal=kind is not None).split("\n")]
        assert not re.search(r"[\x00-\x09\x0b-\x1a\x1c-\x1f\x7f-\x9f]", "\n".join(lines))
        assert kind or "\x1b" not in "\n".join(lines)


def test_nothing_of_the_text_becomes_markup():
    data = b"</pre></span><script>alert(1)</script><b title=\"x\" 'y'>&amp;[red]bold[/red]"
    shown = show(data, title="<i>&</i>")
    page = Spans(shown.html())
    assert page.text == data.decode()
    assert "script" not in page.tags and page.tags[-1] == "span"  # nothing opens after the text
    assert "<script" not in shown.html() and "<title>&lt;i&gt;&amp;&lt;/i&gt;</title>" in shown.html()
    assert data.decode() in "".join(printed(shown, color_system=None, width=200).splitlines()[1])
    assert "default-src 'none'" in shown.html() and "http" not in shown.html().replace("http-equiv", "")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_of_the_scale_is_legible_and_lightness_goes_one_way(theme):
    colours = ramp(theme)
    assert len(colours) == LEVELS + 1
    assert all(contrast(colour.paper, colour.ink) >= 4.5 for colour in colours)  # WCAG 2.1, level AA
    ground = [contrast(colour.paper, "#ffffff" if theme == "light" else "#000000") for colour in colours]
    assert all(b > a for a, b in itertools.pairwise(ground))
    assert ground[-1] / ground[0] > 7  # from end to end in grey too


def test_contrast_is_that_of_the_wcag():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the well-known grey that just fails


def test_levels_go_from_nothing_to_the_top_and_stay_there():
    shown = show(b"abc", top_bits=4)
    assert [shown.level(bits) for bits in (0, -1e-18, 2, 4, 400, math.inf)] == [0, 0, LEVELS // 2, *[LEVELS] * 3]
    assert shown.level(math.nan) is None


def test_averages_are_of_all_scored_bytes_also_of_hidden_ones():
    shown = show(b"abcdef", [math.nan, 1, 1, 1, 1, 6], limit=2)
    assert shown.bits_per_byte == pytest.approx(2) and shown.scored_bytes == 5
    assert [cell.text for cell in shown.cells] == ["a", "b"] and shown.hidden_bytes == 4
    assert "not scored" in Spans(shown.html()).titles[0]
    for words in ("6 bytes, 2.0000 bits per byte (1 not scored)", "4 more bytes are not shown: limit = 2"):
        assert words in shown.html() and words in printed(shown)
    assert math.isnan(show(b"a", [math.nan]).bits_per_byte)


def test_the_limit_cuts_no_character():
    data = "a€b".encode()
    assert ["".join(c.text for c in show(data, limit=n).cells) for n in range(6)] == ["", "a", "a", "a", "a€", "a€b"]
    assert len(show(b"\x80" * 9, limit=5).cells) in (2, 5)  # no characters at all: an end near the limit


def test_lines_keep_all_text_and_break_after_spaces_where_there_are_some():
    def broken(text, width):
        return ["".join(cell.text for cell in line) for line in lines_of(show(text.encode()).cells, width)]

    assert broken("one two three\nfour", 8) == ["one two ", "three↵", "four"]
    assert broken("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert broken("日本語", 4) == ["日本", "語"]  # two columns each
    assert broken("", 8) == []


def test_without_colours_bars_stand_below_the_text():
    # Of 8 bits in 8 bars: 0 none, up to 1 the first, up to 8 and beyond the last.
    out = printed(show(b"ab\xff", [0, 1, 4]), color_system=None).splitlines()
    assert out[:2] == ["ab\\xff", " ▁▄▄▄▄"]
    out = printed(show("a日b".encode(), [8, 2, 2, 1, 99]), color_system=None).splitlines()
    assert out[:2] == ["a日b", "█▅▅█"]


def test_colours_are_those_of_the_scale():
    out = printed(show(b"ab", [0, 8], theme="light"), color_system="truecolor", force_terminal=True)

    def code(level):
        colour = ramp("light")[level]
        numbers = [[str(int(c[i : i + 2], 16)) for i in (1, 3, 5)] for c in (colour.ink, colour.paper)]
        return f"\x1b[38;2;{';'.join(numbers[0])};48;2;{';'.join(numbers[1])}m"

    assert out.startswith(f"{code(0)}a\x1b[0m{code(LEVELS)}b\x1b[0m\n")


def test_the_terminals_own_word_decides_between_dark_and_light(monkeypatch):
    outputs = {}
    for ground in ("15;0", "0;15", ""):
        monkeypatch.setenv("COLORFGBG", ground)
        outputs[ground] = printed(show(b"a", [8]), color_system="truecolor", force_terminal=True)
    dark, light = (
        printed(show(b"a", [8], theme=t), color_system="truecolor", force_terminal=True) for t in ("dark", "light")
    )
    assert outputs == {"15;0": dark, "0;15": light, "": dark} and dark != light


def test_costs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="each of the 3 bytes"):
        bytegolf.show(b"abc", [1, 2])
    for wrong in ({"top_bits": 0}, {"top_bits": math.nan}, {"theme": "blue"}, {"limit": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            show(b"abc", **wrong)


def test_repr_is_plain_text_where_there_is_no_terminal(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    shown = show(b"abc\n")
    assert repr(shown) == str(shown) and "\x1b" not in repr(shown)
    assert repr(shown).startswith("abc↵\n▁▂▃▄\n")
    assert shown._repr_html_().count("<pre>") == 1 and "<html" not in shown._repr_html_()


@pytest.fixture(scope="module", params=["byte260", "byte256"])
def model(request, tmp_path_factory):
    """(model of random weights, read back from its artifact; the artifact)."""
    path = tmp_path_factory.mktemp("surprise") / "artifact.bg"
    bytegolf.pack(bytegolf.Model(tiny(request.param), seed=3), path)
    return bytegolf.load(path), path


def command(capsysbinary, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["surprise", *map(str, arguments)])
    captured = capsysbinary.readouterr()
    return left.value.code, captured.out.decode(), captured.err.decode()


def test_the_command_tells_what_the_model_says(capsysbinary, model, tmp_path):
    data = "Grüße\n".encode() + bytes([255])
    (tmp_path / "text.txt").write_bytes(data)
    nats = model[0].surprise(data, 8, 4)
    page = tmp_path / "page.html"
    status, out, _ = command(
        capsysbinary, model[1], tmp_path / "text.txt", "--window", 8, "--stride", 4, "--json", "--html", page
    )
    found = json.loads(out)
    assert status == 0 and found["window"] == 8 and found["stride"] == 4 and found["bytes"] == len(data)
    assert found["bpb"] == pytest.approx(model[0].bpb(data, 8, 4))
    assert found["nats"] == [None if math.isnan(value) else value for value in nats.tolist()]
    assert found["scored_bytes"] == np.isfinite(nats).sum()
    assert Spans(page.read_text(encoding="utf-8")).text == "Grüße↵\n\\xff"
    status, out, _ = command(capsysbinary, model[1], tmp_path / "text.txt")
    assert status == 0 and "Grüße↵" in out and f"{len(data)} bytes, {model[0].bpb(data):.4f} bits per byte" in out
    status, out, err = command(capsysbinary, model[1], tmp_path / "text.txt", "--html", page)
    assert status == 0 and not out and str(page) in err


def test_the_command_reads_standard_input(capsysbinary, model, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    status, out, _ = command(capsysbinary, model[1], "-", "--json")
    assert status == 0 and json.loads(out)["bytes"] == 5


@pytest.mark.parametrize("missing", ["artifact", "file", "empty"])
def test_what_cannot_be_read_is_one_line(capsysbinary, model, tmp_path, missing):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "text.txt").write_bytes(b"abc")
    artifact = tmp_path / "none.bg" if missing == "artifact" else model[1]
    file = tmp_path / {"artifact": "text.txt", "file": "none.txt", "empty": "empty.txt"}[missing]
    status, out, err = command(capsysbinary, artifact, file)
    named = artifact if missing == "artifact" else file
    assert status == 2 and not out and err.count("\n") == 1 and str(named) in err


def test_an_ascii_terminal_gets_signs_that_it_has(monkeypatch):
    shown = bytegolf.show("aé漢".encode(), [0.1, 1.0, 1.0, 2.0, 2.0, 2.0], title="a title\x1b]0;x\x07")
    file = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", file)
    text = str(shown)
    assert text.isascii()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "@ more" in text


def test_a_title_is_shown_and_not_obeyed():
    shown = bytegolf.show(b"x", [1.0], title="\x1b[31m<b>\u202e")
    assert "\x1b[31m" not in str(shown)
    assert "^[[31m<b>\\u202e" in str(shown)
    assert "<h1>^[[31m&lt;b&gt;\\u202e</h1>" in shown.html()
