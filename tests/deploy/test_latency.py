"""Latency tables and plans under a budget."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_image_processor, tiny_model, tiny_tokenizer
from transformers import BertForTokenClassification, BertModel

from hfprune.core.errors import PlanError
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.speed import landing as landing_module
from hfprune.deploy.speed.landing import Approach, land, misses, next_attempt
from hfprune.deploy.speed.table import _head, _key, _rising, latency_table
from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.models.embedding import as_embedder_
from hfprune.models.layout import LaterModule, SentenceLayout
from hfprune.pruning.cost import LatencyTable
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.search import budget_plan
from hfprune.recipe.sections.export import QuantizationConfig

TABLE = LatencyTable(
    batch_size=1,
    sequence_length=16,
    threads=1,
    baseline_ms=10.0,
    fixed_ms=1.0,
    attention=((0, 0.0), (1, 0.5), (2, 0.6), (4, 1.0)),
    ffn=((0, 0.0), (10, 0.2), (20, 0.3)),
)


def test_times_by_hand() -> None:
    assert TABLE.block_ms("attention", 0) == 0
    assert TABLE.block_ms("attention", 3) == pytest.approx(0.8)
    assert TABLE.block_ms("ffn", 2) == pytest.approx(0.2)  # below the smallest measured
    assert TABLE.total_ms([(1, 0), (0, 15)]) == pytest.approx(1.0 + 0.5 + 0.25)
    assert TABLE.speedup([(0, 0)]) == pytest.approx(10)
    assert TABLE.budget_ms(4) == pytest.approx(1.5)
    with pytest.raises(PlanError, match="at most 10.0 times is possible; lower pruning.speedup"):
        TABLE.budget_ms(12)
    with pytest.raises(PlanError, match="blocks of up to 4 units, not 5; measure it anew"):
        TABLE.block_ms("attention", 5)


def test_the_last_layer_has_prices_of_its_own() -> None:
    table = replace(TABLE, last_attention=((0, 0.0), (4, 0.4)), last_ffn=((0, 0.0), (20, 0.1)))
    assert table.total_ms([(4, 20), (4, 20)]) == pytest.approx(1.0 + 1.3 + 0.5)
    assert table.total_ms([(4, 20), (0, 0)]) == pytest.approx(1.0 + 0.5), "the first is the last"
    assert table.scaled(2).total_ms([(0, 0), (0, 20)]) == pytest.approx(2.2)
    price = table.price([(4, 20), (4, 20), (0, 0)])
    assert price(BlockKey(0, "ffn"), 20) == pytest.approx(0.3)
    assert price(BlockKey(1, "ffn"), 20) == pytest.approx(0.1)
    assert LatencyTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_json_round_trip() -> None:
    assert LatencyTable.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE
    with pytest.raises(PlanError, match="unknown format_version 7"):
        LatencyTable.from_dict({**TABLE.to_dict(), "format_version": 7})
    with pytest.raises(PlanError, match="not a latency table"):
        LatencyTable.from_dict({"format_version": 2})


@pytest.mark.parametrize("seed", range(5))
def test_budget_plan_is_the_best_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 4), (2, 5)]
    dense = PruningPlan.dense(sizes)
    scores = {key: torch.rand(len(dense.mask(key)), generator=generator) for key in dense.keys()}

    def cost(key: BlockKey, count: int) -> float:
        return 0.0 if count == 0 else (0.7 + 0.3 * count if key.kind == "attention" else 0.4)

    budget = 2.3
    plan = budget_plan(scores, cost, dense, budget)

    def lost(counts: tuple[int, ...]) -> float:
        return sum(
            float(scores[key].sort().values[: len(scores[key]) - count].sum())
            for key, count in zip(scores, counts, strict=True)
        )

    best = min(
        lost(counts)
        for counts in itertools.product(*(range(len(scores[key]) + 1) for key in scores))
        if sum(cost(key, n) for key, n in zip(scores, counts, strict=True)) <= budget
    )
    assert lost(tuple(len(plan.kept(key)) for key in scores)) == pytest.approx(best)
    for key in scores:  # the best units of each block stay
        kept = sorted(scores[key][list(plan.kept(key))].tolist())
        assert kept == sorted(scores[key].tolist())[len(scores[key]) - len(kept) :]


@pytest.mark.slow
def test_images_are_measured_too(tmp_path: Path) -> None:
    table = latency_table(
        tiny_model("vit", layers=2),
        tiny_image_processor(),
        QuantizationConfig(),
        batch_size=2,
        sequence_length=12,  # pixels, which say nothing here
        threads=1,
        cache=tmp_path,
    )
    assert [n for n, _ in table.attention] == [0, 1, 2, 3, 4]
    assert 0 < table.fixed_ms < table.baseline_ms


def test_measured_and_cached(tmp_path: Path) -> None:
    model = tiny_model("bert", layers=2)
    settings: dict[str, Any] = {"batch_size": 1, "sequence_length": 8, "threads": 1}
    steps: list[str] = []
    table = latency_table(
        model,
        tiny_tokenizer(),
        QuantizationConfig(),
        cache=tmp_path,
        progress=lambda step, done, total: steps.append(step),
        **settings,
    )
    assert [n for n, _ in table.attention] == [0, 1, 2, 3, 4]
    assert table.ffn[-1][0] == 48
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(table.ffn))
    assert 0 < table.fixed_ms < table.baseline_ms
    assert set(steps) == {"exports", "timing"}
    again = latency_table(
        tiny_model("bert", layers=2, seed=9),
        tiny_tokenizer(),
        QuantizationConfig(),
        cache=tmp_path,
        progress=lambda *args: pytest.fail("measured again"),
        **settings,
    )
    assert again == table


@pytest.mark.slow
def test_lean_graphs_are_measured_with_and_without_layers_before(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    table = latency_table(
        tiny_model("bert", layers=2),
        tiny_tokenizer(),
        QuantizationConfig(graph="lean"),
        batch_size=8,
        sequence_length=32,
        threads=1,
        cache=tmp_path,
        progress=lambda step, done, total: steps.append((done, total)),
    )
    assert table.last_attention is not None
    assert table.last_ffn is not None
    # The last layer hardly grows: three sizes tell.
    assert [n for n, _ in table.last_attention] == [0, 1, 3, 4]
    assert [n for n, _ in table.last_ffn] == [0, 9, 21, 48]
    assert [n for n, _ in table.ffn] == [0, 9, 14, 21, 32, 48]
    assert table.error > 0
    assert all(done <= total for done, total in steps)


def plans_of_twice_the_speed() -> tuple[list[PruningPlan], Callable[[LatencyTable], PruningPlan]]:
    """What plans for a speed of two by one layer's neurons, and where its plans are kept."""
    planned: list[PruningPlan] = []

    def plan_for(costs: LatencyTable) -> PruningPlan:
        neurons = 48
        while costs.speedup([(4, neurons), (0, 0)]) < 2:
            neurons -= 1
        planned.append(PruningPlan.first_units([(4, 48)] * 2, [(4, neurons), (0, 0)]))
        return planned[-1]

    return planned, plan_for


def test_plans_are_measured_until_they_land(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where blocks take half as much again as the table says."""
    from hfprune.deploy.speed import landing as landing_module

    model = tiny_model("bert", layers=2)
    table = replace(TABLE, attention=((0, 0.0), (4, 1.0)), ffn=((0, 0.0), (1, 0.1), (48, 4.8)))
    planned, plan_for = plans_of_twice_the_speed()

    def really(baseline: Path, candidate: Path, vocab_size: int, **shape: Any) -> float:
        assert candidate.is_file()
        assert shape["batch_size"] == 1
        return 10.0 / (table.total_ms(planned[-1].sizes()) * 1.2)

    monkeypatch.setattr(landing_module, "measured_speedup", really)
    landing = land(plan_for, table, 2.0, model, tmp_path / "dense.onnx", tiny_tokenizer(), None)
    assert landing.measured == pytest.approx(2.0, rel=0.03)
    assert landing.plan == planned[-1]
    assert 2 <= len(planned) <= 4, "the first plan was a fifth too slow"
    assert landing.predicted == pytest.approx(landing.measured, rel=0.05)
    assert model_sizes(model) == ((4, 48),) * 2
    with pytest.raises(PlanError, match="attempts is 0; expected at least one"):
        land(plan_for, table, 2.0, model, tmp_path, tiny_tokenizer(), None, attempts=0)


def test_landing_does_not_swing_around_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where speeds answer to a correction by more than its square, corrections alone diverge."""
    from hfprune.deploy.speed import landing as landing_module

    table = replace(TABLE, attention=((0, 0.0), (4, 1.0)), ffn=((0, 0.0), (1, 0.1), (48, 4.8)))
    factors: list[float] = []

    def plan_for(costs: LatencyTable) -> PruningPlan:
        factors.append(costs.fixed_ms / table.fixed_ms)
        neurons = 48
        while costs.speedup([(4, neurons), (0, 0)]) < 2:
            neurons -= 1
        return PruningPlan.first_units([(4, 48)] * 2, [(4, neurons), (0, 0)])

    held: list[int] = []

    def really(baseline: Path, candidate: Path, vocab_size: int, **shape: Any) -> float:
        held.append(len(list(candidate.parent.parent.iterdir())))
        return 2.0 * float((factors[-1] / 1.2) ** 2.2)

    monkeypatch.setattr(landing_module, "measured_speedup", really)
    model = tiny_model("bert", layers=2)
    landing = land(plan_for, table, 2.0, model, tmp_path / "dense.onnx", tiny_tokenizer(), None)
    assert landing.measured == pytest.approx(2.0, rel=0.03)
    assert 3 <= len(factors) <= 6
    assert max(held) == 2, "files of the nearest plan and of one other: a landing has up to 18"


# -- landing, decided ----------------------------------------------------------------------------


def approach(factor: float, slow: float = 0.0, fast: float = math.inf, **rest: Any) -> Approach:
    return Approach(factor, slow, fast, **rest)


@pytest.mark.parametrize(
    ("before", "predicted", "measured", "factor", "bounds", "arrived"),
    [
        # As predicted: the same factor, and it has arrived.
        (approach(1.0), 10.0, 10.0, 1.0, (0.0, 1.0), True),
        (approach(1.0), 10.0, 9.75, 10 / 9.75, (1.0, math.inf), True),
        # A fifth too slow: times are a quarter more than the table says.
        (approach(1.0), 10.0, 8.0, 1.25, (1.0, math.inf), False),
        # Too fast.
        (approach(1.0), 10.0, 12.5, 0.8, (0.0, 1.0), False),
        # Too slow by as much as the other was too fast: the middle, in logarithms.
        (approach(1.0, fast=1.44, fast_at=2.0), 10.0, 5.0, 1.2, (1.0, 1.44), False),
        # Twice as near to the one as to the other.
        (approach(1.0, fast=8.0, fast_at=4.0), 10.0, 5.0, 2.0, (1.0, 8.0), False),
        # Never quite at a bound, which is known to be wrong.
        (approach(1.0, fast=1.44, fast_at=99.0), 10.0, 9.6, 1.44**0.1, (1.0, 1.44), False),
        # The same factor was called too slow and too fast: that is noise.
        (approach(1.1, slow=1.1, slow_at=0.9), 10.0, 11.0, 1.1, (1.1, 1.1), False),
        # A factor below one that was too slow tells nothing new of that bound.
        (approach(0.9, slow=1.1, slow_at=0.9), 10.0, 8.0, 1.125, (1.1, math.inf), False),
    ],
)
def test_the_next_attempt_of_a_landing(
    before: Approach,
    predicted: float,
    measured: float,
    factor: float,
    bounds: tuple[float, float],
    arrived: bool,
) -> None:
    found = next_attempt(before, predicted, measured, 10.0)
    assert found.factor == pytest.approx(factor)
    assert (found.slow, found.fast) == bounds
    assert found.arrived == arrived


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_landing_on_what_is_no_speed(wrong: float) -> None:
    with pytest.raises(PlanError, match="speed-ups must be numbers above 0; got 10.0 predicted"):
        next_attempt(Approach(), 10.0, wrong, 10.0)
    assert misses(10.0, wrong), "what is no number misses too"


@pytest.mark.parametrize("power", [0.5, 1.0, 1.8])
@pytest.mark.parametrize("off", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_landings_arrive_however_speeds_answer(power: float, off: float, noise: float) -> None:
    """Prediction is the target; the true speed is (factor / off) ** power of it, and noise."""
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(50):
        state, speeds = Approach(), list[float]()
        for _ in range(6):
            true = 10.0 * (state.factor / off) ** power
            speeds.append(true)
            state = next_attempt(state, 10.0, true * (1 + noise * rng.normal()), 10.0)
            if state.arrived:
                break
        missed += misses(10.0, min(speeds, key=lambda speed: abs(speed - 10.0)))
    assert missed == 0


def test_a_lucky_measurement_is_landed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy spell makes the first plan look right; measured once more it is a fifth too slow."""
    model = tiny_model("bert", layers=2)
    table = replace(TABLE, attention=((0, 0.0), (4, 1.0)), ffn=((0, 0.0), (1, 0.1), (48, 4.8)))
    planned, plan_for = plans_of_twice_the_speed()
    calls: list[float] = []

    def really(baseline: Path, candidate: Path, config: Any, **shape: Any) -> float:
        calls.append(10.0 / (table.total_ms(planned[-1].sizes()) * 1.2))
        return calls[-1] * (1.2 if len(calls) == 1 else 1.0)

    monkeypatch.setattr(landing_module, "measured_speedup", really)
    landing = land(plan_for, table, 2.0, model, tmp_path / "dense.onnx", tiny_tokenizer(), None)
    assert not misses(2.0, landing.measured)
    assert landing.measured == pytest.approx(2.0, rel=0.05)
    assert len({plan.sizes() for plan in planned}) > 1, "it landed again, on another plan"

    def never(baseline: Path, candidate: Path, config: Any, **shape: Any) -> float:
        calls.append(1.0)
        return 1.0

    monkeypatch.setattr(landing_module, "measured_speedup", never)
    calls.clear()
    out_of_reach = land(
        lambda costs: (costs.budget_ms(2.0), plan_for(table))[1],
        replace(table, fixed_ms=4.9), 2.0, model, tmp_path, tiny_tokenizer(), None, attempts=1,
    )  # fmt: skip
    assert out_of_reach.measured == 1.0, "the nearest that there was, told as it is"
    assert len(calls) == 2, "the correction put the target out of reach, so it was over"


def test_times_that_fall_with_size_are_averaged_not_run_up() -> None:
    """One outlier upward: the running maximum would have taken it for all larger blocks."""
    found = dict(_rising([(1, 1.0), (2, 5.0), (3, 2.0), (4, 2.0), (5, 4.0)]))
    assert found[0] == 0.0
    assert [found[n] for n in (1, 2, 3, 4, 5)] == pytest.approx([1.0, 3.0, 3.0, 3.0, 4.0])
    assert dict(_rising([(1, -0.5), (2, 1.0)])) == {0: 0.0, 1: 0.0, 2: 1.0}


def test_probes_have_the_operator_set_of_the_recipe(tmp_path: Path) -> None:
    import onnx

    def opset_of(file: Path) -> int:
        (found,) = {e.version for e in onnx.load(str(file)).opset_import if not e.domain}
        return int(found)

    model, tokenizer = tiny_model("bert", layers=1), tiny_tokenizer()
    other = opset_of(export_onnx(model, tokenizer, tmp_path / "usual")) + 1
    file = landing_module.deployed(model, tokenizer, None, tmp_path / "probe", opset=other)
    assert opset_of(file) == other
    keys = {_key(model.config, None, 1, 8, 1, opset, _head(model)) for opset in (None, other)}
    assert len(keys) == 2, "a table of another operator set is another table"


def test_a_plan_that_is_tried_gives_its_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eighteen exports of BERT-base held 16 GB: their graphs wait for Python's collector."""
    given: list[bool] = []
    monkeypatch.setattr(landing_module, "release_memory", lambda: given.append(True))
    model, tokenizer = tiny_model("bert", layers=2), tiny_tokenizer()
    landing_module.deployed(model, tokenizer, None, tmp_path / "float32")
    landing_module.deployed(model, tokenizer, QuantizationConfig(), tmp_path / "int8")
    assert given == [True, True]


def test_a_table_is_of_what_follows_the_encoder_too() -> None:
    """A head of many labels, or a Dense layer, takes time that no block can give back."""

    def key(model: Any) -> str:
        return _key(model.config, None, 1, 8, 1, None, _head(model))

    two, many = (tiny_model("bert", labels=labels) for labels in (2, 500))
    words = BertForTokenClassification(two.config)
    normalize = LaterModule("Normalize", Path(), {})
    layouts = [
        SentenceLayout(Path(), pooling, {}, later, {}, ())
        for pooling, later in (
            ("mean_tokens", ()), ("cls_token", ()), ("mean_tokens", (normalize,)),
        )
    ]  # fmt: skip
    pooled = [as_embedder_(BertModel(two.config), layout) for layout in layouts]
    assert len({key(model) for model in (two, many, words, *pooled)}) == 6
    named = tiny_model("bert", labels=2)
    named.config.id2label = {0: "no", 1: "yes"}
    assert key(named) == key(two)
