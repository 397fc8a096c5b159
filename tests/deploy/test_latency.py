"""Latency tables and plans under a budget."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_image_processor, tiny_model, tiny_tokenizer

from hfprune.core.errors import PlanError
from hfprune.deploy.speed.landing import land
from hfprune.deploy.speed.table import latency_table
from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
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
    assert [n for n, _ in table.last_attention] == [n for n, _ in table.attention]
    assert [n for n, _ in table.last_ffn] == [n for n, _ in table.ffn]
    assert all(done <= total for done, total in steps)


def test_plans_are_measured_until_they_land(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where blocks take half as much again as the table says."""
    from hfprune.deploy.speed import landing as landing_module

    model = tiny_model("bert", layers=2)
    table = replace(TABLE, attention=((0, 0.0), (4, 1.0)), ffn=((0, 0.0), (1, 0.1), (48, 4.8)))
    planned: list[PruningPlan] = []

    def plan_for(costs: LatencyTable) -> PruningPlan:
        neurons = 48
        while costs.speedup([(4, neurons), (0, 0)]) < 2:
            neurons -= 1
        planned.append(PruningPlan.first_units([(4, 48)] * 2, [(4, neurons), (0, 0)]))
        return planned[-1]

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

    def really(baseline: Path, candidate: Path, vocab_size: int, **shape: Any) -> float:
        return 2.0 * float((factors[-1] / 1.2) ** 2.2)

    monkeypatch.setattr(landing_module, "measured_speedup", really)
    model = tiny_model("bert", layers=2)
    landing = land(plan_for, table, 2.0, model, tmp_path / "dense.onnx", tiny_tokenizer(), None)
    assert landing.measured == pytest.approx(2.0, rel=0.03)
    assert len(factors) <= 6
