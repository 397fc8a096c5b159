"""Checkpoints chosen by how near they come to the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from transformers import DataCollatorForTokenClassification, TrainingArguments

from hfprune import DistillationConfig, HFPruneTrainer
from hfprune.core.errors import RecipeError, TrainingError
from hfprune.recipe.sections.whole import Recipe

WORDS = [
    "a",
    "good",
    "film",
    "and",
    "bad",
    "one",
    "that",
    "the",
    "dull",
    "moving",
    "story",
    "is",
    "not",
    "was",
]


def rows(number: int, seed: int = 0) -> Dataset:
    draw = torch.Generator().manual_seed(seed)
    tokenizer = tiny_tokenizer()
    lengths = torch.randint(2, 9, (number,), generator=draw).tolist()
    texts = [
        " ".join(WORDS[i] for i in torch.randint(0, len(WORDS), (n,), generator=draw).tolist())
        for n in lengths
    ]
    found = dict(tokenizer(texts))
    found["labels"] = [number % 2 for number in range(len(texts))]
    return Dataset.from_dict(found)


def make(folder: Path, train: Any, evaluated: Any, **changes: Any) -> HFPruneTrainer:
    settings: dict[str, Any] = {
        "num_train_epochs": 3, "learning_rate": 3e-3, "use_cpu": True, "report_to": [],
        "per_device_train_batch_size": 8, "eval_strategy": "epoch", "save_strategy": "epoch",
        "load_best_model_at_end": True, "metric_for_best_model": "divergence",
        "disable_tqdm": True, **changes.pop("args", {}),
    }  # fmt: skip
    return HFPruneTrainer(
        tiny_model("bert", labels=2, seed=1),
        TrainingArguments(str(folder), **settings),
        train_dataset=train,
        eval_dataset=evaluated,
        processing_class=tiny_tokenizer(),
        **{
            "teacher": tiny_model("bert", labels=2, seed=3),
            "distillation": DistillationConfig(hidden_weight=0.0),
            **changes,
        },
    )


def by_length() -> dict[str, Any]:
    """Rows of like length together, as this transformers spells it."""
    if "train_sampling_strategy" in TrainingArguments.__dataclass_fields__:
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


def by_hand(model: Any, teacher: Any, data: Dataset) -> float:
    """Row by row, without padding."""
    total = 0.0
    with torch.no_grad():
        for row in data:
            batch = {
                "input_ids": torch.tensor([row["input_ids"]]),
                "attention_mask": torch.tensor([row["attention_mask"]]),
            }
            mine, theirs = model.eval()(**batch).logits, teacher.eval()(**batch).logits
            p, q = theirs.softmax(-1), mine.softmax(-1)
            total += float((p * (p / q).log()).sum())
    return total / len(data)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_nearest_checkpoint_wins_by_a_number_worked_by_hand(
    tmp_path: Path, grouped: bool
) -> None:
    train, evaluated = rows(32), rows(15, seed=1)
    trainer = make(tmp_path, train, evaluated, args=by_length() if grouped else {})
    assert trainer.args.greater_is_better is False
    trainer.train()
    found = [e["eval_divergence"] for e in trainer.state.log_history if "eval_divergence" in e]
    assert len(found) == 3
    assert trainer.state.best_metric == min(found)
    value = by_hand(trainer.model, trainer.teacher, evaluated)
    assert value == pytest.approx(min(found), rel=1e-4, abs=1e-7)
    again = trainer.evaluate(metric_key_prefix="again")
    assert again["again_divergence"] == pytest.approx(value, rel=1e-4, abs=1e-7)
    others = trainer.evaluate(rows(9, seed=2))
    other = by_hand(trainer.model, trainer.teacher, rows(9, seed=2))
    assert others["eval_divergence"] == pytest.approx(other, rel=1e-4, abs=1e-7)


def test_rows_in_an_order_of_the_users_own_are_not_taken_for_others(tmp_path: Path) -> None:
    class Turned(HFPruneTrainer):
        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            loader = super().get_eval_dataloader(eval_dataset)
            order = list(range(len(self.eval_dataset)))[::-1]
            return torch.utils.data.DataLoader(
                loader.dataset, batch_size=4, sampler=order, collate_fn=self.data_collator
            )

    # An even number, so that labels in turn are others from behind.
    trainer = make(tmp_path, rows(16), rows(14, seed=1))
    trainer.__class__ = Turned
    with pytest.raises(TrainingError, match="the rows were evaluated in another order than eval"):
        trainer.evaluate()


def test_several_evaluation_sets_have_one_each(tmp_path: Path) -> None:
    sets = {"one": rows(8, seed=1), "two": rows(8, seed=2)}
    trainer = make(
        tmp_path, rows(16), sets, args={"metric_for_best_model": "eval_two_divergence",
        "load_best_model_at_end": False, "save_strategy": "no", "eval_strategy": "no"},
    )  # fmt: skip
    assert trainer.args.greater_is_better is False
    found = trainer.evaluate()
    for name, data in sets.items():
        wanted = by_hand(trainer.model, trainer.teacher, data)
        assert found[f"eval_{name}_divergence"] == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_of_tokens_those_with_a_label_count(tmp_path: Path) -> None:
    data = rows(12)
    labels = [[-100, *[1] * (len(ids) - 2), -100] for ids in data["input_ids"]]
    data = data.remove_columns("labels").add_column("labels", labels)
    model, teacher = (tiny_model("bert", labels=3, seed=seed, tokens=True) for seed in (1, 3))
    trainer = HFPruneTrainer(
        model,
        TrainingArguments(
            str(tmp_path), use_cpu=True, report_to=[], metric_for_best_model="divergence",
            per_device_eval_batch_size=5,
        ),
        data_collator=DataCollatorForTokenClassification(tiny_tokenizer()),
        train_dataset=data,
        eval_dataset=data,
        teacher=teacher,
    )  # fmt: skip
    found = trainer.evaluate()["eval_divergence"]
    total, count = 0.0, 0
    with torch.no_grad():
        for row in data:
            ids = torch.tensor([row["input_ids"]])
            p, q = (m.eval()(ids).logits.softmax(-1)[0, 1:-1] for m in (teacher, model))
            total += float((p * (p / q).log()).sum())
            count += len(p)
    assert found == pytest.approx(total / count, rel=1e-4, abs=1e-7)


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="divergence, which is from a teacher, and"):
        make(tmp_path, rows(8), rows(8), teacher=None, distillation=None).train()
    with pytest.raises(TrainingError, match="eval_dataset is a list; expected a datasets"):
        make(tmp_path, rows(8), list(rows(8))).evaluate()
    trainer = make(
        tmp_path, rows(8), rows(8), preprocess_logits_for_metrics=lambda x, labels: x.argmax(-1)
    )
    with pytest.raises(TrainingError, match=r"predictions of shape \(8,\) are not logits"):
        trainer.evaluate()


RECIPE: dict[str, Any] = {
    "model": {"name_or_path": "org/model"},
    "data": {"name": "org/data"},
    "pruning": {"sparsity": 0.5},
    "training": {"metric_for_best_model": "divergence"},
    "output_dir": "runs/x",
}


def test_recipes_know_it_where_they_distil() -> None:
    assert Recipe(**RECIPE).training.greater_is_better is False
    with pytest.raises(RecipeError, match="'divergence' is not computed: add it to"):
        Recipe(**RECIPE, distillation=None)
