"""What is timed for a table of block times: small models without a vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import BertConfig, BertForSequenceClassification, Qwen2Config

from hfprune.deploy.limits import limits_of
from hfprune.deploy.speed import table as tables
from hfprune.deploy.speed.probes import (
    PROBE_IDS,
    PROBE_LENGTH,
    ProbeTokenizer,
    few,
    head_counts,
    neuron_counts,
    probe_config,
    probe_reader,
    without_vocabulary,
)


def test_a_vocabulary_of_any_size_costs_the_same() -> None:
    """Neither graphs nor their time know whether it has 30,000 tokens or 250,000."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2,
             "intermediate_size": 24}  # fmt: skip
    small, large = (
        probe_config(BertForSequenceClassification, BertConfig(vocab_size=tokens, **sizes))
        for tokens in (30_522, 250_002)
    )
    assert small.to_dict() == large.to_dict()
    assert (small.vocab_size, small.num_hidden_layers) == (PROBE_IDS, 4)


def test_special_tokens_beyond_the_probes_vocabulary_become_the_first() -> None:
    config = Qwen2Config(vocab_size=151_936, pad_token_id=151_643, eos_token_id=151_645)
    found = without_vocabulary(config)
    assert (found.pad_token_id, found.eos_token_id) == (0, 0)
    assert config.vocab_size == 151_936, "a copy"
    assert without_vocabulary(BertConfig(vocab_size=100)).vocab_size == 100


def test_layers_that_share_weights_all_stay() -> None:
    model = tiny_model("albert")
    assert (
        probe_config(type(model), model.config).num_hidden_layers
        == model.config.num_hidden_layers
        == 6
    )


def test_the_stand_in_says_what_an_export_asks(tmp_path: Path) -> None:
    model = tiny_model("bert")
    reader = probe_reader(model.config, tiny_tokenizer())
    assert isinstance(reader, ProbeTokenizer)
    reader.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    limits = limits_of(model, reader)
    assert limits.length == PROBE_LENGTH
    assert limits.pad_id == model.config.pad_token_id
    assert limits.ids.max() == model.config.vocab_size - 1
    assert probe_reader(tiny_model("vit").config, images := object()) is images


@pytest.mark.parametrize(("heads", "neurons"), [(1, 8), (4, 48), (12, 1536), (16, 4096)])
def test_sizes_that_are_timed_have_both_ends(heads: int, neurons: int) -> None:
    for counts, most in ((head_counts(heads), heads), (neuron_counts(neurons), neurons)):
        assert counts == sorted(set(counts))
        assert counts[-1] == few(counts)[-1] == most
        assert few(counts)[0] == counts[0]
    assert head_counts(heads)[0] == 1
    assert len(head_counts(heads)) + len(neuron_counts(neurons)) <= 26


def test_how_well_times_are_known() -> None:
    """Nine rounds: the interval of 95 % is from the second of the gaps to the last but one."""
    fixed = np.full(9, 1.0)
    spread = np.array([0.0, 2.0, 2.9, 2.9, 3.0, 3.1, 3.1, 4.0, 9.0])
    found: dict[str, Any] = {"fixed": fixed, "all 1-0": 1 + spread, "baseline": 99 * spread}
    assert tables.width(found) == pytest.approx((4.0 - 2.0) / 2 / 3.0)
    found["all 2-0"] = np.full(9, 11.0)  # a block of ten: the same error is a smaller share
    assert tables.width(found) == pytest.approx(0.1)
    assert tables.width({"fixed": fixed, "all 1-0": fixed}) == float("inf")


def test_timing_ends_when_it_tells_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steady times need one measurement; others as many rounds as are allowed."""
    noise = {"now": 0.0}
    draw = torch.Generator().manual_seed(0)

    class Row:
        has_own_times = True

        def __init__(self, name: str, ms: float, repeats: int) -> None:
            self.name = name
            drawn = torch.rand(repeats, generator=draw).numpy()
            self.process_times_ms = tuple(ms * (1 + noise["now"] * drawn))

    def measured(runners: Any, shapes: Any, *, repeats: int, **more: Any) -> list[Row]:
        return [Row(name, ms, repeats) for name, ms in runners.items()]

    monkeypatch.setattr(tables, "measure_latency", measured)
    runners = {"baseline": 9.0, "fixed": 1.0, "all 1-0": 2.0}
    for amount, rounds in ((0.0, 9), (0.8, 63)):
        noise["now"] = amount
        found = tables._timed(runners, (1, 8), lambda rows, length: {}, lambda *told: None)
        assert {len(times) for times in found.values()} == {rounds}
