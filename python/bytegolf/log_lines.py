"""Single lines of a log: from bytes, which anyone may have written, to values of the types that a run writes.

log.py says what the fields mean. Fields that are not named here are let through as they are; every one may be missing or null.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

from bytegolf._bytegolf import option_table

MOST = 2**63 - 1  # the core counts in 64 bits
DEEPEST = 32  # of objects and lists in each other; a run writes 3


def whole(value: object) -> bool:
    """A whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -MOST <= value <= MOST


def count(value: object) -> bool:
    """A whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def number(value: object) -> bool:
    """A finite number that float64 holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def text(value: object) -> bool:
    """A text."""
    return isinstance(value, str)


def yes_or_no(value: object) -> bool:
    """True or false."""
    return isinstance(value, bool)


def table(value: object) -> bool:
    """An object of any fields."""
    return isinstance(value, dict)


def option(value: object) -> bool:
    """What an option may hold."""
    return isinstance(value, (bool, int, float, str))


_WORDS: dict[Callable[[object], bool], str] = {
    whole: "not a whole number",
    count: "not a whole number from 0 on",
    number: "not a number",
    text: "not a text",
    yes_or_no: "neither true nor false",
    table: "not an object",
    option: "not a number, a text, true or false",
}
Fields = dict[str, Any]  # of a name its type, or the fields of an object

SCORE: Fields = dict.fromkeys(("window", "stride", "bytes", "targets"), count) | dict.fromkeys(
    ("bpb", "nats", "seconds", "floored_bpb"), number
)
MADE: Fields = dict.fromkeys(("config_sha256", "code_sha256", "artifact_sha256", "val_sha256"), text) | dict.fromkeys(
    ("code_bytes", "total_bytes", "train_ids", "val_ids"), count
)
CONFIG: Fields = {
    row["name"]: {"int": whole, "float": number, "bool": yes_or_no, "str": text}[row["type"]] for row in option_table()
}
KINDS: dict[str, Fields] = {
    "start": {"config": CONFIG, "machine": table, "locked": yes_or_no}
    | dict.fromkeys(("seed", "parameters", "world_size"), count)
    | dict.fromkeys(("version", "commit", "hardware", "device", "dtype", "code_sha256"), text),
    "step": {"bytes": count}
    | dict.fromkeys(
        ("total", "ce", "bpb", "grad_norm", "lr_factor", "bytes_per_s", "elapsed_s", "left_s"),
        number,
    ),
    "val": SCORE | {"weights": text, "from": text},
    "checkpoint": {"path": text, "seconds": number},
    "end": dict.fromkeys(("sliding", "whole", "raw", "unquantised"), SCORE)
    | {"made": MADE, "reason": text, "weights": text, "folder": text, "status": count}
    | dict.fromkeys(("parameters", "steps", "train_bytes", "artifact_bytes"), count)
    | dict.fromkeys(("train_seconds", "pack_seconds", "load_seconds"), number),
    "track": {"tracker": text, "problem": text, "sent_step": count},
}
_ALL: Fields = {"time": number, "step": count}


def parse(line: str | bytes) -> dict[str, Any] | None:
    """One line of a log; None when it is not one, such as a line that a crash cut short.

    ValueError says what is wrong with a whole one: a field of another type, JSON that nests without end.
    """
    try:
        found = json.loads(line.decode("utf-8", "replace") if isinstance(line, bytes) else line)
    except json.JSONDecodeError:
        return None
    except RecursionError:
        raise ValueError("its JSON nests too deeply") from None
    except ValueError:  # Python's limit for digits
        raise ValueError("a number has too many digits") from None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        return None
    if _depth(found) > DEEPEST:
        raise ValueError("its JSON nests too deeply")
    fields = {**_ALL, **KINDS.get(found["kind"], {})}
    if found["kind"] in ("step", "val") and found.get("step") is None:
        raise ValueError(f"a line of kind {found['kind']} says no step")
    # What no field here names may still be a loss, which becomes a float64.
    others = [name for name, value in found.items() if name not in fields and type(value) is int]
    _check(found, fields | dict.fromkeys(others, number), "")
    return found


def _depth(value: object) -> int:
    """How many objects and lists lie in each other, at most."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (dict, list))]:
        depth += 1
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
    return depth


def _check(found: dict[str, Any], fields: Fields, where: str) -> None:
    for name, wanted in fields.items():
        value = found.get(name)
        if value is None:
            continue
        if isinstance(value, float) and math.isnan(value):
            found[name] = None  # as a log writes what is not a number
        elif callable(wanted):
            if not wanted(value):
                raise ValueError(f"{where}{name} = {_short(value)} is {_WORDS[wanted]}")
        elif not isinstance(value, dict):
            raise ValueError(f"{where}{name} = {_short(value)} is {_WORDS[table]}")
        else:
            _check(value, wanted, f"{where}{name}.")
            if wanted is CONFIG:
                _check(value, dict.fromkeys(value.keys() - CONFIG.keys(), option), f"{where}{name}.")


def _short(value: object) -> str:
    try:
        words = json.dumps(value)
    except (RecursionError, ValueError):
        return "..."
    return words if len(words) <= 40 else f"{words[:40]}..."
