"""Pruning without training: lossless where it can be, within budget, nearer than plain removal."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model

from hfprune.core.errors import PlanError
from hfprune.families import block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.gates import Gates
from hfprune.pruning.importance import magnitude_scores
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.programme.levels import level_counts
from hfprune.pruning.reconstruction.common import Selection, token_rows
from hfprune.pruning.reconstruction.directions import fisher_directions
from hfprune.pruning.reconstruction.passes import divergence
from hfprune.pruning.reconstruction.reconstruct import Reconstruction, prune_without_training
from hfprune.pruning.reconstruction.statistics import (
    _unit_scores,
    gather,
    levels_of,
    rearranged,
    sensitivities,
)
from hfprune.pruning.reconstruction.targets import RefitTargets, refit_outputs_
from hfprune.pruning.search import global_plan, plan_cost
from hfprune.pruning.surgery import shrink_

BATCHES = [tiny_batch(16, 20, seed=seed) for seed in range(6)]


def distance(model: Any, teacher: Any, family: str = "bert") -> float:
    with torch.no_grad():
        fresh = [tiny_batch(16, 20, seed=seed, family=family) for seed in (90, 91)]
        return float(
            np.mean([(model(**b).logits - teacher(**b).logits).square().mean() for b in fresh])
        )


def linear_cost(model: Any) -> Any:
    unit = parameter_costs(model)
    return lambda key, count: unit[key] * count


def test_level_counts() -> None:
    assert level_counts(3, every=True) == (3, 2, 1, 0)
    counts = level_counts(1536, every=False)
    assert counts[:3] == (1536, 1382, 1244)
    assert counts[-2:] == (8, 0) or counts[-2] >= 8
    assert list(counts) == sorted(set(counts), reverse=True)
    assert level_counts(5, every=False) == (5, 0)


@torch.no_grad()
def test_duplicate_neurons_are_removed_without_loss() -> None:
    """Half the neurons are copies: OBS must find them and merge their output weights."""
    model = tiny_model("bert")
    for layer in model.bert.encoder.layer:
        dense = layer.intermediate.dense
        dense.weight[24:] = dense.weight[:24]
        dense.bias[24:] = dense.bias[:24]
    told: list[str] = []
    found = gather(model, BATCHES, "obs", lambda step, done, total: told.append(step))
    levels = levels_of(model, found, "obs", lambda step, done, total: told.append(step))
    assert told
    ffn = levels[BlockKey(1, "ffn")]
    half = next(i for i, count in enumerate(ffn.counts) if count <= 26)
    assert ffn.errors[half] < 1e-4 * ffn.errors[-1]
    assert ffn.errors[0] == 0
    assert len({index % 24 for index in ffn.kept[half]}) == 24, "one of each pair stays"


@pytest.mark.parametrize(
    ("problem", "labels", "draws"),
    [
        ("single_label_classification", 3, 60),
        ("single_label_classification", 2, 1),  # nothing is left to chance
        ("multi_label_classification", 3, 60),
        ("multi_label_classification", 1, 1),
        ("regression", 1, 1),
    ],
)
def test_errors_are_the_divergence_that_a_small_change_causes(
    problem: str, labels: int, draws: int
) -> None:
    """Scale one block's output a little: half the weighted error is the KL (Fisher) it causes."""
    model = tiny_model("bert", labels=labels, problem_type=problem).double()
    batch = tiny_batch(64, 12)
    view = block_views(model)[BlockKey(1, "ffn")]
    views = {view.key: view}
    total = 0.0
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        inputs, gradients = sensitivities(model, views, batch, generator)
        with torch.no_grad():
            change = 0.01 * (inputs[view.key] @ view.consumer.weight.T)
        total += float((gradients[view.key] * change).sum((1, 2)).square().sum()) / draws
    with torch.no_grad():
        before = model(**batch).logits
        view.consumer.weight.mul_(1.01)
        after = model(**batch).logits
        if problem == "regression" or labels == 1:
            divergence = 0.5 * (after - before).square().sum()
        elif problem == "multi_label_classification":
            p, q = before.sigmoid(), after.sigmoid()
            divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
        else:
            p, q = before.log_softmax(-1), after.log_softmax(-1)
            divergence = (p.exp() * (p - q)).sum()
    rel = 0.05 if draws == 1 else 0.2
    assert total / 2 == pytest.approx(float(divergence), rel=rel)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("labels", [2, 3, 7])
def test_directions_have_the_covariance_of_drawn_labels(problem: str, labels: int) -> None:
    row = torch.randn(labels, generator=torch.Generator().manual_seed(labels)).double() * 3
    logits = row.repeat(40_000, 1)
    found = fisher_directions(logits, problem, torch.Generator().manual_seed(1))
    if problem == "multi_label_classification":
        p = row.sigmoid()
        wanted = torch.diag(p * (1 - p))
    else:
        p = row.softmax(-1)
        wanted = torch.diag(p) - p[:, None] * p
        torch.testing.assert_close(found.sum(-1), torch.zeros(40_000).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.T @ found / len(found), wanted, atol=5e-3, rtol=0)
    assert torch.equal(found, fisher_directions(logits, problem, torch.Generator().manual_seed(1)))
    if labels == 2 and problem == "single_label_classification":
        assert (found.abs() - (p[0] * p[1]).sqrt()).abs().max() < 1e-12, "each row, not their mean"


def nothing(step: str, done: int, total: int) -> None:
    """No progress is shown."""


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "albert", "vit"])
def test_gradients_of_samples_are_those_of_the_gates(family: str) -> None:
    """Against autograd through the gates, along directions drawn with the same seed."""
    model = tiny_model(family)
    batch = tiny_batch(5, 9, family=family)
    found = gather(model, [batch], "fisher", nothing)
    gates = Gates(model)
    gates.set_trainable(True)
    with gates, torch.enable_grad():
        logits = model(**batch).logits
        generator = torch.Generator().manual_seed(0)
        losses = (fisher_directions(logits, None, generator) * logits).sum(-1)
        keys = list(gates.values)
        for sample, loss in enumerate(losses):
            wanted = torch.autograd.grad(
                loss, [gates.values[key] for key in keys], retain_graph=True
            )
            for key, value in zip(keys, wanted, strict=True):
                mine = found[key].gradients[0][sample]
                torch.testing.assert_close(mine, value, rtol=1e-3, atol=1e-5)


def test_the_energy_of_a_unit_is_that_of_its_output_alone() -> None:
    model = tiny_model("bert")
    batch = tiny_batch(4, 7)
    found = gather(model, [batch], "kprune", nothing)
    inputs, _ = sensitivities(model, block_views(model), batch, torch.Generator().manual_seed(0))
    real = batch["attention_mask"].bool()
    for key, unit in ((BlockKey(1, "attention"), 2), (BlockKey(0, "ffn"), 31)):
        view = block_views(model)[key]
        columns = view.columns([unit])
        alone = inputs[key][real][:, columns] @ view.weight.detach()[:, columns].T
        energy = found[key].energy
        assert energy is not None
        assert float(energy[unit]) == pytest.approx(float(alone.square().sum()), rel=1e-4)
        assert found[key].tokens == int(real.sum())


@pytest.mark.parametrize("selection", ["fisher", "kprune"])
def test_levels_keep_the_best_scores_and_mend_the_rest(selection: Selection) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        statistics = gather(model, BATCHES, selection, nothing)
        levels = levels_of(model, statistics, selection, nothing)
    scores = _unit_scores(statistics, selection)
    assert scores is not None
    assert sum(float(value.sum()) for value in scores.values()) > 0
    for key, level in levels.items():
        values = scores[key].tolist()
        for count, kept, error in zip(level.counts, level.kept, level.errors, strict=True):
            lost = [values[u] for u in range(len(values)) if u not in kept]
            assert len(kept) == count
            assert max(lost, default=0) <= min((values[u] for u in kept), default=1)
            assert error == pytest.approx(sum(lost), rel=1e-5)
    # The mended weights are those of OBS for the same units: least squares on the weighted inputs.
    key, place = BlockKey(1, "ffn"), 3
    moment = statistics[key].moment.second.numpy()
    dense = block_views(model)[key].weight.detach().double().numpy()
    kept = list(levels[key].kept[place])
    wanted = np.linalg.lstsq(moment[np.ix_(kept, kept)], moment[kept] @ dense.T, rcond=None)[0].T
    mine = levels[key].weights[place].double().numpy()

    def loss(weight: Any) -> float:
        change = -dense
        change[:, kept] += weight
        return float(np.einsum("od,de,oe->", change, moment, change))

    assert loss(wanted) <= loss(mine) <= 1.1 * loss(wanted), "but for the damping"


def test_rearranging_against_all_pairs_of_heads() -> None:
    """Brute force over the pairs of four heads, with gradients that the score alone misjudges."""
    model = tiny_model("bert")
    with torch.no_grad():
        statistics = gather(model, BATCHES, "fisher", nothing)
        levels = levels_of(model, statistics, "fisher", nothing)
    key = BlockKey(0, "attention")
    generator = torch.Generator().manual_seed(2)
    improved = found = 0
    for _ in range(20):
        gradients = torch.randn(30, 4, generator=generator)
        gradients[:, 1] = 0.3 * gradients[:, 1] - gradients[:, 3]  # these two nearly cancel
        statistics[key].gradients = [gradients[:12], gradients[12:]]
        ranked = gradients.square().sum(0).argsort(descending=True)[:2].tolist()
        plan = PruningPlan.dense(model_sizes(model)).with_block(
            key, [u in ranked for u in range(4)]
        )
        with torch.no_grad():
            after, remade = rearranged(model, plan, levels, statistics)

        def price(kept: Any, gradients: Any = gradients) -> float:
            lost = [unit for unit in range(4) if unit not in kept]
            return float(gradients[:, lost].sum(1).square().sum())

        best = min(itertools.combinations(range(4), 2), key=price)
        kept = after.kept(key)
        assert price(best) <= price(kept) <= price(ranked)
        improved += price(kept) < price(ranked)
        found += kept == best
        place = levels[key].counts.index(2)
        assert remade[key].kept[place] == kept
        assert remade[key].weights[place].shape == (32, 16)
        assert all(remade[other] is levels[other] for other in levels if other != key)
    assert improved >= 5, "else there is nothing to show"
    assert found >= 12, "swaps one at a time may stop short of the best; more often they do not"


@pytest.mark.parametrize("selection", ["fisher", "kprune"])
def test_other_selections_are_within_budget_and_better_than_magnitude(
    selection: Selection,
) -> None:
    teacher = tiny_model("bert")
    model, baseline = copy.deepcopy(teacher), copy.deepcopy(teacher)
    cost = linear_cost(teacher)
    total = sum(cost(key, view.units) for key, view in block_views(teacher).items())
    plan = prune_without_training(
        model, teacher, BATCHES, total * 0.5, cost, rounds=10, selection=selection
    )
    assert plan_cost(plan, parameter_costs(teacher)) <= total * 0.5
    assert model_sizes(model) == plan.sizes()
    dense = PruningPlan.dense(model_sizes(teacher))
    shrink_(baseline, global_plan(magnitude_scores(teacher), parameter_costs(teacher), dense, 0.5))
    assert distance(model, teacher) < 0.7 * distance(baseline, teacher)


@pytest.mark.parametrize(
    "family",
    [
        family
        if family in ("bert", "modernbert", "llama")
        else pytest.param(family, marks=pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_within_budget_and_better_than_magnitude(family: str) -> None:
    teacher = tiny_model(family)
    model, baseline = copy.deepcopy(teacher), copy.deepcopy(teacher)
    cost = linear_cost(teacher)
    total = sum(cost(key, view.units) for key, view in block_views(teacher).items())
    batches = [tiny_batch(16, 20, seed=seed, family=family) for seed in range(6)]
    plan = prune_without_training(model, teacher, batches, total * 0.5, cost, rounds=10)
    assert plan_cost(plan, parameter_costs(teacher)) <= total * 0.5
    assert model_sizes(model) == plan.sizes()
    dense = PruningPlan.dense(model_sizes(teacher))
    shrink_(baseline, global_plan(magnitude_scores(teacher), parameter_costs(teacher), dense, 0.5))
    assert distance(model, teacher, family) < 0.5 * distance(baseline, teacher, family)


def test_refit_of_an_unpruned_model_changes_nothing() -> None:
    teacher = tiny_model("bert")
    model = copy.deepcopy(teacher)
    with torch.no_grad():
        refit_outputs_(model, teacher, BATCHES, ridge=1e-9)
    assert distance(model, teacher) < 1e-8


@pytest.mark.parametrize("family", ["bert", "gpt2", "albert", "modernbert", "vit"])
def test_targets_that_are_kept_are_those_of_each_block_in_turn(family: str) -> None:
    """One pass that keeps every block's target, against a pass for each that ends there."""
    teacher = tiny_model(family)
    batches = [tiny_batch(4, 12, seed=seed, family=family) for seed in range(3)]
    with torch.no_grad():
        kept = RefitTargets(teacher.eval(), batches)
        anew = RefitTargets(teacher, batches, limit=0)
        for key in block_views(teacher):
            for index in range(3):
                assert torch.equal(kept.wanted(key, index), anew.wanted(key, index)), key
        assert kept._kept is not None
        assert anew._kept is None
        models = []
        for targets in (kept, anew, None):
            model = copy.deepcopy(teacher)
            sizes = model_sizes(model)
            kind, units = ("ffn", sizes[0][1]) if sizes[0][1] else ("attention", sizes[0][0])
            plan = PruningPlan.dense(sizes).with_block(BlockKey(0, kind), [False] * units)
            shrink_(model, plan)
            refit_outputs_(model, teacher, batches, targets=targets)
            models.append(model.state_dict())
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name
        assert torch.equal(value, models[2][name]), name


def test_refit_mends_what_was_lost_below() -> None:
    teacher = tiny_model("bert")
    model = copy.deepcopy(teacher)
    plan = PruningPlan.dense(model_sizes(model)).with_block(BlockKey(0, "ffn"), [False] * 48)
    shrink_(model, plan)
    before = distance(model, teacher)
    with torch.no_grad():
        refit_outputs_(model, teacher, BATCHES)
    assert distance(model, teacher) < 0.7 * before


def test_refit_follows_the_stream_and_not_its_norm() -> None:
    """What a pre-norm block adds goes to the stream, which its projections never see."""
    teacher = tiny_model("gpt2")
    model = copy.deepcopy(teacher)
    plan = PruningPlan.dense(model_sizes(model)).with_block(BlockKey(0, "ffn"), [False] * 48)
    shrink_(model, plan)
    before = distance(model, teacher)
    with torch.no_grad():
        refit_outputs_(model, teacher, BATCHES)
    assert distance(model, teacher) < 0.3 * before


def test_layers_that_share_a_block_do_not_all_mend_the_same_loss() -> None:
    teacher = tiny_model("albert", num_hidden_groups=1, num_hidden_layers=12)
    cost = linear_cost(teacher)
    budget = 0.5 * sum(cost(key, view.units) for key, view in block_views(teacher).items())
    found = []
    for refit in (False, True):
        model = copy.deepcopy(teacher)
        prune_without_training(model, teacher, BATCHES, budget, cost, rounds=0, refit=refit)
        found.append(distance(model, teacher))
    assert found[1] < 3 * found[0]


def test_tokens_of_each_use_are_weighted_by_the_mask() -> None:
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    rows, weight = token_rows(torch.arange(24.0).reshape(4, 3, 2), batch)
    assert rows.shape == (12, 2)
    assert weight is not None
    assert weight.tolist() == [1, 1, 0, 1, 0, 0] * 2
    # Flash attention has thrown the padding out, so nothing is left to weigh.
    assert token_rows(torch.zeros(3, 2), batch)[1] is None
    assert token_rows(torch.zeros(4, 3, 2), {"pixel_values": torch.zeros(1)})[1] is None


def test_the_model_is_left_whole_by_an_impossible_budget() -> None:
    teacher = tiny_model("bert")
    model = copy.deepcopy(teacher)
    with pytest.raises(PlanError, match="budget"):
        prune_without_training(model, teacher, BATCHES, -1.0, linear_cost(teacher), rounds=0)
    assert distance(model, teacher) == 0
    with pytest.raises(PlanError, match="needs at least one batch of inputs"):
        prune_without_training(model, teacher, [], 1.0, linear_cost(teacher))


def test_teacher_must_have_the_blocks() -> None:
    teacher = tiny_model("bert")
    model = copy.deepcopy(teacher)
    shrink_(
        teacher,
        PruningPlan.dense(model_sizes(teacher)).with_block(BlockKey(0, "ffn"), [False] * 48),
    )
    with pytest.raises(PlanError, match="the teacher has no layer 0 ffn"):
        refit_outputs_(model, teacher, BATCHES)


def test_plans_of_some_layers_use_the_whole_budget_there() -> None:
    model = tiny_model("bert", layers=4)
    cost = linear_cost(model)
    total = sum(cost(key, view.units) for key, view in block_views(model).items())
    found = Reconstruction(model, model, BATCHES[:2])
    assert found.fewer_layers() == [[0], [0, 3], [0, 1, 3]]
    plan = found.plan(0.4 * total, cost, [0, 3])
    spent = plan_cost(plan, parameter_costs(model))
    assert plan.sizes()[1:3] == ((0, 0), (0, 0))
    assert 0.3 * total < spent <= 0.4 * total
    free = found.plan(0.4 * total, cost)
    weighted = [
        sum(
            found.levels[key].errors[found.levels[key].counts.index(len(p.kept(key)))]
            for key in p.keys()
        )
        for p in (free, plan)
    ]
    assert weighted[0] <= weighted[1], "more choice is never worse"
    pruned = copy.deepcopy(model)
    found.prune_(pruned, plan)
    assert model_sizes(pruned) == plan.sizes()
    assert model_sizes(model) == ((4, 48),) * 4
    searched = found.search(0.4 * total, cost, rounds=5)
    assert plan_cost(searched, parameter_costs(model)) <= 0.4 * total
    assert set(found.weights) == set(found.levels)


def test_divergence_by_hand() -> None:
    teacher, student = torch.tensor([[0.0, 0.0]]), torch.tensor([[np.log(3.0), 0.0]])
    by_hand = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert divergence(student, teacher, None) == pytest.approx(by_hand)
    # Two labels, each a coin of its own; the second agrees.
    assert divergence(student, teacher, "multi_label_classification") == pytest.approx(by_hand)
    assert divergence(torch.tensor([[3.0]]), torch.tensor([[1.0]]), "regression") == 2
    assert divergence(torch.zeros(5, 3), torch.zeros(5, 3), None) == 0
