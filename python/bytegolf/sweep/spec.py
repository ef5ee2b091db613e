"""The file that a sweep is made of: which options, which seeds, which groups, and where to run. TOML, checked by pydantic.

name = "widths"                   # by default the file's name
config = "config.toml"            # a TOML file beside this one, or a preset
seeds = [0, 1, 2]
retries = 1                       # more attempts for a run that failed
on = "local"                      # or "slurm"

[overrides]                       # laid over the config in every run
iterations = 500
[groups.plain]                    # named groups, each with options of its own
[groups.no-smear]
smear = false
[grid]                            # every combination of these, in every group
matrix_lr = [0.02, 0.03]

[local]
devices = "auto"                  # "cpu", "cuda", or a list of GPUs such as [0, 2]
gpus_per_run = 1                  # more than one: each run is `bytegolf launch` over that many
jobs = 2                          # runs at once; by default as many as GPUs suffice for, or one on the CPU
threads = 4                       # cores of each run; by default all, shared evenly

[slurm]                           # see class Slurm
partition = "gpu"
gpus_per_node = 1
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from bytegolf.config import Config, line_of, read_text, toml_table, toml_value
from bytegolf.errors import UserError

Value = bool | int | float | str
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")


def _value(value: object) -> Value:
    if not isinstance(value, Value):
        raise ValueError("an option is a number, a text, true or false")
    return value


def _known(name: str, value: Value) -> Value:
    """The value as the option holds it. ValueError for what a config file may not say either, or the core refuses."""
    return _set(name, toml_value(name, value))


def _set(name: str, text: str) -> Value:
    if name == "seed":
        raise ValueError("seed is set by `seeds`")
    # One option may fit only together with others: those checks come when whole runs are planned.
    config = Config()
    config.set(name, text)
    held: Value = getattr(config, name)
    return held


def _check(name: str, value: Value, *where: str) -> Value:
    """Like `_known`, for pydantic, with what leads to the option below the field: its group, and its name."""
    try:
        return _known(name, value)
    except ValueError as error:
        words = "".join(f"{part}: " for part in where) + str(error)
        raise PydanticCustomError("option", "{words}", {"words": words, "names": [*where, name]}) from None


Options = dict[str, Annotated[Value, PlainValidator(_value)]]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Local(_Table):
    """Where runs are placed on this machine."""

    devices: Literal["auto", "cpu", "cuda"] | list[Annotated[int, Field(ge=0, strict=True)]] = "auto"
    gpus_per_run: Annotated[int, Field(ge=1, strict=True)] = 1
    jobs: Annotated[int, Field(ge=1, strict=True)] | None = None
    threads: Annotated[int, Field(ge=1, strict=True)] | None = None


class Slurm(_Table):
    """What each run asks of Slurm; `extra` holds any other option of sbatch, without its dashes.

    cluster "local" runs the same jobs as processes of this machine, to try the set-up where there is no Slurm. A run of
    several ranks gets one GPU a rank unless gpus_per_node = 0; on one node `bytegolf launch` starts the ranks, on several
    each rank is a task of Slurm.
    """

    cluster: Literal["slurm", "local"] = "slurm"
    time_min: Annotated[int, Field(ge=1)] = (
        60  # limit of a job; 90 s before, its run writes a checkpoint and is queued again
    )
    requeues: Annotated[int, Field(ge=0)] = 3  # how often, for the time limit
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodes: Annotated[int, Field(ge=1)] = 1  # of each run
    ranks_per_run: Annotated[int, Field(ge=1)] = 1  # on all its nodes together
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    cpus_per_task: Annotated[int, Field(ge=1)] | None = None
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    jobs: Annotated[int, Field(ge=1)] = 256  # at once
    setup: list[str] = []  # lines of shell before the run, such as "module load cuda"
    extra: dict[str, str | int | bool] = {}
    poll_s: Annotated[float, Field(gt=0)] = 10.0  # how often Slurm is asked

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a run on each of its nodes."""
        return self.ranks_per_run // self.nodes

    @model_validator(mode="after")
    def _ranks_fit(self) -> Slurm:
        if self.ranks_per_run % self.nodes:
            raise ValueError(f"ranks_per_run = {self.ranks_per_run} is not a multiple of nodes = {self.nodes}")
        if self.ranks_per_run > 1 and self.gpus_per_node not in (None, 0, self.ranks_per_node):
            raise ValueError(
                f"gpus_per_node = {self.gpus_per_node}, but there are {self.ranks_per_node} ranks a node: one GPU each, or none"
            )
        if self.nodes > 1 and self.cluster == "local":
            raise ValueError(f'nodes = {self.nodes}, but cluster = "local" is this machine alone')
        return self


class Spec(_Table):
    """A whole sweep file. `folder` is where it lies."""

    name: str = ""
    config: str
    seeds: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
    retries: Annotated[int, Field(ge=0, strict=True)] = 1
    keep_checkpoints: Annotated[bool, Field(strict=True)] = True
    on: Literal["local", "slurm"] = "local"
    overrides: Options = {}
    groups: dict[str, Options] = {}
    grid: dict[str, Annotated[list[Annotated[Value, PlainValidator(_value)]], Field(min_length=1)]] = {}
    local: Local = Local()
    slurm: Slurm = Slurm()

    @field_validator("name")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name: letters, digits, space and ._+- only")
        return name

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice")
        return seeds

    @field_validator("overrides")
    @classmethod
    def _options(cls, options: dict[str, Value]) -> dict[str, Value]:
        for name, value in options.items():
            _check(name, value)
        return options

    @field_validator("groups")
    @classmethod
    def _groups(cls, groups: dict[str, dict[str, Value]]) -> dict[str, dict[str, Value]]:
        for group, options in groups.items():
            if not _NAME.fullmatch(group):
                raise ValueError(f"{group!r} is no name: letters, digits, space and ._+- only")
            for name, value in options.items():
                _check(name, value, group)
        return groups

    @field_validator("grid")
    @classmethod
    def _grid(cls, grid: dict[str, list[Value]]) -> dict[str, list[Value]]:
        for name, values in grid.items():
            if len({str(_check(name, value)) for value in values}) < len(values):
                raise ValueError(f"{name}: a value is given twice")
        return grid

    @model_validator(mode="after")
    def _one_place_each(self) -> Spec:
        for group, options in self.groups.items():
            twice = sorted(set(options) & set(self.grid))
            if twice:
                raise ValueError(f"option {twice[0]} is set in [grid] and in [groups.{group}]")
        return self


def load_spec(path: Path, overrides: dict[str, str] | None = None) -> Spec:
    """Reads and checks a sweep file; `overrides` are laid over its [overrides].

    UserError names file and field. An override that the grid or a group sets itself is refused: it would do nothing.
    """
    try:
        text = read_text(path)
        raw = toml_table(text, str(path))
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        spec = Spec.model_validate(raw)
    except ValidationError as error:
        faults = error.errors()
        line = line_of([*faults[0]["loc"], *faults[0].get("ctx", {}).get("names", ())], text)
        raise UserError(f"{path}, line {line}: {'; '.join(map(_words, faults))}") from None
    changes: dict[str, Any] = {"name": spec.name or path.stem}
    words: dict[str, Value] = {}
    for name, value in (overrides or {}).items():
        try:
            words[name] = _set(name, value)
        except ValueError as error:
            raise UserError(f"{name}={value}: {error}") from None
        taken = ["[grid]"] if name in spec.grid else [f"[groups.{g}]" for g, o in spec.groups.items() if name in o]
        if taken:
            raise UserError(f"{name}={value}: {path} sets it in {taken[0]}, which comes last")
    changes["overrides"] = {**spec.overrides, **words}
    return spec.model_copy(update=changes)


def _words(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
