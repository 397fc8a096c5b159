"""A teacher with a tokenizer of its own reads the same texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from shifted import shifted, shifted_tokenizer
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from hfprune import DistillationConfig, HFPruneTrainer
from hfprune.core.errors import CheckpointError, TrainingError
from hfprune.training.distillation.cache import _digest
from hfprune.training.distillation.ensemble import Ensemble
from hfprune.training.distillation.reading import (
    OtherTokenizer,
    originals_of,
    read_by_another,
)

TEXTS = ["a good film", "dull", "the story was moving and clever", "Film"]


def logits_of(model: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**batch).logits
    return found


@pytest.mark.parametrize("pairs", [None, ["the film", "a story", "bad", "the"]])
def test_the_same_model_of_other_ids_says_the_same(pairs: list[str] | None) -> None:
    mine, theirs = tiny_tokenizer(), shifted_tokenizer()
    batch = mine(TEXTS, pairs, padding=True, return_tensors="pt")
    wanted = logits_of(tiny_model("bert", seed=4), batch)
    model = shifted(tiny_model("bert", seed=4))
    reader = OtherTokenizer(model, theirs, mine, 64)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(logits_of(reader, given), wanted)
    padded = {name: torch.nn.functional.pad(values, (0, 3)) for name, values in given.items()}
    torch.testing.assert_close(logits_of(reader, padded), wanted)


def test_texts_are_those_that_were_given_where_they_are_known() -> None:
    mine, theirs = tiny_tokenizer(), shifted_tokenizer(lowercase=False)
    model = shifted(tiny_model("bert", seed=4))
    rows = mine(TEXTS)["input_ids"]
    known = originals_of(rows, TEXTS, None)
    readers = [OtherTokenizer(model, theirs, mine, 64, some) for some in (None, known)]
    assert readers[0].original(torch.tensor(rows[3]).numpy()) == "film"
    assert readers[1].original(torch.tensor(rows[3]).numpy()) == "Film"
    batch = mine(TEXTS, padding=True, return_tensors="pt")
    wanted = logits_of(model, theirs(TEXTS, padding=True, return_tensors="pt"))
    found = [logits_of(reader, {"input_ids": batch["input_ids"],
                                "attention_mask": batch["attention_mask"]})
             for reader in readers]  # fmt: skip
    torch.testing.assert_close(found[1], wanted)
    assert not torch.allclose(found[0][3], wanted[3])  # "Film" is another token than "film"


def test_pairs_are_found_again() -> None:
    mine, theirs = tiny_tokenizer(), shifted_tokenizer()
    reader = OtherTokenizer(shifted(tiny_model("bert")), theirs, mine, 64)
    ids = torch.tensor(mine("good film", "bad story")["input_ids"]).numpy()
    assert reader.original(ids) == ("good film", "bad story")
    rows = [mine("good film", "bad story")["input_ids"]]
    known = originals_of(rows, ["Good Film"], ["Bad Story"])
    reader = OtherTokenizer(reader.model, theirs, mine, 64, known)
    assert reader.original(ids) == ("Good Film", "Bad Story")


def test_a_teacher_without_token_types_is_given_none() -> None:
    mine, theirs = tiny_tokenizer(), shifted_tokenizer()
    model = shifted(tiny_model("distilbert"))
    batch = mine(TEXTS, padding=True, return_tensors="pt")
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    theirs.model_input_names = ["input_ids", "attention_mask"]
    wanted = logits_of(OtherTokenizer(model, theirs, mine, 64), given)
    theirs.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    torch.testing.assert_close(logits_of(OtherTokenizer(model, theirs, mine, 64), given), wanted)


def test_what_rows_were_made_of_is_kept_by_short_keys() -> None:
    """The ids themselves took a kilobyte for each row of 128 tokens."""
    rows = [list(range(number, number + 512)) for number in range(50)]
    known = originals_of(rows, [str(number) for number in range(50)], None)
    assert list(known.values()) == [str(number) for number in range(50)]
    assert {len(key) for key in known} == {16}


def test_the_same_tokens_need_no_reader() -> None:
    model = tiny_model("bert")
    assert read_by_another(model, tiny_tokenizer(), tiny_tokenizer()) is model
    found = read_by_another(shifted(model), shifted_tokenizer(), tiny_tokenizer(), 300)
    assert isinstance(found, OtherTokenizer)
    assert found.max_length == 64, "what the tokenizer and the positions allow"


def test_kept_outputs_are_of_one_tokenizer_and_one_mean() -> None:
    from hfprune.data.token_rows import TokenRows

    mine = tiny_tokenizer()
    rows = Dataset.from_dict({"input_ids": mine(TEXTS)["input_ids"]})
    model, first = shifted(tiny_model("bert")), tiny_model("bert")
    readers = [
        OtherTokenizer(model, shifted_tokenizer(lowercase=True), mine, length)
        for length in (64, 32)
    ]
    teachers = [*readers, *(Ensemble([first, model], first_counts=c) for c in (True, False))]
    assert len({_digest(teacher, rows, TokenRows(rows)) for teacher in teachers}) == 4


def test_of_the_first_only_the_hidden_states_count() -> None:
    first, other = tiny_model("bert", seed=1), tiny_model("bert", seed=2)
    mine = tiny_tokenizer()
    batch = mine(TEXTS, padding=True, return_tensors="pt")
    both = Ensemble([first, other], first_counts=False)
    with torch.no_grad():
        found = both(**batch, output_hidden_states=True)
        own = first(**batch, output_hidden_states=True)
    wanted = logits_of(other, batch).softmax(-1)
    torch.testing.assert_close(found.logits.softmax(-1), wanted)
    assert all(map(torch.equal, found.hidden_states, own.hidden_states))
    first.forward = None  # not asked where neither its logits nor its states are wanted
    torch.testing.assert_close(logits_of(both, batch).softmax(-1), wanted)
    with pytest.raises(TrainingError, match="one model alone is given to learn from"):
        Ensemble([other], first_counts=False)


def test_a_teacher_without_padding_is_refused() -> None:
    theirs = shifted_tokenizer()
    theirs.pad_token = None
    with pytest.raises(TrainingError, match="has no padding token, which texts of a batch need"):
        OtherTokenizer(shifted(tiny_model("bert")), theirs, tiny_tokenizer(), 64)


# -- through the Trainer -------------------------------------------------------------------------


def trained(folder: Path, teacher: Any, **changes: Any) -> Any:
    mine = tiny_tokenizer()
    rows = Dataset.from_dict({**mine(TEXTS * 4), "labels": [1, 0, 1, 0] * 4})
    settings: dict[str, Any] = {
        "processing_class": mine,
        "distillation": DistillationConfig(hidden_weight=0.0, augmentation=1),
        **changes,
    }
    trainer = HFPruneTrainer(
        tiny_model("bert", labels=2, seed=1),
        TrainingArguments(str(folder), num_train_epochs=2, use_cpu=True, report_to=[],
                          learning_rate=1e-3, disable_tqdm=True, save_strategy="no"),
        train_dataset=rows,
        teacher=teacher,
        **settings,
    )  # fmt: skip
    trainer.train()
    return trainer.model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teacher")
    shifted(tiny_model("bert", labels=2, seed=3)).save_pretrained(place)
    shifted_tokenizer().save_pretrained(place)
    return place


def test_a_folder_of_another_tokenizer_teaches_the_same(tmp_path: Path, folder: Path) -> None:
    found = trained(tmp_path / "a", str(folder))
    wanted = trained(tmp_path / "b", tiny_model("bert", labels=2, seed=3))
    for name, weight in wanted.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, msg=name)


def test_what_such_a_teacher_cannot(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"its hidden states are of other tokens than the"):
        trained(tmp_path, str(folder), distillation=None)
    with pytest.raises(TrainingError, match="pass the student's tokenizer as processing_class"):
        trained(tmp_path, str(folder), processing_class=None)
    alone = tmp_path / "alone"
    shifted(tiny_model("bert", labels=2, seed=3)).save_pretrained(alone)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        trained(tmp_path, str(alone))
    module = shifted(tiny_model("bert", labels=2, seed=3))
    with pytest.raises(TrainingError, match="give the teacher's folder, with its tokenizer in it"):
        trained(tmp_path, module)
