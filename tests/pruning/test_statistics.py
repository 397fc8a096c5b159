"""Which tokens second moments are of, and in which unit blocks' errors are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_model

from hfprune.families import block_views
from hfprune.families.blocks import BlockKey
from hfprune.pruning.reconstruction.common import silent
from hfprune.pruning.reconstruction.passes import captured
from hfprune.pruning.reconstruction.statistics import (
    gather,
    levels_of,
    sensitivities,
)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    found = dict(tiny_batch(6, 9))
    found["attention_mask"] = torch.ones_like(found["input_ids"])
    found["attention_mask"][0, 5:] = 0
    found["attention_mask"][3, 2:] = 0
    return found


def test_tokens_count_alike_but_those_that_nothing_depends_on(
    batch: dict[str, torch.Tensor],
) -> None:
    model = tiny_model("bert", labels=2)
    views = block_views(model)
    with torch.no_grad():
        found = gather(model, [batch], "obs", silent, products="float64")
        with captured({key: view.consumer for key, view in views.items()}) as inputs:
            model(**batch)
    real = batch["attention_mask"].bool()
    first = torch.zeros_like(real)
    first[:, 0] = True  # the classifier reads the first token of the last layer, and no other
    for key, view in views.items():
        last = key.layer == 2
        x = inputs[key][first if last else real].double()
        torch.testing.assert_close(found[key].moment.second, x.T @ x, rtol=1e-5, atol=1e-6)
        assert found[key].moment.count == (6 if last else int(real.sum()))
        assert view.weight.shape[1] == x.shape[1]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_how_rows_are_cut_into_batches_changes_nothing(
    batch: dict[str, torch.Tensor], size: int
) -> None:
    model = tiny_model("bert", labels=2)
    parts = [{name: rows[n : n + size] for name, rows in batch.items()} for n in range(0, 6, size)]
    with torch.no_grad():
        whole, cut = (
            gather(model, some, "obs", silent, products="float64") for some in ([batch], parts)
        )
    for key, known in whole.items():
        torch.testing.assert_close(
            cut[key].moment.second, known.moment.second, rtol=1e-5, atol=1e-6
        )
        # Of two labels the sign of a direction is drawn, which its square does not show.
        assert cut[key].sensitivity == pytest.approx(known.sensitivity, rel=1e-4)


def test_errors_are_what_the_divergence_grows_by(batch: dict[str, torch.Tensor]) -> None:
    model = tiny_model("bert", labels=2)
    with torch.no_grad():
        known = gather(model, [batch], "obs", silent, products="float64")
        levels = levels_of(model, known, "obs", silent)
    key = BlockKey(1, "ffn")
    view, place = block_views(model)[key], len(levels[key].counts) // 2
    with torch.no_grad(), captured({key: view.consumer}) as inputs:
        model(**batch)
    x = inputs[key][batch["attention_mask"].bool()].double()
    kept = list(levels[key].kept[place])
    small = torch.zeros_like(view.weight, dtype=torch.float64)
    small[:, kept] = levels[key].weights[place].double()
    change = ((small - view.weight.double()) @ x.T).square().sum()
    generator = torch.Generator().manual_seed(0)
    _, gradients = sensitivities(model, {key: view}, batch, generator)
    squares = float(gradients[key][batch["attention_mask"].bool()].double().square().sum())
    wanted = float(change) * squares / len(x)
    assert levels[key].errors[place] == pytest.approx(wanted, rel=0.02)
    assert np.all(np.diff(levels[key].errors) >= 0)
