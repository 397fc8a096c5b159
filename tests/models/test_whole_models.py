"""Loading in threads, copies and forks: every parameter holds its numbers, always."""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import random_plan, save_tiny_classifier, tiny_batch, tiny_model
from torch import nn
from transformers import AutoModelForSequenceClassification

import hfprune
from hfprune.core.errors import CheckpointError
from hfprune.models import whole
from hfprune.models.saved import load_saved
from hfprune.models.whole import empty_tensors, load_whole


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    model = tiny_model("bert")
    hfprune.shrink_(model, random_plan(model)).save_pretrained(tmp_path / "small")
    with torch.no_grad():
        return tmp_path / "small", model(**tiny_batch()).logits


@pytest.fixture(autouse=True)
def modules_as_they_were() -> Iterator[None]:
    """Where two threads of transformers cross, it leaves all modules of the process changed.

    So are torch's functions that fill new weights: they would do nothing in tests after these.
    """
    before = nn.Module.register_parameter
    places = (nn.init, transformers.modeling_utils)
    kept = [(place, name, value) for place in places for name, value in vars(place).items()]
    dtype = torch.get_default_dtype()
    yield
    nn.Module.register_parameter = before  # type: ignore[method-assign]
    for place, name, value in kept:
        setattr(place, name, value)
    torch.set_default_dtype(dtype)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**tiny_batch()).logits
    return found


class MetaEverywhere:
    """What transformers 4 does to all threads while it builds a model."""

    def __enter__(self) -> None:
        self.real = real = nn.Module.register_parameter

        def register(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
            real(module, name, value)
            if value is not None:
                module._parameters[name] = nn.Parameter(value.to("meta"), value.requires_grad)

        nn.Module.register_parameter = register  # type: ignore[method-assign]

    def __exit__(self, *args: Any) -> None:
        nn.Module.register_parameter = self.real  # type: ignore[method-assign]


def test_nothing_empty_is_given_away(saved: tuple[Path, torch.Tensor]) -> None:
    """Even where every parameter is put on the meta device while the model is built."""
    with MetaEverywhere():
        model = hfprune.from_pretrained(saved[0])
    assert not empty_tensors(model)
    assert torch.equal(logits(model), saved[1])
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_that_stays_empty_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "FIRST_PAUSE", 0.0)
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="the model was not loaded: 2 tensors .bias, ..."):
        load_whole(lambda: empty, "the model")
    tries: list[nn.Module] = []

    def third_time() -> nn.Module:
        tries.append(empty)
        return nn.Linear(2, 2) if len(tries) == 3 else empty

    assert not empty_tensors(load_whole(third_time, "the model"))


def test_a_thread_that_loads_with_transformers_meanwhile(
    saved: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    save_tiny_classifier("bert", tmp_path / "other")
    stop = threading.Event()

    def others() -> None:
        while not stop.wait(0.01):
            AutoModelForSequenceClassification.from_pretrained(tmp_path / "other")

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(15):
            model = hfprune.from_pretrained(saved[0])
            assert not empty_tensors(model)
            assert torch.equal(logits(model), saved[1])
            # transformers itself loads this one: whole, or not at all.
            with contextlib.suppress(CheckpointError):
                assert not empty_tensors(load_saved(str(tmp_path / "other")))
    finally:
        stop.set()
        thread.join()


def test_what_transformers_left_behind_is_mended(tmp_path: Path) -> None:
    """Two of its threads that cross leave all modules of the process making empty parameters."""
    save_tiny_classifier("bert", tmp_path)
    MetaEverywhere().__enter__()
    assert nn.Linear(2, 2).weight.is_meta
    assert not empty_tensors(load_saved(str(tmp_path)))
    assert not nn.Linear(2, 2).weight.is_meta


def test_threads_of_hfprune_alone(saved: tuple[Path, torch.Tensor]) -> None:
    def load(number: int) -> bool:
        return torch.equal(logits(hfprune.from_pretrained(saved[0])), saved[1])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(40))) == [True] * 40


def test_copies_are_equal(saved: tuple[Path, torch.Tensor]) -> None:
    model = hfprune.from_pretrained(saved[0])
    assert torch.equal(logits(copy.deepcopy(model)), saved[1])
    assert torch.equal(logits(pickle.loads(pickle.dumps(model))), saved[1])  # noqa: S301 (ours)
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    again = hfprune.from_pretrained(saved[0])
    again.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(logits(again), saved[1])


def _in_a_child(folder: str, model: Any, answer: Any) -> None:
    torch.set_num_threads(1)
    answer.put((logits(model).tolist(), logits(hfprune.from_pretrained(folder)).tolist()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_sees_the_same(saved: tuple[Path, torch.Tensor]) -> None:
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    answer = context.Queue()
    child = context.Process(
        target=_in_a_child, args=(str(saved[0]), hfprune.from_pretrained(saved[0]), answer)
    )
    child.start()
    kept, loaded = answer.get(timeout=120)
    child.join(60)
    torch.testing.assert_close(torch.tensor(kept), saved[1])
    torch.testing.assert_close(torch.tensor(loaded), saved[1])


def test_saved_again_it_is_the_same_file(saved: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    for number in range(3):
        hfprune.from_pretrained(saved[0]).save_pretrained(tmp_path / str(number))
        folders = (saved[0], tmp_path / str(number))
        one, other = (load_file(folder / "model.safetensors") for folder in folders)
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_model_outlives_its_file(saved: tuple[Path, torch.Tensor]) -> None:
    """Tensors of safetensors are views of the file; the model's are its own."""
    model = hfprune.from_pretrained(saved[0])
    file = saved[0] / "model.safetensors"
    with open(file, "r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert torch.equal(logits(model), saved[1])


def test_floats_of_several_kinds_become_the_models(saved: tuple[Path, torch.Tensor]) -> None:
    file = saved[0] / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"] = tensors["classifier.bias"].double()
    save_file(tensors, file, metadata={"format": "pt"})
    model = hfprune.from_pretrained(saved[0])
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(logits(model), saved[1])
