"""Code that comes with a model: at no door is it run, and at no door is anybody asked.

transformers asks on the terminal where ``trust_remote_code`` is not said, and ``yes |`` answers.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import save_tiny_classifier, tiny_model, write_reviews
from typer.testing import CliRunner

import hfprune
from hfprune.cli import app
from hfprune.core.errors import HFPruneError
from hfprune.deploy.evaluation import evaluate
from hfprune.models.loading import load_processor
from hfprune.models.saved import load_saved, load_saved_classifier
from hfprune.pipeline import run
from hfprune.recipe.reading import load_recipe
from hfprune.report.console import Console

ROOT = Path(__file__).parents[2]
CODE = """
from pathlib import Path
Path({marker!r}).write_text("run")
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class OwnConfig(BertConfig):
    model_type = {kind!r}
class Own(BertForSequenceClassification):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
MAP = {
    "AutoConfig": "own.OwnConfig",
    "AutoModel": "own.Own",
    "AutoModelForSequenceClassification": "own.Own",
}


def hostile(folder: Path, kind: str, what: str) -> Path:
    """A model with code in it.

    Args:
        kind: its model type; of ``bert`` transformers has a class of its own, too.
        what: ``model`` or ``tokenizer``: whose config names the code.
    """
    model = folder / "model"
    save_tiny_classifier("bert", model)
    marker = str(folder / "marker")
    (model / "own.py").write_text(CODE.format(marker=marker, kind=kind))
    name, changes = "config.json", {"model_type": kind, "auto_map": MAP}
    if what == "tokenizer":
        name = "tokenizer_config.json"
        own = ["own.OwnTokenizer", "own.OwnTokenizer"]
        changes = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": own}}
    path = model / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    layout = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    (model / "modules.json").write_text(json.dumps(layout))
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (model / "onnx").mkdir()
    (model / "onnx" / "model.onnx").write_text("x")
    (model / "onnx" / "config.json").write_text((model / "config.json").read_text())
    write_reviews(folder / "rows.csv", 40)
    return model


def recipe_of(folder: Path, task: str = "single_label_classification", **model: Any) -> Any:
    values = {
        "task": task,
        "model": {"name_or_path": str(folder), **model},
        "data": {"train_file": str(folder.parent / "rows.csv"), "max_length": 16},
        "training": {"max_steps": 1, "eval_strategy": "no", "save_strategy": "no",
                     "load_best_model_at_end": False},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(folder.parent / "out"),
    }  # fmt: skip
    if task == "reranking":
        lines = (folder.parent / "rows.csv").read_text().splitlines()[1:]
        rows = [f"film {number // 4},{line.rpartition(',')[0]},{number % 4 // 3}"
                for number, line in enumerate(lines)]  # fmt: skip
        (folder.parent / "rows.csv").write_text("\n".join(["query,text,label", *rows]))
    (folder.parent / "recipe.yaml").write_text(yaml.safe_dump(values))
    return load_recipe(folder.parent / "recipe.yaml")


def command(*words: str) -> Callable[[Path], Any]:
    def call(model: Path) -> Any:
        arguments = [word.replace("MODEL", str(model)) for word in words]
        result = CliRunner().invoke(app, arguments, input="y\n" * 100)
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code

    return call


def teacher_of_a_trainer(model: Path) -> Any:
    from transformers import TrainingArguments

    arguments = TrainingArguments(str(model.parent / "t"), use_cpu=True, report_to=[])
    return hfprune.HFPruneTrainer(tiny_model("bert", labels=2), arguments, teacher=str(model))


def as_theirs(model: Path) -> Any:
    """With a class that must never be reached, as it would load the folder by itself."""
    return hfprune.load_as(lambda *args, **kwargs: pytest.fail("was reached"), model)


DOORS: dict[str, Callable[[Path], Any]] = {
    "from_pretrained": lambda model: hfprune.from_pretrained(model),
    "inspect": lambda model: hfprune.inspect(model),
    "load_saved": lambda model: load_saved(str(model)),
    "load_saved_classifier": lambda model: load_saved_classifier(str(model)),
    "load_embedder": lambda model: hfprune.load_embedder(str(model)),
    "load_encoder": lambda model: hfprune.load_encoder(model),
    "load_as": as_theirs,
    "evaluate": lambda model: evaluate(model, [model.parent / "rows.csv"]),
    "load_processor": lambda model: load_processor(
        str(model), "single_label_classification", revision=None, trust_remote_code=False, key="k"
    ),
    "run": lambda model: run(recipe_of(model), Console(quiet=True)),
    "run of a reranker": lambda model: run(recipe_of(model, "reranking"), Console(quiet=True)),
    "run of an encoder": lambda model: run(
        recipe_of(model, "sentence_embedding"), Console(quiet=True)
    ),
    "trainer's teacher": teacher_of_a_trainer,
    "hfprune inspect": command("inspect", "MODEL"),
    "hfprune evaluate": command("evaluate", "MODEL", "--data", "MODEL/../rows.csv"),
    "hfprune export": command("export", "MODEL"),
    "hfprune benchmark": command("benchmark", "MODEL", "--repeats", "1"),
    "hfprune quick": command(
        "quick", "MODEL", "MODEL/../rows.csv", "--output", "MODEL/../quick", "--sparsity", "0.5"
    ),
    "hfprune push": command("push", "MODEL", "--repo-id", "user/name"),
    "hfprune report": command("report", "MODEL"),
}


@pytest.fixture
def answered_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``yes | ...``: whoever asks, is told so."""
    monkeypatch.setattr("builtins.input", lambda *text: "y")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 1000))


@pytest.mark.parametrize("what", ["model", "tokenizer"])
@pytest.mark.parametrize("kind", ["own", "bert"], ids=["unknown type", "known type"])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.usefixtures("answered_yes")
def test_no_door_runs_code_of_a_model(door: str, kind: str, what: str, tmp_path: Path) -> None:
    model = hostile(tmp_path, kind, what)
    with contextlib.suppress(HFPruneError, ValueError):  # refused, or never looked at
        DOORS[door](model)
    assert not (tmp_path / "marker").exists(), "the model's code was run"


@pytest.mark.usefixtures("answered_yes")
def test_the_code_would_run(tmp_path: Path) -> None:
    """What the test above would see: the code does run where the caller says so."""
    from transformers import AutoConfig

    AutoConfig.from_pretrained(hostile(tmp_path, "own", "model"), trust_remote_code=True)
    assert (tmp_path / "marker").exists()


def test_every_call_says_whether_code_may_run() -> None:
    """Left out, ``trust_remote_code`` means: ask. So it is said wherever something is loaded."""
    loaders = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "loader", "kind")
    found = 0
    for place in ("hfprune", "scripts"):
        for file in (ROOT / place).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                if node.func.attr not in ("from_pretrained", "from_config"):
                    continue
                owner = ast.unparse(node.func.value)
                if not owner.startswith(loaders) and "auto_class" not in owner:
                    continue
                found += 1
                said = {keyword.arg for keyword in node.keywords}
                assert {"trust_remote_code", None} & said, f"{file}:{node.lineno}"
    assert found >= 10


def test_pickles_are_not_read() -> None:
    """Neither by the library itself nor by an option of it."""
    for file in (ROOT / "hfprune").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("torch.load", "pickle.load", "pickle.loads", "eval", "exec")
                assert "allow_pickle" not in {keyword.arg for keyword in node.keywords}
