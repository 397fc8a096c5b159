"""Paths and names of the Hub, old flags, heads, adapters: what a model is made of on disk."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, IMAGE_FAMILIES, random_plan, save_tiny_classifier, tiny_batch, tiny_model
from transformers import AutoConfig

from hfprune.core.errors import CheckpointError, RecipeError, UnsupportedModelError
from hfprune.core.trackers import TRACKERS, check_trackers
from hfprune.families import position_limit
from hfprune.models.configs import PLAIN_OUTPUTS, load_config, longest_input, parameters_about
from hfprune.models.fetching import UNKNOWN_SIZE, fetch, wanted
from hfprune.models.folders import looks_like_path, model_folder
from hfprune.models.heads import last_projection, new_head_
from hfprune.models.saved import load_saved
from hfprune.pruning.surgery import shrink_


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bert-base-uncased", False),
        ("google-bert/bert-base-uncased", False),
        ("org/model.v2_x", False),
        ("./model", True),
        ("../model", True),
        ("/models/bert", True),
        ("~/bert", True),
        ("a/b/c", True),
        ("runs\\model", True),
        ("C:\\models\\bert", True),
        ("C:/models/bert", True),
        ("my model", True),
        ("model/", True),
        (".hidden", True),
        ("runs/model.safetensors", True),
        ("", True),
        ("here/model", True),  # there is a folder "here"
    ],
)
def test_what_looks_like_a_path(
    name: str, path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert looks_like_path(name) is path


@pytest.mark.parametrize("path", ["/etc", "../up", "a/../../b", "C:/x", 3, None, "a\0b"])
def test_modules_never_lead_out_of_the_folder(path: Any, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"path": path}]))
    with pytest.raises(Exception, match="leads out of the folder|a path must be text"):
        model_folder(str(tmp_path))


FLAGS = {
    "torchscript": True,
    "return_dict": False,
    "output_attentions": True,
    "output_hidden_states": True,
}


@pytest.mark.parametrize("flag", FLAGS)
def test_old_flags_do_not_change_what_a_model_returns(flag: str, tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path)
    with torch.no_grad():
        expected = load_saved(str(tmp_path))(**tiny_batch()).logits
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), flag: FLAGS[flag]}))
    with torch.no_grad():
        found = load_saved(str(tmp_path))(**tiny_batch())
    assert torch.equal(found.logits, expected)
    assert found.attentions is None
    assert found.hidden_states is None
    config = load_config(tmp_path)
    assert {name: getattr(config, name, None) for name in FLAGS} | {"torchscript": False} == {
        "torchscript": False,
        "return_dict": True,
        "output_attentions": False,
        "output_hidden_states": False,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_input_is_that_of_the_model(family: str) -> None:
    model = tiny_model(family)
    assert longest_input(model.config) == position_limit(model)
    shrunk = shrink_(model, random_plan(model))
    assert longest_input(shrunk.config) == position_limit(model)
    if family in ("roberta", "xlm-roberta", "camembert"):
        assert longest_input(model.config) == 66 - 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_a_config_is_about_that_of_the_model(family: str) -> None:
    model = tiny_model(family)
    counted = sum(parameter.numel() for parameter in model.parameters())
    about = parameters_about(json.loads(model.config.to_json_string(use_diff=False)))
    assert counted / 4 < about < 4 * counted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shrunk", [False, True], ids=["dense", "shrunk"])
def test_a_new_head_is_the_last_projection_alone(family: str, shrunk: bool) -> None:
    model = tiny_model(family, labels=3)
    if shrunk:
        shrink_(model, random_plan(model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, _, old = last_projection(model)
    assert old.out_features == 3
    torch.manual_seed(0)
    assert new_head_(model, 5) is model
    after = model.state_dict()
    changed = [n for n in after if n not in before or not torch.equal(after[n], before[n])]
    assert {name.rpartition(".")[2] for name in changed} <= {"weight", "bias"}
    assert len({name.rpartition(".")[0] for name in changed}) == 1
    batch = tiny_batch(family=family)
    with torch.no_grad():
        assert model(**batch).logits.shape == (4, 5)
    loss = model(**batch, labels=torch.tensor([0, 4, 2, 1])).loss
    assert loss.isfinite()
    assert model.config.num_labels == model.num_labels == 5
    assert family in IMAGE_FAMILIES or len(model.config.id2label) == 5


def test_a_model_without_a_head_has_none_to_exchange() -> None:
    with pytest.raises(UnsupportedModelError, match="no projection outside of its encoder"):
        new_head_(tiny_model("bert").bert, 2)


def test_trackers_are_known_before_a_run() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) <= set(INTEGRATION_TO_CALLBACK), "each is one of transformers"
    check_trackers([])
    check_trackers(["none"])
    check_trackers(["tensorboard"])
    with pytest.raises(RecipeError, match="Did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])


class Sibling:
    def __init__(self, name: str, size: int | None) -> None:
        self.rfilename, self.size = name, size


def test_of_a_repository_only_what_is_needed_is_fetched() -> None:
    names = ["config.json", "tokenizer.json", "README.md", "model.safetensors", "pytorch_model.bin",
             "onnx/model.onnx", "run.py"]  # fmt: skip
    found = wanted([Sibling(name, 5) for name in names])
    assert found == [("config.json", 5), ("tokenizer.json", 5), ("model.safetensors", 5)]
    assert wanted([Sibling("pytorch_model.bin", None)]) == [("pytorch_model.bin", UNKNOWN_SIZE)]
    shards = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    assert [name for name, _ in wanted([Sibling(name, 1) for name in shards])] == shards


def test_offline_and_for_folders_nothing_is_fetched(tmp_path: Path) -> None:
    fetch("user/name", None)  # the tests are offline
    fetch(str(tmp_path), None)


def test_heads_of_another_size_are_exchanged_where_the_recipe_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tiny import tiny_tokenizer

    from hfprune.data.loading import load_task_data
    from hfprune.models.loading import load_classifier
    from hfprune.recipe.sections.data import DataConfig
    from tests.models.test_code_is_never_run import write_reviews

    write_reviews(tmp_path / "rows.csv", 40)
    data = load_task_data(
        DataConfig(train_file=str(tmp_path / "rows.csv"), max_length=16),
        tiny_tokenizer(),
        "single_label_classification",
    )
    model = tiny_model("roberta", labels=5)
    model.save_pretrained(tmp_path / "dense")
    shrink_(model, random_plan(model)).save_pretrained(tmp_path / "shrunk")
    options: dict[str, Any] = {
        "revision": None, "trust_remote_code": False, "key": "model.name_or_path", "trained": False,
    }  # fmt: skip
    for name in ("dense", "shrunk"):
        with pytest.raises(CheckpointError, match="model.new_head: true"):
            load_classifier(str(tmp_path / name), data, **options)
        caplog.clear()
        caplog.set_level(logging.WARNING)
        made = load_classifier(str(tmp_path / name), data, **options, new_head=True)
        assert "a new head starts from random numbers" in caplog.text
        assert made.config.id2label == {0: "negative", 1: "positive"}
        assert made.config.problem_type == "single_label_classification"
        own = made.classifier
        assert own.out_proj.out_features == 2
        assert torch.equal(own.dense.weight, model.classifier.dense.weight), "kept as it was"
        made.save_pretrained(tmp_path / "again")
        assert AutoConfig.from_pretrained(tmp_path / "again").num_labels == 2


def test_adapters_with_a_head_are_merged_with_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    from hfprune.models.adapters import adapter_weights, labels_of_adapter, load_merged

    base = tiny_model("bert", labels=4)
    base.bert.save_pretrained(tmp_path / "base")
    for task in ("SEQ_CLS", None):
        settings = peft.LoraConfig(r=2, target_modules=["query"], task_type=task)
        made = peft.get_peft_model(base, settings)
        made.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        made.save_pretrained(tmp_path / str(task))
        base = made.unload()
    assert labels_of_adapter(adapter_weights(tmp_path / "SEQ_CLS")) == 4
    assert labels_of_adapter(adapter_weights(tmp_path / "None")) is None
    options = {"num_labels": 4, "trust_remote_code": False}
    _, missing = load_merged(tmp_path / "SEQ_CLS", AutoModelForSequenceClassification, **options)
    assert missing == ()
    _, missing = load_merged(tmp_path / "None", AutoModelForSequenceClassification, **options)
    assert missing == ("classifier.bias", "classifier.weight")


@pytest.mark.parametrize("flag", FLAGS)
def test_a_trainer_reads_plain_outputs(flag: str, tmp_path: Path) -> None:
    """Of a model and a teacher whose configs ask for others: both are trained as ever."""
    from hfprune import PruningConfig
    from tests.training.test_trainer import make

    model, teacher = tiny_model("bert", labels=2), tiny_model("bert", labels=2, seed=1)
    for one in (model, teacher):
        one.config._attn_implementation = "eager"  # the only one that gives attentions
        setattr(one.config, flag, FLAGS[flag])
    pruning = PruningConfig(sparsity=0.5, min_neurons=4, update_every_steps=1)
    trainer = make(tmp_path, model=model, teacher=teacher, pruning=pruning, max_steps=4)
    trainer.train()
    assert trainer.plan is not None
    config = trainer.model.config
    found = {name: getattr(config, name, value) for name, value in PLAIN_OUTPUTS.items()}
    assert found == PLAIN_OUTPUTS


def test_a_missing_teacher_of_a_trainer_is_no_name_on_the_hub(tmp_path: Path) -> None:
    from tests.training.test_trainer import make

    with pytest.raises(CheckpointError, match="teacher './nowhere' cannot be loaded: there is no"):
        make(tmp_path, teacher="./nowhere")


def test_what_a_trainer_saves_follows_the_umask(tmp_path: Path) -> None:
    from tests.training.test_trainer import make

    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "secret.safetensors").touch(0o600)
    before = os.umask(0o022)
    try:
        trainer = make(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
        trainer.train()
        trainer.save_model(str(tmp_path / "saved"))
    finally:
        os.umask(before)
    found = list(tmp_path.rglob("model.safetensors"))
    assert {path.parent.name for path in found} == {"checkpoint-1", "saved"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o644}
    assert stat.S_IMODE((tmp_path / "saved" / "secret.safetensors").stat().st_mode) == 0o600
