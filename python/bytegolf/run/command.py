"""`bytegolf train`: from words on the command line to a run folder and a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bytegolf.config import Config
from bytegolf.errors import UserError
from bytegolf.options import resolve, split
from bytegolf.ranks.environment import ranks_here
from bytegolf.ranks.group import Group
from bytegolf.record.files import as_text, new_folder
from bytegolf.run import report, runner


def train(source: str | None, overrides: Sequence[str], folder: Path | None, resume: bool) -> runner.Report | None:
    """Starts or resumes a run, writes its report files and prints the result. As one of several ranks (see bytegolf.ranks) it
    does its share; rank 0 writes and prints, the others return None.

    UserError for words that do not fit together; what `runner.run` raises goes through.
    """
    if source is not None and "=" in source and not Path(source).exists():
        overrides, source = [source, *overrides], None
    if resume:
        if folder is None:
            raise UserError("--resume needs --run: the folder of the run to resume")
        if not (folder / "config.toml").is_file():
            raise UserError(f"{folder} holds no config.toml: there is no run to resume")
        config = (
            resolve(source, overrides) if source else Config.of_run(folder / "config.toml").replace(**split(overrides))
        )
    else:
        if source is None:
            raise UserError("name a TOML file or a preset to train by (`bytegolf config` prints one)")
        config = resolve(source, overrides)
        folder = folder or new_folder(Path("runs"), Path(source).stem)
    ranks = ranks_here()
    if ranks is None:
        got = runner.run(config, folder, resume=resume)
    else:
        with Group(ranks, hang_s=config.rank_timeout_s) as group:
            folder = Path(group.broadcast(str(folder)))
            got = runner.run(config, folder, resume=resume, group=group)
    if got is None:
        return None
    words = ["bytegolf", "train", *([source] if source else []), *overrides]
    words += ["--resume", "--run", str(folder)] if resume else []
    name = as_text(folder.name)
    about = report.Presentation(
        name=name,
        blurb=f"{config.family}, {config.num_layers} layers of width {config.model_dim}, T = {config.seq_len}.",
        command=as_text(shlex.join(words)),
    )
    with runner.saying_what_to_free(folder):
        files = report.write_files(got, about)
    report.show(got, files, about)
    return got
