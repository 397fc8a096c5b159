"""The search for int8 settings: what it chooses, what it writes down, and what cannot stop it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hfprune.core.errors import ExportError
from hfprune.core.records import QuantizationRecord
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize import search as search_module
from hfprune.deploy.quantize import weighing, workbench
from hfprune.deploy.quantize.outcome import CONSTANT, PLAIN, USUAL, Outcome, SearchRecord
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.quantize.search import quantize_auto, usual_settings
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.deploy.runtimes.predicting import predict_logits
from hfprune.recipe.sections.export import QuantizationConfig
from hfprune.report.tables import quantization_table
from tests.deploy.test_export import contents, samples, separable_model, tiny_tokenizer

pytest.importorskip("onnxruntime")

DATA = samples(32, seed=5)
LABELS = np.array(DATA["labels"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    export_onnx(separable_model(), tiny_tokenizer(), folder)
    return folder


@pytest.fixture
def exported(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "onnx"
    folder.mkdir()
    for name, content in contents(made).items():
        (folder / name).write_bytes(content)
    return folder


def accuracy(logits: Any, rows: Sequence[int]) -> float:
    return float((logits.argmax(axis=1) == LABELS[list(rows)]).mean())


def search(folder: Path, **changes: Any) -> SearchRecord:
    settings: dict[str, Any] = {
        "calibration": samples(8),
        "validation": DATA,
        "collator": tiny_tokenizer(),
        "metric": accuracy,
        "shapes": [(1, 8)],
        "max_drop": 0.05,
        "seconds": 100.0,
    }
    return quantize_auto(folder, **{**settings, **changes})


SIZES = {"usual": 300, "float32": 900, "float16": 500, "int8": 301, "int4": 200}


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Candidates whose speeds, sizes and logits are made up: only the search is real.

    Gives the speed of each graph (and form of embeddings), for the test to change.
    """
    speeds = {"lean": 1.2, "lean_multihead": 1.5, "lean_attention": 1.4, "fused": 0.8}
    real = workbench.Workbench.logits

    def timed(self: Any, outcomes: Sequence[Outcome]) -> list[tuple[dict[str, float], float]]:
        found = []
        for outcome in outcomes:
            speed = speeds.get(outcome.config.graph, 1.0)
            speed *= 0.7 if outcome.config.is_static else 1.0
            speed *= speeds.get(outcome.config.embeddings, 1.0)
            found.append(({"1x8": 10 / speed}, speed))
        return found

    def build(
        folder: Any,
        config: QuantizationConfig,
        *,
        file_name: str = "model_quantized.onnx",
        **_: Any,
    ) -> Path:
        file = Path(folder) / file_name
        file.write_bytes(b"." * SIZES[config.embeddings])
        return file

    def logits(self: Any, file: Path, count: int | None = None) -> Any:
        found = real(self, file) if file.name == "model.onnx" else self.float_logits
        return found[:count]

    monkeypatch.setattr(workbench.Workbench, "timed", timed)
    monkeypatch.setattr(workbench.Workbench, "logits", logits)
    for module in (search_module, workbench):
        monkeypatch.setattr(module, "quantize_onnx", build)
    monkeypatch.setattr(workbench.Workbench, "alone", lambda self, file, n: self.float_logits[:n])
    monkeypatch.setattr(workbench, "cut_values", lambda file: {})
    return speeds


@pytest.mark.slow
def test_measures_and_writes_what_it_chose(exported: Path) -> None:
    """With real times, so what is chosen is not known; that it is consistent is."""
    told: list[tuple[float, str]] = []
    record = search(exported, progress=lambda done, what: told.append((done, what)))
    assert record.path == exported / "model_quantized.onnx"
    assert record.within
    assert record.float_metric == 1.0
    plain = record.outcomes[0]
    assert plain.config == PLAIN
    assert plain.speedup == pytest.approx(1.0, abs=0.3)
    (chosen,) = [outcome for outcome in record.outcomes if outcome.refused is None]
    assert chosen.config == record.chosen
    assert chosen.file_bytes == record.path.stat().st_size
    logits = predict_logits(OnnxClassifier(record.path), DATA, tiny_tokenizer())
    assert accuracy(logits, range(len(DATA))) == chosen.metric
    assert all(set(outcome.ms) == {"1x8"} for outcome in record.outcomes if outcome.file_bytes)
    kinds = {outcome.config.graph for outcome in record.outcomes}
    assert kinds == {"exported", "lean", "lean_multihead", "lean_attention", "fused"}
    assert {o.config.embeddings for o in record.outcomes} >= {"usual", "int8", "float16", "int4"}
    assert any(outcome.config.is_static for outcome in record.outcomes)
    again = QuantizationConfig(**record.to_dict()["chosen"])  # as pasted into a recipe
    first = record.path.read_bytes()
    quantize_onnx(exported, again, calibration=samples(8))
    assert record.path.read_bytes() == first
    text = json.dumps(record.to_dict())
    assert str(exported.parent) not in text, "results name no path"
    fractions = [done for done, _ in told]
    assert fractions == sorted(fractions)
    assert told[0][1] == "plain dynamic"


def test_the_fastest_graph_wins_and_a_slower_one_never(
    exported: Path, made_up: dict[str, float]
) -> None:
    record = search(exported)
    assert record.chosen.graph == "lean_multihead"
    fused = next(o for o in record.outcomes if o.config.graph == "fused")
    assert fused.refused is not None
    assert "slower than the chosen one (0.80x to 1.50x)" in fused.refused
    for graph in made_up:
        made_up[graph] = 0.9
    assert search(exported).chosen.graph == "exported"


@pytest.mark.parametrize("slower", [1.0, 0.91])
def test_a_smaller_file_is_worth_some_speed(
    exported: Path, made_up: dict[str, float], slower: float
) -> None:
    """Two thirds of the size: worth (3 / 2) ** 0.25, so up to 9.6 % of the speed."""
    made_up["int4"] = slower
    record = search(exported)
    assert record.chosen.embeddings == "int4"
    assert record.path.stat().st_size == SIZES["int4"]
    refused = [o.refused for o in record.outcomes if o.config.embeddings == "float16"]
    assert refused == [f"{1 / slower:.2f}x as fast as the chosen one, and 2.50 times its file"]
    made_up["int4"] = 0.9
    assert search(exported).chosen.embeddings == "usual"


def test_of_equals_the_one_is_taken_that_depends_on_no_batch(
    exported: Path, made_up: dict[str, float]
) -> None:
    record = search(exported)
    assert record.chosen.activations == "constant"
    assert record.chosen.per_channel
    usual = record.outcomes[1].config
    assert (usual.activations, usual.graph) == ("constant", "lean_multihead")
    # Three per cent is what that is worth.
    made_up["lean"] = 1.5 * 1.05
    assert search(exported).chosen.graph == "lean"


def test_what_depends_on_its_batch_is_counted(
    exported: Path, made_up: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def turned(self: Any, file: Path, count: int) -> Any:
        logits = self.float_logits[:count].copy()
        logits[:3] *= -1
        return logits

    monkeypatch.setattr(workbench.Workbench, "alone", turned)
    record = search(exported, max_drop=0.5)
    assert {o.depends_on_batch for o in record.outcomes} == {3}
    told = QuantizationRecord.model_validate({"metric": "accuracy", **record.to_dict()})
    assert told.candidates[0].depends_on_batch == 3
    console = Console(width=300, file=io.StringIO())
    console.print(quantization_table("pruned", told))
    assert "predictions depend on the batch: 3 rows" in console.file.getvalue()  # type: ignore[attr-defined]
    # One by one 3 of 32 rows are wrong, which batches alone would not show.
    strict = search(exported, max_drop=0.01)
    assert not strict.within
    assert "one by one" in strict.outcomes[0].why


def test_two_rows_of_noise_refuse_nothing(
    exported: Path, made_up: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They did: 2 of 32 rows are 0.0625, and 0.05 were allowed."""
    made = workbench.Workbench.logits

    def undecided(self: Any, file: Path, count: int | None = None) -> Any:
        logits = made(self, file, count)
        if file.name == "model.onnx":
            logits[4:6] = [[0.01, 0.0], [0.0, 0.01]]  # right, but hardly
        elif len(logits) > 6:
            logits = logits.copy()
            logits[4:6] = logits[4:6, ::-1]
        return logits

    monkeypatch.setattr(workbench.Workbench, "logits", undecided)
    record = search(exported)
    assert record.within
    chosen = next(o for o in record.outcomes if o.config == record.chosen)
    assert chosen.drop == pytest.approx(2 / 32)
    assert chosen.state == "undecided"


def test_a_candidate_that_loses_too_much_is_refused(
    exported: Path, made_up: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = workbench.Workbench.logits

    def worse(self: Any, file: Path, count: int | None = None) -> Any:
        logits = made(self, file, count)
        return -logits if file.name == "candidate_1.onnx" else logits

    monkeypatch.setattr(workbench.Workbench, "logits", worse)
    record = search(exported)
    bad = record.outcomes[1]
    assert bad.config.graph == "lean_multihead"
    assert (bad.metric, bad.agreement) == (0.0, 0.0)
    assert bad.refused == "the metric drops by 1.0000, allowed is 0.05"
    assert record.within
    assert record.chosen != bad.config


def test_nodes_are_spared_where_all_lose_too_much(
    exported: Path, made_up: dict[str, float]
) -> None:
    """No drop is small enough: the search goes on, says so, and takes the least loss."""
    record = search(exported, max_drop=-1.0 + 1e-6)  # asks for a gain that none can have
    assert not record.within
    assert any(outcome.config.nodes_to_exclude for outcome in record.outcomes)
    least = min(o.drop for o in record.outcomes if math.isfinite(o.drop))
    chosen = next(o for o in record.outcomes if o.config == record.chosen)
    assert chosen.drop == least


@pytest.mark.parametrize("which", ["rewritten", "all but plain"])
def test_failures_are_recorded_and_passed_over(
    which: str, exported: Path, made_up: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = search_module.quantize_onnx

    def failing(folder: Any, config: QuantizationConfig, **rest: Any) -> Path:
        if config != PLAIN if which == "all but plain" else config.graph != "exported":
            raise ExportError("logits differ by 7")
        return build(folder, config, **rest)

    for module in (search_module, workbench):
        monkeypatch.setattr(module, "quantize_onnx", failing)
    record = search(exported)
    failed = [o for o in record.outcomes if (o.refused or "").startswith("failed: logits differ")]
    assert {o.config.graph for o in failed} >= {"lean", "lean_multihead", "fused"}
    assert all(o.to_dict()["speedup"] is None for o in failed)
    assert record.chosen.graph == "exported"
    if which == "all but plain":
        assert record.chosen == PLAIN
    assert record.path.is_file()


def test_time_is_kept(exported: Path, made_up: dict[str, float]) -> None:
    record = search(exported, seconds=1e-6)
    assert [outcome.config for outcome in record.outcomes] == [PLAIN]
    assert record.chosen == PLAIN
    assert record.not_tried > 10
    assert record.path.is_file()


def test_a_search_that_fails_leaves_earlier_files(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (exported / "model_quantized.onnx").write_bytes(b"earlier")
    before = contents(exported)

    def failing(*_: Any, **__: Any) -> Path:
        raise ExportError("dynamic quantization failed")

    for module in (search_module, workbench):
        monkeypatch.setattr(module, "quantize_onnx", failing)
    with pytest.raises(ExportError, match="dynamic quantization failed"):
        search(exported)
    assert contents(exported) == before


def test_probes_take_plain_settings_where_the_usual_ones_fail(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(exported)
    assert usual_settings(exported) == USUAL
    assert usual_settings(exported, constant=True) == CONSTANT
    monkeypatch.setattr("hfprune.deploy.parity.REWRITE_ATOL", -1.0)
    assert usual_settings(exported) == PLAIN
    assert contents(exported) == before


def test_a_rewritten_graph_that_says_something_else_is_refused(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check names the graph and by how much, and nothing is replaced."""
    before = contents(exported)

    def wrong(path: Path, graph: str) -> Any:
        import onnx
        from onnx import numpy_helper

        model = onnx.load(str(path))
        # Not through a bias: exporters leave out one that is zero.
        last = next(node for node in model.graph.node if "logits" in node.output)
        last.output[0] = "right"
        half = numpy_helper.from_array(np.array(0.5, dtype=np.float32), "half")
        model.graph.initializer.append(half)
        model.graph.node.append(onnx.helper.make_node("Add", ["right", "half"], ["logits"]))
        return model

    monkeypatch.setattr("hfprune.deploy.quantize.quantizing.rewrite", wrong)
    with pytest.raises(
        ExportError,
        match=r"graph: lean changes the logits by up to 5\.000e-01 .*allowed is 2e-02.*untouched",
    ):
        quantize_onnx(exported, QuantizationConfig(graph="lean"))
    assert contents(exported) == before


def test_regression_agreement_is_a_correlation() -> None:
    a = np.array([[1.0], [2.0], [4.0]])
    assert weighing.agreement(3 * a + 1, a) == pytest.approx(1.0)
    assert weighing.agreement(np.array([[1.0, 0], [0, 1.0]]), np.array([[2.0, 0], [3.0, 0]])) == 0.5
