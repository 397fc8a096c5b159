"""Variations of training rows: what may change and what may not; and training on them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from transformers import DataCollatorWithPadding, TrainingArguments

from hfprune import DistillationConfig, HFPruneTrainer
from hfprune.core.errors import DataError, TrainingError
from hfprune.data.loading import load_task_data, rest_of_texts
from hfprune.data.task_data import with_vectors
from hfprune.models.embedding import as_embedder_
from hfprune.models.layout import usual_layout
from hfprune.recipe.sections.data import DataConfig
from hfprune.training.distillation import rows as lessons
from hfprune.training.distillation.cache import TeacherCache
from hfprune.training.distillation.losses import compared_layers
from hfprune.training.distillation.variations import with_variations

SPECIAL = [0, 1, 2, 3, 4]


def rows_of(texts: list[list[int]], **columns: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"input_ids": texts, "attention_mask": [[1] * len(t) for t in texts], **columns}
    )


def some_rows(count: int = 60) -> datasets.Dataset:
    generator = torch.Generator().manual_seed(0)
    texts = []
    for number in range(count):
        length = 3 + number % 9
        inner = torch.randint(5, 100, (length,), generator=generator).tolist()
        texts.append([2, *inner, 3])
    return rows_of(texts, labels=[number % 2 for number in range(count)])


def test_variations_follow_the_rows_and_keep_their_frame() -> None:
    rows = some_rows()
    found = with_variations(rows, SPECIAL, 3, seed=1)
    assert len(found) == 4 * len(rows)
    assert found.features == rows.features
    assert found[: len(rows)] == rows[:]
    known = {token for row in rows["input_ids"] for token in row}
    longest = max(len(row) for row in rows["input_ids"])
    for row in list(found)[len(rows) :]:
        ids = row["input_ids"]
        assert (ids[0], ids[-1]) == (2, 3)
        assert len(ids) > 2
        assert not set(ids[1:-1]) & set(SPECIAL)
        assert set(ids) <= known
        assert row["attention_mask"] == [1] * len(ids)
        assert len(ids) <= longest
    changed = sum(
        found[len(rows) + i]["input_ids"] != rows[i]["input_ids"] for i in range(len(rows))
    )
    assert changed > 0.8 * len(rows)
    assert found[:] == with_variations(rows, SPECIAL, 3, seed=1)[:]
    assert found[:] != with_variations(rows, SPECIAL, 3, seed=2)[:]
    assert found[60:120] != found[120:180], "each copy is another one"


def test_segments_of_pairs_stay_apart() -> None:
    texts = [[2, 10, 11, 12, 3, 20, 21, 22, 3]] * 40
    rows = rows_of(texts, token_type_ids=[[0] * 5 + [1] * 4] * 40, labels=[0] * 40)
    for row in list(with_variations(rows, SPECIAL, 1, seed=0))[40:]:
        ids, kinds = row["input_ids"], row["token_type_ids"]
        assert Counter(ids)[3] == 2
        assert ids[0] == 2
        assert ids[-1] == 3
        assert len(ids) == len(kinds) == len(row["attention_mask"])
        assert kinds == sorted(kinds)
        assert kinds[ids.index(3)] == 0
        assert kinds[-1] == 1


def test_rows_of_special_tokens_only_are_left_alone() -> None:
    rows = rows_of([[2, 3], [2, 3]], labels=[0, 1])
    assert with_variations(rows, SPECIAL, 2, seed=0)["input_ids"][:] == [[2, 3]] * 6
    assert with_variations(rows, SPECIAL, 0, seed=0) is rows


def test_rows_without_ids_are_refused() -> None:
    with pytest.raises(DataError, match="rows have no input_ids; columns: pixels. Set dist"):
        with_variations(datasets.Dataset.from_dict({"pixels": [1]}), SPECIAL, 1, seed=0)


def make(folder: Path, train: Any, *, labels: int = 2, seed: int = 3, **settings: Any) -> Any:
    extra = settings.pop("config", {})
    cache = settings.pop("cache", None)
    unlabeled = settings.pop("unlabeled", None)
    return HFPruneTrainer(
        tiny_model("bert", labels=labels, **extra),
        TrainingArguments(
            str(folder), num_train_epochs=2, use_cpu=True, report_to=[], save_strategy="no",
            learning_rate=1e-3, per_device_train_batch_size=8,
        ),
        train_dataset=train,
        processing_class=tiny_tokenizer(),
        teacher=tiny_model("bert", labels=labels, seed=seed, **extra),
        distillation=DistillationConfig(**settings),
        teacher_cache=cache,
        unlabeled_dataset=unlabeled,
    )  # fmt: skip


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_teacher_labels_variations(problem: str, tmp_path: Path) -> None:
    rows = some_rows(20).remove_columns("labels")
    labels: dict[str, Any] = {
        "single_label": [0] * 20,
        "multi_label": [[0.0, 0.0]] * 20,
        "regression": [9.0] * 20,
    }
    kind = problem + "_classification" if "label" in problem else problem
    count = 1 if problem == "regression" else 2
    rows = rows.add_column("labels", labels[problem])
    trainer = make(tmp_path, rows, labels=count, config={"problem_type": kind}, augmentation=2)
    trainer.train()
    assert trainer.state.max_steps == 2 * 8, "60 rows an epoch, 8 a step"
    made = trainer.train_dataset
    assert made["labels"][:20] == labels[problem]
    for row in list(made)[20:]:
        with torch.no_grad():
            logits = trainer.teacher(torch.tensor([row["input_ids"]])).logits[0]
        if problem == "single_label":
            assert row["labels"] == int(logits.argmax())
        elif problem == "multi_label":
            assert row["labels"] == (logits > 0).float().tolist()
        else:
            assert row["labels"] == pytest.approx(float(logits), abs=1e-5)
    trainer.train()
    assert len(trainer.train_dataset) == 60, "a second training does not vary variations"


@pytest.mark.parametrize("labels", [True, False])
def test_a_teacher_of_embeddings_gives_added_rows_its_own(labels: bool, tmp_path: Path) -> None:
    def encoder(seed: int) -> Any:
        layout = usual_layout(".", "mean", True, 16)
        return as_embedder_(tiny_model("bert", seed=seed).base_model, layout)

    rows = some_rows(20).remove_columns("labels")
    more = some_rows(40).select(range(20, 40)).remove_columns("labels")
    teacher = encoder(3)
    width = teacher.config.hidden_size
    if labels:
        rows = with_vectors(rows, np.full((20, width), 0.5, np.float32))
    tokenizer = tiny_tokenizer()
    trainer = HFPruneTrainer(
        encoder(0),
        TrainingArguments(
            str(tmp_path), max_steps=2, use_cpu=True, report_to=[], save_strategy="no",
            per_device_train_batch_size=8,
        ),
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        teacher=teacher,
        distillation=DistillationConfig(augmentation=1),
        unlabeled_dataset=more,
    )  # fmt: skip
    trainer.train()
    made = trainer.train_dataset
    assert len(made) == 80
    assert made["input_ids"][20:40] == more["input_ids"][:]
    if not labels:
        return
    assert made["labels"][:20] == [[0.5] * width] * 20
    for row in list(made)[20:]:
        with torch.no_grad():
            found = teacher(torch.tensor([row["input_ids"]])).logits[0]
        assert row["labels"] == pytest.approx(found.tolist(), abs=1e-5)


def test_a_teacher_of_several_numbers_gives_them_all() -> None:
    decided = lessons._decided(torch.tensor([[1.5, -2.0], [0.0, 3.0]]), "regression")
    assert decided.to_pylist() == [[1.5, -2.0], [0.0, 3.0]]


def test_how_far_the_teacher_is(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    trainer = make(tmp_path, some_rows(20), augmentation=1)
    trainer.teacher_progress = lambda done, total: seen.append((done, total))
    trainer.train()
    assert seen[-1] == (40, 40)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 2


def test_unlabeled_rows_are_no_text_of_a_query_that_is_there() -> None:
    rows = rows_of([[2, 5, 3]] * 3, labels=[0.0] * 3, query_row=[0, 0, 4])
    alone = lessons._with_unlabeled(rows, rows_of([[2, 6, 3]] * 2))
    assert alone["query_row"][:] == [0, 0, 4, 5, 6]
    told = lessons._with_unlabeled(rows, rows_of([[2, 6, 3]] * 2, query_row=[1, 1]))
    assert told["query_row"][:] == [0, 0, 4, 6, 6]


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_labels_are_decided_some_at_a_time(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand labels of a million rows are gigabytes, and far more as numbers of Python's."""
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))

    class Cache:
        def logits(self, rows: torch.Tensor) -> torch.Tensor:
            assert len(rows) <= 7
            return logits[rows]

    monkeypatch.setattr(lessons, "_LABELLED_AT_ONCE", 7)
    one = problem.startswith("single")
    feature = datasets.ClassLabel(names=["a", "b", "c"]) if one else datasets.Sequence(
        datasets.Value("float32"))  # fmt: skip
    features = datasets.Features({"labels": feature, "x": datasets.Value("int64")})
    columns = {"labels": [1 if one else [0.0, 1.0, 0.0]] * 50, "x": list(range(50))}
    rows = datasets.Dataset.from_dict(columns, features=features)
    made = lessons._with_teacher_labels(rows, 20, Cache(), problem)  # type: ignore[arg-type]
    assert made.features == features
    assert made["labels"][:20] == rows["labels"][:20]
    want = logits.argmax(-1) if one else (logits > 0).float()
    assert made["labels"][20:] == want[20:].tolist()
    assert made["x"][:] == list(range(50))


def test_the_teacher_labels_unlabeled_rows(tmp_path: Path) -> None:
    rows = some_rows(20)
    more = some_rows(60).select(range(40, 60)).select_columns(["attention_mask", "input_ids"])
    trainer = make(tmp_path, rows, unlabeled=more, augmentation=1)
    trainer.train()
    made = trainer.train_dataset
    assert trainer.state.max_steps == 2 * 10, "80 rows an epoch, 8 a step"
    assert made["input_ids"][20:40] == more["input_ids"][:]
    assert made["labels"][:20] == rows["labels"][:]
    for row in list(made)[20:]:
        with torch.no_grad():
            logits = trainer.teacher(torch.tensor([row["input_ids"]])).logits[0]
        assert row["labels"] == int(logits.argmax())
    found = trainer.teacher_cache.has_hidden(torch.arange(80))
    assert found.tolist() == [True] * 40 + [False] * 40, "variations have no hidden states"


def test_rows_that_cannot_be_added(tmp_path: Path) -> None:
    more = some_rows(4).select_columns(["input_ids"])
    with pytest.raises(TrainingError, match="has the columns input_ids, but the 60 training rows "
                       "have input_ids, attention_mask for the model"):  # fmt: skip
        make(tmp_path, some_rows(), unlabeled=more).train()
    with pytest.raises(TrainingError, match="unlabeled_dataset adds to rows of token ids"):
        make(tmp_path, [{"input_ids": [2, 9, 3], "labels": 0}] * 4, unlabeled=more).train()
    with pytest.raises(TrainingError, match="unlabeled_dataset needs a teacher that labels it"):
        HFPruneTrainer(
            tiny_model("bert", labels=2),
            TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]),
            train_dataset=some_rows(),
            unlabeled_dataset=more,
        )


def test_the_rest_of_long_texts(tmp_path: Path) -> None:
    words = ["film", "good", "bad", "dull", "moving", "the"]
    texts = [" ".join(words[(start + place) % 6] for place in range(length))
             for start, length in enumerate([3, 14, 15, 16, 17, 30, 44, 5, 14, 20])]  # fmt: skip
    lines = [f"{text},{number % 2}" for number, text in enumerate(texts)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *lines]))
    tokenizer = tiny_tokenizer()
    config = DataConfig(train_file=str(tmp_path / "a.csv"), max_length=16)
    data = load_task_data(config, tokenizer, "single_label_classification")
    rest = rest_of_texts(data, tokenizer)
    assert rest.features == {n: data.train.features[n] for n in rest.features}
    expected = []
    for text in data.texts["train"]:
        ids = tokenizer(text)["input_ids"]
        start, end, inner = ids[0], ids[-1], ids[1:-1]
        parts = [inner[at : at + 14] for at in range(14, len(inner), 14)]
        expected += [[start, *part, end] for part in parts if len(part) + 2 >= 4]
    assert rest["input_ids"][:] == expected
    assert rest["attention_mask"][:] == [[1] * len(row) for row in expected]
    assert len(tokenizer(texts[6])["input_ids"]) == 46, "the tokenizer forgets that it cut"


def test_the_rest_of_long_texts_has_the_prompt_of_all_texts(tmp_path: Path) -> None:
    words = ["film", "good", "bad", "dull", "moving", "the"]
    texts = [" ".join(words[(start + place) % 6] for place in range(length))
             for start, length in enumerate([3, 12, 13, 30, 44, 5, 14, 20, 33, 27])]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = tiny_tokenizer()
    config = DataConfig(train_file=str(tmp_path / "a.jsonl"), max_length=16)
    data = load_task_data(config, tokenizer, "sentence_embedding", prompt="a story ")
    rest = rest_of_texts(data, tokenizer)
    assert rest.features == data.train.features
    first, last = tokenizer("")["input_ids"]
    prompt = tokenizer("a story", add_special_tokens=False)["input_ids"]
    expected = []
    for text in data.texts["train"]:
        inner = tokenizer(text, add_special_tokens=False)["input_ids"]
        parts = [inner[at : at + 12] for at in range(12, len(inner), 12)]
        expected += [[first, *prompt, *part, last] for part in parts if 4 * (len(part) + 2) >= 14]
    assert len(expected) >= 2
    assert rest["input_ids"][:] == expected
    assert len(tokenizer(texts[4])["input_ids"]) == 46, "the tokenizer forgets that it cut"
    short = DataConfig(train_file=str(tmp_path / "a.jsonl"), max_length=4)
    data = load_task_data(short, tokenizer, "sentence_embedding", prompt="a story ")
    assert len(rest_of_texts(data, tokenizer)) == 0, "no room is left for the texts"


def test_hidden_states_are_kept_of_the_rows_themselves(tmp_path: Path) -> None:
    rows, teacher = some_rows(10), tiny_model("bert", labels=2)
    made = with_variations(rows, SPECIAL, 1, seed=0)
    from hfprune.data.collate import data_collator

    collate = data_collator(tiny_tokenizer())
    inputs = made.select_columns(["input_ids", "attention_mask"])
    cache = TeacherCache(teacher, inputs, collate, hidden=10, batch_size=4, folder=tmp_path)
    chosen = torch.tensor([3, 15])
    assert cache.has_hidden(chosen).tolist() == [True, False]
    states = cache.hidden_states(chosen, 12)
    assert len(states) == 3
    assert not states[0][1].any()
    with torch.no_grad():
        found = teacher(torch.tensor([made[3]["input_ids"]]), output_hidden_states=True)
        other = teacher(torch.tensor([made[15]["input_ids"]])).logits[0]
    length = len(made[3]["input_ids"])
    torch.testing.assert_close(
        states[2][0, :length].float(), found.hidden_states[3][0], atol=2e-3, rtol=1e-3
    )
    torch.testing.assert_close(cache.logits(chosen), torch.stack([found.logits[0], other]))
    # A second time logits come from the file, which other weights or rows do not share.
    (kept,) = tmp_path.iterdir()
    stored = load_file(kept)["logits"].clone()  # the file is overwritten below
    seen: list[int] = []
    again = TeacherCache(
        teacher, inputs, collate, hidden=0, folder=tmp_path,
        progress=lambda done, total: seen.append(total),
    )  # fmt: skip
    assert not seen
    assert torch.equal(again.logits(torch.arange(20)), stored)
    kept.write_bytes(b"damaged")
    mended = TeacherCache(teacher, inputs, collate, hidden=0, folder=tmp_path)
    torch.testing.assert_close(mended.logits(torch.arange(20)), stored)
    other_teacher = tiny_model("bert", labels=2, seed=5)
    TeacherCache(other_teacher, inputs, collate, hidden=0, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_hidden_states_beyond_half_precision_are_kept_in_bfloat16() -> None:
    rows = some_rows(8).select_columns(["input_ids", "attention_mask"])
    teacher = tiny_model("bert", labels=2)
    from hfprune.data.collate import data_collator

    norm = teacher.bert.encoder.layer[1].output.LayerNorm
    with torch.no_grad():
        norm.bias[3] = 7e4  # float16 would make this an infinity
    cache = TeacherCache(teacher, rows, data_collator(tiny_tokenizer()), hidden=8, batch_size=3)
    states = cache.hidden_states(torch.arange(8), 12)
    assert all(state.dtype == torch.bfloat16 and state.isfinite().all() for state in states)
    for number in range(8):
        ids = torch.tensor([rows[number]["input_ids"]])
        with torch.no_grad():
            found = teacher(ids, output_hidden_states=True).hidden_states[1:]
        for mine, theirs in zip(states, found, strict=True):
            kept = mine[number, : ids.shape[1]].float()
            torch.testing.assert_close(kept, theirs[0], atol=1e-2, rtol=8e-3)


def test_what_cannot_be_augmented(tmp_path: Path) -> None:
    trainer = make(tmp_path, [{"input_ids": [2, 9, 3], "labels": 0}] * 4, augmentation=1)
    with pytest.raises(TrainingError, match="augmentation varies rows of token ids"):
        trainer.train()
    trainer = make(tmp_path, some_rows().rename_column("labels", "grade"), augmentation=1)
    with pytest.raises(
        TrainingError, match="has no column 'labels' or 'label'; columns: input_ids"
    ):
        trainer.train()
    trainer = make(tmp_path, some_rows(), augmentation=1)
    trainer.processing_class = None
    trainer.data_collator = lambda rows: rows
    with pytest.raises(TrainingError, match="must know the special tokens: pass processing_class"):
        trainer.train()


def test_emptied_layers_follow_nobody() -> None:
    assert compared_layers([(2, 8), (1, 0), (0, 3)]) == [0, 1, 2]
    assert compared_layers([(2, 8), (0, 0), (0, 0), (1, 0), (0, 0)]) == [2, 4]
    assert compared_layers([(0, 0), (0, 0), (1, 4)]) == [2]
    assert compared_layers([(0, 0), (0, 0)]) == []


def test_outputs_of_an_earlier_trainer_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = some_rows(20)
    first = make(tmp_path, rows, augmentation=1)
    first.train()
    monkeypatch.setattr(
        "hfprune.training.distillation.rows.TeacherCache.__init__",
        lambda *args, **kwargs: pytest.fail("again"),
    )
    second = make(tmp_path, rows, augmentation=1, cache=first.teacher_cache)
    second.train()
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), "as if computed anew"
    assert second.teacher_cache is first.teacher_cache
    other = make(tmp_path, some_rows(10), augmentation=1, cache=first.teacher_cache)
    with pytest.raises(TrainingError, match="outputs are of 40 rows, with hidden states of 20, but "
                       "20 and 10 are trained on; pass teacher_cache only on"):  # fmt: skip
        other.train()
