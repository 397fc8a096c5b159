"""What a run came to, in sentences: tables of made-up results, and the text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from first_results import first_format
from rich.console import Console as RichConsole

from hfprune.core.results import ModelQuality, RunResults
from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.report import console as console_module
from hfprune.report.console import Console
from hfprune.report.overall import Overall, about
from hfprune.report.verdict import cost_in_words, next_commands, verdict, wanted_speed


def results(**ms: float) -> RunResults:
    """The first format, with the milliseconds of some models at the first shape."""
    values = first_format()
    base = ms.get("dense_ONNX", 49.0)
    for row in values["benchmark"]["rows"]:
        key = row["name"].replace(" ", "_")
        if key in ms:
            row["median_ms"] = ms[key]
            row["speedup"] = base / ms[key]
            row["speedup_interval"] = [row["speedup"] * 0.95, row["speedup"] * 1.05]
    for entry in values["evaluation"]["models"].values():
        entry["difference"] = [-0.01, -0.03, 0.01]
    return RunResults.model_validate(values)


SPEEDS = {"dense_ONNX": 48.0, "dense_int8": 20.0, "pruned_ONNX": 16.0, "pruned_int8": 8.0}


@pytest.mark.parametrize(
    ("asked", "said", "kept"),
    [
        ({"speedup": 6}, "Asked for 6x, and it is 6.0x (5.7 to 6.3) as fast as the dense", True),
        ({"speedup": 6.1}, "Asked for 6.1x, and it is 6.0x", True),
        (
            {"speedup": 8},
            "Asked for 8x, but it is only 6.0x (5.7 to 6.3) as fast as the dense float32 model, at "
            "one input of 32 tokens and 2 threads: 25% short.",
            False,
        ),
        ({"sparsity": 0.85}, "Asked to remove 85% of the encoder's weights, and 85.0% are gone",
         True),
        ({"sparsity": 0.9}, "but only 85.0% are gone", False),
        ({"max_metric_drop": 0.01}, "Asked to lose at most 0.01 on the validation rows; the "
                                    "fastest model within that is 6.0x", True),
        ({"keep_layers": [0, 2]}, "Layers 0, 2 were kept; it is 6.0x", True),
        (None, "It is 6.0x (5.7 to 6.3) as fast as the dense float32 model", True),
    ],
)  # fmt: skip
def test_reached_against_asked(asked: dict[str, Any] | None, said: str, kept: bool) -> None:
    wanted = None if asked is None else PruningConfig(**asked)
    found = verdict(results(**SPEEDS), "pruned", wanted)
    assert said in found.reached
    assert found.kept == kept


@pytest.mark.parametrize(
    ("ms", "form", "said"),
    [
        ({}, "int8", "Deploy onnx/model_quantized.onnx"),
        ({"pruned_int8": 8.0, "pruned_ONNX": 16.0}, "int8", "the fastest: 6.0x, 3.0x as ONNX."),
        # The row above is faster: that is the file to deploy, and not int8 by habit.
        (
            {"pruned_int8": 9.0, "pruned_ONNX": 8.0},
            "ONNX",
            "Deploy onnx/model.onnx (70.0 MB), the",
        ),
        (
            {"pruned_int8": 8.1, "pruned_ONNX": 8.0},
            "int8",
            "as fast as the others and smaller: 8.1 ms, 8 ms",
        ),
    ],
)
def test_the_file_to_deploy_is_the_fastest(ms: dict[str, float], form: str, said: str) -> None:
    found = results(**(SPEEDS | ms))
    told = verdict(found, "pruned", None)
    assert told.ref.form == form
    assert found.served("pruned") == told.ref
    assert said in told.deploy


def test_it_is_said_where_the_dense_model_is_as_fast() -> None:
    slow = verdict(results(**(SPEEDS | {"dense_int8": 8.1})), "pruned", None)
    assert slow.slower == (
        "It is no faster than the dense model was for one input of 32 tokens (dense int8 is 5.9x) "
        "and 8 inputs of 128 tokens (dense int8 is 5.9x)."
    )
    assert verdict(results(**SPEEDS), "pruned", None).slower is None


def test_a_dense_model_that_learned_nothing_is_told() -> None:
    """Of a model at chance nothing can be lost: `it costs nothing` alone would be no news."""
    found = results(**SPEEDS)
    scores = {"classes": [{"label": "yes", "support": 70}, {"label": "no", "support": 10}]}
    values = found.to_json()
    for entry in values["evaluation"]["models"].values():
        entry["by_class"] = scores
    told = verdict(RunResults.model_validate(values), "pruned", None)
    assert told.hollow is not None, "0.875 is the share of the most frequent class"
    assert told.hollow.startswith("But the dense model is no better than always saying 'yes'")
    assert told.hollow in told.text()
    assert not told.kept
    scores["classes"][1]["support"] = 11
    learned = verdict(RunResults.model_validate(values), "pruned", None)
    assert (learned.hollow, learned.kept) == (None, True)
    assert verdict(found, "pruned", None).hollow is None, "of old results nothing is known"


def quality(value: float, difference: Any = None, metric: str = "accuracy") -> ModelQuality:
    return ModelQuality(metrics={metric: value}, interval=(0, 1), difference=difference)


@pytest.mark.parametrize(
    ("difference", "metric", "said", "lost"),
    [
        (None, "accuracy", "What it costs: accuracy 0.9000 before, 0.8900 after", False),
        ((0, 0, 0), "accuracy", "It costs nothing that the test shows", False),
        ((-0.01, -0.02, -0.001), "accuracy", "(95% interval 0.10 points to 2.00 points).", True),
        ((0.01, 0.002, 0.02), "accuracy", "(95% interval 0.20 points to 2.00 points).", False),
        ((0.1, 0.05, 0.2), "mse", "(95% interval 0.05 to 0.2).", True),
        ((-0.01, -0.02, -0.001), "accuracy", "It costs 1.00 points: accuracy 0.9000 before", True),
        ((0.01, 0.002, 0.02), "accuracy", "It costs nothing; it is better by 1.00 points", False),
        (
            (-0.01, -0.02, 0.001),
            "accuracy",
            "The difference of -1.00 points can be chance: accuracy 0.9000 before, 0.8900 after, "
            "on 2,000 test rows (95% interval -2.00 points to +0.10 points); a loss of 2.00 points "
            "is not ruled out.",
            False,
        ),
        # Of an error more is worse.
        ((0.1, 0.05, 0.2), "mse", "It costs 0.1: mse", True),
        ((-0.1, -0.2, -0.05), "mse", "better by 0.1", False),
        ((0.1, -0.05, 0.2), "mse", "can be chance", False),
    ],
)
def test_the_cost_says_what_is_chance(difference: Any, metric: str, said: str, lost: bool) -> None:
    after = quality(0.89, difference, metric)
    text, is_lost = cost_in_words(quality(0.9, metric=metric), after, metric, 2000, 0.95)
    assert said in text
    assert is_lost == lost


def test_a_family_is_asked_for_several_speeds() -> None:
    asked = PruningConfig(speedup=[4, 8.5])
    assert [wanted_speed(label, asked) for label in ("4x", "8.5x", "pruned")] == [4, 8.5, None]
    assert wanted_speed("pruned", PruningConfig(speedup=[4])) == 4
    assert wanted_speed("pruned", PruningConfig(sparsity=0.5)) is None


def test_the_next_commands_have_the_paths_of_the_run() -> None:
    assert next_commands("runs/my tickets", [], "single_label_classification") == [
        "hfprune predict 'runs/my tickets' \"a text of yours\"",
        "hfprune report 'runs/my tickets'",
        "hfprune push 'runs/my tickets' --repo-id USER/my-tickets",
    ]
    assert next_commands("runs/a", ["4x", "8x"], "image_classification") == [
        "hfprune predict runs/a/8x photo.jpg",
        "hfprune report runs/a",
        "hfprune push runs/a/8x --repo-id USER/a",
    ]
    assert '"Ada Lovelace' in next_commands("runs/a", [], "token_classification")[0]
    ranks = next_commands("runs/a", [], "reranking")[0]
    assert ranks == 'hfprune predict runs/a "a query of yours" --pair "a text that may answer it"'


@pytest.mark.parametrize("task", ["single_label_classification", "regression"])
def test_a_model_of_two_texts_is_asked_about_two(task: str) -> None:
    (told, *_) = next_commands("runs/a", [], task, pairs=True)
    assert told == 'hfprune predict runs/a "a text of yours" --pair "its second text"'
    assert next_commands("runs/a", [], "reranking", pairs=True) == next_commands(
        "runs/a", [], "reranking"
    )


def test_the_end_of_a_run_in_a_log_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console = Console()
    console.note("a line " * 30)
    console.verdict(results(**SPEEDS), PruningConfig(speedup=6), "runs/x")
    said = capsys.readouterr()
    assert ("a line " * 30).strip() in said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("Asked for 6x, and it is 6.0x")
    assert len(lines[0]) > 200
    assert lines[1:] == [
        "next:",
        '  hfprune predict runs/x "a text of yours"',
        "  hfprune report runs/x",
        "  hfprune push runs/x --repo-id USER/x",
    ]
    Console(quiet=True).verdict(results(**SPEEDS), None, "runs/x")
    assert not capsys.readouterr().out


# -- how far a run is ---------------------------------------------------------------------------

PLAN = [("data", 5.0), ("teacher", 100.0), ("trial", 40.0), ("recover", 60.0), ("export", 100.0)]


def test_what_is_left_follows_the_pace_so_far() -> None:
    run = Overall(PLAN)
    assert run.begin("data") == 1
    assert run.left(1.0, None) is None, "nothing tells yet"
    run.end("data", 2.0)
    assert run.begin("precision") is None, "not planned"
    assert run.begin("teacher") == 2
    assert run.left(1.0, 50.0) is None, "two seconds tell nothing"
    run.end("teacher", 200.0)
    assert run.begin("trial whole") == 3
    pace = 202 / 105
    assert run.left(0.0, None) == pytest.approx(pace * 200)
    assert run.left(10.0, 7.0) == pytest.approx(7 + pace * 160), "by the stage's own pace"
    run.end("trial whole", 30.0)
    assert run.begin("trial fewer layers") == 3
    # The entry's time goes on from where its first stage left it, and is never less than none.
    assert run.left(20.0, None) == pytest.approx(pace * 40 - 50 + pace * 160)
    assert run.left(500.0, None) == pytest.approx(pace * 160)


def test_tiny_stages_do_not_make_hours_of_those_to_come() -> None:
    run = Overall([("data", 0.001), ("teacher", 0.002), ("export", 7.0), ("write", 0.0)])
    run.begin("data")
    run.end("data", 1.0)
    run.begin("teacher")
    run.end("teacher", 9.0)
    run.begin("export")
    assert run.left(0.0, None) == pytest.approx(2.5 * (7 + 2)), "ten seconds where four are usual"


def test_stages_of_an_earlier_run_took_no_time_of_this_one() -> None:
    run = Overall(PLAN)
    assert run.begin("recover") == 4
    run.end("recover", 30.0)
    assert run.begin("export") == 5
    assert run.left(0.0, None) == pytest.approx(50.0)


def test_times_left_are_as_rough_as_they_are_known() -> None:
    shown = [about(seconds) for seconds in (5, 200, 1200, 5500)]
    assert shown == ["about a minute", "about 3 minutes", "about 20 minutes", "about 1.5 hours"]


def test_stages_say_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(console_module, "time", clock)
    written = io.StringIO()
    shown = Console()
    shown._rich = RichConsole(file=written, width=60, highlight=False)
    shown.plan(PLAN)
    with shown.stage("teacher"):
        clock.now += 300
    with shown.stage("recover"), shown.progress("recover") as move:
        clock.now += 60
        move(1, 3)
    assert [line.strip() for line in written.getvalue().splitlines()] == [
        "== teacher (stage 2 of 5)",
        "teacher: 300 s",
        "== recover (stage 4 of 5, about 8 minutes left in all)",
        "recover: 33% (1 of 3), 1:00, 2:00 left; about 7 minutes left in all",
        "recover: 60 s",
    ]


def test_work_that_goes_on_after_its_count_is_not_said_to_be_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the count is a budget of time: on a busy machine lines of 100% followed each other."""
    monkeypatch.setattr(console_module, "SECONDS_BETWEEN_LINES", -1.0)
    console = Console()
    with console.stage("deploy"), console.progress("files") as move:
        for done, what in ((500, "dynamic"), (1000, "racing: single"), (1000, "once more")):
            console.now(what)
            move(done, 1000)
    lines = [line for line in capsys.readouterr().err.splitlines() if "now" in line]
    assert lines[0].startswith("  deploy: 50% (500 of 1000), 0:00")
    assert lines[0].endswith("; now dynamic")
    assert lines[1:] == ["  deploy: 0:00; now racing: single", "  deploy: 0:00; now once more"]
    console.now("nothing")  # between stages
