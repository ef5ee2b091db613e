"""Options of a run as Python sees them; the options themselves are declared in csrc/base/config.def and nowhere else."""

from __future__ import annotations

import json
import os
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
        """Reads `name = value` lines; what the file leaves out is as in byte260-jepa. OSError when it cannot be read."""
        return Config.from_text(_read(path), str(path))

    @staticmethod
    def from_text(text: str, source: str = "text") -> Config:
        """Like `from_toml`, of text that `source` names in errors."""
        config = Config._of(_bytegolf.Config.parse(text, source, _bytegolf.Config()))
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
        if not isinstance(options, str):  # JSON writes such values as TOML does
            options = "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in options.items())
        config = Config._of(_bytegolf.Config.stored(options, source))
        config.validate()
        return config

    @staticmethod
    def of_run(path: str | os.PathLike[str]) -> Config:
        """The config.toml of a run's folder, which `to_toml` of any version wrote; see `stored`."""
        return Config.stored(_read(path), str(path))

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
            made.set(name, _text(value))
        made.validate()
        return made

    def to_toml(self, path: str | os.PathLike[str]) -> None:
        """Writes every option with its meaning as a comment; `from_toml` reads it back equal."""
        Path(path).write_text(self.text(docs=True), encoding="utf-8")

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
        return Config.from_text, (self.text(),)

    @staticmethod
    def _of(core: _bytegolf.Config) -> Config:
        made = Config()
        for row in _bytegolf.option_table():
            made.set(row["name"], core.get(row["name"]))
        return made


def _read(path: str | os.PathLike[str]) -> str:
    text = Path(path).read_bytes()
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 text") from None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return value
    return repr(value.item() if hasattr(value, "item") else value)
