"""The examples of docs/extending.md: each is installed as a package, and used by its name.

All are used in one fresh process, as an installation with all of them would be: what one breaks,
the others would feel.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "plugins").glob("*.py"))
# What each example adds, by the last word of its group.
KINDS = {
    "hfprune_megatron": "families",
    "hfprune_depth": "scores",
    "hfprune_kappa": "metrics",
    "hfprune_ini": "readers",
    "hfprune_reference": "runtimes",
}
# Needs modules of their own.
PLACES = {
    "readers": "hfprune.data.readers.registry",
    "runtimes": "hfprune.deploy.runtimes.registry",
}


def there(kind: str) -> bool:
    return kind not in PLACES or importlib.util.find_spec(PLACES[kind]) is not None


def declared(file: Path) -> dict[str, dict[str, str]]:
    """The entry points that an example's docstring tells its package to have."""
    text = file.read_text(encoding="utf-8").partition('"""\n\n')[0]
    lines = re.search(r"^( +\[project\.entry-points.*\n(?: +\S.*\n)+)", text, re.MULTILINE)
    assert lines is not None, f"{file.name} shows no entry point"
    found: dict[str, dict[str, str]] = tomllib.loads(textwrap.dedent(lines[1]))["project"][
        "entry-points"
    ]
    return found


def install(folder: Path, name: str, source: str, points: dict[str, dict[str, str]]) -> None:
    """Put a package of one file where Python finds it, with what pip would write beside it."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [
        line
        for group, names in points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in names.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=280,
    )


FAMILIES = """
import contextlib, io, runpy
from hfprune.families import adapter_for, supported_model_types
keys = ["num_attention_heads=4", "hidden_size=32", "num_hidden_layers=3", "intermediate_size=48",
        "vocab_size=100", "max_position_embeddings=40", "pad_token_id=1"]
text = io.StringIO()
check = runpy.run_path(root + "/scripts/check_family.py")
with contextlib.redirect_stdout(text):
    rc = check["main"](["megatron-bert", "--no-onnx", *keys])
result = [rc, text.getvalue(), type(adapter_for("megatron-bert")).__module__,
          "megatron-bert" in supported_model_types()]
"""
SCORES = """
import torch
from tiny import tiny_model
from hfprune import PruningConfig
from hfprune.families.blocks import BlockKey
from hfprune.pruning.importance import GradientScores, magnitude_scores, weight_scores
recipe = PruningConfig(sparsity=0.5, score="depth")
model = tiny_model("bert")
mine, ours = weight_scores(recipe.score, model, 0), magnitude_scores(model)
key = BlockKey(2, "ffn")
summed = GradientScores("cubed")
summed.update({key: torch.tensor([2.0, -1.0])})
result = [float((mine[key] * 3 / ours[key]).min()), float((mine[key] * 3 / ours[key]).max()),
          summed.values[key].tolist()]
"""
METRICS = """
import numpy as np
from sklearn.metrics import cohen_kappa_score
from hfprune.measure.intervals import interval
from hfprune.measure.metrics import compute
from hfprune.recipe import parse_recipe
recipe = parse_recipe(
    "model: {name_or_path: m}\\ndata: {train_file: a.csv}\\npruning: {sparsity: 0.5}\\n"
    "output_dir: out\\nevaluation: {metrics: [kappa, accuracy]}\\n"
    "training: {metric_for_best_model: kappa}\\n")
rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 100)
logits = rng.normal(size=(100, 3)) + np.eye(3)[labels]
about = ("single_label_classification", 3)
found = compute(logits, labels, recipe.evaluation.metrics, *about)
result = [recipe.training.greater_is_better, found["kappa"],
          cohen_kappa_score(labels, logits.argmax(1)), *interval("kappa", logits, labels, *about)]
"""
READERS = """
from pathlib import Path
from tiny import tiny_tokenizer
from hfprune.data.loading import load_task_data
from hfprune.recipe import DataConfig
rows = [f"[{n}]\\ntext = {'good fine' if n % 2 else 'bad plot'} film\\nLabel = {'ab'[n % 2]}\\n"
        for n in range(40)]
Path("rows.ini").write_text("\\n".join(rows))
config = DataConfig(train_file="rows.ini", label_column="Label", max_length=16)
data = load_task_data(config, tiny_tokenizer(), "single_label_classification")
try:
    Path("bad.ini").write_text("text without a section")
    load_task_data(config.model_copy(update={"train_file": "bad.ini"}), tiny_tokenizer(),
                   "single_label_classification")
except Exception as error:
    told = f"{type(error).__name__}: {error}"
result = [data.label_names, sum(len(part) for part in (data.train, data.validation, data.test)),
          told]
"""
RUNTIMES = """
import numpy as np
from tiny import tiny_batch, tiny_model, tiny_tokenizer
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.runtimes.registry import runtime, usable_runtimes
model = tiny_model("bert")
model.config.save_pretrained("out")
export_onnx(model, tiny_tokenizer(), "out/onnx")
batch = {name: value.numpy() for name, value in tiny_batch(padded=True).items()}
logits = [runtime(name).open(runtime(name).files("out")["float32"]).logits(batch)
          for name in ("reference", "onnxruntime")]
result = [[each.name for each in usable_runtimes()], float(np.abs(logits[0] - logits[1]).max())]
"""
CODES = {
    "families": FAMILIES,
    "scores": SCORES,
    "metrics": METRICS,
    "readers": READERS,
    "runtimes": RUNTIMES,
}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each example: its result, or the traceback as text."""
    folder = tmp_path_factory.mktemp("plugins")
    for file in EXAMPLES:
        if there(KINDS[file.stem]):
            install(folder, file.stem, file.read_text(encoding="utf-8"), declared(file))
    code = f"""
import json, traceback
found = {{}}
for kind, code in json.loads({json.dumps({k: c for k, c in CODES.items() if there(k)})!r}).items():
    names = {{"root": {str(ROOT)!r}}}
    try:
        exec(code, names)
        found[kind] = names["result"]
    except BaseException:
        found[kind] = traceback.format_exc()
print("RESULTS" + json.dumps(found))
"""
    done = run(code, folder)
    assert done.returncode == 0, done.stderr
    assert "PluginWarning" not in done.stderr, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.partition("RESULTS")[2])
    return results


def result_of(used: dict[str, Any], kind: str) -> list[Any]:
    if not there(kind):
        pytest.skip(f"{PLACES[kind]} is not there")
    assert isinstance(used[kind], list), used[kind]
    return used[kind]


def test_there_is_an_example_of_each_kind() -> None:
    assert {file.stem for file in EXAMPLES} == set(KINDS)
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for file in EXAMPLES:
        assert list(declared(file)) == [f"hfprune.{KINDS[file.stem]}"]
        assert f"`{file.name}`" in page
        assert f"`hfprune.{KINDS[file.stem]}`" in page


def test_the_family_passes_all_checks(used: dict[str, Any]) -> None:
    rc, text, module, supported = result_of(used, "families")
    assert (rc, module, supported) == (0, "hfprune_megatron", True), text
    assert text.endswith("all checks passed\n")


def test_the_scores_are_what_they_say(used: dict[str, Any]) -> None:
    least, most, summed = result_of(used, "scores")
    assert least == pytest.approx(1, abs=1e-5)  # layer 2 is the third
    assert most == pytest.approx(1, abs=1e-5)
    assert summed == [8.0, 1.0]


def test_the_metric_is_that_of_scikit_learn(used: dict[str, Any]) -> None:
    greater_is_better, mine, theirs, low, high = result_of(used, "metrics")
    assert greater_is_better is True
    assert mine == pytest.approx(theirs)
    assert low < mine < high


def test_the_reader_reads_and_names_the_file(used: dict[str, Any]) -> None:
    names, rows, told = result_of(used, "readers")
    assert names == ["a", "b"]
    assert rows == 40
    assert told.startswith("DataError: train (bad.ini): not an INI file: ")


def test_the_runtime_gives_the_same_logits(used: dict[str, Any]) -> None:
    usable, apart = result_of(used, "runtimes")
    assert "reference" in usable
    assert apart < 1e-5


def test_a_broken_plug_in_breaks_nothing(tmp_path: Path) -> None:
    points = {
        f"hfprune.{kind}": {"mine": "hfprune_broken:MINE"}
        for kind in ("families", "scores", "metrics")
    }
    install(tmp_path, "hfprune_broken", "raise RuntimeError('from another time')", points)
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "import hfprune\n"
        "from hfprune.families import supported_model_types\n"
        "from hfprune.core.tasks import METRICS\n"
        "print('bert' in supported_model_types(), 'accuracy' in METRICS['image_classification'])\n"
        "hfprune.PruningConfig(sparsity=0.5)\n"
        "try:\n    hfprune.PruningConfig(sparsity=0.5, score='mine')\n"
        "except hfprune.HFPruneError as error:\n    print('mine' in str(error))\n"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 3
    for kind, word in (("families", "family"), ("scores", "score"), ("metrics", "metric")):
        assert (
            "PluginWarning: the plug-in 'hfprune_broken:MINE' of the package hfprune_broken "
            f"(hfprune.{kind}) is left out, {word} 'mine' is not there: "
            "RuntimeError: from another time"
        ) in done.stderr
