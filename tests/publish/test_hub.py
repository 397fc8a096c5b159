"""Publishing: what the card says, what is uploaded and what never is, and loading it back.

The Hub is a server on this machine (``loopback_hub``) that speaks HTTP and keeps what it is sent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http
from loopback_hub import Fault, LoopbackHub
from tiny import TRANSFORMERS_5, opened_store, save_tiny_classifier, tiny_batch, write_reviews

import hfprune
from hfprune import pipeline
from hfprune.core import results
from hfprune.core.errors import CheckpointError, HFPruneError, HubError
from hfprune.pipeline.context import Context
from hfprune.pipeline.results import Precision
from hfprune.pipeline.stages import push as push_stage
from hfprune.pipeline.store import StageStore
from hfprune.pruning.surgery import RECORD_KEY
from hfprune.publish.card import model_card, write_card
from hfprune.publish.failures import redact
from hfprune.publish.finished import RECORD_KEY as OF_THE_HUB
from hfprune.publish.push import find_token, push
from hfprune.recipe.public import hub_name
from hfprune.recipe.reading import dump_recipe, load_recipe, parse_recipe
from hfprune.recipe.sections.whole import Recipe
from hfprune.recipe.workplan import describe
from hfprune.report.console import Console

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "Fake" * 9
NAME = "user/tiny-reviews"
UPLOADED = {
    ".gitattributes",
    "README.md",
    "config.json",
    "figures/accuracy_latency.png",
    "figures/layers.png",
    "metrics.json",
    "model.safetensors",
    "onnx/config.json",
    "onnx/model.onnx",
    "onnx/model_quantized.onnx",
    "onnx/ort_config.json",
    "onnx/special_tokens_map.json",
    "onnx/tokenizer.json",
    "onnx/tokenizer_config.json",
    "plan.json",
    "recipe.yaml",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
if TRANSFORMERS_5:  # neither Optimum nor this version's tokenizers write these
    UPLOADED -= {"onnx/ort_config.json", "onnx/special_tokens_map.json", "special_tokens_map.json"}
# From version 1 huggingface_hub repeats requests by itself, and connects through httpx.
REPEATS = 1 if metadata.version("huggingface_hub").startswith("0.") else 6
FIGURES_KEPT_HERE = ("training_dense", "training_pruned", "confusion_pruned")


def go_online(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    """huggingface_hub reads its settings once; here they are changed after that."""
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setenv("HF_TOKEN", TOKEN)
    for name in ("reset_sessions", "close_session"):
        getattr(_http, name, lambda: None)()


@pytest.fixture(autouse=True)
def no_session_is_kept() -> Iterator[None]:
    yield
    for name in ("reset_sessions", "close_session"):
        getattr(_http, name, lambda: None)()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(TOKEN) as server:
        go_online(monkeypatch, server.url)
        yield server


class Finished:
    """A run whose upload at the end was refused."""

    def __init__(self, folder: Path) -> None:
        save_tiny_classifier("bert", folder / "model")
        write_reviews(folder / "reviews.csv", 60)
        self.recipe = {
            "model": {"name_or_path": str(folder / "model")},
            "data": {"train_file": str(folder / "reviews.csv"), "max_length": 32},
            "training": {"max_steps": 4, "per_device_train_batch_size": 8},
            "pruning": {"sparsity": 0.5, "min_neurons": 4, "update_every_steps": 1},
            "export": {"quantization": {}},  # no search: the files that Optimum writes
            "benchmark": {"batch_sizes": [1], "sequence_lengths": [16], "repeats": 2},
            "hub": {"push_to_hub": True, "hub_model_id": NAME, "hub_private_repo": True},
            "output_dir": str(folder / "out"),
        }
        self.output = folder / "out"
        body = json.dumps({"error": f"no write access with {TOKEN}"})
        with pytest.MonkeyPatch.context() as patch, LoopbackHub(TOKEN) as server:
            go_online(patch, server.url)
            server.faults.append(Fault("POST .*/commit/", 403, body))
            with pytest.raises(HubError) as caught:
                pipeline.run(Recipe(**self.recipe), Console(quiet=True))
            self.error = caught.value
            self.files_on_hub = set(server.repos[NAME].files())
            self.private = server.repos[NAME].private


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def output(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the run's output, to be changed at will."""
    return Path(shutil.copytree(finished.output, tmp_path / "out"))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def failure(*arguments: Any, **keywords: Any) -> str:
    """The text of the error of an upload; neither it nor what led to it holds a token."""
    with pytest.raises(HubError) as caught:
        push(*arguments, backoff=0, **keywords)
    assert_no_token(caught.value)
    return str(caught.value)


def assert_no_token(error: BaseException) -> None:
    assert TOKEN not in "".join(traceback.format_exception(error))
    link: BaseException | None = error
    while link is not None:
        assert TOKEN not in f"{link!r} {vars(link)}"
        link = link.__cause__ or link.__context__


# --- the end of a run -----------------------------------------------------------------------


def test_a_refused_upload_leaves_the_finished_run(finished: Finished) -> None:
    written = set(digests(finished.output))
    # The details quote test rows, and the report shows them: both stay here, with the figures that
    # the card does not show.
    figures = {f"figures/{name}.png" for name in FIGURES_KEPT_HERE}
    kept_here = {"details.json", "report.html", *figures}
    assert written == UPLOADED - {".gitattributes"} | kept_here
    assert not finished.output.with_name("out.work").exists()
    assert finished.files_on_hub == {".gitattributes"}
    assert finished.private is True
    again = f"hfprune push {finished.output} --repo-id {NAME} --private"
    assert str(finished.error) == (
        f"the upload of {finished.output} to {NAME} failed: the access token may not write to "
        f"{NAME} (403); it must be one with write access, of user or a member of user (it said: "
        f"no write access with ***). The folder is whole and unchanged; to try again: {again}"
    )
    assert isinstance(finished.error, HFPruneError)
    assert_no_token(finished.error)


@pytest.mark.parametrize("reason", ["offline mode is on", "there is no access token"])
def test_an_upload_that_cannot_be_is_refused_before_any_work(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", "offline" in reason)
    recipe = Recipe(**finished.recipe | {"output_dir": str(tmp_path / "out")})
    with pytest.raises(HubError, match=reason):
        pipeline.run(recipe, Console(quiet=True))
    assert not (tmp_path / "out.work").exists()
    with pytest.raises(HubError, match=rf"{reason}.*\. Then: hfprune push .* user/name"):
        push(finished.output, "user/name")


def test_a_run_can_be_resumed_with_another_place_to_publish_to(
    finished: Finished, tmp_path: Path
) -> None:
    recipe = finished.recipe | {"output_dir": str(tmp_path / "out")}

    def opened(recipe: dict[str, Any]) -> StageStore:
        return opened_store(Recipe(**recipe))

    store = opened(recipe)
    store.put("precision", Precision(bf16=False), store.inputs_of({}), 0.0)
    elsewhere = recipe | {"resume": True, "hub": {"hub_model_id": "org/other"}}
    assert opened(elsewhere).take("precision", Precision, store.inputs_of({})) == Precision(
        bf16=False
    )
    other = elsewhere | {"pruning": {"sparsity": 0.4}}
    with pytest.raises(CheckpointError, match="was begun with another recipe"):
        opened(other)


def test_a_dry_run_says_where_the_upload_goes(finished: Finished) -> None:
    recipe = Recipe(**finished.recipe)
    assert describe(recipe)[-1] == f"push: to {NAME} on the Hub, branch main"
    off = recipe.model_copy(update={"hub": recipe.hub.model_copy(update={"push_to_hub": False})})
    assert describe(off)[-1] == f"write: {recipe.output_dir}"


def test_what_hub_repeats_from_heavier_modules_is_the_same() -> None:
    assert OF_THE_HUB == RECORD_KEY
    version = results.RunResults.model_fields["format_version"].default
    assert version == results.RESULTS_VERSION


# --- there and back -------------------------------------------------------------------------

LOAD = """
import sys
import numpy as np
import torch
import hfprune
from huggingface_hub import ModelCard

name, folder, revision = sys.argv[1:]
batch = {key: torch.from_numpy(value) for key, value in np.load(f"{folder}/batch.npz").items()}
with torch.no_grad():
    found = {"torch": hfprune.from_pretrained(name, revision=revision)(**batch).logits.numpy()}
try:
    from optimum.onnxruntime import ORTModelForSequenceClassification as ORTModel
except ImportError:  # with transformers 5
    ORTModel = None
for kind in ("model", "model_quantized"):
    if ORTModel is None:
        from huggingface_hub import hf_hub_download
        from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
        file = hf_hub_download(name, f"onnx/{kind}.onnx", revision=revision)
        feed = {key: value.numpy() for key, value in batch.items()}
        found[kind] = OnnxClassifier(file).logits(feed)
    else:
        model = ORTModel.from_pretrained(
            name, subfolder="onnx", file_name=f"{kind}.onnx", revision=revision
        )
        found[kind] = model(**batch).logits.numpy()
np.savez(f"{folder}/found.npz", **found)
try:
    hfprune.from_pretrained(name, revision="nowhere")
except hfprune.HFPruneError as error:
    print(error)
# What the card tells people to write.
parts = ModelCard.load(name).text.split("```python\\n")[1:]
for part in parts[:2]:  # in PyTorch, and in ONNX Runtime
    space = {}
    exec(part.split("```")[0], space)
    if "classify" in space:
        print("card:", space["classify"]("good film")[0]["label"])
    else:
        print("card:", ("negative", "positive")[space["logits"].argmax()])
"""


def environment(hub_url: str, home: Path) -> dict[str, str]:
    """That of a user: online, a token, an empty cache."""
    dropped = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    return {
        **{name: value for name, value in os.environ.items() if name not in dropped},
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }


def push_command(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hfprune", "push", *arguments],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )


def test_push_by_command_and_load_back(output: Path, tmp_path: Path) -> None:
    (output / "notes.txt").write_text("mine")
    (output / "onnx/.env").write_text("SECRET=1")
    before = digests(output)
    with LoopbackHub(TOKEN) as server:
        env = environment(server.url, tmp_path / "home")
        # The connection breaks twice: in huggingface_hub's own upload, and outside of it.
        server.faults += [Fault("PUT /upload/", "reset"), Fault("objects/batch", "reset")]
        options = ["--repo-id", NAME, "--private", "--revision", "v1"]
        done = push_command(env, str(output), *options)
        assert done.returncode == 0, done.stderr
        repo = server.repos[NAME]
        assert done.stdout == f"{server.url}/{NAME}/commit/{repo.branches['v1']}\n"
        assert "not uploaded, being none of hfprune's files: notes.txt, onnx/.env" in done.stderr
        if REPEATS == 1:
            assert f"no answer from {server.url}" in done.stderr
            assert "attempt 2 of 4 in 1 s" in done.stderr
        assert server.count("PUT /upload/") == 4, "three large files, one of them cut off once"
        assert digests(output) == before

        assert repo.private is True
        assert set(repo.files("main")) == {".gitattributes"}
        arrived = repo.files("v1")
        assert set(arrived) == UPLOADED
        for name in UPLOADED - {".gitattributes", "README.md", "recipe.yaml"}:
            assert arrived[name] == (output / name).read_bytes(), name

        # The same again with a bad token, which the server repeats.
        said = json.dumps({"error": f"bad token {TOKEN}"})
        server.faults.append(Fault("POST", 401, said, times=9))
        refused = push_command(env, str(output), "--repo-id", NAME)
        server.faults.clear()
        assert refused.returncode == 1
        assert "did not accept the access token (401)" in refused.stderr
        assert "(it said: bad token ***)" in refused.stderr
        assert refused.stderr.count("\n") == 2, "the note on other files, the error, no traceback"

        repo.branches["main"] = repo.branches["v1"]
        batch = tiny_batch()
        np.savez(tmp_path / "batch.npz", **batch)
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD, NAME, str(tmp_path), "v1"],
            capture_output=True,
            text=True,
            env=env | {"PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert loaded.returncode == 0, loaded.stderr
    assert "could be fetched: RevisionNotFoundError" in loaded.stdout
    said = re.findall("^card: (?:positive|negative)$", loaded.stdout, re.MULTILINE)
    assert len(said) == 2, "in PyTorch, and in ONNX Runtime"
    assert not any(TOKEN in run.stdout + run.stderr for run in (done, refused, loaded))
    found = np.load(tmp_path / "found.npz")
    with torch.no_grad():
        want = hfprune.from_pretrained(output)(**batch).logits.numpy()
    np.testing.assert_array_equal(found["torch"], want)
    np.testing.assert_allclose(found["model"], want, atol=1e-4)
    np.testing.assert_allclose(found["model_quantized"], want, atol=0.5)


def test_what_is_published_names_no_path_and_no_token(finished: Finished, hub: LoopbackHub) -> None:
    push(finished.output, NAME)
    for name, data in hub.repos[NAME].files().items():
        assert str(finished.output.parent).encode() not in data, name
        assert TOKEN.encode() not in data, name
    text = hub.repos[NAME].files()["recipe.yaml"].decode()
    recipe = parse_recipe(text)
    assert recipe.model.name_or_path == "a local model"
    assert recipe.data.train_file == "local files (train)"
    assert recipe.output_dir == "runs/tiny-reviews"
    assert recipe.hub.push_to_hub is False
    assert recipe.training == load_recipe(finished.output / "recipe.yaml").training
    assert f"```yaml\n{text}```" in hub.repos[NAME].files()["README.md"].decode()


def test_logs_hold_no_token(
    finished: Finished,
    hub: LoopbackHub,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("huggingface_hub", "urllib3"):
        logging.getLogger(name).addHandler(caplog.handler)
    try:
        hub.faults.append(Fault("POST .*/commit/", 500, f'{{"error": "token={TOKEN}"}}', times=2))
        notes: list[str] = []
        push(finished.output, NAME, backoff=0, note=notes.append)
    finally:
        for name in ("huggingface_hub", "urllib3"):
            logging.getLogger(name).removeHandler(caplog.handler)
    assert "POST" in caplog.text
    assert notes[0] == "the Hub failed (500) (it said: token=***); attempt 2 of 4 in 0 s"
    said = capfd.readouterr()
    assert TOKEN not in caplog.text + "".join(notes) + said.out + said.err


# --- what goes wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "where", "expected", "attempts"),
    [
        (401, "repos/create", "the Hub did not accept the access token (401); make a new one", 1),
        (403, "repos/create", f"the access token may not write to {NAME} (403); it must be", 1),
        (404, "/branch/", f"the Hub does not know {NAME} or its branch v2 (404)", 1),
        (409, "/commit/", f"{NAME} was being changed by something else (409)", 1),
        (400, "validate-yaml", "the Hub refused the request (400) (it said: ", 1),
        (500, "/commit/", "the Hub failed (500) (it said: ", 3),
        (503, "/preupload/", "the Hub failed (503) (it said: ", 3),
        (429, "repos/create", "the Hub asks for patience: too many requests (429)", 3),
        ("reset", "repos/create", "no answer from http://127.0.0.1:", 3),
    ],
)
def test_failures_say_what_happened_and_what_to_do(
    output: Path, hub: LoopbackHub, status: int | str, where: str, expected: str, attempts: int
) -> None:
    before = digests(output)
    hub.faults.append(Fault(where, status, f'{{"error": "Bearer {TOKEN} is bad"}}', times=99))
    said = failure(output, NAME, retries=2, revision="v2")
    count = " after 3 attempts" if attempts == 3 else ""
    assert said.startswith(f"the upload of {output} to {NAME} failed{count}: {expected}")
    assert said.endswith(
        "The folder is whole and unchanged; to try again: "
        f"hfprune push {output} --repo-id {NAME} --revision v2"
    )
    assert hub.count(where) in (attempts, attempts * REPEATS)
    assert digests(output) == before
    hub.faults.clear()
    push(output, NAME, revision="v2")  # as the message says
    assert set(hub.repos[NAME].files("v2")) == UPLOADED


def test_without_a_network(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: whoever connects is refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        go_online(monkeypatch, address)
        said = failure(finished.output, NAME, retries=1)
    error = "ConnectionError" if REPEATS == 1 else "ConnectError"
    assert f"failed after 2 attempts: no answer from {address} ({error}: " in said


def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    finished: Finished, hub: LoopbackHub
) -> None:
    hub.faults.append(Fault("POST .*/commit/", "lost"))
    url = push(finished.output, NAME, backoff=0)
    repo = hub.repos[NAME]
    assert len(repo.commits) == 2, "the empty repository and the upload"
    assert url == f"{hub.url}/{NAME}/commit/{repo.branches['main']}"
    assert set(repo.files()) == UPLOADED


def test_a_public_repository_does_not_take_a_private_upload(
    finished: Finished, hub: LoopbackHub
) -> None:
    hub.add(NAME, private=False)
    said = failure(finished.output, NAME, private=True)
    assert "is there already and is public, but a private one was asked for; nothing was" in said
    assert set(hub.repos[NAME].files()) == {".gitattributes"}
    push(finished.output, "user/other")
    assert hub.created[-1].get("private") is None, "the account's settings decide"


def test_files_of_an_earlier_upload_go_and_other_peoples_stay(
    output: Path, hub: LoopbackHub
) -> None:
    push(output, NAME)
    repo = hub.repos[NAME]
    repo.commit("main", repo.files() | {"LICENSE": b"theirs", "onnx/model_O1.onnx": b"old"})
    (output / "onnx/model_quantized.onnx").unlink()
    push(output, NAME)
    gone = {"onnx/model_quantized.onnx"}
    assert set(repo.files()) == UPLOADED - gone | {"LICENSE"}


def test_an_edited_card_is_uploaded_as_it_is(output: Path, hub: LoopbackHub) -> None:
    write_card(output)
    push(output, "org/name")
    assert hub.repos["org/name"].files()["README.md"].decode() == model_card(output, "org/name")
    assert 'name = "org/name"' in model_card(output, "org/name")
    (output / "README.md").write_text("---\nlicense: mit\n---\nmine")
    push(output, "org/name")
    assert hub.repos["org/name"].files()["README.md"] == b"---\nlicense: mit\n---\nmine"
    (output / "README.md").write_text("---\nbase_model_relation: cousin\n---\n")
    assert 'said: "base_model_relation" is unknown' in failure(output, "org/name")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda out: shutil.rmtree(out), "there is no folder {out}; give the output_dir of a"),
        (
            lambda out: out.rename(out.with_name("out.work")),
            "there is no folder {out}; its run has not finished: run it again with resume=true",
        ),
        (
            lambda out: (out / "metrics.json").unlink(),
            "{out} is not the output of a run of hfprune: it holds no metrics.json; give the",
        ),
        (lambda out: (out / "metrics.json").write_text("["), "{out}/metrics.json cannot be read"),
        (lambda out: (out / "metrics.json").write_text("1"), "{out}/metrics.json holds no JSON"),
        (
            lambda out: (out / "metrics.json").write_text('{"format_version": 9}'),
            "{out}/metrics.json: format_version must be 1, got 9; give the output_dir",
        ),
        (
            lambda out: (out / "metrics.json").write_text('{"format_version": 1}'),
            "{out}/metrics.json lacks something that a model card needs (KeyError: 'evaluation')",
        ),
        (
            lambda out: (out / "config.json").write_text("{}"),
            "{out}/config.json has no 'hfprune' record, so this model was not shrunk by hfprune",
        ),
        (lambda out: (out / "recipe.yaml").write_text("{}"), "the recipe of the run cannot be"),
        (lambda out: (out / "model.safetensors").unlink(), "{out} holds no model.safetensors"),
    ],
)
def test_only_the_output_of_a_run_is_uploaded(
    output: Path, hub: LoopbackHub, damage: Any, expected: str
) -> None:
    damage(output)
    assert failure(output, NAME).startswith(expected.format(out=output))
    assert hub.requests == []


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"repo_id": "name"}, "the name of the repository must be an owner and a name"),
        ({"repo_id": NAME, "revision": "a b"}, "the name of the branch must be the name of a"),
        ({"repo_id": NAME, "revision": "0" * 40}, "a commit cannot be written to"),
        ({"repo_id": NAME, "token": f"{TOKEN}\n"}, "the access token holds spaces, line breaks"),
    ],
)
def test_arguments_are_checked_first(
    finished: Finished, hub: LoopbackHub, keywords: dict[str, Any], expected: str
) -> None:
    with pytest.raises(HubError) as caught:
        push(finished.output, **keywords)
    assert expected in str(caught.value)
    assert_no_token(caught.value)
    assert hub.requests == []


def test_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "stored-token")
    assert redact("stored-token given hf_Abc12345678", "given") == "*** *** ***"
    assert redact("Authorization: Bearer xyz") == "Authorization: Bearer ***"
    assert redact("https://me:pass@host/x and a@b") == "https://***@host/x and a@b"
    assert redact("nothing of the kind") == "nothing of the kind"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert find_token() == "stored-token"
    assert find_token("given") == "given"


# --- the card -------------------------------------------------------------------------------

SHAPES = [(1, 32), (1, 128)]


def results_of(**changes: Any) -> dict[str, Any]:
    """Made-up measurements, each number another one."""
    models = ["dense PyTorch", "dense ONNX", "dense int8"]
    models += [name.replace("dense", "pruned") for name in models]
    return {
        "format_version": 1,
        "task": "single_label_classification",
        "labels": ["negative", "posi|tive"],
        "data": {
            "samples": {"train": 4000, "validation": 845, "test": 2114},
            "truncated": {"train": 0, "validation": 0, "test": 3},
            "seen_in_train": {"validation": 0, "test": 7},
            "max_length": 64,
        },
        "sources": {"model": "org/base", "tokenizer": None, "teacher": None, "dataset": "org/data"},
        "seed": 13,
        "processes": 1,
        "pruning": {
            "sparsity": 0.850016,
            "heads": [4, 0],
            "of_heads": [12, 12],
            "neurons": [395, 1],
            "of_neurons": [1536, 1536],
        },
        "evaluation": {
            "primary": "accuracy",
            "confidence": 0.95,
            "samples": 2114,
            "models": {
                name: {
                    "metrics": {"accuracy": 0.85 - i / 100, "f1_macro": 0.84 - i / 100},
                    "interval": [0.8301 - i / 100, 0.8601 - i / 100],
                    "difference": [-i / 100, -i / 100 - 0.0123, -i / 100 + 0.0234],
                }
                for i, name in enumerate(models)
            },
        },
        "benchmark": {
            "threads": 2,
            "repeats": 30,
            "baseline": "dense ONNX",
            "rows": [
                {
                    "name": name,
                    "batch_size": batch,
                    "sequence_length": length,
                    "median_ms": 10.0 + i + length,
                    "speedup": 1.0 + i + length / 100,
                    "speedup_interval": [0.9 + i + length / 100, 1.1 + i + length / 100],
                }
                for batch, length in SHAPES
                for i, name in enumerate(models)
            ],
            "file_bytes": {name: (90 - 10 * i) * 10**6 for i, name in enumerate(models)},
            "parameters": {
                "dense": {"total": 22_700_000, "encoder": 10_800_000},
                "pruned": {"total": 13_700_000, "encoder": 1_750_000},
            },
        },
        "environment": {
            "machine": "x86_64",
            "cpu": "Some CPU",
            "instruction_set": "avx2",
            "libraries": {"hfprune": "0.1.0", "onnxruntime": "1.32.0", "torch": "2.13.0"},
        },
    } | changes


def written(folder: Path, results: dict[str, Any], **changes: Any) -> Path:
    recipe = {
        "model": {"name_or_path": "org/base"},
        "data": {"name": "org/data", "config_name": "sst2", "test_split": "validation"},
        "pruning": {"sparsity": 0.85},
        "output_dir": "runs/a-run",
        **changes,
    }
    (folder / "recipe.yaml").write_text(dump_recipe(Recipe(**recipe)))
    (folder / "metrics.json").write_text(json.dumps(results))
    (folder / "config.json").write_text(json.dumps({RECORD_KEY: {}}))
    return folder


def test_metadata_of_the_card(tmp_path: Path) -> None:
    card = ModelCard(model_card(written(tmp_path, results_of())))
    found = card.data.to_dict()
    (index,) = found.pop("model-index")
    assert found == {
        "base_model": "org/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["hfprune", "pruned", "onnx"],
        "datasets": ["org/data"],
    }
    assert index["name"] == "a-run"
    (result,) = index["results"]
    assert result["task"] == {"type": "text-classification", "name": "Text classification"}
    assert result["dataset"] == {
        "name": "org/data",
        "type": "org/data",
        "config": "sst2",
        "split": "validation",
    }
    macro = {"args": {"average": "macro"}}
    assert result["metrics"] == [
        {"type": "accuracy", "value": 0.82, "name": "Accuracy, PyTorch"},
        {"type": "f1", "value": 0.81, "name": "F1 (macro), PyTorch"} | macro,
        {"type": "accuracy", "value": 0.8, "name": "Accuracy, int8"},
        {"type": "f1", "value": 0.79, "name": "F1 (macro), int8"} | macro,
    ]


def test_text_of_the_card(tmp_path: Path) -> None:
    text = ModelCard(model_card(written(tmp_path, results_of()))).text
    lines = text.splitlines()
    for line in (
        "# a-run",
        "A pruned text classifier. It was made from "
        "[org/base](https://huggingface.co/org/base) with hfprune, which removed attention heads, "
        "feed-forward neurons and whole blocks while the model was fine-tuned, distilled from its "
        "dense form. 85.0% of the encoder's weights are gone. It gives a text one of these labels: "
        r"negative, posi\|tive.",
        "- **accuracy**: 0.8000 (0.780 to 0.810) as int8; before pruning 0.8500 (0.830 to 0.860). "
        "Change -0.0500 (-0.0623 to -0.0266). 2,114 test texts, 95% intervals.",
        "- **speed** over the dense ONNX model, 2 threads: 6.3x (6.2 to 6.4) at batch 1 x 32 "
        "tokens; 7.3x (7.2 to 7.4) at batch 1 x 128 tokens.",
        "- **size**: 40.0 MB instead of 80.0 MB; 13.7 million parameters instead of 22.7 million, "
        "in the encoder 1.75 instead of 10.80.",
        "| model | accuracy | interval | f1_macro | MB | 1 x 32 | 1 x 128 |",
        "| pruned ONNX | 0.8100 | 0.790 to 0.820 | 0.8000 | 50.0 | 46.00 ms, 5.3x | 142.00 ms, "
        "6.3x |",
        "| 0 | 4 of 12 | 395 of 1536 |",
        "| 1 | none of 12 | 1 of 1536 |",
        'name = "user/a-run"',
        'session = onnxruntime.InferenceSession(f"{name}/onnx/model_quantized.onnx")',
        "- One run with one seed (13). The intervals say how far the test texts, being a sample, "
        "let the numbers be trusted, not how another seed would do.",
        "- The test split is the split validation of the data set org/data (sst2): 2,114 texts. "
        "It was not used to train or to choose.",
        "- 7 of the test texts also occur among the training texts.",
        "- 3 of the test texts were cut at 64 tokens.",
    ):
        assert line in lines, line
    assert "on Some CPU (x86_64, avx2), 2 threads, ONNX Runtime 1.32.0, PyTorch 2.13.0" in text
    block = text.split("```yaml\n")[1].split("```")[0]
    assert parse_recipe(block).pruning.sparsity == 0.85


def test_the_card_shows_the_figures_that_are_there(tmp_path: Path) -> None:
    folder = written(tmp_path, results_of())
    assert "![" not in model_card(folder)
    (folder / "figures").mkdir()
    for name in ("layers", "training_pruned"):
        (folder / f"figures/{name}.png").touch()
    text = model_card(folder)
    assert "![Heads and neurons that each layer kept](figures/layers.png)" in text
    assert text.count("![") == 1


def test_figures_that_came_after_the_card(hub: LoopbackHub, output: Path) -> None:
    names = ("figures/accuracy_latency.png", "figures/layers.png")
    kept = {name: (output / name).rename(output.parent / Path(name).name) for name in names}
    write_card(output)
    for name, place in kept.items():
        place.rename(output / name)
    push(output, NAME)
    card = hub.repos[NAME].files()["README.md"].decode()
    assert card == model_card(output, NAME)
    assert all(f"]({name})" in card for name in names)


def test_a_card_of_local_inputs_without_int8(tmp_path: Path) -> None:
    results = results_of(sources=dict.fromkeys(("model", "tokenizer", "teacher", "dataset")))
    del results["evaluation"]["models"]["pruned int8"]
    text = model_card(
        written(
            tmp_path,
            results,
            model={"name_or_path": "/home/me/bert", "tokenizer": "/home/me/tokens"},
            teacher={"name_or_path": "../teacher"},
            data={
                "train_file": "/data/train.csv",
                "validation_file": "/data/v.csv",
                "test_file": "/data/test.csv",
                "max_test_samples": 2114,
            },
            distillation=None,
            output_dir="/home/me/runs/x",
        )
    )
    assert "/home" not in text
    assert "/data" not in text
    assert "../teacher" not in text
    data = ModelCard(text).data.to_dict()
    assert not {"base_model", "base_model_relation", "datasets"} & set(data)
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"] == {"name": "Local files", "type": "local-files", "split": "test"}
    assert "It was made from a local model with" in text
    assert "distilled" not in text
    assert "{name}/onnx/model.onnx" in text
    assert (
        "The test split is a local file of its own, of which at most 2,114 were taken at random: "
        "2,114 texts."
    ) in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["teacher"]["name_or_path"] == "a local teacher"
    assert recipe["output_dir"] == "runs/x"


def test_the_base_is_the_teacher_where_one_is_given(tmp_path: Path) -> None:
    results = results_of()
    results["sources"]["teacher"] = "org/tuned"
    folder = written(tmp_path, results, teacher={"name_or_path": "org/tuned"})
    assert ModelCard(model_card(folder)).data.to_dict()["base_model"] == "org/tuned"


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (0.0, "after fine-tuning, without training it again. 85.0%"),
        (2.0, "after fine-tuning; what was left was trained further, distilled from its dense"),
    ],
)
def test_the_card_tells_how_it_was_pruned(tmp_path: Path, epochs: float, expected: str) -> None:
    pruning = {"sparsity": 0.85, "method": "reconstruction"}
    folder = written(tmp_path, results_of(), pruning=pruning, recovery={"num_train_epochs": epochs})
    assert f"feed-forward neurons and whole blocks {expected}" in model_card(folder)


def test_a_model_of_a_family_has_a_repository_of_its_own(tmp_path: Path, hub: LoopbackHub) -> None:
    changes = {
        "pruning": {"speedup": [2.0, 4.5]},
        "hub": {"push_to_hub": True, "hub_model_id": "user/m"},
        "output_dir": str(tmp_path / "out"),
    }
    for label in ("2x", "4.5x"):
        (tmp_path / "out" / label).mkdir(parents=True)
        folder = written(tmp_path / "out" / label, results_of(member=label), **changes)
        (folder / "model.safetensors").write_bytes(label.encode())
        assert f"It is the {label} model of a family from one run." in model_card(folder)
        assert f'name = "user/m-{label}"' in model_card(folder)
    said = failure(tmp_path / "out", "user/m")
    assert said == (
        f"{tmp_path}/out holds a family of models, each a repository of its own: give "
        f"{tmp_path}/out/2x or {tmp_path}/out/4.5x"
    )
    recipe = load_recipe(folder / "recipe.yaml")
    assert describe(recipe)[-1] == "push: to user/m-2x, user/m-4.5x on the Hub, branch main"
    hub.faults.append(Fault("POST .*/user/m-2x/commit", 409))
    with pytest.raises(HubError, match="^the upload of .*/2x to user/m-2x failed: .* --repo-id "):
        push_stage.run(Context.of(recipe, Console(quiet=True)), ["2x", "4.5x"])
    assert set(hub.repos["user/m-2x"].files()) == {".gitattributes"}
    assert hub.repos["user/m-4.5x"].files()["model.safetensors"] == b"4.5x"


def test_a_recipe_cannot_break_out_of_its_block(tmp_path: Path) -> None:
    names = ["```", "b"]
    folder = written(tmp_path, results_of(), data={"name": "org/data", "label_names": names})
    block = model_card(folder).split("````yaml\n")[1].split("````")[0]
    assert parse_recipe(block).data.label_names == names


def test_numbers_of_a_real_run(finished: Finished) -> None:
    text = (finished.output / "README.md").read_text()
    assert text == model_card(finished.output)
    results = json.loads((finished.output / "metrics.json").read_text())
    assert results["sources"] == dict.fromkeys(("model", "tokenizer", "teacher", "dataset"))
    values = {
        metric["name"]: metric["value"]
        for metric in ModelCard(text).data.to_dict()["model-index"][0]["results"][0]["metrics"]
    }
    for kind in ("PyTorch", "int8"):
        want = results["evaluation"]["models"][f"pruned {kind}"]["metrics"]
        assert values[f"Accuracy, {kind}"] == pytest.approx(want["accuracy"], abs=1e-6)
        assert values[f"Recall (macro), {kind}"] == pytest.approx(want["recall_macro"], abs=1e-6)
    assert "# tiny-reviews" in text
    assert f'name = "{NAME}"' in text
    assert "a random 20% of the training rows of local files, held out (seed 42)" in text


def test_names_on_the_hub_are_told_from_local_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/here").mkdir(parents=True)
    assert hub_name("org/there") == "org/there"
    assert hub_name("bert-base-uncased") == "bert-base-uncased"
    for name in (None, "org/here", "/org/there", "./there", "a/b/c", "a b", "x" * 5000, "a\0b"):
        assert hub_name(name) is None, name
