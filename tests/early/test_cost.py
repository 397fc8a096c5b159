"""What a run may take in all, from sizes alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from hfprune.early.cost import PROCESS, Sizes, cost_of, disk, stage_memory
from hfprune.early.duration import (
    JUDGED,
    USUAL,
    Rates,
    Work,
    planned_stages,
    stage_seconds,
    work_of,
)
from hfprune.pruning.reconstruction.memory import JUDGED_ROWS, JUDGED_TOKENS
from hfprune.recipe.sections.whole import Recipe

BASE = Sizes(20_000, 128.0, 128, 12, 768, 3072, 30_522, 2, training_rows=18_000, cache=0.0)
WORK = Work(
    rows=3200, test_rows=2114, tokens=27.0, weights=10_616_832, cores=2, teacher_epochs=2,
    recovery_epochs=3, trial_epochs=1, augmentation=0, fine_tunes=True, keep=0.35, searches=False,
    times_blocks=True, layers=6, width=384,
)  # fmt: skip


def recipe(tmp_path: Path, **sections: Any) -> Recipe:
    return Recipe(**{
        "model": {"name_or_path": str(tmp_path / "model")},
        "data": {"train_file": str(tmp_path / "rows.csv"), "max_length": 32},
        "pruning": {"speedup": 4, "method": "reconstruction"},
        "recovery": {"num_train_epochs": 2},
        "output_dir": str(tmp_path / "out"),
        **sections,
    })  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    tiny_model("bert", labels=2).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    lines = [f"a b c {row},{'no' if row % 2 else 'yes'}" for row in range(300)]
    (tmp_path / "rows.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return tmp_path


def test_memory_of_training_by_hand() -> None:
    # BERT-base: 85 M weights in blocks, 24 M in embeddings and head; a batch of 32 x 128 tokens.
    weights = 12 * 12 * 768**2 + 768 * (30_522 + 2 + 768)
    batch = 32 * 128 * 12 * 768 * 68
    rows = 20_000 * (40 + 10 * 128)
    assert stage_memory(BASE)["teacher"] == PROCESS + rows + 16 * weights + batch


def test_what_is_held_besides_the_model_keeps_to_the_budget() -> None:
    """However wide and long: moments, levels, targets and a scoring batch each have a limit."""
    for sizes in (BASE, replace(BASE, longest=8192, tokens=4000.0), replace(BASE, layers=48)):
        held = stage_memory(sizes)["reconstruct"] - 3 * 4 * sizes.weights - PROCESS
        rows = sizes.rows * (40 + 10 * sizes.tokens)
        # A scoring batch, levels of earlier blocks, and moments, which are doubled afterwards.
        assert held - rows <= 2.5 * sizes.memory * (1 + 1e-9)


def test_a_search_is_costed_by_the_rows_that_it_judges_by() -> None:
    """Long texts are fewer: it was taken for 256 rows of any length, and a hundred rounds."""
    assert JUDGED == (JUDGED_ROWS, JUDGED_TOKENS)

    def seconds(work: Work) -> float:
        return stage_seconds(work)["reconstruct"]

    for tokens, judged in ((32.0, 256), (128.0, 256), (512.0, 64), (8192.0, 4), (65_536.0, 1)):
        work = replace(WORK, tokens=tokens)
        round_of = (seconds(replace(work, search_rounds=90)) - seconds(work)) / 30
        forward = judged * tokens * work.per_token * work.keep / (2 * USUAL.flops)
        assert round_of == pytest.approx(forward), tokens


def test_little_memory_is_paid_in_passes() -> None:
    """Second moments that find no room at once take passes over the rows of their own."""
    work = replace(WORK, layers=12, width=768, weights=85_000_000)
    usual, little, least = (
        stage_seconds(replace(work, memory=memory))["reconstruct"] for memory in (2e9, 1e9, 0.5e9)
    )
    assert little - usual == pytest.approx((least - little) / 2)
    once = 6 * 1024 * work.tokens * work.per_token / (2 * USUAL.flops)
    assert little - usual == pytest.approx(once)


def test_a_recipe_says_what_a_reconstruction_looks_at(files: Path) -> None:
    given = {
        "speedup": 4, "method": "reconstruction",
        "search_rounds": 7, "scoring_samples": 50, "memory_gb": 0.5,
    }  # fmt: skip
    known = {"rows": 3200, "test_rows": 10, "tokens": 9.0, "weights": None, "cores": 1}
    work = work_of(recipe(files, pruning=given), **known)
    assert (work.search_rounds, work.scored, work.memory) == (7, 50, 5e8)
    # Scores that compare all blocks hold the moments of all, whatever the limit.
    work = work_of(recipe(files, pruning={**given, "selection": "fisher"}), **known)
    assert work.memory == float("inf")


def test_memory_of_a_reconstruction_by_hand() -> None:
    rest = BASE.rows * (40 + 10 * BASE.tokens) + PROCESS + 12 * BASE.weights

    def held(**other: Any) -> float:
        return stage_memory(replace(BASE, **other))["reconstruct"] - rest

    block = 16 * (3072**2 + 768**2)
    levels = 12 * 4 * 768 * 3840 * 7
    # Targets of 1,024 rows of 128 tokens are beyond 2 GB: then what enters a layer of both models.
    assert held() == levels + max(12 * block, 2e9)
    # Fewer rows: reading them takes more than fitting to all targets; of short ones it does not.
    tokens = 192 * 128
    assert held(scored=192) == 6 * block + 2e9
    targets = 8 * tokens * 768 * 12
    assert held(scored=192, longest=16) == levels + max(12 * block, targets + 4 * tokens * 768)
    # Very many: what enters a layer fills the budget, once for each model.
    assert held(scored=2**20) == levels + 4e9
    # A wider model: levels of earlier blocks lie beside a scoring batch and half of the moments.
    wide = {"layers": 24, "width": 1024, "inner": 4096}
    block = 16 * (4096**2 + 1024**2)
    weights = replace(BASE, **wide).weights
    beside = 12 * (weights - BASE.weights)
    assert held(**wide) - beside == pytest.approx(2e9 * (1 - 2e9 / (24 * block)) + 1e9 + 2e9)
    # Scores that compare all blocks hold the moments of all.
    assert held(**wide, in_groups=False) - beside == 2e9 + 12 * block + block


def test_no_stage_grows_faster_than_the_rows() -> None:
    for name, seconds in stage_seconds(WORK).items():
        more = stage_seconds(replace(WORK, rows=32_000, test_rows=21_140))[name]
        assert seconds <= more <= 10 * seconds, name
    more_rows = stage_memory(replace(BASE, rows=200_000, training_rows=180_000))
    assert all(more_rows[name] <= 10 * held for name, held in stage_memory(BASE).items())
    assert disk(replace(BASE, rows=10**6)) < disk(BASE) + 10**6 * (400 + 1280)


def test_long_rows_cost_more_than_their_tokens() -> None:
    """Attention: twice the length, more than twice the time; a model without sizes: just twice."""
    teacher = [stage_seconds(replace(WORK, tokens=n))["teacher"] for n in (4096.0, 8192.0)]
    assert teacher[1] > 2.4 * teacher[0]
    plain = [stage_seconds(replace(WORK, tokens=n, layers=0))["teacher"] for n in (4096.0, 8192.0)]
    assert plain[1] == pytest.approx(2 * plain[0])


def test_a_faster_machine_takes_less() -> None:
    fast = Rates(flops=2 * USUAL.flops, moments=2 * USUAL.moments)
    assert stage_seconds(WORK, fast)["teacher"] == stage_seconds(WORK)["teacher"] / 2
    assert stage_seconds(WORK, fast)["reconstruct"] < stage_seconds(WORK)["reconstruct"]


def test_the_demonstration_is_predicted_within_a_half() -> None:
    """Measured alone on two cores: 606 s from the teacher to the benchmark."""
    made = Recipe(
        model={"name_or_path": "m"}, data={"train_file": "a.csv"}, pruning={"sparsity": 0.85},
        teacher={"num_train_epochs": 2}, training={"num_train_epochs": 2},
        recovery={"num_train_epochs": 3}, deploy={"seconds": 40}, output_dir="x",
    )  # fmt: skip
    work = work_of(
        made, rows=3200, test_rows=2114, tokens=27.0, weights=10_616_832, cores=2, layers=6,
        width=384,
    )  # fmt: skip
    whole = sum(seconds for _, seconds in planned_stages(made, work))
    assert 606 / 1.5 < whole < 606 * 1.5


def test_a_recipe_is_costed_from_its_files(files: Path) -> None:
    cost = cost_of(recipe(files), cores=2)
    assert cost is not None
    names = [name for name, _, _ in cost.stages]
    assert names[:2] == ["data", "teacher"]
    assert "latency 4x" not in names
    assert "latency" in names
    assert cost.seconds[0] < cost.seconds[1]
    assert PROCESS < cost.memory < 2 * PROCESS, "a tiny model"
    # Texts of long rows in a larger batch take more to train on.
    more = cost_of(recipe(files, training={"per_device_train_batch_size": 4096}), cores=2)
    assert more is not None
    assert more.memory > cost.memory


def test_an_encoder_is_not_trained_before_it_is_pruned(files: Path) -> None:
    """It embeds all texts, forward once; told as hours of training, a run told a minute left."""
    tiny_model("bert").base_model.save_pretrained(files / "model")
    made = recipe(files, task="sentence_embedding", evaluation={"metrics": ["mean_cosine"]})
    cost = cost_of(made, cores=2)
    assert cost is not None
    seconds = {name: taken for name, taken, _ in cost.stages}
    assert list(seconds)[:3] == ["data", "embeddings", "teacher"]
    assert seconds["teacher"] == 1.0
    work = work_of(made, rows=3000, test_rows=1000, tokens=30.0, weights=10_000_000, cores=2)
    # 2 operations a weight and token of 4,000 rows, at 55 GFLOP a second and core
    assert stage_seconds(work)["embeddings"] == pytest.approx(2 * 4000 * 30 * 1e7 / 110e9)
    training = stage_memory(replace(BASE, fine_tunes=False))
    assert training["teacher"] < stage_memory(BASE)["teacher"] / 2
    again = work_of(recipe(files), rows=3000, test_rows=1000, tokens=30.0, weights=1, cores=2)
    assert stage_seconds(again)["embeddings"] == 0.0


def test_what_is_not_known_beforehand_is_not_guessed(files: Path) -> None:
    assert cost_of(recipe(files, data={"name": "some/data"})) is None
    assert cost_of(recipe(files, model={"name_or_path": "nobody/knows-this"})) is None
    (files / "rows.csv").unlink()
    assert cost_of(recipe(files)) is None


def test_a_dry_run_tells_it(files: Path) -> None:
    from hfprune.cli import app

    keys = ["model", "data", "pruning", "recovery", "output_dir"]
    values = recipe(files).model_dump(mode="json", include=set(keys), exclude_unset=True)
    (files / "r.yaml").write_text(json.dumps(values))
    said = CliRunner().invoke(app, ["prune", str(files / "r.yaml"), "--dry-run"])
    assert said.exit_code == 0, said.output
    assert "GB of memory" in said.output
    assert "GB of disk (a guess from sizes)." in said.output
    told = CliRunner().invoke(app, ["prune", str(files / "r.yaml"), "--dry-run", "--json"])
    cost = json.loads(told.output)["cost"]
    assert cost["memory_bytes"] > 0
    assert cost["stages"][0]["stage"] == "data"
