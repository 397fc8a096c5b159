"""Tags of words: alignment, scores by worked cases, distillation, and a recipe from end to end."""

from __future__ import annotations

import itertools
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from datasets import Dataset
from tiny import TRANSFORMERS_5, tiny_model, tiny_tokenizer, write_tagged
from transformers import DataCollatorForTokenClassification, TrainingArguments

import hfprune
from hfprune import DistillationConfig, HFPruneTrainer, load_recipe
from hfprune.core.errors import DataError, RecipeError
from hfprune.data import encode
from hfprune.data.loading import load_task_data, rest_of_texts
from hfprune.data.processors import load_processor
from hfprune.data.readers.conll import read_conll
from hfprune.data.windows import mean_by_text, windows
from hfprune.data.words import align
from hfprune.measure.entities import row_counts, score_counts, score_tags
from hfprune.measure.metrics import compute, load_metrics, make_compute_metrics
from hfprune.measure.scores import score
from hfprune.pipeline import run
from hfprune.recipe.sections.data import DataConfig
from hfprune.report.console import Console
from hfprune.training.distillation.losses import logits_loss

TASK = "token_classification"
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def data_config(file: Path, **changes: Any) -> DataConfig:
    return DataConfig(
        train_file=str(file), text_column="words", label_column="tags", max_length=16, **changes
    )


def write_rows(path: Path, rows: list[tuple[Any, Any]]) -> Path:
    lines = [json.dumps({"words": words, "tags": tags}) for words, tags in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# -- words to tokens --------------------------------------------------------------------------


def test_the_first_token_of_a_word_carries_its_tag() -> None:
    assert align([None, 0, 0, 1, 2, 2, None], [4, 5, 6]) == [-100, 4, -100, 5, 6, -100, -100]
    assert align([None, None], []) == [-100, -100]


def test_conll_files_are_read_by_sentences() -> None:
    text = "-DOCSTART- -X- O O\n\nAda NNP B-NP B-PER\nslept VBD B-VP O\n\n# note\nYes UH O\n\n"
    words, tags, bad = read_conll(text)
    assert words == [["Ada", "slept"], ["Yes"]]
    assert tags == [["B-PER", "O"], ["O"]]
    assert bad is None
    assert read_conll("Ada B-PER\nalone\n")[2] == 2


def test_rows_are_cut_and_counted(tmp_path: Path) -> None:
    rows = [(["good", "film", "unknownword"], ["B-POS", "O", "O"])] * 9
    rows.append((["film"] * 30, ["O"] * 29 + ["B-POS"]))
    file = write_rows(tmp_path / "rows.jsonl", rows)
    tests = write_rows(tmp_path / "test.jsonl", rows[-1:])
    data = load_task_data(data_config(file, test_file=str(tests)), tiny_tokenizer(), TASK)
    assert data.label_names == ["B-POS", "O"]
    assert data.truncated["test"] == 1
    (only,) = data.test
    assert len(only["input_ids"]) == len(only["labels"]) == 16
    assert data.label_array("test").tolist() == [[-100] + [1] * 14 + [-100]]
    first = next(row for row in data.train if len(row["labels"]) == 5)
    assert first["labels"] == [-100, 0, 1, 1, -100]
    # Nine rows are copies of one, which stay together.
    assert data.seen_in_train["validation"] == 0


def test_tags_as_numbers_and_conll_files(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [(["a", "film"], [0, 2])] * 10)
    config = data_config(file, label_names=["O", "B-X", "I-X"])
    assert load_task_data(config, tiny_tokenizer(), TASK).label_array("test")[0].tolist() == [
        -100, 0, 2, -100,
    ]  # fmt: skip
    file = tmp_path / "rows.conll"
    file.write_text("good B-X\nfilm O\n\n" * 10)
    data = load_task_data(data_config(file), tiny_tokenizer(), TASK)
    assert data.label_names == ["B-X", "O"]
    assert len(data.train) == 7


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a film", ["O", "O"]), r"row 3, column 'words': expected a list of words, got 'a film'"),
        (([], []), r"column 'words': expected a list of words, got \[\]"),
        ((["a", ""], ["O", "O"]), "expected words that are not empty, got ''"),
        ((["a", "b"], ["O"]), "row 3, column 'words': 2 words, but 1 tags; each word needs one"),
        ((["a"], "O"), "column 'tags': expected a list of tags, one for each word, got 'O'"),
        ((["a"], [None]), "column 'tags': there is no label"),
    ],
)
def test_rows_that_will_not_do(row: Any, message: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [(["a"], ["O"])] * 2 + [row])
    with pytest.raises(DataError, match=message):
        load_task_data(data_config(file), tiny_tokenizer(), TASK)


def test_a_line_without_a_tag_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.conll"
    file.write_text("good B-X\nfilm\n")
    with pytest.raises(DataError, match="line 2: expected a word and its tag, parted by a blank"):
        load_task_data(data_config(file), tiny_tokenizer(), TASK)


def test_tokenizers_that_hold_the_space_before_a_word_get_one(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="!").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}')
    found = load_processor(str(tmp_path), TASK)(["a", "b"], is_split_into_words=True)
    assert len(found["input_ids"]) == 4, "a space and a letter for each word"


# -- scores -----------------------------------------------------------------------------------

# Gold and predicted tags of a sentence; right, predicted and true entities, by hand.
WORKED = [
    ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", (2, 2, 2)),
    ("B-PER I-PER O B-LOC", "B-PER O O B-LOC", (1, 2, 2)),  # too short
    ("B-PER I-PER O B-LOC", "B-LOC I-LOC O O", (0, 1, 2)),  # another type, and one missed
    ("O O O", "O B-PER O", (0, 1, 0)),
    ("B-PER B-PER", "B-PER I-PER", (0, 1, 2)),  # two next to each other are not one
    ("I-PER I-PER O", "B-PER I-PER O", (1, 1, 1)),  # conlleval: I- may begin an entity
    ("B-PER I-LOC", "B-PER B-LOC", (2, 2, 2)),  # and I- of another type begins one
    ("O", "O", (0, 0, 0)),
]


def coded(sentences: list[str]) -> np.ndarray[Any, Any]:
    """Class numbers, with -100 in front and behind."""
    longest = max(len(s.split()) for s in sentences) + 2
    found = np.full((len(sentences), longest), -100)
    for row, sentence in enumerate(sentences):
        numbers = [TAGS.index(tag) for tag in sentence.split()]
        found[row, 1 : 1 + len(numbers)] = numbers
    return found


def test_entities_by_hand() -> None:
    pytest.importorskip("seqeval")
    labels = coded([gold for gold, _, _ in WORKED])
    # At -100 a model predicts something: it must not count.
    guesses = np.where(labels < 0, 1, coded([guess for _, guess, _ in WORKED]))
    counts = row_counts("entity_f1", guesses, labels, TAGS)
    assert counts.tolist() == [list(wanted) for _, _, wanted in WORKED]
    right, guessed, true = counts.sum(0)
    assert score_counts("entity_precision", counts) == right / guessed
    assert score_counts("entity_recall", counts) == right / true
    assert score_counts("entity_f1", counts) == pytest.approx(2 * right / (guessed + true))
    logits = np.eye(5)[guesses]
    found = compute(
        logits,
        labels,
        ["entity_f1", "entity_precision", "entity_recall", "token_accuracy"],
        TASK,
        5,
        TAGS,
    )
    real = labels >= 0
    assert found["token_accuracy"] == pytest.approx((guesses == labels)[real].mean())
    assert found["entity_f1"] == pytest.approx(score_counts("entity_f1", counts))
    assert found["entity_precision"] == pytest.approx(right / guessed)
    assert found["entity_recall"] == pytest.approx(right / true)
    for name, value in found.items():
        assert score(name, logits, labels, TASK, 5, TAGS) == pytest.approx(value), name


def test_counts_agree_with_seqeval_on_random_tags() -> None:
    pytest.importorskip("seqeval")
    draw = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(30):
            labels, guesses = draw.integers(0, 5, (2, 6, 7))
            labels[draw.random(labels.shape) < 0.2] = -100
            counts = {
                n: row_counts(n, guesses, labels, TAGS) for n in ("entity_f1", "token_accuracy")
            }
            rows = [
                ([TAGS[g] for g, n in zip(mine, true, strict=True) if n >= 0],
                 [TAGS[n] for n in true if n >= 0])
                for mine, true in zip(guesses, labels, strict=True)
            ]  # fmt: skip
            mine, true = [r[0] for r in rows], [r[1] for r in rows]
            for name, found in counts.items():
                assert score_counts(name, found) == pytest.approx(score_tags(name, mine, true))


def test_nothing_found_and_nothing_there_is_zero() -> None:
    pytest.importorskip("seqeval")
    nothing = np.zeros((2, 3), dtype=np.int64)
    assert score_counts("entity_f1", row_counts("entity_f1", nothing, nothing, TAGS)) == 0.0
    assert score_tags("entity_f1", [["O"]], [["O"]]) == 0.0


def test_tags_that_mark_no_entities_are_refused() -> None:
    pytest.importorskip("seqeval")
    with pytest.raises(DataError, match=r"the tag 'NOUN' marks no entity.*\[token_accuracy\]"):
        load_metrics(["entity_f1"], TASK, 2, ["NOUN", "VERB"])
    load_metrics(["token_accuracy"], TASK, 2, ["NOUN", "VERB"])
    with pytest.raises(RecipeError, match="'accuracy' is not a metric for token_classification"):
        load_metrics(["accuracy"], TASK, 2)
    with pytest.raises(DataError, match=r"expected \(rows, length, 5\) for token_classification"):
        compute(np.zeros((2, 5)), np.zeros((2, 5)), ["entity_f1"], TASK, 5, TAGS)


# -- windows of long texts ---------------------------------------------------------------------


def test_windows_overlap_and_their_logits_are_averaged(tmp_path: Path) -> None:
    words = [f"[unused{n}]" for n in range(30, 60)]
    file = tmp_path / "rows.csv"
    lines = [f"{' '.join(words[:n])},{'ab'[n % 2]}" for n in (30, 5, 12, 9, 8, 30, 3, 4, 5, 6)]
    file.write_text("text,label\n" + "\n".join(lines) + "\n")
    config = DataConfig(train_file=str(file), max_length=10, stride=3, test_fraction=0.3)
    tokenizer = tiny_tokenizer()
    data = load_task_data(config, tokenizer, "single_label_classification")
    assert data.truncated == {"train": 0, "validation": 0, "test": 0}
    for name in ("train", "validation", "test"):
        rows = data.split(name)
        assert data.size(name) == len(data.texts[name]) == rows["text_row"][-1] + 1
        for number, text in enumerate(data.texts[name]):
            mine = [row for row in rows if row["text_row"] == number]
            ids = [row["input_ids"] for row in mine]
            assert all(len(window) <= 10 for window in ids)
            # Without special tokens, and each but the first without the 3 shared ones: the text.
            inner = [window[1:-1] for window in ids]
            joined = inner[0] + [token for window in inner[1:] for token in window[3:]]
            assert joined == tokenizer(text)["input_ids"][1:-1]
            for before, after in itertools.pairwise(inner):
                assert before[-3:] == after[:3]
            assert len({row["labels"] for row in mine}) == 1
    logits = np.arange(2.0 * len(data.test)).reshape(-1, 2)
    owners = np.array(data.test["text_row"])
    want = [logits[owners == number].mean(0) for number in range(data.size("test"))]
    np.testing.assert_allclose(data.by_text("test", logits), want)
    assert len(data.label_array("test")) == data.size("test")
    bad = DataConfig(train_file=str(file), max_length=10, stride=8)
    with pytest.raises(DataError, match="data.stride is 8, but of data.max_length 10 tokens 2"):
        load_task_data(bad, tokenizer, "single_label_classification")


@pytest.mark.parametrize(("limit", "most"), [("_BATCH_ROWS", 3), ("_BATCH_LETTERS", 100)])
def test_windows_are_made_of_some_texts_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    """An encoding takes a hundred bytes a token: those of all long texts at once fill a machine."""
    file = tmp_path / "rows.csv"
    lines = [f"{' '.join(['good'] * (n % 40))},{'ab'[n % 2]}" for n in range(60)]
    file.write_text("text,label\n" + "\n".join(lines) + "\n")
    config = DataConfig(train_file=str(file), max_length=10, stride=3)
    task, tokenizer = "single_label_classification", tiny_tokenizer()
    whole = load_task_data(config, tokenizer, task)
    asked: list[int] = []

    def counted(tokenizer: Any, texts: Any, *more: Any) -> Any:
        asked.append(len(texts) if limit == "_BATCH_ROWS" else sum(map(len, texts)))
        return windows(tokenizer, texts, *more)

    monkeypatch.setattr(encode, limit, most)
    monkeypatch.setattr(encode, "windows", counted)
    parts = load_task_data(config, tokenizer, task)
    rest = rest_of_texts(replace(parts, max_length=20), tokenizer)
    assert max(asked) <= max(most, 40 * 5)
    assert len(asked) > 10
    for name in ("train", "validation", "test"):
        assert parts.split(name).to_dict() == whole.split(name).to_dict()
    monkeypatch.undo()
    assert rest.to_dict() == rest_of_texts(replace(whole, max_length=20), tokenizer).to_dict()


def test_windows_in_any_order_count_as_one_text_for_the_trainer() -> None:
    from transformers import EvalPrediction

    owners = np.array([1, 0, 1])
    logits = np.array([[3.0, 0.0], [0.0, 1.0], [-9.0, 0.0]])
    labels = np.array([1, 1, 1])
    metric = make_compute_metrics(["accuracy"], "single_label_classification", 2)
    assert mean_by_text(logits, owners).tolist() == [[0.0, 1.0], [-3.0, 0.0]]
    assert metric(EvalPrediction(logits, (labels, owners))) == {"accuracy": 1.0}


# -- distillation ------------------------------------------------------------------------------


def test_only_words_that_count_are_distilled() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 3, generator=generator) for _ in range(2))
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 0, 1, 0]]).bool()
    total = torch.tensor(0.0)
    for row, place in mask.nonzero().tolist():
        p, q = (F.softmax(x[row, place] / 2, -1) for x in (teacher, student))
        total += 4 * (p * (p / q).log()).sum() / 4
    found = logits_loss(student, teacher, 2.0, "single_label_classification", mask)
    torch.testing.assert_close(found, total)
    nothing = logits_loss(student, teacher, 2.0, "single_label_classification", mask & False)
    assert float(nothing) == 0.0


def test_cached_teacher_teaches_tokens_the_same(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (24,), generator=generator).tolist()
    rows = [torch.randint(5, 100, (n,), generator=generator).tolist() for n in lengths]
    labels = [[-100, *(i % 3 for i in ids[1:-1]), -100] for ids in rows]
    dataset = Dataset.from_dict(
        {"input_ids": rows, "attention_mask": [[1] * len(r) for r in rows], "labels": labels}
    )
    found = {}
    for limit in (0.0, 4.0):
        trainer = HFPruneTrainer(
            tiny_model("bert", tokens=True),
            TrainingArguments(
                str(tmp_path / str(limit)),
                num_train_epochs=2,
                learning_rate=0.05,
                optim="sgd",
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=dataset,
            data_collator=DataCollatorForTokenClassification(tiny_tokenizer()),
            teacher=tiny_model("bert", tokens=True, seed=3),
            distillation=DistillationConfig(cache_limit_gb=limit),
        )
        trainer.train()
        assert (trainer.teaching.cache is not None) == (limit > 0)
        found[limit] = trainer.model.state_dict()
    for name, value in found[0.0].items():
        torch.testing.assert_close(found[4.0][name], value, atol=2e-5, rtol=1e-3)


# -- end to end --------------------------------------------------------------------------------


def test_tagging_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("seqeval")
    from transformers import AutoTokenizer, pipeline

    tiny_model("bert", tokens=True, labels=5).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    write_tagged(tmp_path / "rows.jsonl", 160)
    recipe = {
        "model": {"name_or_path": str(tmp_path / "model")},
        "task": TASK,
        "data": {
            "train_file": str(tmp_path / "rows.jsonl"),
            "text_column": "words",
            "label_column": "tags",
            "max_length": 24,
        },
        "training": {
            "num_train_epochs": 8,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 8,
            "group_by_length": True,
            "class_weights": "balanced",
        },
        "pruning": {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 3},
        "export": {"quantization": {}},
        "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 2},
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = run(load_recipe(tmp_path / "recipe.yaml"), Console(quiet=True))
    assert results is not None
    assert results["task"] == TASK
    assert results["labels"] == ["B-NEG", "B-POS", "I-NEG", "I-POS", "O"]
    assert results["evaluation"]["primary"] == "entity_f1"
    models = results["evaluation"]["models"]
    assert models["pruned PyTorch"]["metrics"]["entity_f1"] > 0.8, "words tell their tags"
    assert models["pruned ONNX"]["metrics"] == models["pruned PyTorch"]["metrics"]
    low, high = models["pruned ONNX"]["interval"]
    assert low <= models["pruned ONNX"]["metrics"]["entity_f1"] <= high
    weights = results["data"]["class_weights"]
    assert weights[4] == min(weights), "most words are in no entity"
    model = hfprune.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer)
    assert tag("the film was good")[-1]["entity"].endswith("-POS")
    batch = tokenizer("the film was good", return_tensors="pt")
    with torch.no_grad():
        want = model(**batch).logits.numpy()
    if TRANSFORMERS_5:
        return
    from optimum.onnxruntime import ORTModelForTokenClassification

    kind: Any = ORTModelForTokenClassification
    ort = kind.from_pretrained(tmp_path / "out", subfolder="onnx", file_name="model_quantized.onnx")
    np.testing.assert_allclose(ort(**batch).logits.numpy(), want, atol=0.7)
