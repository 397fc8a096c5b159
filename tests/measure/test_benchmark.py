"""Measuring: rounds and ratios under an injected clock, counts by hand formulas."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hfprune.core.errors import HFPruneError, MissingExtraError, UnsupportedModelError
from hfprune.core.machine import bfloat16_gain, detect_instruction_set, instruction_set, read_cpu
from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.measure import latency
from hfprune.measure.environment import LIBRARIES, environment
from hfprune.measure.latency import LatencyRow, measure_latency, ratios
from hfprune.measure.quiet import quiet
from hfprune.measure.runners import (
    batches_for,
    config_beside,
    onnx_runner,
    random_batches,
    torch_runner,
)
from hfprune.measure.sizes import count_macs, count_parameters, file_size
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import shrink_
from tests.tiny import (
    FAMILIES,
    IMAGE_FAMILIES,
    TRANSFORMERS_5,
    random_plan,
    tiny_batch,
    tiny_model,
)

MS = 1_000_000


class FakeClock:
    """Nanoseconds that pass only when a runner says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class FakeRunner:
    """Takes the given milliseconds, one entry a call, the last one for ever."""

    def __init__(self, clock: FakeClock, *times_ms: float, log: list[Any] | None = None) -> None:
        self.clock = clock
        self.times = list(times_ms)
        self.log = log
        self.calls = 0

    def __call__(self, batch: Any) -> None:
        time_ms = self.times.pop(0) if len(self.times) > 1 else self.times[0]
        self.clock.now += round(time_ms * MS)
        self.calls += 1
        if self.log is not None:
            self.log.append((self, batch))


def shape_only(batch_size: int, sequence_length: int) -> Any:
    return {"shape": np.array([batch_size, sequence_length])}


def measure(runners: Any, clock: FakeClock, **changes: Any) -> list[LatencyRow]:
    settings: dict[str, Any] = {"repeats": 4, "warmup": 0, "make_batch": shape_only}
    return measure_latency(runners, [(2, 8)], clock=clock, **{**settings, **changes})


# -- latency ----------------------------------------------------------------------------------


def test_statistics_are_those_of_the_timed_calls() -> None:
    clock = FakeClock()
    # The first call sets the inner loops and is not among the timings.
    runner = FakeRunner(clock, 50.0, 10.0, 20.0, 40.0, 30.0)
    (row,) = measure({"a": runner}, clock)
    times = [10.0, 20.0, 40.0, 30.0]
    assert row.times_ms == pytest.approx(times)
    assert (row.name, row.batch_size, row.sequence_length, row.shape) == ("a", 2, 8, (2, 8))
    assert (row.threads, row.repeats, row.inner_loops) == (1, 4, 1)
    assert row.median_ms == pytest.approx(25.0)
    assert row.mean_ms == pytest.approx(25.0)
    assert row.std_ms == pytest.approx(statistics.stdev(times))
    assert row.p95_ms == pytest.approx(38.5)  # 30 + 0.85 * (40 - 30): rank 0.95 * 3 = 2.85
    assert row.throughput == pytest.approx(2 / 0.025)


def test_a_fast_runner_is_called_often_enough_for_two_milliseconds() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, 0.3)
    (row,) = measure({"fast": runner}, clock, repeats=3, warmup=2)
    assert row.inner_loops == 7  # 7 * 0.3 ms = 2.1 ms
    assert runner.calls == 2 + 1 + 3 * 7
    assert row.median_ms == pytest.approx(0.3)


def test_a_clock_that_stands_still_ends_too() -> None:
    clock = FakeClock()
    (row,) = measure({"nothing": FakeRunner(clock, 0.0)}, clock, repeats=1)
    assert row.inner_loops == latency.MAX_INNER_LOOPS
    assert row.median_ms > 0
    assert row.std_ms == 0.0


def test_every_round_times_every_runner_once_in_changing_order() -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        clock, log = FakeClock(), []
        runners = {name: FakeRunner(clock, 5.0, log=log) for name in "abc"}
        names = {id(runner): name for name, runner in runners.items()}
        measure(runners, clock, repeats=8, seed=seed)
        calls = [names[id(runner)] for runner, _ in log][3:]  # without the calibrating calls
        return [tuple(calls[i : i + 3]) for i in range(0, 24, 3)]

    found = orders(0)
    assert len(found) == 8
    assert {tuple(sorted(order)) for order in found} == {("a", "b", "c")}
    assert len(set(found)) > 1
    assert orders(0) == found
    assert orders(1) != found


def test_all_runners_of_a_shape_get_the_same_batch_and_rows_keep_the_order() -> None:
    clock, log = FakeClock(), []
    runners = {"z": FakeRunner(clock, 9.0, log=log), "a": FakeRunner(clock, 3.0, log=log)}
    seen: list[tuple[int, int]] = []
    rows = measure_latency(
        runners,
        [(1, 4), (8, 2)],
        repeats=2,
        warmup=1,
        make_batch=shape_only,
        clock=clock,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [(row.name, row.shape) for row in rows] == [
        ("z", (1, 4)),
        ("a", (1, 4)),
        ("z", (8, 2)),
        ("a", (8, 2)),
    ]
    assert len({id(batch) for _, batch in log}) == 2
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [row.median_ms for row in rows] == pytest.approx([9.0, 3.0, 9.0, 3.0])


def test_the_threads_of_a_runner_are_in_its_row() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, 5.0)
    runner.threads = 3  # type: ignore[attr-defined]
    assert measure({"a": runner}, clock)[0].threads == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runners": {}}, "nothing to measure: 0 runners and 1 shapes"),
        ({"shapes": []}, "nothing to measure: 1 runners and 0 shapes"),
        ({"repeats": 0}, "got repeats=0 and warmup=1"),
        ({"warmup": -1}, "expected repeats >= 1 and warmup >= 0"),
    ],
)
def test_impossible_measurements_are_refused(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {
        "runners": {"a": print},
        "shapes": [(1, 1)],
        "repeats": 1,
        "warmup": 1,
        "make_batch": shape_only,
        **changes,
    }
    with pytest.raises(HFPruneError, match=message.replace("+", r"\+")):
        measure_latency(settings.pop("runners"), settings.pop("shapes"), **settings)


# -- ratios -----------------------------------------------------------------------------------


def test_ratios_are_paired_within_rounds() -> None:
    clock = FakeClock()
    # The machine is 10 times slower in round 2; both see it.
    base = FakeRunner(clock, 10.0, 10.0, 100.0, 12.0)
    fast = FakeRunner(clock, 5.0, 5.0, 50.0, 4.0)
    rows = measure({"base": base, "fast": fast}, clock, repeats=3)
    found = ratios(rows, "base")
    ratio = found["fast", (2, 8)]
    assert ratio.value == pytest.approx(2.0)  # of 2, 2, 3
    assert (ratio.low, ratio.high) == (pytest.approx(2.0), pytest.approx(3.0))
    assert ratio.coverage == pytest.approx(0.75)  # 1 - 2 / 2**3
    assert ratio.rounds == 3
    assert found["base", (2, 8)].value == 1.0


@pytest.mark.parametrize(
    ("count", "index", "coverage"),
    [
        # From tables of the sign test.
        (1, 0, 0.0),
        (5, 0, 0.9375),
        (6, 0, 0.96875),
        (10, 1, 0.978515625),
        (20, 5, 0.95861),
        (30, 9, 0.95723),
    ],
)
def test_the_interval_is_that_of_the_sign_test(count: int, index: int, coverage: float) -> None:
    found, chance = latency.order_statistic(count)
    assert found == index
    assert chance == pytest.approx(coverage, abs=1e-4)


def row(name: str, *times: float, shape: tuple[int, int] = (1, 8)) -> LatencyRow:
    return latency._row(name, *shape, threads=1, loops=1, times=times)


def test_the_interval_leaves_out_the_extremes_of_many_rounds() -> None:
    base = row("base", *[100.0] * 10)
    own = row("own", 1.0, *[50.0] * 8, 10_000.0)
    ratio = ratios([base, own], "base")["own", (1, 8)]
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


def test_ratios_need_the_baseline_and_equal_rounds() -> None:
    with pytest.raises(HFPruneError, match=r"no row of the baseline 'x'.*rows are of \['a'\]"):
        ratios([row("a", 1.0)], "x")
    with pytest.raises(HFPruneError, match="'b' has 2 rounds, the baseline 'a' has 1"):
        ratios([row("a", 1.0), row("b", 1.0, 2.0)], "a")


# -- runners ----------------------------------------------------------------------------------


def test_torch_runner_sets_threads_and_back_and_takes_its_inputs_only() -> None:
    model = tiny_model("distilbert")  # takes no token_type_ids
    seen: list[int] = []
    model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    runner = torch_runner(model, threads=before + 1)
    output: Any = runner(random_batches(100, first_id=5)(2, 6))
    assert output.logits.shape == (2, 3)
    assert output.logits.is_inference()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
    assert runner.threads == before + 1


def test_torch_runner_sets_threads_back_after_an_error() -> None:
    model = tiny_model("bert")
    before = torch.get_num_threads()
    with pytest.raises(IndexError):
        torch_runner(model, before + 1)({"input_ids": np.array([[100]])})
    assert torch.get_num_threads() == before


def test_runners_refuse_what_would_be_timed_wrong(tmp_path: Path) -> None:
    with pytest.raises(HFPruneError, match="in training mode; call model.eval"):
        torch_runner(tiny_model("bert").train())
    with pytest.raises(HFPruneError, match="threads must be at least 1, got 0"):
        torch_runner(tiny_model("bert"), 0)
    with pytest.raises(HFPruneError, match="there is no ONNX file at"):
        onnx_runner(tmp_path / "missing.onnx")


def write_graph(path: Path) -> None:
    """A graph with one input whose logits are the token ids as floats."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input_ids"], ["logits"], to=kind.FLOAT)],
        "g",
        [helper.make_tensor_value_info("input_ids", kind.INT64, ["b", "l"])],
        [helper.make_tensor_value_info("logits", kind.FLOAT, ["b", "l"])],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def test_onnx_runner_feeds_the_inputs_of_the_graph(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    write_graph(tmp_path / "g.onnx")
    runner = onnx_runner(tmp_path / "g.onnx", threads=2)
    batch = random_batches(50)(2, 3)
    (logits,) = runner(batch)  # type: ignore[misc]
    assert np.array_equal(logits, batch["input_ids"])
    assert runner.threads == 2


def test_onnx_runner_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.onnx").touch()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r'pip install "hfprune\[onnx\]"'):
        onnx_runner(tmp_path / "g.onnx")


def test_random_batches_are_repeatable_and_in_range() -> None:
    make = random_batches(20, first_id=5, seed=3)
    batch = make(4, 50)
    ids = batch["input_ids"]
    assert {name: value.shape for name, value in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (4, 50)
    )
    assert ids.dtype == np.int64
    assert (ids.min(), ids.max()) == (5, 19)
    assert batch["attention_mask"].all()
    assert np.array_equal(ids, make(4, 50)["input_ids"])
    assert not np.array_equal(ids, random_batches(20, first_id=5, seed=4)(4, 50)["input_ids"])
    with pytest.raises(HFPruneError, match="no token id from 20 to below 20"):
        random_batches(20, first_id=20)


# -- sizes ------------------------------------------------------------------------------------


def linear_macs(rows: int, inputs: int, outputs: int) -> int:
    return rows * inputs * outputs


def expected_bert_macs(sizes: list[tuple[int, int]], length: int, labels: int = 3) -> int:
    """By hand, for hidden 32 and heads of 8."""
    total = 0
    for heads, neurons in sizes:
        width = 8 * heads
        total += 4 * linear_macs(length, 32, width) + 2 * length * length * width
        total += 2 * linear_macs(length, 32, neurons)
    return total + 32 * 32 + 32 * labels  # pooler and classifier, on one position


@pytest.mark.parametrize("length", [1, 12])
def test_macs_of_uneven_and_removed_blocks_by_hand(length: int) -> None:
    model = tiny_model("bert")
    assert count_macs(model, length) == expected_bert_macs([(4, 48)] * 3, length)
    kept = [(3, 48), (0, 10), (1, 0)]
    shrink_(model, PruningPlan.first_units(model_sizes(model), kept))
    assert count_macs(model, length) == expected_bert_macs(kept, length)


def uncounted_macs(family: str, attention: list[int]) -> int:
    """What torch counts and we do not, for 9 tokens or patches and the heads of each layer."""
    if family.startswith("deberta"):  # 16 relative positions, from content and to content
        return 2 * 9 * 16 * 8 * sum(attention)
    if family in ("vit", "deit"):  # 9 patches of 3 channels of 4 by 4, as a convolution
        return 9 * 3 * 4 * 4 * 32
    if TRANSFORMERS_5:  # which makes the angles of rotary positions without a product of matrices
        return 0
    if family == "modernbert":  # the angles of rotary positions, anew in each attention block
        return 9 * 8 // 2 * sum(heads > 0 for heads in attention)
    return {"llama": 9 * 4 // 2, "qwen2": 9 * 4 // 2, "qwen3": 9 * 8 // 2}.get(family, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_macs_agree_with_the_counter_of_torch(family: str) -> None:
    model = tiny_model(family, attn_implementation="eager").requires_grad_(False)
    shrink_(model, random_plan(model, removed=(BlockKey(1, "attention"),)))
    if family in IMAGE_FAMILIES:
        length, batch = None, tiny_batch(1, family=family)
    else:
        length, ids = 9, torch.full((1, 9), 7)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with FlopCounterMode(display=False) as counter:
        model(**batch)
    extra = uncounted_macs(family, [heads for heads, _ in model_sizes(model)])
    assert count_macs(model, length) == counter.get_total_flops() // 2 - extra


def test_macs_of_shared_layers_count_once_a_use() -> None:
    six = count_macs(tiny_model("albert"), 5)
    twelve = count_macs(tiny_model("albert", num_hidden_layers=12), 5)
    outside = 5 * 16 * 32 + 32 * 32 + 32 * 3  # projection of the embeddings, pooler, classifier
    assert twelve - outside == 2 * (six - outside)


def test_macs_take_a_length_for_texts_only() -> None:
    if not TRANSFORMERS_5:
        with pytest.raises(HFPruneError, match="a 'vit' model takes.*leave sequence_length out"):
            count_macs(tiny_model("vit"), 9)
    with pytest.raises(HFPruneError, match="a 'bert' model needs a sequence_length"):
        count_macs(tiny_model("bert"))


def test_counting_leaves_the_model_as_it_was() -> None:
    model = tiny_model("bert").train()
    model.bert.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    count_macs(model, 4)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_macs_refuse_too_long_sequences_and_unknown_families() -> None:
    with pytest.raises(HFPruneError, match="cannot run on a sequence of 67 tokens"):
        count_macs(tiny_model("bert"), 67)
    with pytest.raises(UnsupportedModelError, match="expected a transformers model"):
        count_macs(nn.Linear(2, 2), 4)


def test_parameters_by_hand() -> None:
    found = count_parameters(tiny_model("bert"))
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 48 + 48 + 32 + 4 * 32
    embeddings = (100 + 66 + 2) * 32
    encoder = 3 * layer + 2 * 32 + (32 * 32 + 32)  # with the embeddings' LayerNorm and the pooler
    assert found == {
        "total": embeddings + encoder + 32 * 3 + 3,
        "encoder": encoder,
        "embeddings": embeddings,
    }


def test_removed_units_leave_the_encoder_count() -> None:
    model = tiny_model("bert")
    before = count_parameters(model)
    shrink_(model, PruningPlan.first_units(model_sizes(model), [(4, 47), (4, 48), (3, 48)]))
    after = count_parameters(model)
    gone = (32 + 1 + 32) + 8 * (3 * (32 + 1) + 32)  # one neuron, one head of 8
    assert before["encoder"] - after["encoder"] == gone
    assert before["total"] - after["total"] == gone
    assert before["embeddings"] == after["embeddings"]


def test_shared_parameters_count_once() -> None:
    model = tiny_model("bert")
    before = count_parameters(model)
    layers = model.bert.encoder.layer
    layers[1].output.dense = layers[0].output.dense
    after = count_parameters(model)
    assert before["encoder"] - after["encoder"] == 48 * 32 + 32
    model.bert.pooler.dense.weight = nn.Parameter(torch.zeros(100, 32))
    model.bert.embeddings.word_embeddings.weight = model.bert.pooler.dense.weight
    tied = count_parameters(model)
    assert tied["embeddings"] == before["embeddings"]
    assert tied["encoder"] == after["encoder"] - 32 * 32


def test_file_size_counts_external_data(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"x" * 10)
    assert file_size(graph) == 10
    (tmp_path / "model.onnx_data").write_bytes(b"x" * 1000)
    (tmp_path / "other.onnx.data").write_bytes(b"x" * 5000)
    assert file_size(graph) == 1010
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 100)
    assert file_size(str(graph)) == 1110
    assert file_size(tmp_path / "model.onnx_data") == 1000
    with pytest.raises(HFPruneError, match="there is no file at"):
        file_size(tmp_path)


# -- environment ------------------------------------------------------------------------------


def test_environment_tells_the_machine_and_nothing_private() -> None:
    found = environment()
    text = json.dumps(found)
    assert found["python"] == platform.python_version()
    assert found["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(found["libraries"]) == set(LIBRARIES)
    assert found["cpu_usable"] >= 1
    assert found["instruction_set"] == detect_instruction_set()
    assert socket.gethostname() not in text
    assert os.path.expanduser("~") not in text
    assert os.getcwd() not in text


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("arm64", "", "arm64"),
        ("aarch64", "asimd", "arm64"),
        ("x86_64", "avx2 avx512f avx512_vnni", "avx512_vnni"),
        ("x86_64", "avx2 avx512f", "avx512"),
        ("x86_64", "avx2 avx_vnni", "avx2"),
        ("AMD64", "", "avx2"),
        ("riscv64", "", "avx2"),
    ],
)
def test_the_instruction_set_is_read_off_the_first_cpu(
    tmp_path: Path, machine: str, flags: str, expected: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\nflags : x\n")
    model, words = read_cpu(cpuinfo)
    assert model == "Some CPU"
    assert instruction_set(machine, words) == expected


def test_a_machine_without_cpuinfo(tmp_path: Path) -> None:
    assert read_cpu(tmp_path / "none") == (None, frozenset())


def test_ids_are_such_as_all_models_know(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    with pytest.raises(HFPruneError, match=r"model\.onnx has no config\.json beside it"):
        config_beside(file)
    large, small = (tiny_model("bert", vocab_size=size).config for size in (100, 30))
    large.save_pretrained(tmp_path)
    assert config_beside(file).vocab_size == 100
    ids = batches_for(large, small)(8, 50)["input_ids"]
    assert ids.min() >= 10
    assert ids.max() < 30
    assert batches_for(large)(8, 50)["input_ids"].max() >= 30


def test_bfloat16_is_measured_without_moving_the_seed() -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bfloat16_gain.cache_clear()
    gain = bfloat16_gain()
    assert 0.005 < gain < 50
    assert gain == bfloat16_gain(), "measured once"
    assert torch.equal(torch.rand(3), expected)


# -- a busy machine ---------------------------------------------------------------------------


def timed(name: str, wall: list[float], own: list[float], threads: int = 1) -> LatencyRow:
    rows = row(name, *wall)
    return replace(
        rows,
        threads=threads,
        median_ms=float(np.median(wall)),
        process_ms=float(np.median(own)),
        process_times_ms=tuple(own),
    )


def test_ratios_of_processor_time_do_not_see_a_busy_machine() -> None:
    """The other program took its turns while the fast model ran: 4x by the clock, 6x in truth."""
    base = timed("base", [12.0] * 6, [12.0] * 6)
    own = timed("own", [3.0] * 6, [2.0] * 6)
    assert ratios([base, own], "base")["own", (1, 8)].value == pytest.approx(4.0)
    assert ratios([base, own], "base", own=True)["own", (1, 8)].value == pytest.approx(6.0)
    # Several threads wait for one another, and what was not measured cannot be used.
    for other in (replace(own, threads=2), replace(own, process_times_ms=())):
        assert ratios([base, other], "base", own=True)["own", (1, 8)].value == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("wall", "own", "threads", "busy", "disturbed"),
    [
        ([10.0, 10.1, 10.2, 10.1], [10.0] * 4, 1, 0.01, False),
        ([15.0, 15.1, 15.2, 15.1], [10.0] * 4, 1, 0.34, True),
        ([10.0, 18.0, 10.0, 19.0], [10.0, 18.0, 10.0, 19.0], 1, 0.0, True),  # it spreads
        ([15.0, 15.1, 15.2, 15.1], [10.0] * 4, 2, 0.0, False),
    ],
)
def test_a_busy_machine_is_noticed(
    wall: list[float], own: list[float], threads: int, busy: float, disturbed: bool
) -> None:
    rows = [timed("base", wall, own, threads)]
    found = quiet(rows, "base")
    assert found.busy == pytest.approx(busy, abs=0.01)
    assert found.disturbed == disturbed
    assert (found.note() is not None) == disturbed
    if disturbed:
        assert "the machine was busy: the processor was elsewhere" in str(found.note())
    with pytest.raises(HFPruneError, match="no row of the baseline 'x'; the rows are of"):
        quiet(rows, "x")


def test_warming_up_ends_after_a_second_where_calls_are_long() -> None:
    clock = FakeClock()
    slow, fast = FakeRunner(clock, 3000.0), FakeRunner(clock, 10.0)
    measure({"slow": slow, "fast": fast}, clock, repeats=2, warmup=5)
    assert (slow.calls, fast.calls) == (1 + 1 + 2, 5 + 1 + 2)
