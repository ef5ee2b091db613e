"""Which stages the campaign has, in their order: one row each."""

from __future__ import annotations

from functools import partial

from campaign import calls, clocks, disk, exchange, forged, kills, libfuzzer, numerics, parsers
from campaign.stage import Stage, fuzz

PARSED = 10_000_000  # executions of each parser
CORE = {"artifact": 12, "shard": 6, "config": 6}

STAGES = (
    *(Stage(name, share, PARSED, partial(libfuzzer.target, name)) for name, share in CORE.items()),
    *(Stage(name, 4, PARSED, partial(fuzz, make)) for name, make in parsers.PARSERS.items()),
    Stage("greeting", 5, PARSED, parsers.greeting),
    Stage("forged", 8, 200_000, forged.stage),
    Stage("kill-train", 10, 300, kills.training),
    Stage("kill-ranks", 7, 100, kills.ranks),
    Stage("kill-prepare", 3, 50, kills.preparing),
    Stage("kill-pack", 3, 50, kills.packing),
    Stage("numerics", 4, 1, numerics.stage),
    Stage("calls", 8, 1, calls.stage),
    Stage("clocks", 6, 500, clocks.stage),
    Stage("disk", 5, 200, disk.stage),
    Stage("exchange", 5, 1, exchange.stage),
)
