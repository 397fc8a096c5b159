"""A cascade: the threshold by hand, the record, and a family that is measured and asked."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_tiny_classifier, write_reviews
from typer.testing import CliRunner

import hfprune.cli
from hfprune.cli import limits
from hfprune.core.errors import DataError, OutputError
from hfprune.core.results import RunResults
from hfprune.deploy.predict import cascading, serving
from hfprune.deploy.predict.cascade import (
    MAX_DROP,
    Cascade,
    Measured,
    check_alike,
    choose_threshold,
    mixed,
    read_cascade,
    write_cascade,
)
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import CascadePredictor, opened
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.whole import Recipe
from tests.first_results import first_format

LABELS = np.array([0, 0, 1, 1])
# The fast model is wrong about the two rows that it is least sure of.
FAST = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.45, 0.55], [0.35, 0.65]]))
FAST[2] = FAST[2][::-1]
SLOW = np.log(np.array([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]]))


def accuracy(logits: Any) -> float:
    return float((logits.argmax(1) == LABELS).mean())


@pytest.mark.parametrize(
    ("wanted", "threshold", "share", "metric"),
    [
        (0.5, 0.0, 0.0, 0.5),  # the fast one alone
        (0.75, 0.6, 0.25, 0.75),
        (1.0, 0.65, 0.5, 1.0),
    ],
)
def test_the_least_time_that_is_good_enough(
    wanted: float, threshold: float, share: float, metric: float
) -> None:
    found = choose_threshold(FAST, SLOW, accuracy, wanted, 1.0, 4.0)
    assert found is not None
    assert found.threshold == pytest.approx(threshold)
    assert (found.slow_share, found.metric) == (share, metric)
    assert found.mean_ms == pytest.approx(1.0 + 4.0 * share)


def test_no_threshold_is_good_enough_or_saves_time() -> None:
    assert choose_threshold(FAST, SLOW, accuracy, 1.1, 1.0, 4.0) is None
    assert choose_threshold(FAST, SLOW, accuracy, 1.0, 3.0, 4.0) is None  # 3 + 4 / 2 > 4
    less = choose_threshold(
        FAST, SLOW, lambda x: 1 - accuracy(x), 0.25, 1.0, 4.0, greater_is_better=False
    )
    assert less is not None
    assert less.slow_share == 0.25
    with pytest.raises(DataError, match="both must be of the same rows"):
        choose_threshold(FAST, SLOW[:2], accuracy, 1.0, 1.0, 4.0)


def test_the_command_allows_what_the_function_allows() -> None:
    defaults = inspect.signature(cascading.make_cascade).parameters
    assert limits.CASCADE_DROP == MAX_DROP == defaults["max_drop"].default


def test_mixed_logits() -> None:
    logits, asked = mixed(FAST, SLOW, 0.62)
    assert asked.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(logits[asked], SLOW[asked])
    np.testing.assert_array_equal(logits[~asked], FAST[~asked])


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models as a run of a family leaves them, as far as a cascade looks."""
    place = tmp_path_factory.mktemp("runs") / "family"
    rows = place.parent / "rows.csv"
    write_reviews(rows, 80)
    values = first_format()
    kept = values.pop("pruning")
    values["family"] = {"2x": kept, "6x": kept}
    for label, layers in (("2x", 3), ("6x", 1)):
        save_tiny_classifier("bert", place / label, layers=layers)
        recipe = Recipe(
            model={"name_or_path": "org/base"}, data={"train_file": str(rows), "max_length": 32},
            pruning={"speedup": [2.0, 6.0]}, output_dir=str(place),
        )  # fmt: skip
        (place / label / "recipe.yaml").write_text(dump_recipe(recipe))
        (place / label / "metrics.json").write_text("{}")
    (place / "metrics.json").write_text(json.dumps(values))
    return place


def test_a_cascade_answers_with_the_files_that_it_was_chosen_with(
    family: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold is of one file's probabilities: not of another's, which is faster in batches."""
    one = Measured(metric=1, interval=(1, 1), mean_ms=1, p95_ms=1, slow_share=0)
    record = Cascade(
        fast="6x", slow="2x", threshold=0.5, metric="accuracy", wanted=1, reached=1, rows=6,
        measured={"fast": one, "slow": one, "cascade": one},
    )  # fmt: skip
    asked: list[Any] = []

    class Opened:
        file, task, labels = None, "single_label_classification", ("bad", "good")

        def __init__(self, folder: Path, **options: Any) -> None:
            asked.append(options["use"])

    monkeypatch.setattr(serving, "Predictor", Opened)
    write_cascade(record, family)
    opened(family, batch_size=32)
    assert asked == ["single", "single"]
    (family / "cascade.json").unlink()


def times(sessions: Any, rows: Any, collator: Any) -> Any:
    return [np.full(len(rows), 1.0), np.linspace(3.0, 5.0, len(rows))]


def test_a_family_is_asked_as_a_cascade(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascading, "_times", times)
    monkeypatch.setattr(  # random models: half of the texts to each
        cascading,
        "choose_threshold",
        lambda fast, slow, *rest, **more: cascading_point(fast),
    )
    arguments = ["cascade", str(family), "--max-drop", "0.5", "--json", "--quiet"]
    result = CliRunner().invoke(hfprune.cli.app, arguments)
    assert result.exit_code == 0, result.output
    found = read_cascade(family)
    assert (found.fast, found.slow) == ("6x", "2x")
    assert json.loads(result.stdout) == found.model_dump(mode="json")
    assert found.measured["fast"].mean_ms == 1.0
    assert found.measured["slow"].p95_ms == pytest.approx(4.9)
    both = found.measured["cascade"]
    assert 1.0 < both.mean_ms < 6.0
    assert 0.0 < both.slow_share < 1.0
    texts = [f"good film {n} bad plot {'very ' * n}" for n in range(12)]
    ask = opened(family, batch_size=5)
    assert isinstance(ask, CascadePredictor)
    told = list(ask([Row(text) for text in texts]))
    assert [row["text"] for row in told] == texts
    for row in told:
        (alone,) = ask.fast([Row(row["text"])])
        sure = alone["score"] >= found.threshold
        assert row["by"] == ("fast" if sure else "slow")
        (wanted,) = (ask.fast if sure else ask.slow)([Row(row["text"])])
        assert row["scores"] == pytest.approx(wanted["scores"], abs=1e-5)
    shown = CliRunner().invoke(hfprune.cli.app, ["predict", str(family), "good film"])
    assert shown.exit_code == 0, shown.output


def cascading_point(fast: Any) -> Any:
    from hfprune.deploy.predict.answers import softmax
    from hfprune.deploy.predict.cascade import Point

    return Point(float(np.median(softmax(fast).max(1))), 0.5, 0.5, 3.0)


def test_a_wanted_metric_in_place_of_a_drop(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascading, "_times", times)
    wanted: list[float] = []

    def chosen(fast: Any, slow: Any, metric: Any, least: float, *rest: Any, **more: Any) -> None:
        wanted.append(least)

    monkeypatch.setattr(cascading, "choose_threshold", chosen)
    with pytest.raises(
        OutputError, match=r"no threshold keeps accuracy at 0.1250 on the validatio"
    ):
        cascading.make_cascade(family, at_least=0.125)
    assert wanted == [0.125]


def test_the_dense_model_beside_a_cascade() -> None:
    """Worked by hand: 4.5x of the slow member, and the cascade takes 1.5 of its 3 ms."""
    values = first_format()
    values["family"] = {"2x": values.pop("pruning")}
    for name in ("int8", "ONNX", "PyTorch"):
        models = values["evaluation"]["models"]
        models[f"2x {name}"] = models.pop(f"pruned {name}")
    results = RunResults.model_validate(values)
    measured = {
        name: Measured(metric=0.8, interval=(0.7, 0.9), mean_ms=ms, p95_ms=ms, slow_share=0.1)
        for name, ms in (("fast", 1.0), ("slow", 3.0), ("cascade", 1.5))
    }
    assert cascading.beside_dense(results, "2x", "accuracy", measured) is None  # no speed is told
    uses = {"single": {"speedup": [4.5, 4.0, 5.0]}}
    chosen = results.model_copy(update={"deployment": {"2x": {"uses": uses}}})
    found = cascading.beside_dense(chosen, "2x", "accuracy", measured)
    assert found is not None
    assert (found.metric, found.interval) == (0.875, (0.8125, 0.9375))
    assert found.speedup == {"fast": 13.5, "slow": 4.5, "cascade": 9.0}
    results.benchmark.rows[:] = [
        row.model_copy(update={"name": row.name.replace("pruned", "2x")})
        for row in results.benchmark.rows
    ]
    found = cascading.beside_dense(results, "2x", "accuracy", measured)
    assert found is not None
    assert found.speedup["slow"] == 6.0  # of int8 at batch 1
    assert cascading.beside_dense(results, "2x", "auroc", measured) is None


def test_what_makes_no_cascade(family: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="must hold a family with two members"):
        cascading.make_cascade(family, fast="2x", slow="2x")
    (tmp_path / "metrics.json").write_text(json.dumps(first_format()))
    with pytest.raises(OutputError, match="got one model"):
        cascading.make_cascade(tmp_path)
    (tmp_path / "cascade.json").write_text('{"fast": 1}')
    with pytest.raises(OutputError, match="is no record of a cascade"):
        read_cascade(tmp_path)
    one = Measured(metric=1, interval=(1, 1), mean_ms=1, p95_ms=1, slow_share=0)
    record = Cascade(
        fast="../x", slow="y", threshold=0.5, metric="accuracy", wanted=1, reached=1, rows=1,
        measured={"fast": one},
    )  # fmt: skip
    write_cascade(record, tmp_path)
    with pytest.raises(OutputError, match=r"names the model '../x', and there is no such folder"):
        read_cascade(tmp_path)


@pytest.mark.parametrize(("fast", "slow"), [("..", "2x"), ("6x", "..")])
def test_no_member_lies_outside(family: Path, fast: str, slow: str) -> None:
    record = of_members(fast, slow)
    write_cascade(record, family)
    with pytest.raises(OutputError, match=r"names the model '\.\.', and there is no such folder"):
        read_cascade(family)
    (family / "cascade.json").unlink()


def of_members(fast: str, slow: str) -> Cascade:
    one = Measured(metric=1, interval=(1, 1), mean_ms=1, p95_ms=1, slow_share=0)
    return Cascade(
        fast=fast, slow=slow, threshold=0.5, metric="accuracy", wanted=1, reached=1, rows=1,
        measured={"fast": one},
    )  # fmt: skip


def test_members_that_do_not_answer_alike(family: Path, tmp_path: Path) -> None:
    """A member that was trained anew, of other labels or another task, gives no answer to take."""
    place = tmp_path / "family"
    shutil.copytree(family, place)
    write_cascade(of_members("6x", "6x"), place)
    with pytest.raises(OutputError, match="names '6x' as the fast and as the slow model"):
        opened(place)
    write_cascade(of_members("6x", "2x"), place)
    opened(place)
    config = json.loads((place / "2x" / "config.json").read_text())
    config["id2label"] = {"0": "good", "1": "bad"}
    (place / "2x" / "config.json").write_text(json.dumps(config))
    with pytest.raises(OutputError, match="must give the same labels, one a row .*'good', 'bad'"):
        opened(place)
    with pytest.raises(OutputError, match="one a row .*, got regression"):
        check_alike(place, [("regression", [])] * 2)


def test_times_are_of_one_text(family: Path) -> None:
    from hfprune.data.collate import data_collator

    class Slow:
        def logits(self, batch: Any) -> Any:
            assert len(batch["input_ids"]) == 1
            return np.zeros((1, 2))

    from tiny import tiny_tokenizer

    collator = data_collator(tiny_tokenizer())
    rows = [{"input_ids": [5] * n, "attention_mask": [1] * n, "labels": 0} for n in (3, 9)]
    sessions: Any = [Slow(), Slow()]
    first, second = cascading._times(sessions, rows, collator)
    assert first.shape == second.shape == (2,)
    assert (first > 0).all()
