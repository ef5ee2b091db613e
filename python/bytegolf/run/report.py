"""What a finished run leaves for people: curves.png, submission.json, README.md in its folder, and a table on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bytegolf import log
from bytegolf._bytegolf import __version__
from bytegolf.bundle.meter import Size
from bytegolf.disk import write_whole
from bytegolf.errors import UserError
from bytegolf.record import fingerprint
from bytegolf.screen import console

if TYPE_CHECKING:
    from bytegolf.run.runner import Report


@dataclass(frozen=True)
class Baseline:
    """A general compressor on the same held-out text: its name and bits per byte."""

    name: str
    bpb: float


@dataclass(frozen=True)
class Presentation:
    """What a report says beside the figures: a name, one sentence, the command that made the run, and for `demo` what it is
    compared with and a sample."""

    name: str
    blurb: str
    command: str
    baselines: tuple[Baseline, ...] = ()
    sample: str = ""


def write_files(report: Report, about: Presentation) -> dict[str, Path]:
    """Writes the three files and returns the paths of all that the run folder holds, by what they are.

    Without matplotlib there is no picture; nothing else is missing then.
    """
    from bytegolf.bundle import script
    from bytegolf.pictures.curves import draw_curves
    from bytegolf.record.facts import read_facts
    from bytegolf.record.fields import submission_of

    folder = Path(report.folder)
    facts = fingerprint.machine()
    submission = submission_of([read_facts(folder / log.NAME)], name=about.name, blurb=about.blurb, track="none")
    files = {
        "config": folder / "config.toml",
        "log": folder / log.NAME,
        "curves": folder / "curves.png",
        "artifact": folder / "artifact.bg",
        "code": folder / script.NAME,
        "submission": folder / "submission.json",
        "readme": folder / "README.md",
    }
    if report.made.code_bytes is None:
        del files["code"]
    submission.write(files["submission"])
    try:
        draw_curves(files["log"], files["curves"])
    except UserError:
        del files["curves"]
    write_whole(files["readme"], _readme(report, about, facts, "curves" in files).encode())
    return files


def rows(report: Report, baselines: tuple[Baseline, ...] = ()) -> list[tuple[str, str, str]]:
    """(what, figure, note) of a report, in reading order."""
    best = report.sliding
    speed = report.train_bytes / max(report.train_seconds, 1e-9)
    table = [
        ("parameters", f"{report.parameters:,}", ""),
        (
            "training",
            console.duration(report.train_seconds),
            f"{report.steps:,} steps, {console.size(report.train_bytes)} read, {console.size(speed)}/s",
        ),
        ("artifact", f"{report.artifact_bytes:,} bytes", _artifact_note(report)),
    ]
    if report.made.code_bytes is not None:
        size = Size(report.made.code_bytes, report.artifact_bytes)
        note = f"code as train_gpt.py; {size.margin()}"
        table.append(("code + artifact", f"{size.total_bytes:,} bytes", note))
    table.append(("held-out, raw weights", f"{report.raw.bpb:.4f} bpb", "whole chunks, as the last step left them"))
    if report.weights != "raw":
        note = "whole chunks, before quantisation"
        table.append((f"held-out, {report.weights} weights", f"{report.unquantised.bpb:.4f} bpb", note))
    note = f"whole chunks of {report.whole.window}, read back from disk"
    table.append(("held-out, artifact", f"{report.whole.bpb:.4f} bpb", note))
    seen = f"sliding, stride {best.stride}, {best.bytes:,} bytes in {console.duration(best.seconds)}"
    table.append(("held-out, artifact", f"{best.bpb:.4f} bpb", seen))
    for baseline in baselines:
        margin = 100 * (1 - best.bpb / baseline.bpb)
        word = "fewer" if margin >= 0 else "MORE"
        table.append((baseline.name, f"{baseline.bpb:.4f} bpb", f"the model needs {abs(margin):.1f} % {word} bits"))
    return table


def _artifact_note(report: Report) -> str:
    bits = 8 * report.artifact_bytes / report.parameters
    times = f"packed in {console.duration(report.pack_seconds)}, read in {console.duration(report.load_seconds)}"
    return f"{report.weights} weights, {bits:.2f} bits each; {times}"


def show(report: Report, files: dict[str, Path], about: Presentation) -> None:
    """Prints sample, table and paths."""
    out = console.stdout()
    if about.sample:
        out.print("sample:", style="bold")
        out.print(about.sample, markup=False)
    table = console.table("", "figure", "note", right=("figure",))
    for row in rows(report, about.baselines):
        table.add_row(*row)
    out.print(table)
    paths = console.table("file", "path")
    for what, path in files.items():
        paths.add_row(what, str(path))
    out.print(paths)


def _readme(report: Report, about: Presentation, facts: dict[str, Any], picture: bool) -> str:
    lines = [f"# {about.name}", "", about.blurb, "", "| what | figure | note |", "|---|---:|---|"]
    lines += [f"| {what} | {figure} | {note} |" for what, figure, note in rows(report, about.baselines)]
    if about.baselines:
        lines += [
            "",
            "Each compressor got the held-out text alone. The model has read other text of the same kind before, and the bytes of",
            "its artifact are not counted in its bits per byte.",
        ]
    if picture:
        lines += ["", "![curves](curves.png)"]
    if about.sample:
        lines += ["", "A sample:", "", *(f"    {line}" for line in about.sample.splitlines())]
    machine = (
        f"{facts['cores']} cores of {facts['cpu']} ({facts['cpu_target']}), {facts['system']}, Python {facts['python']}"
    )
    lines += [
        "",
        f"Made by `{about.command}`, bytegolf {__version__}, commit {fingerprint.commit() or 'unknown'}, on {machine}.",
        "The score is that of artifact.bg, read back from disk. config.toml holds every option; log.jsonl one JSON object a line.",
    ]
    return "\n".join(lines) + "\n"
