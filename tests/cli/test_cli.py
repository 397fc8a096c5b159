"""The ``hfprune`` command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import (
    random_plan,
    save_tiny_classifier,
    tiny_batch,
    tiny_model,
    tiny_tokenizer,
    write_reviews,
)
from typer.testing import CliRunner

import hfprune
from hfprune.cli import app
from hfprune.cli.app import in_words
from hfprune.cli.completion import complete_override
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.recipe.reading import load_recipe, recipe_schema

ROOT = Path(__file__).parents[2]
COMMANDS = ("quick", "prune", "export", "evaluate", "benchmark", "inspect", "push", "env")
RECIPE_COMMANDS = ("check", "schema", "new")


def call(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def test_help_and_version_load_nothing_heavy() -> None:
    program = (
        "import sys; from hfprune.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip().endswith("False")
    for name in (*COMMANDS, "recipe", "Examples:", "Exit codes: 0 done, 1 an error"):
        assert name in done.stdout
    assert call("--version").stdout.strip() == hfprune.__version__


def test_every_command_has_an_example_and_the_common_options() -> None:
    for names in [(name,) for name in COMMANDS] + [("recipe", name) for name in RECIPE_COMMANDS]:
        shown = call(*names, "--help").stdout
        assert f"  hfprune {' '.join(names)}" in shown.partition("Example")[2], names
        assert ("--json" in shown) == (names[-1] != "schema"), "which is JSON anyway"
        shows_progress = names[-1] in ("quick", "prune", "evaluate", "benchmark", "push")
        assert ("--quiet" in shown) == shows_progress, names


def test_shells_complete_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="hfprune").stdout
    assert "complete -o default -F _hfprune_completion hfprune" in script
    program = "from hfprune.cli import app; app(prog_name='hfprune')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_HFPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": "hfprune e",
             "COMP_CWORD": "1"},
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["export", "evaluate", "env"]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("pruning.sp", ["pruning.sparsity=", "pruning.speedup="]),
        ("pruning.method=", ["pruning.method=gates", "pruning.method=reconstruction"]),
        ("training.bf16=", ["training.bf16=true", "training.bf16=false", "training.bf16=auto"]),
        # Of one that is left what may follow is told too, so that no blank is put behind it.
        ("pruning.spe", ["pruning.speedup=", "pruning.speedup=null"]),
        ("pruning.lay", ["pruning.layout=", "pruning.layout=uneven", "pruning.layout=uniform"]),
        ("seed", []),
        ("rec", ["recovery.", "recovery.num_train_epochs=", ...]),
        ("output", ["output_dir="]),
        ("nothing", []),
    ],
)
def test_shells_complete_keys_of_recipes(typed: str, found: list[Any]) -> None:
    told = complete_override(typed)
    assert told[:2] == found[:2] if ... in found else told == found


@pytest.mark.parametrize(
    ("words", "at", "found"),
    [
        # As bash gives them, which parts words at a `=`.
        ("hfprune prune a.yaml pruning.layout = un", 5, ["uneven", "uniform"]),
        ("hfprune prune a.yaml pruning.layout =", 4, ["uneven", "uniform"]),
        ("hfprune recipe check a.yaml deploy.cpu = a", 6, ["avx2", "avx512", "amx", "arm64"]),
        ("hfprune prune a.yaml resume=true pruning.sp", 4,
         ["pruning.sparsity=", "pruning.speedup="]),
        ("hfprune prune a.yaml pruning.layout=un", 3,
         ["pruning.layout=uneven", "pruning.layout=uniform"]),
    ],
)  # fmt: skip
def test_shells_that_part_words_are_understood(words: str, at: int, found: list[str]) -> None:
    asked = {"_HFPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    done = CliRunner().invoke(app, [], env=asked, prog_name="hfprune")
    assert done.stdout.split() == found


def test_a_reader_that_stops_early_is_no_failure() -> None:
    """`hfprune recipe schema | head -1`: more than a pipe holds, and nobody reads it."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", '"$0" -m hfprune recipe schema | head -1', sys.executable],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("{\n", "", 0)


def test_errors_are_json_where_json_was_asked_for(tmp_path: Path) -> None:
    for words in (("inspect", tmp_path / "no"), ("recipe", "check", tmp_path / "no.yaml")):
        failed = call(*words, "--json", code=1)
        told = json.loads(failed.stdout)["error"]
        assert set(told) == {"type", "message"}
        assert failed.stderr.strip() == f"error: {told['message']}"


def test_wrong_usage_is_json_where_json_was_asked_for() -> None:
    for words, said in (
        (("quick", "--json"), "Missing argument"),
        (("recipe", "new", "a.yaml", "--json", "--sped", "6"), "--sped"),
        (("nothing", "--json"), "nothing"),
    ):
        failed = call(*words, code=2)
        assert said in json.loads(failed.stdout)["error"]["message"]
        assert "Usage: " in failed.stderr
        assert not call(*(word for word in words if word != "--json"), code=2).stdout


def test_errors_of_evaluate_name_its_own_options(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "m")
    write_reviews(tmp_path / "rows.csv", 10)
    rows = ("evaluate", tmp_path / "m", "--data", tmp_path / "rows.csv")
    column = call(*rows, "--text-column", "txt", code=1).stderr
    assert "has no column 'txt', which --text-column asks for" in column
    assert "Did you mean 'text'?" in column
    length = call(*rows, "--max-length", 500, code=1).stderr
    assert "--max-length is 500, but the model reads at most 64 tokens" in length
    assert "set --max-length to 64 or less" in length
    assert "data." not in column + length
    key = {"data.text_column": "--text-column", "data.text": "--text"}
    assert in_words("data.text_column: x, data.texts, data.text", key) == (
        "--text-column x, data.texts, --text"
    )


def test_quick_looks_writes_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hfprune.pipeline as pipeline

    monkeypatch.chdir(tmp_path)
    save_tiny_classifier("bert", tmp_path / "mine")
    write_reviews(tmp_path / "tickets.csv", 60)
    seen: list[Any] = []
    monkeypatch.setattr(pipeline, "run", lambda *args: seen.append(args) or {"format_version": 1})
    done = call("quick", "mine", "tickets.csv", "--speedup", 4)
    recipe = load_recipe("runs/tickets.yaml")
    assert seen[0][0] == recipe
    assert (recipe.pruning.speedup, recipe.output_dir) == (4, "runs/tickets")
    for said in ("texts: column 'text'", "labels: column 'label'", "2 labels: 'negative' 30",
                 "it may take", "recipe: runs/tickets.yaml"):  # fmt: skip
        assert said in done.stderr
    # The same again goes on; something else is not written over it.
    call("quick", "mine", "tickets.csv", "--speedup", 4, "--dry-run")
    other = call("quick", "mine", "tickets.csv", "--speedup", 5, code=1)
    assert "runs/tickets.yaml is there already and says something else" in other.stderr
    dry = call("quick", "mine", "tickets.csv", "--sparsity", 0.5, "--output", "o/x", "--dry-run",
               "--json")  # fmt: skip
    assert json.loads(dry.stdout) == {"file": "o/x.yaml"}
    assert load_recipe("o/x.yaml").pruning.sparsity == 0.5
    two = call("quick", "mine", "tickets.csv", "--sparsity", 0.5, "--max-drop", 0.1, code=1)
    assert "--sparsity and --max-drop are different targets" in two.stderr
    task = call("quick", "mine", "tickets.csv", "--task", "ranking", code=1)
    assert "--task is 'ranking'; expected one of single_label_classification" in task.stderr
    gone = call("quick", "mine", "tikets.csv", code=1)
    assert "there is no such file (FILE). Did you mean 'tickets.csv'?" in gone.stderr
    assert len(seen) == 1


def test_a_messy_export_of_a_spreadsheet_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Semicolons, a byte order mark, an odd header, copies, labels in capitals, an empty text."""
    monkeypatch.chdir(tmp_path)
    save_tiny_classifier("bert", tmp_path / "mine")
    write_reviews(tmp_path / "plain.csv", 60)
    rows = [line.split(",") for line in (tmp_path / "plain.csv").read_text().splitlines()[1:]]
    lines = [f'T-{n};2025-01-{n % 28 + 1:02};"{text}; please";{label};web'
             for n, (text, label) in enumerate(rows)]  # fmt: skip
    lines += [*lines[:3], 'T-x;2025-01-01;"a ""good"" film";POSITIVE;mail', "T-y;;;negative;web"]
    text = "\r\n".join(["Ticket ID;Created On;Message Body;Topic ;Channel", *lines])
    (tmp_path / "tickets.csv").write_text(text + "\r\n", encoding="utf-8-sig", newline="")
    told = call("quick", "mine", "tickets.csv", "--dry-run").stderr
    for said in (
        "cells are parted by ';'", "texts: column 'Message Body'", "labels: column 'Topic '",
        "3 labels: 'negative' 32, 'positive' 32, 'POSITIVE' 1", "differ only in case",
        "have an empty text", "it may take",
    ):  # fmt: skip
        assert told.count(said) == 1, said
    data = load_recipe("runs/tickets.yaml").data
    assert (data.text_column, data.label_column) == ("Message Body", "Topic ")
    wrong = call("recipe", "check", "runs/tickets.yaml", "data.label_column=Topic", code=1)
    assert "Did you mean 'Topic '?" in wrong.stderr


def test_errors_of_quick_name_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_classifier("bert", tmp_path / "mine")
    write_reviews(tmp_path / "a.csv", 40)
    for words, said in (
        (("--sparsity", 95), "error: --sparsity must be at least 0 and less than 1, got 95.0"),
        (("--max-drop", 2), "error: --max-drop must be at least 0 and less than 1, got 2.0"),
        (("--speedup", 0.5), "error: --speedup"),
        (("--test", "b.csv"), "there is no such file (--test). Did you mean 'a.csv'?"),
        (("--teacher", "./no"), "error: --teacher './no': there is no such folder here"),
        (("--task", "regression"), "for classes, say --task single_label_classification"),
    ):
        quick = call("quick", "mine", "a.csv", *words, "--dry-run", code=1)
        new = call("recipe", "new", "r.yaml", "--model", "mine", "--train", "a.csv", *words, code=1)
        for told in (quick.stderr, new.stderr):
            assert said in told
            (error,) = [line for line in told.splitlines() if line.startswith("error: ")]
            assert not re.search(r"(pruning|teacher|data)\.[a-z]", error)
    assert not list(tmp_path.glob("**/*.yaml"))
    gone = call("recipe", "new", "r.yaml", "--model", "./no", "--train", "a.csv", code=1)
    assert "error: the model './no': there is no such folder here" in gone.stderr


def test_a_new_recipe_is_whole_and_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "a.csv", 40)
    file = tmp_path / "reviews.yaml"
    made = call("recipe", "new", file, "--model", "some/model", "--train", "a.csv", "--speedup", 9)
    assert f"next: hfprune recipe check {file}" in made.stdout
    recipe = load_recipe(file)
    assert recipe.pruning.speedup == 9
    assert recipe.data.train_file == "a.csv"
    again = call("recipe", "new", file, "--model", "m", "--train", "a.csv", code=1)
    assert "exists; name a file that does not" in again.stderr
    other = tmp_path / "slow.yaml"
    bad = call("recipe", "new", other, "--model", "m", "--train", "a.csv", "--speedup", 0.5, code=1)
    assert "speedup" in bad.stderr
    assert not other.exists()


def test_check_prints_what_a_run_will_do(tmp_path: Path) -> None:
    recipe = ROOT / "recipes/bert-base-sst2.yaml"
    shown = call("recipe", "check", recipe, "pruning.sparsity=0.9").stdout
    assert "sparsity: 0.9" in shown
    assert "prune: 90% of the encoder's weights" in shown
    found = json.loads(call("recipe", "check", recipe, "--json").stdout)
    assert found["recipe"]["pruning"]["sparsity"] == load_recipe(recipe).pruning.sparsity
    assert found["plan"][0].startswith("data: ")
    dry = call("prune", recipe, "--dry-run", "pruning.sparsity=0.9")
    assert dry.stdout == shown
    wrong = call("recipe", "check", recipe, "pruning.sparsty=0.9", code=1)
    assert "sparsity" in wrong.stderr
    assert not wrong.stdout
    assert call("recipe", "check", code=2).exit_code == 2
    assert json.loads(call("recipe", "schema").stdout) == recipe_schema()


def test_prune_gives_the_results_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hfprune.pipeline as pipeline

    recipe = ROOT / "recipes/bert-base-sst2.yaml"
    seen: list[Any] = []
    monkeypatch.setattr(pipeline, "run", lambda *args: seen.append(args) or {"format_version": 1})
    found = call("prune", recipe, "--json", f"output_dir={tmp_path / 'out'}")
    assert json.loads(found.stdout) == {"format_version": 1}
    assert seen[0][0].output_dir == str(tmp_path / "out")

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupt)
    stopped = call("prune", recipe, code=130)
    assert "interrupted; run the same command with resume=true to go on" in stopped.stderr


def test_export_and_benchmark_of_a_saved_model(tmp_path: Path) -> None:
    model = tiny_model("bert", labels=2)
    hfprune.shrink_(model, random_plan(model, seed=3))
    model.save_pretrained(tmp_path)
    nothing = call("benchmark", tmp_path, code=1)
    assert "run `hfprune export" in nothing.stderr
    missing = call("export", tmp_path, code=1)
    assert "error: the folder" in missing.stderr
    empty = call("export", tmp_path / "empty", code=1)
    assert "empty holds no classifier" in empty.stderr
    tiny_tokenizer().save_pretrained(tmp_path)
    files = call("export", tmp_path).stdout.split()
    assert [Path(file).name for file in files] == ["model.onnx", "model_quantized.onnx"]
    batch = tiny_batch()
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    inputs = {name: value.numpy() for name, value in batch.items()}
    inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    np.testing.assert_allclose(OnnxClassifier(files[0]).logits(inputs), expected, atol=1e-4)
    shape = ("--batch-size", 2, "--length", 8, "--repeats", 2)
    rows = json.loads(call("benchmark", tmp_path, *shape, "--json").stdout)
    assert [row["model"] for row in rows] == ["float32", "int8"]
    assert rows[0]["speedup"] == 1
    assert rows[0]["bytes"] == Path(files[0]).stat().st_size
    shown = call("benchmark", tmp_path, *shape, "--baseline", files[0]).stdout
    assert " baseline " in shown
    assert shown.count("2x8") == 3


def test_files_of_other_runtimes_are_written_and_timed(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    save_tiny_classifier("bert", tmp_path, layers=1)
    unknown = call("export", tmp_path, "--runtime", "tensorrt", code=1)
    assert "tensorrt" in unknown.stderr
    assert "onnxruntime" in unknown.stderr
    itself = call("export", tmp_path, "--runtime", "torch", code=1)
    assert "error: PyTorch runs the saved model itself, and needs no other file" in itself.stderr
    assert not (tmp_path / "onnx").exists(), "refused before any work"
    files = json.loads(call("export", tmp_path, "--runtime", "openvino", "--json").stdout)
    assert files == {
        "float32": str(tmp_path / "onnx" / "model.onnx"),
        "openvino": str(tmp_path / "openvino" / "openvino_model.xml"),
    }
    shape = ("--batch-size", 1, "--length", 8, "--repeats", 2)
    rows = json.loads(call("benchmark", tmp_path, *shape, "--json").stdout)
    assert [row["model"].split()[0] for row in rows] == ["float32", "openvino"]
    weights = tmp_path / "openvino" / "openvino_model.bin"
    assert rows[1]["bytes"] > weights.stat().st_size
    chosen = json.loads(
        call("benchmark", tmp_path, "--choose", "--traffic", "single", "--json").stdout
    )
    assert list(chosen["uses"]) == ["single"]
    assert {row["path"] for row in chosen["files"]} == {
        "onnx/model.onnx", "openvino/openvino_model.xml",
    }  # fmt: skip


@pytest.mark.parametrize(("family", "limit"), [("bert", 66), ("roberta", 64)])
def test_benchmark_knows_how_long_inputs_may_be(family: str, limit: int, tmp_path: Path) -> None:
    """RoBERTa counts positions from after the padding's id: of 66 it uses 64."""
    save_tiny_classifier(family, tmp_path)
    call("export", tmp_path, "--no-quantize")
    shape = ("--batch-size", 1, "--repeats", 1, "--length")
    assert f"1x{limit}" in call("benchmark", tmp_path, *shape, limit).stdout
    for length in (limit + 1, 600):
        said = call("benchmark", tmp_path, *shape, length, code=1).stderr
        assert f"error: --length {length} is longer than the {limit} tokens that this" in said
        assert f"give {limit} or less" in said
    # Where no length is named, the usual ones as far as they go.
    usual = call("benchmark", tmp_path, "--batch-size", 1, "--repeats", 1).stdout
    assert "1x32" in usual
    assert f"1x{limit}" in usual


@pytest.mark.parametrize(
    "arguments",
    [
        ("benchmark", "x", "--batch-size", 10**30),
        ("benchmark", "x", "--length", 0),
        ("benchmark", "x", "--threads", 10**9),
        ("benchmark", "x", "--repeats", -1),
        ("evaluate", "x", "--batch-size", 10**30),
        ("evaluate", "x", "--max-length", 10**9),
        ("inspect", "x", "--sequence-length", 10**12),
        ("push", "x", "--repo-id", "a/b", "--timeout", 1e300),
    ],
    ids=lambda words: " ".join(map(str, words))[:40],
)
def test_absurd_numbers_are_wrong_usage(arguments: tuple[Any, ...]) -> None:
    assert "Invalid value" in call(*arguments, code=2).stderr


def test_recipe_check_knows_trackers(tmp_path: Path) -> None:
    recipe = ROOT / "recipes/bert-base-sst2.yaml"
    unknown = call("recipe", "check", recipe, "training.report_to=[foo]", code=1)
    assert "names 'foo', which is no tracker of transformers' Trainer" in unknown.stderr
    absent = call("recipe", "check", recipe, "training.report_to=[neptune]", code=1)
    assert "pip install neptune, or take neptune out of the list" in absent.stderr
    dry = call("prune", recipe, "--dry-run", "training.report_to=[foo]", code=1)
    assert dry.stderr == unknown.stderr
    assert not dry.stdout


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    said = call("benchmark", tmp_path, code=1).stderr
    assert "ONNX Runtime cannot load" in said
    assert "export the model anew" in said


def test_the_process_ends_although_a_request_was_given_up(tmp_path: Path) -> None:
    """A thread that hangs would hold up Python's end; the exit code is the command's."""
    program = (
        "import sys, threading, time\n"
        "from hfprune.core.waiting import within\n"
        "def hang():\n"
        "    threading.Thread(target=time.sleep, args=(3600,)).start()\n"
        "    time.sleep(3600)\n"
        "try: within(0.2, hang)\n"
        "except TimeoutError: pass\n"
        "import hfprune.cli\n"
        f"sys.argv = ['hfprune', 'report', {str(tmp_path)!r}]\n"
        "hfprune.cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds no metrics.json" in done.stderr


def test_export_of_a_dense_model_elsewhere(tmp_path: Path) -> None:
    save_tiny_classifier("distilbert", tmp_path / "model")
    out = tmp_path / "out"
    files = call("export", tmp_path / "model", "--output", out, "--no-quantize").stdout.split()
    assert files == [str(out / "model.onnx")]


def test_inspect_is_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_classifier("bert", tmp_path)
    found = json.loads(call("inspect", tmp_path, "--json", "--sequence-length", 10).stdout)
    assert found == {**hfprune.inspect(tmp_path, sequence_length=10).to_dict()}
    shown = call("inspect", tmp_path).stdout
    assert "can be pruned" in shown
    monkeypatch.setenv("COLUMNS", "20")
    assert call("inspect", tmp_path).stdout == shown, "what is no terminal has no columns"
    assert "holds no model" in call("inspect", tmp_path / "nothing", code=1).stderr


def test_evaluate_of_a_model_without_a_recipe(tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path)
    write_reviews(tmp_path / "rows.csv", 30)
    nothing = call("evaluate", tmp_path, code=1)
    assert "holds no recipe.yaml that would name its test rows; name files" in nothing.stderr
    file = ("--data", tmp_path / "rows.csv")
    unknown = call("evaluate", tmp_path, *file, code=1)
    told = "the label 'positive' is unknown; the labels of the model (or of --label-name) are"
    assert told in unknown.stderr
    names = ("--label-name", "negative", "--label-name", "positive")
    found = json.loads(call("evaluate", tmp_path, *file, *names, "--json").stdout)
    assert found["rows"] == ["rows.csv"]
    assert list(found["models"]) == ["PyTorch"]
    shown = call("evaluate", tmp_path, *file, *names, "--quiet").stdout
    accuracy = found["models"]["PyTorch"]["metrics"]["accuracy"]
    assert f"{accuracy:.4f} (" in shown
    assert "30 rows of rows.csv, 95% intervals" in shown


def test_errors_of_the_hub_are_one_line(tmp_path: Path) -> None:
    failed = call("push", tmp_path, "--repo-id", "user/name", code=1)
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.output
