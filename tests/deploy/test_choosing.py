"""Choosing files: with real small models and made-up runtimes, records, and other machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from first_results import first_format
from typer.testing import CliRunner

from hfprune.cli import app
from hfprune.core.errors import ExportError, HFPruneError, OutputError, RecipeError
from hfprune.core.results import RunResults, parse_results
from hfprune.deploy.choose.choosing import amount_of, choose_files
from hfprune.deploy.choose.parts import Variant, parts_of
from hfprune.deploy.choose.present import choose_among
from hfprune.deploy.choose.record import (
    Deployment,
    Recommended,
    one_line,
    read_deployment,
    write_deployment,
)
from hfprune.deploy.choose.settling import Rival
from hfprune.deploy.choose.targets import CPUS, choice_for, cpu_kind
from hfprune.deploy.choose.told import recommended_files
from hfprune.deploy.choose.trying import Judging, Trials, list_candidates
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.runtimes import registry
from hfprune.deploy.runtimes.base import Offer
from hfprune.deploy.runtimes.onnxruntime import OnnxRuntime
from hfprune.deploy.runtimes.registry import register_runtime, runtime
from hfprune.measure.traffic import USES
from hfprune.recipe.sections.export import QuantizationConfig
from hfprune.report.deployment import deployment_part
from hfprune.report.html import render
from hfprune.report.verdict import verdict
from tests.deploy.test_export import samples, separable_model, tiny_tokenizer

pytest.importorskip("onnxruntime")

DATA = samples(48, seed=5)


def accuracy(logits: Any, labels: Any) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def judging(**changes: Any) -> Judging:
    usual: dict[str, Any] = {
        "rows": DATA,
        "labels": np.array(DATA["labels"]),
        "metric": accuracy,
        "collator": tiny_tokenizer(),
        "max_drop": 0.05,
    }
    return Judging(**{**usual, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    export_onnx(separable_model(), tiny_tokenizer(), folder)
    return folder


class Made(OnnxRuntime):
    """A runtime with one file: that of ONNX Runtime, slower or wrong or failing on purpose."""

    name: ClassVar[str] = "made"
    title: ClassVar[str] = "Made up"

    def __init__(self, says: str = "right", prior: int = 6) -> None:
        self.says, self.prior = says, prior
        self.written: list[str] = []

    def offers(self) -> Sequence[Offer]:
        return (Offer("float32", "exported", prior=self.prior),)

    def place(self, offer: Offer) -> str:
        return "made/model.onnx"

    def write(self, onnx_dir: Any, target: Any, offer: Offer, **rest: Any) -> Path:
        self.written.append(str(target))
        if self.says == "fails":
            raise ExportError("no such operator")
        if self.says == "fails there":
            raise ExportError(f"cannot read {target}/x of {onnx_dir}/model.onnx")
        return super().write(onnx_dir, target, offer, **rest)

    def open(self, path: Any, threads: int = 1, precision: str | None = None) -> Any:
        session = super().open(path, threads)
        real = session.logits
        if self.says == "wrong":
            session.logits = lambda batch: -real(batch)  # type: ignore[method-assign]
        if self.says == "fast":
            return Fast(session)
        return session


class Fast:
    """A session that takes no time when it is timed."""

    def __init__(self, session: Any) -> None:
        self.path, self.threads, self.input_names = session.path, 1, session.input_names
        self.logits = session.logits

    def __call__(self, batch: Any) -> object:
        return None


@pytest.fixture
def made_up() -> Iterator[Any]:
    def add(*args: Any, **changes: Any) -> Made:
        each = Made(*args, **changes)
        register_runtime(each, replace=True)
        return each

    yield add
    registry.RUNTIMES._values.pop("made", None)


def choose(made: Path, output: Path, **changes: Any) -> Deployment:
    usual: dict[str, Any] = {"calibration": samples(8), "batch_size": 8, "seconds": 10.0}
    return choose_files(made, output, changes.pop("judging", judging()), **{**usual, **changes})


def test_the_recommended_file_is_beaten_by_no_other_that_was_written(
    made: Path, tmp_path: Path
) -> None:
    """With real times, so what is chosen is not known; that it is consistent is."""
    told: list[tuple[float, str]] = []
    found = choose(made, tmp_path / "out", progress=lambda done, what: told.append((done, what)))
    out = tmp_path / "out"
    assert read_deployment(out) == found
    assert set(found.uses) == set(USES)
    files = {str(f.relative_to(out)) for f in out.rglob("*") if f.suffix in (".onnx", ".xml")}
    assert files == {f.path for f in found.files}
    assert "onnx/model.onnx" in files
    for use, chosen in found.uses.items():
        assert (out / chosen.path).is_file()
        times = {f.path: f.process_ms for f in found.files if f.use == use}
        assert times[chosen.path] == min(times.values()) == chosen.ms
        session = runtime(chosen.runtime).open(out / chosen.path, 1, chosen.precision)
        batch = tiny_tokenizer()(["w7 w8 w9"], return_tensors="np")
        assert session.logits(dict(batch)).argmax() == 0
        assert len(chosen.load) == 3
        assert chosen.speedup is not None
        assert chosen.speedup[1] <= chosen.speedup[0] <= chosen.speedup[2]
        assert chosen.path in one_line(found)
    usual = [c for c in found.candidates if c.state not in ("not tried", "failed")]
    assert {c.precision for c in usual} >= {"int8", "float32"}
    constant = [c for c in usual if "constant" in c.name]
    assert constant
    assert all(c.depends_on_batch == 0 and c.saturated is not None for c in constant)
    assert all(set(c.slower) == set(USES) for c in usual if c.eligible)
    assert str(tmp_path) not in (out / "deploy.json").read_text(encoding="utf-8")
    fractions = [done for done, _ in told]
    assert fractions == sorted(fractions)


def test_what_is_fast_and_wrong_is_refused_and_not_written(
    made: Path, tmp_path: Path, made_up: Any
) -> None:
    made_up("wrong")
    found = choose(made, tmp_path / "out", runtimes=("made", "onnxruntime"), quantization=None)
    wrong = next(c for c in found.candidates if c.runtime == "made")
    assert (wrong.state, wrong.eligible, wrong.drop) == ("refused", False, 1.0)
    assert "the metric drops by 1.0000, allowed is 0.05" in wrong.why
    assert not (tmp_path / "out" / "made").exists()
    assert {c.runtime for c in found.uses.values()} == {"onnxruntime"}
    assert all(c.precision == "float32" for c in found.candidates)


def test_a_runtime_of_others_wins_where_it_is_the_fastest(
    made: Path, tmp_path: Path, made_up: Any
) -> None:
    made_up("fast")
    found = choose(made, tmp_path / "out", runtimes=("onnxruntime", "made"), quantization=None)
    assert {c.path for c in found.uses.values()} == {"made/model.onnx"}
    assert {f.path for f in found.files} == {"made/model.onnx", "onnx/model.onnx"}


def test_usual_candidates_are_tried_without_any_time_left(
    made: Path, tmp_path: Path, made_up: Any
) -> None:
    each = made_up("right", prior=40)
    found = choose(
        made,
        tmp_path / "out",
        runtimes=("onnxruntime", "made"),
        seconds=1e-6,
        quantization=QuantizationConfig(graph="lean"),
    )
    states = {c.name: c.state for c in found.candidates}
    assert states["made float32 exported"] == "not tried"
    assert each.written == []
    tried = {name for name, state in states.items() if state not in ("not tried", "failed")}
    assert tried == {
        "onnxruntime int8 per_batch lean",
        "onnxruntime float32 lean_attention",
        "onnxruntime float32 exported",
    }


def test_failures_and_missing_packages_are_told_and_passed_over(
    made: Path, tmp_path: Path, made_up: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up("fails")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    found = choose(
        made, tmp_path / "out", runtimes=("made", "openvino", "onnxruntime"), quantization=None
    )
    failed = next(c for c in found.candidates if c.runtime == "made")
    assert (failed.state, failed.why) == ("failed", "no such operator")
    assert any(note.startswith("OpenVINO took no part") for note in found.notes)
    made_up("fails")
    with pytest.raises(
        ExportError, match="no candidate may be deployed: made float32 exported: no"
    ):
        choose(made, tmp_path / "other", runtimes=("made",))


def test_speeds_are_over_the_dense_model_and_files_that_lost_go(
    made: Path, tmp_path: Path, made_up: Any
) -> None:
    out = tmp_path / "out"
    made_up("fast")
    kept = choose(
        made,
        out,
        runtimes=("onnxruntime", "made"),
        quantization=None,
        uses=("single",),
        baseline=made / "model.onnx",
    )
    assert kept.baseline == "dense float32 ONNX"
    assert [f.path for f in kept.files if f.name == "baseline"] == [None]
    chosen = kept.uses["single"]
    assert chosen.speedup is not None
    assert chosen.speedup[0] > 5
    assert sorted(f.name for f in (out / "onnx").glob("*.onnx")) == ["model.onnx"]


def test_candidates_in_order_and_as_the_recipe_wants_them() -> None:
    names = [c.name for c in list_candidates([OnnxRuntime()])]
    assert names[0] == "onnxruntime int8 constant lean_attention"
    assert len(names) == len(set(names))
    plain = list_candidates([OnnxRuntime()], None)
    assert {c.offer.precision for c in plain} == {"float32"}
    given = QuantizationConfig(per_channel=True, graph="lean")
    some = list_candidates([OnnxRuntime()], given)
    assert [c.offer.settings for c in some if c.offer.settings] == [given]


def test_on_another_machine_what_lies_there_is_chosen_among(
    made: Path, tmp_path: Path, made_up: Any
) -> None:
    out = tmp_path / "out"
    with pytest.raises(HFPruneError, match="holds no file to choose among"):
        choose_among(tmp_path)
    made_up("fast")
    before = choose(made, out, runtimes=("onnxruntime", "made"), quantization=None)
    registry.RUNTIMES._values.pop("made")
    (out / "made" / "model.onnx").unlink()
    with pytest.raises(OutputError, match="choose again"):
        read_deployment(out)
    assert choose_among(out, batch_size=4, seconds=1).uses["single"].path == "onnx/model.onnx"
    write_deployment(before.model_copy(update={"uses": {}}), out)
    (out / "onnx" / "model_optimized.onnx").write_bytes((made / "model.onnx").read_bytes())
    found = choose_among(out, batch_size=4, seconds=1)
    assert read_deployment(out) == found
    assert {f.path for f in found.files} == {"onnx/model.onnx", "onnx/model_optimized.onnx"}
    assert found.candidates == before.candidates
    assert any("no rows were given" in note for note in found.notes)
    for use, chosen in found.uses.items():
        times = {f.path: f.process_ms for f in found.files if f.use == use}
        assert times[chosen.path] == min(times.values())
    done = CliRunner().invoke(app, ["benchmark", str(out), "--choose", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["uses"] == read_deployment(out).model_dump(mode="json")["uses"]


# --- deploy.json ----------------------------------------------------------------------------------


def record(path: str = "onnx/model.onnx") -> Deployment:
    chosen = Recommended(
        path=path,
        candidate="a",
        runtime="onnxruntime",
        precision="int8",
        graph="lean",
        ms=1.5,
        speedup=(9.8, 9.1, 10.2),
        why="fast",
        load=("1", "2", "3"),
    )
    return Deployment(cpu="vnni", measured=True, threads=1, batch_size=32, uses={"single": chosen})


def test_a_record_is_read_back_and_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"")
    write_deployment(record(), tmp_path)
    assert read_deployment(tmp_path) == record()
    assert one_line(record()) == "single: onnx/model.onnx (onnxruntime int8, 9.8x)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), "there is no deploy.json"),
        (lambda file: file.write_text("{", encoding="utf-8"), "is no record of a deployment"),
        (lambda file: file.write_text('{"cpu": 1}', encoding="utf-8"), "is no record of a"),
        (
            lambda file: file.write_text(
                json.dumps({**json.loads(file.read_text()), "speed": 3}), encoding="utf-8"
            ),
            "is no record",
        ),
        (lambda file: None, "recommends onnx/model.onnx for single, which is not there"),
    ],
)
def test_records_that_cannot_be_trusted(change: Any, message: str, tmp_path: Path) -> None:
    change(write_deployment(record(), tmp_path))
    with pytest.raises(OutputError, match=message):
        read_deployment(tmp_path)


# --- other machines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "flags", "kind"),
    [
        ("aarch64", set(), "arm64"),
        ("arm64", {"avx2"}, "arm64"),
        ("x86_64", set(), "avx2"),
        ("x86_64", {"avx2", "avx512f"}, "avx512"),
        ("x86_64", {"avx512f", "avx512_vnni"}, "vnni"),
        ("x86_64", {"avx512f", "avx512_vnni", "amx_tile", "amx_bf16"}, "amx"),
        ("x86_64", {"avx512f", "amx_tile"}, "avx512"),
    ],
)
def test_kinds_of_cpus(machine: str, flags: set[str], kind: str) -> None:
    assert cpu_kind(machine, frozenset(flags)) == kind


@pytest.mark.parametrize("cpu", CPUS)
def test_what_is_chosen_for_a_cpu_that_is_not_here(cpu: str, made: Path, tmp_path: Path) -> None:
    found = choice_for(cpu)
    assert set(found.by_use) == set(USES)
    assert "not measured" in found.note
    name, offer = found.by_use["single"]
    assert (name, offer.precision) == ("onnxruntime", "int8")
    name, offer = found.by_use["batches"]
    assert (name, offer.precision) == (("openvino", "bf16") if cpu == "amx" else (
        "onnxruntime", "int8"))  # fmt: skip
    assert choice_for(cpu, openvino=False).by_use["batches"][0] == "onnxruntime"
    settings = found.by_use["single"][1].settings
    assert settings is not None
    for name in ("model.onnx", "config.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    file = quantize_onnx(tmp_path, settings, calibration=samples(4))
    import onnx
    from onnx import numpy_helper

    most = max(
        np.abs(numpy_helper.to_array(t).astype(int)).max()
        for t in onnx.load(str(file)).graph.initializer
        if t.name.startswith("product") and t.name.endswith("weight_int8")
    )
    assert most == (63 if cpu in ("avx2", "avx512") else 127)


def test_here_is_no_kind_of_cpu() -> None:
    with pytest.raises(RecipeError, match="deploy.cpu 'here' is no kind of CPU to choose for"):
        choice_for("here")


# -- what a choice is told as ---------------------------------------------------------------------


PLAIN_F32 = Variant("onnxruntime", "float32", "exported")
LEAN_F32 = Variant("onnxruntime", "float32", "lean_attention")
OTHER_F32 = Variant("openvino", "float32", "lean_attention")
TIMES = {PLAIN_F32: 6.0, LEAN_F32: 5.0, OTHER_F32: 4.0}


@pytest.mark.parametrize(
    ("chosen", "ms", "total", "pruning", "expected"),
    [
        # int8 in ONNX Runtime: 24x = 4 x 1.2 x 5
        (
            Variant("onnxruntime", "int8", "lean_attention"), TIMES, 24.0, 4.0,
            {"pruning": 4.0, "graph": 1.2, "precision": 5.0},
        ),
        # bf16 elsewhere, whose float32 was timed: 24x = 4 x 1.2 x 1.25 x 4
        (
            Variant("openvino", "bf16", "lean_attention"), TIMES, 24.0, 4.0,
            {"pruning": 4.0, "graph": 1.2, "runtime": 1.25, "precision": 4.0},
        ),
        # and where it was not
        (
            Variant("openvino", "bf16", "lean_attention"), {PLAIN_F32: 6.0, LEAN_F32: 5.0}, 24.0,
            4.0, {"pruning": 4.0, "graph": 1.2, "runtime and precision": 5.0},
        ),
        # of the dense model nothing is pruning
        (LEAN_F32, TIMES, 1.2, 1.0, {"graph": 1.2}),
        (PLAIN_F32, TIMES, 4.0, 4.0, {"pruning": 4.0}),
        (OTHER_F32, TIMES, 6.0, 4.0, {"pruning": 4.0, "graph": 1.2, "runtime": 1.25}),
        # a plain graph elsewhere
        (
            Variant("openvino", "float32", "exported"), TIMES, 6.0, 4.0,
            {"pruning": 4.0, "runtime": 1.5},
        ),
        # another rewritten graph stands for one that was not timed
        (
            Variant("onnxruntime", "int8", "lean_multihead"), TIMES, 24.0, 4.0,
            {"pruning": 4.0, "graph": 1.2, "precision": 5.0},
        ),
        # nothing that would tell
        (Variant("onnxruntime", "int8", "lean"), {}, 24.0, 4.0, {"pruning": 4.0}),
    ],
)  # fmt: skip
def test_where_a_speedup_comes_from(
    chosen: Variant, ms: Any, total: float, pruning: float, expected: dict[str, float]
) -> None:
    found = parts_of(chosen, ms, total, pruning)
    assert found == pytest.approx(expected)
    assert list(found) == list(expected), "in the order in which the steps are taken"
    if ms:
        assert np.prod(list(found.values())) == pytest.approx(total)


@pytest.mark.parametrize(
    ("use", "ms", "seconds", "expected"),
    [
        ("single", 0.5, 120.0, (96, 24)),
        ("batches", 1.0, 120.0, (256, 4)),  # enough time for all
        ("batches", 12.0, 40.0, (128, 1)),  # a slow model, little time: one batch a round
        ("single", 12.0, 40.0, (60, 15)),
        ("single", 1000.0, 1.0, (4, 1)),
        ("batches", 0.0, 1.0, (256, 4)),
    ],
)
def test_traffic_by_what_time_allows(
    use: Any, ms: float, seconds: float, expected: tuple[int, int]
) -> None:
    assert amount_of(use, ms, 32, seconds) == expected


def test_speeds_are_told_over_the_best_dense_file_too(
    made: Path, tmp_path: Path, made_up: Any
) -> None:
    """The dense model's best is as fast as the chosen one here: 1x over it."""
    each = made_up("fast")
    rival = each.open(made / "model.onnx")
    found = choose(
        made,
        tmp_path / "out",
        runtimes=("onnxruntime", "made"),
        quantization=None,
        uses=("single",),
        baseline=made / "model.onnx",
        rivals={"single": Rival("dense made float32, exported", rival)},
    )
    chosen = found.uses["single"]
    assert found.best == {"single": "dense made float32, exported"}
    assert chosen.speedup is not None
    assert chosen.over_best is not None
    assert chosen.speedup[0] > 3 * chosen.over_best[0]
    assert {f.name for f in found.files} == {"baseline", "dense, best", "onnx/model.onnx",
                                             "made/model.onnx"}  # fmt: skip
    assert np.prod(list(chosen.parts.values())) == pytest.approx(chosen.speedup[0])
    assert "over the best dense file" in one_line(found)
    same = choose(
        made, tmp_path / "same", runtimes=("onnxruntime", "made"), quantization=None,
        uses=("single",), baseline=made / "model.onnx", rivals={"single": Rival("dense", None)},
    )  # fmt: skip
    assert same.uses["single"].over_best == same.uses["single"].speedup, "the baseline is the best"


def test_settings_that_were_asked_for_are_kept_though_slower(
    made: Path, tmp_path: Path, made_up: Any
) -> None:
    made_up("fast")
    out = tmp_path / "out"
    found = choose(
        made, out, runtimes=("onnxruntime", "made"),
        quantization=QuantizationConfig(activations="constant", activation_range="min_max"),
    )  # fmt: skip
    assert {c.runtime for c in found.uses.values()} == {"made"}
    assert (out / "onnx" / "model_quantized.onnx").is_file()
    (asked,) = [c for c in found.candidates if c.precision == "int8"]
    assert asked.settings == {"activations": "constant", "activation_range": "min_max"}
    assert "onnx/model_quantized.onnx" in {f.path for f in found.files}, "and timed with the others"


def test_one_range_rule_for_all_graphs_and_for_a_late_search(made: Path, tmp_path: Path) -> None:
    trials = Trials(made, tmp_path, judging(), samples(8), 8, 1, most_rows=24)
    constant = [c for c in list_candidates([OnnxRuntime()]) if "constant" in c.name]
    assert len(constant) == 2
    trials.try_all(constant, lambda: True)
    first, second = constant
    assert first.evidence[0].rows == 24
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*")] == ["0/0"], "one rule: late"
    assert second.verdict is None, "and no second graph in int8, as there is one"
    trials.try_all([first, second], lambda: False)
    assert len(list(tmp_path.glob("1/*"))) == 1, "the rule that was found for the first"
    rules = {c.offer.settings.activation_range for c in constant if c.offer.settings}
    assert rules == {"least_squares"}
    assert trials.ms > 0
    (fails,) = list_candidates([Made("fails there")])
    trials.try_all([fails], lambda: False)
    assert fails.failure == "cannot read 0/0/x of model.onnx", "no place of this machine"


def results_with(deployment: Any, **changes: Any) -> RunResults:
    values = {**first_format(), "deployment": deployment, **changes}
    return parse_results(values, Path("metrics.json"))


def test_console_report_and_card_say_the_same_file_for_the_same_reason(tmp_path: Path) -> None:
    chosen = {
        "path": "onnx/model_quantized.onnx", "candidate": "c", "runtime": "onnxruntime",
        "precision": "int8", "graph": "lean_attention", "ms": 0.61, "speedup": [10.9, 10.5, 11.2],
        "over_best": [4.3, 4.1, 4.5], "parts": {"pruning": 4.1, "precision": 2.66},
        "why": "the fastest of what may be deployed", "load": ["one", "two", "three"],
    }  # fmt: skip
    record = {
        "cpu": "vnni", "measured": True, "threads": 1, "batch_size": 32,
        "baseline": "dense float32 ONNX", "best": {"single": "dense onnxruntime int8, lean"},
        "uses": {"single": chosen}, "notes": ["the machine was busy"],
    }  # fmt: skip
    target = {
        "wanted": 10.0, "reached": 8.5, "name": "pruned int8", "batch_size": 1,
        "sequence_length": 32, "missed": True,
    }  # fmt: skip
    results = results_with({"pruned": record}, targets={"pruned": target})
    (told,) = recommended_files(results, "pruned")
    assert recommended_files(results, "dense") == []
    assert told.line == (
        "one at a time: onnx/model_quantized.onnx (ONNX Runtime, int8), 0.61 ms, 10.9x over dense "
        "float32 ONNX, 4.3x over the best dense file (dense onnxruntime int8, lean); pruning "
        "4.10x, precision 2.66x"
    )
    found = verdict(results, "pruned", None)
    assert found.file == told.path
    assert found.deploy == (
        "Deploy onnx/model_quantized.onnx (65.0 MB): one at a time 0.61 ms, 10.9x over dense "
        "float32 ONNX, 4.3x over the best dense file (dense onnxruntime int8, lean) (the fastest "
        "of what may be deployed)."
    )
    part = deployment_part(results)
    assert part is not None
    assert part.rows == [told]
    assert part.targets == [results.targets["pruned"].text()]  # type: ignore[index]
    assert part.notes == [("pruned", "the machine was busy")]
    (tmp_path / "metrics.json").write_text(json.dumps(results.to_json()))
    page = render(tmp_path)
    for text in (told.path, told.from_where, told.why, "asked for 10x, reached 8.5x"):
        assert text in page
    with pytest.raises(OutputError, match="deployment.pruned of the results is no record"):
        recommended_files(results_with({"pruned": {"uses": {}}}), "pruned")
    assert deployment_part(results_with(None)) is None
