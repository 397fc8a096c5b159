"""An uneven model with a file of code: transformers alone loads it for those who trust the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TEXT_FAMILIES, random_plan, tiny_batch, tiny_model
from transformers import AutoModelForSequenceClassification

import hfprune
from hfprune import shrink_
from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.families.blocks import BlockKey
from hfprune.models.remote import modeling_file, write_modeling_file
from hfprune.pruning.plan import PruningPlan

REFUSED = ("albert", "mpnet", "gpt2")
REMOVED = (BlockKey(1, "attention"), BlockKey(2, "ffn"))
# hfprune cannot be imported there.
ALONE = """
import sys
sys.modules["hfprune"] = None
import numpy, torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = {name: torch.from_numpy(value) for name, value in numpy.load(sys.argv[2]).items()}
with torch.no_grad():
    numpy.save(sys.argv[3], model.eval()(**batch).logits.numpy())
"""


def uneven(family: str, folder: Path) -> Any:
    model = tiny_model(family)
    shrink_(model, random_plan(model, removed=REMOVED)).save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", [name for name in TEXT_FAMILIES if name not in REFUSED])
def test_the_file_builds_the_same_model(family: str, tmp_path: Path) -> None:
    model = uneven(family, tmp_path)
    write_modeling_file(tmp_path)
    batch = tiny_batch(family=family)
    maker = AutoModelForSequenceClassification
    trusted = maker.from_pretrained(tmp_path, trust_remote_code=True).eval()
    with torch.no_grad():
        wanted = model(**batch).logits
        assert torch.equal(trusted(**batch).logits, wanted)
        # It is still hfprune's, which runs no code of it.
        assert torch.equal(hfprune.from_pretrained(tmp_path)(**batch).logits, wanted)
    with pytest.raises(ValueError, match="hfprune.from_pretrained.folder. or with trust_remote"):
        maker.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_it_is_saved_with_its_file(family: str, tmp_path: Path) -> None:
    """As after training it further: a folder without the file could be loaded by nobody."""
    model = uneven(family, tmp_path / "model")
    write_modeling_file(tmp_path / "model")
    maker = AutoModelForSequenceClassification
    trusted = maker.from_pretrained(tmp_path / "model", trust_remote_code=True)
    trusted.save_pretrained(tmp_path / "again")
    again = maker.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    batch = tiny_batch(family=family)
    with torch.no_grad():
        wanted = model(**batch).logits
        assert torch.equal(again(**batch).logits, wanted)
        assert torch.equal(hfprune.from_pretrained(tmp_path / "again")(**batch).logits, wanted)
    with pytest.raises((RuntimeError, ValueError)):
        maker.from_pretrained(tmp_path / "again")


def test_without_hfprune(tmp_path: Path) -> None:
    model = uneven("bert", tmp_path / "model")
    write_modeling_file(tmp_path / "model")
    batch = tiny_batch()
    np.savez(tmp_path / "batch.npz", **{name: value.numpy() for name, value in batch.items()})
    names = ["model", "batch.npz", "logits.npy"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", ALONE, *(str(tmp_path / name) for name in names)],
        cwd=tmp_path,
        env={**clean, "HF_HOME": str(tmp_path / "home")},
        check=True,
    )
    with torch.no_grad():
        wanted = model(**batch).logits.numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), wanted, rtol=0, atol=1e-6)


def test_the_file_is_short_and_imports_two_packages(tmp_path: Path) -> None:
    text = modeling_file(uneven("bert", tmp_path))
    assert len(text.splitlines()) < 110
    imports = [line for line in text.splitlines() if line.startswith(("import", "from"))]
    assert imports == [
        "import torch",
        "from torch import nn",
        "from transformers import BertForSequenceClassification",
    ]
    assert not any(word in text for word in ("open(", "eval(", "exec(", "os.", "subprocess"))
    compile(text, "modeling_pruned.py", "exec")


@pytest.mark.parametrize("family", REFUSED)
def test_other_families_are_refused(family: str, tmp_path: Path) -> None:
    uneven(family, tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UnsupportedModelError, match=f"no file of code is written for '{family}'"):
        write_modeling_file(tmp_path)
    assert (tmp_path / "config.json").read_text() == before
    assert not (tmp_path / "modeling_pruned.py").exists()


def test_models_that_need_no_file_get_none(tmp_path: Path) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="loads the model in .* by itself"):
        write_modeling_file(tmp_path)


def test_the_record_repeats_sizes_in_the_words_of_transformers_5(tmp_path: Path) -> None:
    model = tiny_model("bert")
    sizes = [(4, 40), (0, 48), (0, 0)]
    shrink_(model, PruningPlan.first_units([(4, 48)] * 3, sizes)).save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())["hfprune"]
    assert record["per_layer_config"] == {
        "0": {"intermediate_size": 40},
        "1": {"intermediate_size": 48, "skip": ["attention"]},
        "2": {"skip": ["attention", "mlp"]},
    }


def test_transformers_5_takes_those_words(tmp_path: Path) -> None:
    """Its config reads them by layer, and says them again as they stand, less what is no change."""
    model = tiny_model("bert")
    if not hasattr(type(model.config), "per_layer_config"):
        pytest.skip("transformers 5.23 and later have per_layer_config")
    sizes = [(4, 40), (0, 48), (0, 0)]
    shrink_(model, PruningPlan.first_units([(4, 48)] * 3, sizes)).save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())["hfprune"]["per_layer_config"]
    config = tiny_model("bert").config
    config.per_layer_config = record
    layers = list(config.per_layer_config)
    assert [layer.intermediate_size for layer in layers] == [40, 48, 48]
    assert [list(layer.skip) for layer in layers] == [[], ["attention"], ["attention", "mlp"]]
    record["1"].pop("intermediate_size")
    assert config.to_diff_dict()["per_layer_config"] == record
