"""What is pruned as a sentence encoder, or teaches a reranker, is looked at before any run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import save_tiny_classifier, tiny_model, tiny_tokenizer
from typer.testing import CliRunner

from hfprune.cli import app
from hfprune.core.errors import CheckpointError, HFPruneError, UnsupportedModelError
from hfprune.early.checks import check_early
from hfprune.models.sentences import load_embedder
from hfprune.pipeline import preflight
from hfprune.pipeline.stages import embeddings
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.whole import Recipe
from tests.api.test_embeddings import sentence_encoder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare encoder, one that says all, a classifier, a CrossEncoder, and rows."""
    monkeypatch.chdir(tmp_path)
    tiny_model("bert").base_model.save_pretrained(tmp_path / "bare")
    tiny_tokenizer().save_pretrained(tmp_path / "bare")
    sentence_encoder(tmp_path / "says")
    save_tiny_classifier("bert", tmp_path / "classes", labels=2)
    save_tiny_classifier("bert", tmp_path / "ranks", labels=1)
    config = tmp_path / "ranks/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sentence_transformers": {}}))
    lines = [json.dumps({"text": f"good film {n}"}) + "\n" for n in range(30)]
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    rows = [{"query": f"good {n // 3}", "text": f"film {n}", "label": n % 2} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(name: str, teacher: str | None = None, **changed: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"name_or_path": name},
        "task": "sentence_embedding",
        "data": {"train_file": "texts.jsonl", "max_length": 16},
        "teacher": {"name_or_path": teacher},
        "pruning": {"sparsity": 0.5},
        "output_dir": "out",
    }
    for key, value in changed.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return Recipe.model_validate(values)


@pytest.mark.parametrize(
    ("model", "teacher", "text"),
    [
        ("classes", None, "model.name_or_path 'classes' is a BertForSequenceClassification, which "
                          "has a head and gives no embeddings: name a sentence encoder"),
        ("bare", "classes", "teacher.name_or_path 'classes' is a BertForSequenceClassification"),
        ("ranks", None, "'ranks' is a CrossEncoder (BertForSequenceClassification), which has a "
                        "head and gives no embeddings: name a sentence encoder, or an encoder "
                        "without a head; for a reranker set task: reranking"),
    ],
)  # fmt: skip
def test_a_classifier_is_no_encoder(
    model: str, teacher: str | None, text: str, place: Path
) -> None:
    """In the same words where a run loads it."""
    with pytest.raises(CheckpointError) as error:
        check_early(recipe(model, teacher))
    assert text in str(error.value)
    key = "model.name_or_path" if teacher is None else "teacher.name_or_path"
    with pytest.raises(CheckpointError) as loaded:
        load_embedder(teacher or model, key=key)
    assert text in str(loaded.value)


def test_encoders_pass(place: Path) -> None:
    """Also one whose config names a head, as long as its modules say what it is."""
    for name in ("bare", "says"):
        assert check_early(recipe(name)) == ()
    assert check_early(recipe("bare", model={"pooling": "cls", "normalize": True})) == ()
    config = place / "says/config.json"
    raw = json.loads(config.read_text()) | {"architectures": ["BertForSequenceClassification"]}
    config.write_text(json.dumps(raw))
    assert check_early(recipe("says", "says")) == ()


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("bare", "data.prompt is 'title', but model.name_or_path 'bare' has no such prompt; it has "
                 "none: write what is to stand before texts into the texts, or remove data.prompt"),
        ("says", "data.prompt is 'title', but model.name_or_path 'says' has no such prompt; it has "
                 "'query', 'document': name one of them, or remove data.prompt"),
    ],
)  # fmt: skip
def test_a_prompt_that_is_not_there_is_told_by_its_key(model: str, text: str, place: Path) -> None:
    asked = recipe(model, data={"prompt": "title"})
    for look in (check_early, embeddings.prompt):
        with pytest.raises(CheckpointError) as error:
            look(asked)
        assert str(error.value) == text
    assert check_early(recipe("says", data={"prompt": "query"})) == ()


def test_what_the_folder_says_otherwise_is_told(place: Path) -> None:
    with pytest.raises(CheckpointError, match="pools by .*, model.pooling says max: remove it"):
        check_early(recipe("says", model={"pooling": "max"}))
    (place / "says/sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    with pytest.raises(UnsupportedModelError, match=r"model\.name_or_path 'says' puts texts in sm"):
        check_early(recipe("says"))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean"])
def test_lengths_that_count_are_told(name: str, place: Path) -> None:
    """By sentence-transformers' `similarity`; nothing here would else keep them."""
    said = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": name}
    (place / "says/config_sentence_transformers.json").write_text(json.dumps(said))
    assert check_early(recipe("says")) == (), "all are of length 1"
    modules = json.loads((place / "says/modules.json").read_text())
    (place / "says/modules.json").write_text(json.dumps(modules[:2]))
    told = check_early(recipe("bare", "says"))
    if name == "cosine":
        assert told == ()
        return
    assert told == (
        f"teacher.name_or_path 'says' compares embeddings by {name!r} (similarity_fn_name), in "
        "which their lengths count, and does not scale them to length 1; metrics here are of "
        "cosines, and so is distillation.embedding_loss: set it to mse, which learns lengths as "
        "well",
    )
    warned: list[str] = []
    store = SimpleNamespace(output=Path("out"), folder=Path("out.work"))
    console = SimpleNamespace(warn=warned.append, note=lambda text: None)
    preflight.check(
        SimpleNamespace(recipe=recipe("bare", "says"), store=store, console=console)  # type: ignore[arg-type]
    )
    assert tuple(warned) == told, "by a run as well"
    (kept,) = check_early(recipe("says", distillation={"embedding_loss": "mse"}))
    assert kept.endswith("metrics here are of cosines")


@pytest.mark.parametrize("task", ["reranking", "regression"])
def test_a_teacher_of_one_number_has_one_output(task: str, place: Path) -> None:
    data = {"train_file": "pairs.jsonl", "text_column": "query", "text_pair_column": "text"}
    with pytest.raises(HFPruneError) as error:
        check_early(recipe("classes", "classes", task=task, data=data))
    assert "teacher.name_or_path 'classes' has a head for 2 labels (" in str(error.value)
    assert f"but {task} takes one" in str(error.value)
    assert check_early(recipe("ranks", "ranks", task=task, data=data)) == ()


def test_quick_takes_no_cross_encoder_for_an_encoder(place: Path) -> None:
    words = ["quick", "ranks", "texts.jsonl", "--task", "sentence_embedding", "--dry-run"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "ranks' is a CrossEncoder" in done.stderr
    assert "for a reranker say --task reranking" in done.stderr
    assert not (place / "runs").exists()


def test_quick_shows_what_a_bare_folder_does_not_say(place: Path) -> None:
    words = ["texts.jsonl", "--task", "sentence_embedding", "--dry-run", "--output"]
    done = CliRunner().invoke(app, ["quick", "bare", *words, "b"])
    assert done.exit_code == 0, done.output
    written = Path("b.yaml").read_text()
    assert "  pooling: mean  # " in written
    assert "  normalize: false  # " in written
    assert (load_recipe("b.yaml").model.pooling, load_recipe("b.yaml").model.normalize) == (
        "mean", False,
    )  # fmt: skip
    assert "says nothing of pooling" in done.stderr
    for name in ("says", "somebody/encoder"):  # whose modules say it, or may
        done = CliRunner().invoke(app, ["quick", name, *words, "s"])
        assert done.exit_code == 0, done.output
        assert "pooling" not in Path("s.yaml").read_text() + done.stderr
        Path("s.yaml").unlink()
