"""Several teachers as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_batch, tiny_model

from hfprune.core.errors import TrainingError
from hfprune.training.distillation.ensemble import Ensemble, mean_logits
from hfprune.training.distillation.teaching import _accepted, load_teacher

SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def test_the_mean_is_of_probabilities() -> None:
    logits = [torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[-30.0, 40.0, 0.0]])]
    softmax = torch.stack([one.softmax(-1) for one in logits]).mean(0)
    torch.testing.assert_close(mean_logits(logits, SINGLE).softmax(-1), softmax)
    sigmoid = torch.stack([one.double().sigmoid() for one in logits]).mean(0)
    torch.testing.assert_close(mean_logits(logits, MULTI).double().sigmoid(), sigmoid)
    worked = mean_logits([torch.tensor([0.9]).logit(), torch.tensor([0.5]).logit()], MULTI)
    assert float(worked) == pytest.approx(0.847, abs=1e-3)
    torch.testing.assert_close(
        mean_logits(logits, "regression"), torch.tensor([[-14.0, 19.5, 0.25]])
    )
    extreme = [torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])]
    assert mean_logits(extreme, MULTI).isfinite().all()


def test_one_alone_is_itself_and_hidden_states_are_the_first_ones() -> None:
    models = [tiny_model("bert", seed=seed) for seed in (0, 1)]
    batch = tiny_batch(4, 9)
    with torch.no_grad():
        alone, first = Ensemble(models[:1])(**batch), models[0](**batch)
        torch.testing.assert_close(alone.logits.softmax(-1), first.logits.softmax(-1))
        both = Ensemble(models)(**batch, output_hidden_states=True)
        own = models[0](**batch, output_hidden_states=True)
        wanted = (own.logits.softmax(-1) + models[1](**batch).logits.softmax(-1)) / 2
    torch.testing.assert_close(both.logits.softmax(-1), wanted)
    assert all(map(torch.equal, both.hidden_states, own.hidden_states))


def test_a_student_may_take_more_than_its_teachers(tmp_path: Path) -> None:
    teachers = Ensemble([tiny_model("bert", labels=2, seed=seed) for seed in (0, 1)])
    accepted = _accepted(teachers)
    assert accepted("token_type_ids")
    assert not accepted("something_of_the_students_own")
    assert not accepted("labels")


def test_teachers_of_other_labels_are_refused() -> None:
    with pytest.raises(TrainingError, match="teacher 2 has 5 labels, the first 3"):
        Ensemble([tiny_model("bert"), tiny_model("bert", labels=5)])
    student = tiny_model("bert", labels=5)
    with pytest.raises(TrainingError, match="the teacher has 3 labels, the student 5"):
        load_teacher(Ensemble([tiny_model("bert")]), student, "cpu")


def test_it_survives_a_copy(tmp_path: Path) -> None:
    import copy

    found = Ensemble([tiny_model("bert", seed=seed) for seed in (0, 1)])
    again = copy.deepcopy(found)
    batch = tiny_batch(2, 5)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.zero_()
        assert not torch.equal(again(**batch).logits, found(**batch).logits)


def test_a_teacher_that_numbers_the_same_labels_otherwise_is_refused() -> None:
    names = {0: "negative", 1: "positive"}
    student = tiny_model("bert", labels=2, id2label=names)
    for theirs in ({0: "NEGATIVE", 1: "POSITIVE"}, {0: "LABEL_0", 1: "LABEL_1"}, {0: "a", 1: "b"}):
        load_teacher(tiny_model("bert", labels=2, id2label=theirs), student, "cpu")
    turned = tiny_model("bert", labels=2, id2label={0: "Positive", 1: "Negative"})
    with pytest.raises(
        TrainingError,
        match=r"numbers its labels \['Positive', 'Negative'\], the student \['negative', 'posi.*"
        "would be taken for others",
    ):
        load_teacher(turned, student, "cpu")
