"""The teacher's outputs: computed in shares, taken up again, kept in half where they are many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from teacher_worker import made
from tiny import tiny_model

from hfprune.models.embedding import as_embedder_
from hfprune.models.layout import usual_layout
from hfprune.training.distillation import cache as caches
from hfprune.training.distillation import shards

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_every_batch_is_in_one_part(count: int) -> None:
    parts = shards.shares(count)
    assert [number for part in parts for number in part] == list(range(count))
    assert len(parts) <= shards.PARTS


def test_what_was_longest_not_used_leaves_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every teacher and every set of rows has a file: without a limit they fill the disk."""
    made(30, 0, folder=tmp_path)
    (first,) = tmp_path.iterdir()
    made(20, 0, folder=tmp_path)
    (second,) = set(tmp_path.iterdir()) - {first}
    (tmp_path / "left-part3.safetensors").write_bytes(b"x" * 200)  # of a run that never went on
    for age, file in enumerate((second, first, tmp_path / "left-part3.safetensors")):
        os.utime(file, (1000 - age, 1000 - age))
    made(30, 0, folder=tmp_path)  # uses the first one again
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(caches, "MOST_KEPT", 2 * first.stat().st_size)
    made(25, 0, folder=tmp_path)
    left = set(tmp_path.iterdir())
    assert len(left) == 2
    assert first in left
    monkeypatch.setattr(caches, "MOST_KEPT", 0)
    made(24, 0, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "what is used now stays"


def encoder(*arguments: Any, **options: Any) -> Any:
    """Of two labels by its config, and of embeddings of 32 numbers."""
    return as_embedder_(tiny_model("bert").base_model, usual_layout(".", "mean", True, 32))


@pytest.mark.parametrize("embeds", [False, True])
def test_an_interrupted_run_is_taken_up_again(
    embeds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if embeds:
        monkeypatch.setattr("teacher_worker.tiny_model", encoder)
    whole = made(30, 0).logits(torch.arange(30))
    asked: list[int] = []
    ask = caches.TeacherCache._ask

    def counting(
        self: Any, teacher: Any, dataset: Any, collate: Any, rows: Any, known: Any
    ) -> None:
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(len(rows))
        ask(self, teacher, dataset, collate, rows, known)

    monkeypatch.setattr(caches.TeacherCache, "_ask", counting)
    with pytest.raises(KeyboardInterrupt):
        made(30, 0, folder=tmp_path)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) == 5
    parts[0].write_bytes(b"damaged")
    asked.clear()
    again = made(30, 0, folder=tmp_path)
    assert len(asked) == 4, "three batches that were not begun, and the damaged one"
    assert torch.equal(again.logits(torch.arange(30)), whole)
    (kept,) = tmp_path.iterdir()
    assert "part" not in kept.name
    asked.clear()
    made(30, 0, folder=tmp_path)
    assert not asked


@pytest.mark.parametrize(
    ("factor", "dtype", "close"), [(1.0, torch.float16, 1e-3), (1e6, torch.bfloat16, 1e-2)]
)
def test_many_logits_are_kept_in_half_and_within_its_range(
    factor: float, dtype: torch.dtype, close: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def larger(*arguments: Any, **options: Any) -> Any:
        model = tiny_model(*arguments, **options)
        with torch.no_grad():
            model.classifier.weight.mul_(factor)
        return model

    monkeypatch.setattr("teacher_worker.tiny_model", larger)
    rows = torch.arange(30)
    exact = made(30, 0).logits(rows)
    assert (float(exact.abs().max()) > 65504) == (dtype == torch.bfloat16)
    monkeypatch.setattr(caches, "EXACT_BYTES", 0)
    for _ in range(2):  # computed, and read again
        half = made(30, 0, folder=tmp_path)
        found = half.logits(rows)
        assert found.dtype == torch.float32
        assert half._logits is not None
        assert half._logits.dtype == dtype
        assert bool(found.isfinite().all())
        torch.testing.assert_close(found, exact, rtol=close, atol=close * float(exact.abs().max()))


@pytest.mark.slow
def test_two_processes_have_what_one_has(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(ROOT / "tests" / "teacher_worker.py"), str(tmp_path)],
        env=environment, check=True, timeout=300,
    )  # fmt: skip
    for hidden in (0, 1, 20):
        alone = made(30, hidden)
        found = [load_file(tmp_path / f"{hidden}-{rank}.safetensors") for rank in range(2)]
        for one in found:
            assert torch.equal(one["logits"], alone.logits(torch.arange(30)))
            if hidden:
                states = torch.stack(alone.hidden_states(torch.arange(hidden), 10))
                assert torch.equal(one["states"], states)
        shares = [int(one["asked"]) for one in found]
        assert min(shares) > 0, "both asked the teacher"
