"""Which stages the campaign has, in their order: one row each."""

from __future__ import annotations

from functools import partial

from campaign import parsers
from campaign.stage import Stage, fuzz

STAGES = (
    *(Stage(name, 4, 10_000_000, partial(fuzz, make)) for name, make in parsers.PARSERS.items()),
    Stage("greeting", 5, 10_000_000, parsers.greeting),
)
