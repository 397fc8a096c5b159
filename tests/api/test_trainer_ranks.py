"""HFPruneTrainer on sentence encoders, and on rerankers by the losses of a query's texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from tiny import tiny_batch, tiny_model, tiny_tokenizer
from transformers import DataCollatorWithPadding, TrainingArguments

import hfprune
from hfprune.core.errors import CheckpointError, TrainingError
from hfprune.models.embedding import as_embedder_, as_encoder_, embedding_loss, maker_of
from hfprune.models.layout import usual_layout
from hfprune.training.distillation.losses import query_loss
from hfprune.training.samplers import GroupedByQuery


def encoder() -> Any:
    return as_embedder_(tiny_model("bert").base_model, usual_layout(".", "mean", True, 32))


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        str(folder), per_device_train_batch_size=8, num_train_epochs=2, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, learning_rate=1e-3, **more,
    )  # fmt: skip


def rows(count: int = 16, **columns: Any) -> Dataset:
    batch = tiny_batch(count, 9, padded=False)
    return Dataset.from_dict({k: v.tolist() for k, v in batch.items()} | columns)


def options(folder: Path) -> dict[str, Any]:
    tokenizer = tiny_tokenizer()
    return {
        "args": arguments(folder), "processing_class": tokenizer,
        "data_collator": DataCollatorWithPadding(tokenizer),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("embeds", "dropout", "acts"),
    [(True, None, False), (True, True, True), (False, None, True), (False, False, False)],
)
def test_dropout_acts_but_where_embeddings_are_learned(
    embeds: bool, dropout: bool | None, acts: bool, tmp_path: Path
) -> None:
    student, teacher = (encoder() if embeds else tiny_model("bert", labels=2) for _ in range(2))
    part = next(one for one in student.modules() if isinstance(one, torch.nn.Dropout))
    seen: list[bool] = []
    part.register_forward_hook(lambda module, args, output: seen.append(module.training))
    labels = {} if embeds else {"labels": [0, 1] * 8}
    trainer = hfprune.HFPruneTrainer(
        student, train_dataset=rows(**labels), teacher=teacher,
        distillation={"dropout": dropout}, **options(tmp_path),
    )  # fmt: skip
    trainer.train()
    assert seen
    assert set(seen) == {acts}


def test_dropout_ends_with_the_gates(tmp_path: Path) -> None:
    """Without it a student that begins as its teacher has no gradients to score gates by."""
    student = encoder()
    part = next(one for one in student.modules() if isinstance(one, torch.nn.Dropout))
    seen: list[bool] = []
    part.register_forward_hook(lambda module, args, output: seen.append(module.training))
    pruning = {"sparsity": 0.3, "update_every_steps": 1, "start": 0.0, "end": 0.5}
    trainer = hfprune.HFPruneTrainer(
        student, train_dataset=rows(), teacher=encoder(), pruning=pruning, **options(tmp_path)
    )
    trainer.train()
    assert seen == [True, True, False, False]
    with pytest.raises(TrainingError, match="leave it out .dropout then ends with the pruning."):
        hfprune.HFPruneTrainer(
            encoder(), train_dataset=rows(), teacher=encoder(), pruning=pruning,
            distillation={"dropout": False}, **options(tmp_path),
        )  # fmt: skip


def test_embeddings_are_learned_without_labels(tmp_path: Path) -> None:
    """Gates while it trains: what is left is near to the dense model, nearer than untrained."""
    dense = encoder()
    trainer = hfprune.HFPruneTrainer(
        encoder(), train_dataset=rows(), teacher=dense,
        pruning={"sparsity": 0.3, "update_every_steps": 1, "start": 0.0, "end": 0.5},
        distillation={"hidden_weight": 0.0}, **options(tmp_path),
    )  # fmt: skip
    trainer.train()
    assert trainer.model.encoder.layer[0].intermediate.dense.out_features < 48
    folder = tmp_path / "small"
    trainer.save_model(str(folder))
    tiny_tokenizer().save_pretrained(folder)
    assert (folder / "modules.json").is_file()
    again = hfprune.load_embedder(str(folder))
    batch = tiny_batch(3, 9)
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, trainer.model.eval()(**batch).logits)
        cosines = (again(**batch).logits * dense(**batch).logits).sum(-1)
    assert cosines.min() > 0.9
    with pytest.raises(TrainingError, match="learned from those of a dense model"):
        hfprune.HFPruneTrainer(
            encoder(), train_dataset=rows(), pruning={"sparsity": 0.3}, **options(tmp_path / "b")
        ).train()


def test_stages_prune_embeddings(tmp_path: Path) -> None:
    trainer = hfprune.HFPruneTrainer(
        encoder(), train_dataset=rows(), eval_dataset=rows(8), teacher=encoder(),
        pruning={"method": "reconstruction", "sparsity": 0.3, "scoring_samples": 8,
                 "search_rounds": 1, "trial_epochs": 0.0},
        **options(tmp_path),
    )  # fmt: skip
    trainer.train()
    batch = tiny_batch(3, 9)
    with torch.no_grad():
        found, want = trainer.model.eval()(**batch).logits, encoder()(**batch).logits
    assert (found * want).sum(-1).min() > 0.9


def test_a_reranker_learns_by_query(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def reranker() -> Any:
        model = tiny_model("bert", labels=1)
        model.config.problem_type = "multi_label_classification"
        return model

    data = rows(query_row=[n // 4 for n in range(16)], labels=[[float(n % 4 == 0)]
                for n in range(16)])  # fmt: skip
    for kind in ("margin_mse", "listwise"):
        trainer = hfprune.HFPruneTrainer(
            reranker(), train_dataset=data, teacher=reranker(), pruning={"sparsity": 0.3},
            distillation={"ranking_loss": kind}, **options(tmp_path / kind),
        )  # fmt: skip
        seen = []
        inner = trainer.teaching._outputs_loss

        def watched(*given: Any, seen: Any = seen, inner: Any = inner) -> Any:
            seen.append(np.unique(given[3].numpy(), return_counts=True)[1].tolist())
            return inner(*given)

        trainer.teaching._outputs_loss = watched
        trainer.train()
        assert seen == [[4, 4]] * 4, "whole queries in every batch"
        assert "do not fit" not in caplog.text
        trainer.args.per_device_train_batch_size = 6
        trainer.get_train_dataloader()
        assert f"{kind}: 1 of 4 queries do not fit whole into a batch of 6" in caplog.text
        caplog.clear()
    with pytest.raises(TrainingError, match="needs 'query_row', the number of each row's query"):
        hfprune.HFPruneTrainer(
            reranker(), train_dataset=data.remove_columns("query_row"), teacher=reranker(),
            pruning={"sparsity": 0.3}, distillation={"ranking_loss": "listwise"},
            **options(tmp_path / "none"),
        ).train()  # fmt: skip


def test_losses_of_a_query_by_hand() -> None:
    student = torch.tensor([0.0, 0.0, 1.0, 5.0])
    teacher = torch.tensor([2.0, 0.0, 4.0, 3.0])
    queries = torch.tensor([7, 7, 1, 3])
    assert float(query_loss(student, teacher, queries, "margin_mse", 1.0)) == pytest.approx(4.0)
    target, guess = torch.softmax(teacher[:2] / 2, 0), torch.softmax(student[:2] / 2, 0)
    want = 4 * float((target * (target / guess).log()).sum())
    found = query_loss(student, teacher, queries, "listwise", 2.0)
    assert float(found) == pytest.approx(want, rel=1e-5)
    leaf = student.clone().requires_grad_()
    query_loss(leaf, teacher, queries, "listwise", 2.0).backward()
    assert torch.isfinite(leaf.grad).all()
    assert leaf.grad[2:].abs().max() == 0, "alone of their queries"
    alone = query_loss(leaf, teacher, torch.arange(4), "margin_mse", 1.0)
    assert float(alone) == 0.0
    # Two queries count alike, whatever their numbers of texts.
    queries = torch.tensor([0, 0, 1, 1, 1])
    scores, truth = torch.randn(5), torch.randn(5)
    parts = [query_loss(scores[q == queries], truth[q == queries],
                        queries[q == queries], "listwise", 1.0)
             for q in (torch.tensor(0), torch.tensor(1))]  # fmt: skip
    both = query_loss(scores, truth, queries, "listwise", 1.0)
    assert float(both) == pytest.approx(float(sum(parts)) / 2, rel=1e-5)


def test_queries_stay_whole_in_batches() -> None:
    sizes = [5, 3, 3, 5, 2, 6, 8, 8, 4, 4]
    queries = np.repeat(np.arange(len(sizes)), sizes)
    sampler = GroupedByQuery(queries, 8, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(len(queries)))
    assert list(sampler) == order, "the same epoch"
    sampler.set_epoch(1)
    assert list(sampler) != order
    even = GroupedByQuery(np.repeat(np.arange(9), 4), 8, seed=0)
    rows_of = np.array(list(even)).reshape(-1, 4) // 4
    assert (rows_of == rows_of[:, :1]).all()


def test_queries_that_do_not_fit_whole_are_told() -> None:
    """A loss that compares a query's texts sees only those of one batch."""

    def told(sizes: list[int], batch: int) -> str | None:
        queries = np.repeat(np.arange(len(sizes)), sizes)
        sampler = GroupedByQuery(queries, batch, seed=0)
        batches = np.arange(len(queries)) // batch
        rows = queries[list(sampler)]
        count = sum(len(set(batches[rows == query])) > 1 for query in range(len(sizes)))
        said = sampler.cut()
        assert (said is None) == (count == 0)
        assert said is None or said.startswith(f"{count} of {len(sizes)} queries do not fit")
        return said

    assert told([4] * 9, 8) is None
    assert str(told([4] * 9, 10)).endswith("a query has 4 texts), and only texts of a query that "
        "are in one batch are compared: set per_device_train_batch_size to a multiple of 4"
    )  # fmt: skip
    assert "to 30 or more" in str(told([30, 4, 4], 16))
    assert "has 3 to 7 texts" in str(told([7, 7, 7, 3], 8))
    assert "set per_device_train_batch_size to more" in str(told([7, 7, 7, 3], 8))


def test_the_loss_of_embeddings_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(embedding_loss(student, teacher)) == pytest.approx(2.5)
    assert float(embedding_loss(student, teacher, similarity_weight=0.0)) == pytest.approx(0.5)
    mse = embedding_loss(student, teacher, measure="mse", similarity_weight=0.0)
    assert float(mse) == pytest.approx(1.0)
    # Cut to one number, the second has none of its own: its cosine is 0.
    cut = embedding_loss(student, teacher, sizes=(1, 2, 9), similarity_weight=0.0)
    assert float(cut) == pytest.approx(0.5)
    wide = torch.randn(6, 8)
    assert float(embedding_loss(3 * wide, wide, sizes=(4,))) == pytest.approx(0.0, abs=1e-6)


def test_sizes_of_matryoshka_are_learned_and_kept(tmp_path: Path) -> None:
    model = encoder()
    model.config.matryoshka_dimensions = [16, 8]
    batch, labels = tiny_batch(3, 9), torch.randn(3, 32)
    with torch.no_grad():
        out = model(**batch, labels=labels)
    want = [embedding_loss(out.logits[:, :size], labels[:, :size]) for size in (8, 16, 32)]
    torch.testing.assert_close(out.loss, torch.stack(want).mean())
    model.save_pretrained(tmp_path)
    assert hfprune.load_embedder(str(tmp_path)).config.matryoshka_dimensions == [16, 8]
    model.config.matryoshka_dimensions = "8"
    with pytest.raises(CheckpointError, match="names matryoshka_dimensions '8'; expected a list"):
        model(**batch, labels=labels)


def test_pooling_by_hand_on_either_side_of_padding() -> None:
    for pooling in ("mean", "cls", "max"):
        base = tiny_model("bert").base_model
        batch = tiny_batch(3, 9)
        with torch.no_grad():
            states = base(**batch).last_hidden_state
        model = as_embedder_(base, usual_layout(".", pooling, True, 32))
        with torch.no_grad():
            found = model(**batch).logits
        for row, mask in enumerate(batch["attention_mask"].bool()):
            real = states[row][mask]
            want = {"mean": real.mean(0), "cls": real[0], "max": real.amax(0)}[pooling]
            torch.testing.assert_close(found[row], F.normalize(want, dim=0))
        assert type(as_encoder_(model)) is type(tiny_model("bert").base_model)


def test_probes_for_times_give_embeddings_too() -> None:
    model = encoder()
    probe = maker_of(model)(model.config).eval()
    assert type(probe) is type(model)
    with torch.no_grad():
        found = probe(**tiny_batch(3, 9)).logits
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    with torch.device("meta"):
        assert maker_of(model)(model.config).embedding_width == 32
    assert maker_of(tiny_model("bert")) is type(tiny_model("bert"))
