"""Options of a run as Python sees them; the options themselves are declared in csrc/base/config.def and nowhere else."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bytegolf import _bytegolf

__all__ = ["Config"]

# Names that published configurations use for the same thing.
_PUBLISHED_NAMES = {"bigram_hash_buckets": "bigram_vocab_size", "bigram_hash_dim": "bigram_dim"}
_SECTIONS = ("model", "train", "run")


class Config(_bytegolf.Config):
    """All options, as attributes with the names of `option_table()`; treat it as immutable and use `replace`.

    Every constructor checks ranges and contradictions and raises ValueError that names the option, with the nearest
    known name for an unknown one.
    """

    @staticmethod
    def preset(name: str, **overrides: Any) -> Config:
        """A preset ("byte260-jepa", "byte260", "byte256", "byte256-jepa", "byte256-patch", "demo"), options changed."""
        return Config._of(_bytegolf.Config.preset(name)).replace(**overrides)

    @staticmethod
    def from_toml(path: str | os.PathLike[str]) -> Config:
        """Reads a TOML file: options at the top, one `name = value` each, with values of their types (see `toml_value`).

        What the file leaves out is as in byte260-jepa. ValueError with file and line for what is no TOML or no option, OSError
        when it cannot be read.
        """
        return Config.from_text(read_text(path), str(path))

    @staticmethod
    def from_text(text: str, source: str = "text") -> Config:
        """Like `from_toml`, of text that `source` names in errors."""
        config = Config()
        for name, value in toml_table(text, source).items():
            try:
                config.set(name, toml_value(name, value))
            except ValueError as error:
                raise ValueError(f"{source}, line {line_of([name], text)}: {error}") from None
        config.validate()
        return config

    @staticmethod
    def absent() -> Config:
        """What a stored text means that holds no option: each as it was before it was added."""
        return Config._of(_bytegolf.Config.absent())

    @staticmethod
    def stored(options: str | Mapping[str, Any], source: str) -> Config:
        """Options as any version of bytegolf stored them, as text or, in a log, by name.

        An option that they lack was added later and means what was done before. ValueError says that a newer version wrote
        one that is unknown here.
        """
        if not isinstance(options, str):
            odd = next((name for name in options if not re.fullmatch(r"\w+", name)), None)
            if odd is not None:
                raise ValueError(f"{source}: {json.dumps(odd)} cannot name an option")
            try:
                options = "".join(f"{name} = {_core_form(name, value)}\n" for name, value in options.items())
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
        config = Config._of(_bytegolf.Config.stored(options, source))
        config.validate()
        return config

    @staticmethod
    def of_run(path: str | os.PathLike[str]) -> Config:
        """The config.toml of a run's folder, which `to_toml` of any version wrote; see `stored`."""
        text = read_text(path).replace("\x7f", "\\u007f")  # older versions left this one sign as it is
        values, known = toml_table(text, str(path)), {row["name"] for row in _bytegolf.option_table()}
        for name, value in values.items():
            if name in known:
                try:
                    toml_value(name, value)
                except ValueError as error:
                    raise ValueError(f"{path}, line {line_of([name], text)}: {error}") from None
        return Config.stored(values, str(path))

    @staticmethod
    def from_published(published: Mapping[str, Any]) -> Config:
        """A published program's configuration: its `family` names the preset, the other keys are options.

        `vocab_size` must be the family's, `mlp_hidden` becomes mlp_mult, `bigram_hash_*` the bigram options. ValueError
        for a key that is not an option.
        """
        values = {_PUBLISHED_NAMES.get(name, name): value for name, value in published.items()}
        # The presets named like a family are those without JEPA and latent head; the keys switch them on.
        config = _bytegolf.Config.preset(str(values.pop("family", "byte260")))
        vocab_size = values.pop("vocab_size", config.vocab_size)
        if vocab_size != config.vocab_size:
            raise ValueError(f"vocab_size = {vocab_size}, but family {config.family} has {config.vocab_size} ids")
        hidden = values.pop("mlp_hidden", None)
        if hidden is not None:
            values["mlp_mult"] = hidden / values.get("model_dim", config.model_dim)
        return Config._of(config).replace(**values)

    def replace(self, **changes: Any) -> Config:
        """A copy with some options changed; the values are Python's (int, float, bool, str) or their text form."""
        made = Config._of(self)
        for name, value in changes.items():
            text = _text(name, value)
            if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
                raise ValueError(f"option {name} = {value!a} is not UTF-8 text")
            made.set(name, text)
        made.validate()
        return made

    def to_toml(self, path: str | os.PathLike[str]) -> None:
        """Writes every option with its meaning as a comment; `from_toml` reads it back equal."""
        Path(path).write_text(self.toml(), encoding="utf-8")

    def toml(self, docs: bool = True) -> str:
        """What `to_toml` writes; without `docs` the values alone."""
        # The one sign that the core's own text form holds and TOML forbids.
        return self.text(docs=docs).replace("\x7f", "\\u007f")

    def to_dict(self, sections: Sequence[str] = _SECTIONS) -> dict[str, Any]:
        """Options by name as Python values, in the order of the table."""
        rows = _bytegolf.option_table()
        return {row["name"]: getattr(self, row["name"]) for row in rows if row["section"] in sections}

    def __repr__(self) -> str:
        """The family and what differs from its plain preset."""
        plain = _bytegolf.Config.preset(self.family)
        names = [row["name"] for row in _bytegolf.option_table() if self.get(row["name"]) != plain.get(row["name"])]
        return ", ".join([f"Config({self.family}", *(f"{name}={getattr(self, name)!r}" for name in names)]) + ")"

    def __reduce__(self) -> tuple[Callable[[str], Config], tuple[str]]:
        """Pickles as text, so that jobs can carry it."""
        return Config.from_text, (self.toml(docs=False),)

    @staticmethod
    def _of(core: _bytegolf.Config) -> Config:
        made = Config()
        for row in _bytegolf.option_table():
            made.set(row["name"], core.get(row["name"]))
        return made


def toml_table(text: str, source: str) -> dict[str, Any]:
    """A TOML text as a dict. ValueError names `source` and line of what is no TOML."""
    if text.startswith("\ufeff"):
        raise ValueError(f"{source}, line 1: begins with a byte order mark; save it as UTF-8 without one")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error), re.S)
        end = text.rstrip("\n").count("\n") + 1
        words, number = (found[1], int(found[2])) if found else (str(error).removesuffix(" (at end of document)"), end)
        what = text.split("\n")[number - 1].strip()[:60] if number <= text.count("\n") + 1 else ""
        raise ValueError(f"{source}, line {number}: no TOML: {words}" + (f", in `{what}`" if what else "")) from None
    except RecursionError:
        depth = [line.count("[") + line.count("{") for line in text.split("\n")]
        raise ValueError(f"{source}, line {depth.index(max(depth)) + 1}: nests too deeply") from None
    except ValueError:  # Python's limit for digits
        long = next((n for n, line in enumerate(text.split("\n"), 1) if re.search(r"[0-9_]{4300}", line)), 1)
        raise ValueError(f"{source}, line {long}: a number has too many digits") from None


def toml_value(name: str, value: object) -> str:
    """The core's form of an option's value as TOML gives it: an integer, a float (or integer), true or false, or a text, by the
    option's type. ValueError names the option, for an unknown one with the nearest name."""
    if isinstance(value, dict):
        raise ValueError(f"{name} is a table; options stand at the top of the file, one `name = value` each")
    row = next((row for row in _bytegolf.option_table() if row["name"] == name), None)
    if row is None:
        near = _bytegolf.nearest_option(name)
        raise ValueError(f"unknown option {name}" + (f"; did you mean {near}?" if near else ""))
    kinds = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}[row["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and row["type"] != "bool"):
        wanted = {"int": "an integer", "float": "a number", "bool": "true or false", "str": 'a text in quotes: "..."'}
        raise ValueError(f"option {name} = {_shown(value)} is {_kind(value)}, not {wanted[row['type']]} ({row['doc']})")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"option {name} = {_shown(value)} is outside the integers of 64 bits ({row['doc']})")
    return _core_form(name, value)


def _kind(value: object) -> str:
    words = {bool: "a truth value", int: "an integer", float: "a float", str: "a text", list: "an array"}
    return words.get(type(value), "a date or time")


def _shown(value: object) -> str:
    text = value.isoformat() if hasattr(value, "isoformat") else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _core_form(name: str, value: object) -> str:
    """A value as the core's text form holds it, which escapes quotes and backslashes alone."""
    if isinstance(value, str):
        if "\n" in value or "\r" in value:
            raise ValueError(f"option {name} = {_shown(value)} holds a line break")
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return json.dumps(value, default=str)


def line_of(names: Sequence[object], text: str) -> int:
    """The line of a TOML text that gives the last of these names its value, each looked for after the one before: tables, then
    an option. As far as they are found; the first line otherwise."""
    lines, at = text.split("\n"), 0
    for name in names:
        words = rf"\s*\[*\s*(['\"]?[^=\]]*['\"]?\.\s*)?['\"]?{re.escape(str(name))}['\"]?\s*([.=\]].*)?"
        at = next((n for n in range(at, len(lines)) if re.fullmatch(words, lines[n].rstrip())), at)
    return at + 1


def read_text(path: str | os.PathLike[str]) -> str:
    """A UTF-8 file. ValueError names path and place of a byte that is not, OSError when it cannot be read."""
    text = Path(path).read_bytes()
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 text (line {line})") from None


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, os.PathLike):
        return _core_form(name, str(value))  # as it is, blanks at its ends included
    if isinstance(value, str):
        return value
    return repr(value.item() if hasattr(value, "item") else value)
