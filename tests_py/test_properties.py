"""What must hold for any input: statistics against SciPy, schedules, the loader's order over ranks and resumes, and sliding scores against
a plain sum."""

import itertools
import math
import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bytegolf import _bytegolf, stats
from bytegolf.config import Config
from bytegolf.model import Model
from bytegolf.scoring import evaluate

scipy_stats = pytest.importorskip("scipy.stats", reason="what statistics are compared with")

# The same examples every time where changes are judged; elsewhere new ones, so that rare ones are met. No deadline: machines are loaded.
bounded = settings(
    max_examples=60, deadline=None, derandomize=bool(os.environ.get("CI")), suppress_health_check=[HealthCheck.too_slow]
)

scores = st.lists(st.floats(1e-3, 1e3, allow_subnormal=False), min_size=2, max_size=12)


# Statistics.


@bounded
@given(scores, st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))
def test_the_interval_of_a_mean_is_that_of_scipy_and_holds_the_mean(values, confidence):
    got = stats.summarise(values, confidence)
    assert got.mean == pytest.approx(float(sum(map(Fraction, values)) / len(values)), rel=1e-12)
    assert got.low <= got.mean <= got.high
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    assume(error > 1e-9 * got.mean)
    low, high = scipy_stats.t.interval(confidence, len(values) - 1, got.mean, error)
    assert (got.low, got.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9 * got.mean)


@bounded
@given(scores, scores, st.floats(0, 10))
def test_welch_is_that_of_scipy_and_its_sides_add_up_to_one(values, others, margin):
    assume(np.std(values) > 1e-6 * np.mean(values) and np.std(others) > 1e-6 * np.mean(others))
    got, back = stats.welch_test(values, others, margin=margin), stats.welch_test(others, values, margin=-margin)
    want = scipy_stats.ttest_ind([v + margin for v in values], others, equal_var=False, alternative="less")
    assert (got.t, got.p, got.df) == pytest.approx((want.statistic, want.pvalue, want.df), rel=1e-5, abs=1e-7)
    assert got.p + back.p == pytest.approx(1, abs=1e-9)


@bounded
@given(scores, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_test_does_not_depend_on_the_unit_or_the_order(values, baseline, unit):
    assume(np.std(values) > 1e-6 * np.mean(values))
    got = stats.t_test(values, baseline)
    scaled = stats.t_test([v * unit for v in reversed(values)], baseline * unit)
    assert (scaled.t, scaled.p) == pytest.approx((got.t, got.p), rel=1e-6, abs=1e-9)
    assert scaled.difference == pytest.approx(got.difference * unit, rel=1e-9, abs=1e-9 * unit * baseline)


@bounded
@given(scores, st.floats(1e-3, 1e3), st.floats(0, 1), st.floats(0, 1))
def test_p_falls_when_the_margin_does_and_lies_between_zero_and_one(values, baseline, margin, less):
    assume(np.std(values) > 1e-6 * np.mean(values))
    wide, narrow = stats.t_test(values, baseline, margin=margin), stats.t_test(values, baseline, margin=margin * less)
    assert 0 <= narrow.p <= wide.p <= 1


# Schedules.

whole = st.integers(1, 400)


@st.composite
def plans(draw):
    """A config and its number of steps."""
    N = draw(whole)
    first = draw(st.floats(0, 1))
    changes = {
        "iterations": N,
        "warmdown_iters": draw(st.integers(0, 500)),
        "muon_momentum_warmup_steps": draw(st.integers(0, 500)),
        "jepa_phase1_frac": first,
        "jepa_phase2_frac": draw(st.floats(0, 1 - first)),
        "swa_every": draw(st.integers(1, 20)),
        "swa_last_frac": draw(st.floats(0, 1)),
    }
    return Config.preset("byte260-jepa").replace(**changes)


@bounded
@given(plans())
def test_schedules_by_steps_are_never_negative_and_never_rise_after_falling(config):
    N, W = config.iterations, config.warmdown_iters
    rows = [_bytegolf.schedule(config, n) for n in range(N)]
    factors = [row["lr_factor"] for row in rows]
    assert all(0 < f <= 1 for f in factors)
    assert all(a >= b for a, b in itertools.pairwise(factors))
    assert factors == pytest.approx([1.0 if W == 0 else min(1.0, (N - n) / W) for n in range(N)], rel=1e-12)
    momenta = [row["muon_momentum"] for row in rows]
    assert all(a <= b for a, b in itertools.pairwise(momenta))
    assert all(0.92 <= m <= 0.99 for m in momenta)
    weights = [row["jepa_lambda"] for row in rows]
    assert all(0 <= w <= config.jepa_lambda_max for w in weights)
    falls = [n for n in range(1, N) if weights[n] < weights[n - 1]]
    assert len(falls) <= 1
    assert not falls or set(weights[falls[0] :]) == {0.0}
    assert not any(row["is_over"] for row in rows)
    assert _bytegolf.schedule(config, N)["is_over"]


class _Machine:
    """A clock and the times of steps, as the trainer keeps them."""

    def __init__(self, step_s):
        self.step_s, self.elapsed, self.first, self.recent = step_s, 0.0, 0.0, []

    def clock(self, n):
        mean = (self.elapsed - self.first) / (n - 1) if n > 1 else 0.0
        return self.elapsed, mean, 1.25 * max(self.recent[-16:]) + 0.02 if self.recent else 0.0

    def step(self, n):
        took = self.step_s[n % len(self.step_s)]
        self.elapsed += took
        self.recent.append(took)
        if n == 0:
            self.first = self.elapsed


@bounded
@given(
    st.lists(st.floats(0.05, 0.0595), min_size=1, max_size=20),
    st.floats(1.0, 20.0),
    st.integers(0, 60),
    st.integers(1, 100_000),
)
def test_by_the_clock_a_run_ends_within_its_budget_on_the_smallest_step_and_wastes_little(step_s, budget, W, N):
    config = Config.preset("byte260").replace(train_budget_s=budget, warmdown_iters=W, iterations=N)
    machine, n, factors = _Machine(step_s), 0, []
    while not _bytegolf.schedule(config, n, *machine.clock(n))["is_over"]:
        factors.append(_bytegolf.schedule(config, n, *machine.clock(n))["lr_factor"])
        machine.step(n)
        n += 1
    assert machine.elapsed <= budget
    assert n == N or budget - machine.elapsed < 1.25 * max(step_s) + 0.02 + 1e-9
    assert all(0 < f <= 1 for f in factors)
    if n > 2 and W:  # at most one more step would have fitted
        assert factors[-1] <= (1 + max(step_s) / min(step_s)) / W + 1e-12


@bounded
@given(st.floats(0.01, 0.5), st.integers(4, 40), st.floats(2.0, 30.0))
def test_by_the_clock_the_step_size_does_not_rise_after_falling_when_steps_take_equally_long(step_s, W, budget):
    config = Config.preset("byte260").replace(train_budget_s=budget, warmdown_iters=W, iterations=100_000)
    machine, n, factors = _Machine([step_s]), 0, []
    while not _bytegolf.schedule(config, n, *machine.clock(n))["is_over"]:
        factors.append(_bytegolf.schedule(config, n, *machine.clock(n))["lr_factor"])
        machine.step(n)
        n += 1
    after = factors[2:]  # the mean is known after two steps
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(after))


# The loader.


@st.composite
def layouts(draw):
    """T, rows, micro-batches, ranks, seed, steps, and a stream long enough."""
    T, B = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    micro, world = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    ids = draw(st.integers(T * B + 2, 400))
    return T, B, micro, world, draw(st.integers(0, 2**32)), ids


def loaders(layout, shuffle):
    """A stream, and one loader of it for each rank."""
    T, B, micro, world, seed, ids = layout
    stream = np.arange(ids) % 251 + 4
    return stream, [
        _bytegolf.Loader(
            stream.astype(np.uint16), T, T * B, micro_batches=micro, seed=seed, rank=r, world=world, shuffle=shuffle
        )
        for r in range(world)
    ]


@bounded
@given(layouts())
def test_in_shard_order_ranks_and_micro_batches_take_the_stream_in_turn_without_a_gap(layout):
    T, B, micro, world, _, ids = layout
    stream, ranks = loaders(layout, shuffle=False)
    M, piece = T * B, 0
    for step in range(3):
        for m in range(micro):
            for rank in range(world):
                x, y = ranks[rank].batch(step, m)
                want = stream[(piece * (M + 1) + np.arange(M + 1)) % ids]
                assert np.array_equal(x.reshape(-1), want[:-1])
                assert np.array_equal(y.reshape(-1), want[1:])
                piece += 1


@bounded
@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1))
def test_a_shuffled_epoch_is_every_window_once(n, seed, epoch):
    assert sorted(_bytegolf.shuffled(i, n, seed, epoch) for i in range(n)) == list(range(n))


@bounded
@given(layouts())
def test_shuffled_windows_are_disjoint_over_ranks_and_complete_over_an_epoch(layout):
    T, B, micro, world, seed, ids = layout
    # Positions are told apart by two ids in a row.
    stream = np.array([4 + (i // 250 if i % 2 else i % 250) for i in range(ids)], dtype=np.uint16)
    ranks = [
        _bytegolf.Loader(stream, T, T * B, micro_batches=micro, seed=seed, rank=r, world=world, shuffle=True)
        for r in range(world)
    ]
    windows, rows, step = (ids - 1) // T, [], 0
    while len(rows) < windows:
        for m in range(micro):
            for rank in range(world):
                x, y = ranks[rank].batch(step, m)
                rows += [(*map(int, a), int(b[-1])) for a, b in zip(x, y, strict=True)]
        step += 1
    of_phase = [
        sorted(tuple(map(int, stream[(phase + i * T + np.arange(T + 1)) % ids])) for i in range(windows))
        for phase in range(T)
    ]
    assert sorted(rows[:windows]) in of_phase


@bounded
@given(layouts(), st.booleans(), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=8))
def test_any_batch_is_the_same_whether_one_came_there_in_order_or_jumped(layout, shuffle, places):
    _, _, micro, world, _, _ = layout
    _, in_order = loaders(layout, shuffle)
    _, jumping = loaders(layout, shuffle)
    rank = len(places) % world
    expected = {(s, m): in_order[rank].batch(s, m) for s in range(7) for m in range(micro)}
    for step, m in places:
        got, want = jumping[rank].batch(step, m % micro), expected[step, m % micro]
        assert np.array_equal(got[0], want[0]) and np.array_equal(got[1], want[1])


# Sliding scores.


@pytest.fixture(scope="module")
def model():
    options = {
        "num_layers": 1, "model_dim": 8, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 2, "xsa_last_n": 0, "bigram_vocab_size": 8,
        "bigram_dim": 2, "jepa_chunk_size": 0, "seq_len": 16, "eval_stride": 16,
    }  # fmt: skip
    return Model(Config.preset("byte260", **options), dtype="float64", seed=5)


@bounded
@given(st.lists(st.integers(1, 259), min_size=2, max_size=70), st.integers(1, 16), st.data())
def test_a_sliding_score_is_the_plain_sum_over_windows(model, ids, window, data):
    stride = data.draw(st.integers(1, window))
    stream = np.array(ids, dtype=np.int32)
    got = evaluate(model, stream, window, stride)
    nats = np.full(len(ids), np.nan)
    start = 0
    while np.isnan(nats[1:]).any():  # each target in the first window that holds it
        inputs = stream[start : min(start + window, len(stream) - 1)]
        logits = np.asarray(model.logits(inputs[None]), dtype=np.float64)[0]
        for t, row in enumerate(logits):
            if np.isnan(nats[start + t + 1]):
                nats[start + t + 1] = np.logaddexp.reduce(row) - row[stream[start + t + 1]]
        start += stride
    assert got.targets == len(ids) - 1
    assert got.nll == pytest.approx(nats[1:], rel=1e-9, abs=1e-9)
    assert got.nats == pytest.approx(math.fsum(nats[1:]), rel=1e-9)
    size = sum(i >= 4 for i in ids[1:])
    assert got.bytes == size
    assert (math.isnan(got.bpb) and not size) or got.bpb == pytest.approx(got.nats / (math.log(2) * size), rel=1e-12)
