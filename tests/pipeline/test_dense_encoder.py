"""The dense encoder of a run: whose prompts count, and what of its folder results follow from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from tiny import tiny_tokenizer

from hfprune.core.errors import UnsupportedModelError
from hfprune.models.sentences import load_embedder
from hfprune.pipeline.context import Context
from hfprune.pipeline.fingerprint import model_digest
from hfprune.pipeline.results import Precision
from hfprune.pipeline.stages import embeddings, evaluate, vocabulary
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.console import Console
from tests.api.test_embeddings import sentence_encoder
from tests.models.test_layouts_6 import new_folder


def recipe(model: Path, teacher: Path | None, **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name_or_path": str(model)},
            "task": "sentence_embedding",
            "data": {"train_file": "texts.jsonl", **data},
            "teacher": {"name_or_path": None if teacher is None else str(teacher)},
            "pruning": {"sparsity": 0.5},
            "output_dir": "out",
        }
    )


def test_prompts_are_those_of_the_model_that_is_pruned(tmp_path: Path) -> None:
    """Which is ``teacher.name_or_path``, where it is given: its embeddings are learned."""
    other, named = new_folder(tmp_path / "o", "Transformer", "Pooling"), tmp_path / "named"
    sentence_encoder(named)  # whose default prompt is "good "
    for model, teacher, want in (
        (named, None, "good "),
        (other, None, ""),
        (other, named, "good "),
        (named, other, ""),
    ):
        assert embeddings.prompt(recipe(model, teacher)) == want, (model, teacher)
    assert embeddings.prompt(recipe(other, named, prompt="document")) == ""
    assert embeddings.prompts_to_search(recipe(other, named)) == ("good ", "")
    (named / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    with pytest.raises(UnsupportedModelError, match=r"^teacher\.name_or_path .*named.*small"):
        embeddings.prompt(recipe(other, named))


def test_what_follows_the_transformer_is_part_of_its_digest(tmp_path: Path) -> None:
    """Else a resumed run would go on with embeddings that are pooled in another way."""
    folder = new_folder(tmp_path / "e", "Transformer", "Pooling", "Dense")
    before = model_digest(str(folder), None, modules=True)
    assert model_digest(str(folder), None, modules=True) == before
    for name in ("1_Pooling/config.json", "2_Dense/model.safetensors"):
        file = folder / name
        old = file.read_bytes()
        file.write_bytes(old + b" ")
        assert model_digest(str(folder), None, modules=True) != before, name
        file.write_bytes(old)
    assert model_digest(str(folder), None, modules=True) == before
    moved = folder.rename(tmp_path / "elsewhere")
    assert model_digest(str(moved), None, modules=True) == before


def test_a_smaller_vocabulary_still_spells_every_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those before queries and documents, with which nothing is learned."""
    folder = sentence_encoder(tmp_path / "e")
    prompts = {"query": "clever ", "passage": "dull "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    tokenizer = tiny_tokenizer()
    train = Dataset.from_list([dict(tokenizer(text)) for text in ("a film", "the story")] * 3)
    prepared = SimpleNamespace(
        saved=lambda context, name: load_embedder(str(folder)),
        data=SimpleNamespace(train=train),
        dense=SimpleNamespace(processor=tokenizer, unlabeled=None),
    )
    monkeypatch.setattr(vocabulary, "keep", lambda *given: given)
    smaller = vocabulary.run(None, prepared, None, 3)[3]
    words = smaller.get_vocab().keys()
    assert {"clever", "dull", "film", "story"} <= words
    assert not {"moving", "weak"} & words


def test_another_file_to_search_is_searched(tmp_path: Path) -> None:
    """A resumed run takes nothing that was measured on what the file held before."""
    searched = tmp_path / "search.jsonl"
    searched.write_text("before", encoding="utf-8")
    asked = recipe(tmp_path / "e", None)
    named = asked.evaluation.model_copy(update={"retrieval": str(searched)})
    asked = asked.model_copy(update={"evaluation": named, "output_dir": str(tmp_path / "out")})
    context = Context.of(asked, Console(quiet=True))
    store = context.store
    store.open("recipe", "task: sentence_embedding", resume=False, overwrite=False)
    inputs = store.inputs_of(evaluate.files_read(context))
    store.put("evaluate", Precision(bf16=False), inputs, 0.0)
    assert store.take("evaluate", Precision, inputs) == Precision(bf16=False)
    searched.write_text("after", encoding="utf-8")
    inputs = store.inputs_of(evaluate.files_read(context))
    assert store.take("evaluate", Precision, inputs) == "a file that evaluation names changed"
    assert evaluate.files_read(Context.of(recipe(tmp_path / "e", None))) == {}
