"""Rerankers from rows to served files: ``compress(task="reranking")`` and what it leaves."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from loopback_hub import LoopbackHub
from tiny import NEGATIVE, NEUTRAL, POSITIVE, tiny_model, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainingArguments
from typer.testing import CliRunner

import hfprune
from hfprune.api.about import task_of
from hfprune.api.compressed import Compressed
from hfprune.api.given import task_data
from hfprune.cli import app
from hfprune.core.errors import CheckpointError
from hfprune.core.kinds import become_reranker_
from hfprune.data.loading import load_task_data
from hfprune.data.task_data import whole_queries
from hfprune.deploy.choose.choosing import choose_files
from hfprune.deploy.choose.present import choose_among
from hfprune.deploy.choose.trying import Judging
from hfprune.deploy.evaluation import evaluate, table
from hfprune.deploy.predict.rows import Row
from hfprune.deploy.predict.serving import Predictor
from hfprune.deploy.quantize.search import quantize_auto
from hfprune.measure.scores import score
from hfprune.models.layout import cut_at
from hfprune.models.loading import load_classifier
from hfprune.publish.card import model_card
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.data import DataConfig
from hfprune.report.page import usage
from tests.publish.test_hub import ROOT, TOKEN, environment

QUICK: dict[str, Any] = {
    "data": {"max_length": 24},
    "training": {"per_device_train_batch_size": 16, "learning_rate": 1e-3},
    "recovery": {"num_train_epochs": 1.0},
    "export": {"quantization": {}},
    "benchmark": {"batch_sizes": [2, 4], "repeats": 1, "warmup": 0},
}
# As sentence-transformers marks the config of a CrossEncoder.
MARK = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.1.0"}


def rows(queries: int = 24) -> list[dict[str, Any]]:
    """A query's answer has a word of the query's side; the others do not."""
    draw = random.Random(0)
    found = []
    for number in range(queries):
        side = (POSITIVE, NEGATIVE)[number % 2]
        query = f"{draw.choice(side)} {NEUTRAL[number % 12]} {NEUTRAL[number // 12]}"
        for place in range(4):
            words = draw.choices(NEUTRAL, k=draw.randint(3, 8))
            if place == 0:
                words.insert(0, draw.choice(side))
            found.append({"query": query, "text": " ".join(words), "label": int(place == 0)})
    return found


def cross_encoder(folder: Path, **changes: Any) -> Path:
    """A folder as ``CrossEncoder.save_pretrained`` leaves it, of sentence-transformers 5.4."""
    model = tiny_model("bert", labels=1)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"sentence_transformers": MARK, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name in ("sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).write_text(json.dumps({"name": name}))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    place = tmp_path_factory.mktemp("reranker")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return hfprune.compress(
        cross_encoder(place / "dense"), train=place / "rows.jsonl", task="reranking", sparsity=0.4,
        quiet=True, output_dir=place / "small", **QUICK,
    )  # fmt: skip


def test_a_cross_encoder_goes_in_and_comes_out(small: Any) -> None:
    config = json.loads((small.folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "LABEL_0"}
    assert config["sentence_transformers"] == MARK
    dense = small.folder.parent / "dense"
    for name in ("modules", "sentence_bert_config", "config_sentence_transformers"):
        assert (small.folder / f"{name}.json").read_bytes() == (dense / f"{name}.json").read_bytes()
    metrics = {"ndcg_at_10", "mrr_at_10", "recall_at_10"}
    assert metrics <= small.metrics.keys()
    assert small.results.task == "reranking"
    assert small.results.labels == []
    recipe = load_recipe(small.folder / "recipe.yaml")
    assert recipe.training.metric_for_best_model == "ndcg_at_10"
    lengths = {row.sequence_length for row in small.results.benchmark.rows}
    assert len(lengths) == 1, "the length of a pair"
    assert 8 < lengths.pop() <= 24
    quality = small.results.evaluation.models["pruned int8"]
    assert quality.by_class is None
    assert quality.changes is not None
    assert quality.changes["rows"] == 5, "queries of the test"
    low, high = quality.interval
    assert 0 <= low <= quality.metrics["ndcg_at_10"] <= high <= 1


def test_pairs_are_cut_where_they_were_measured(small: Any, tmp_path: Path) -> None:
    """By whatever loads the folder: CrossEncoder asks the tokenizer, and modules before it."""
    tokenizer = AutoTokenizer.from_pretrained(small.folder)
    assert tokenizer.model_max_length == 24
    assert AutoTokenizer.from_pretrained(small.folder / "onnx").model_max_length == 24
    assert evaluate(small.folder).max_length == 24, "which is not below what the recipe says"
    settings = tmp_path / "sentence_bert_config.json"
    for known, want in ((512, 24), (16, 16)):
        settings.write_text(json.dumps({"max_seq_length": known}))
        cut_at(tmp_path, 24)
        assert json.loads(settings.read_text()) == {"max_seq_length": want}


def test_other_files_are_graded_as_the_run_was(tmp_path: Path) -> None:
    """A file whose highest grade is lower is relevant from the same grade on."""
    graded = [row | {"label": 4 * row["label"] + (number % 4 == 1)}
              for number, row in enumerate(rows())]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in graded))
    small = hfprune.compress(
        cross_encoder(tmp_path / "dense"), train=tmp_path / "rows.jsonl", task="reranking",
        sparsity=0.4, quiet=True, output_dir=tmp_path / "small", **QUICK,
    )  # fmt: skip
    assert small.results.data["highest_relevance"] == 4
    low = tmp_path / "low.jsonl"
    lower = [row | {"label": min(2, row["label"])} for row in graded]
    low.write_text("".join(json.dumps(row) + "\n" for row in lower))
    as_run, as_own = evaluate(small.folder, [low]), evaluate(tmp_path / "dense", [low])
    assert (as_run.highest_relevance, as_own.highest_relevance) == (4, 2)
    assert "labels divided by 4" in str(table(as_run).caption)
    high = tmp_path / "high.jsonl"
    high.write_text("".join(json.dumps(row | {"label": 2 * row["label"]}) + "\n" for row in graded))
    done = CliRunner().invoke(app, ["evaluate", str(small.folder), "--data", str(high)])
    assert done.exit_code == 1
    assert "set --highest-relevance to the highest grade" in " ".join(done.stderr.split())
    again = evaluate(small.folder, [high], highest_relevance=8)
    assert again.models["PyTorch"].metrics["recall_at_10"] == 1, "of four candidates"


def test_what_is_recommended_reads_a_query_with_a_text(small: Any, tmp_path: Path) -> None:
    """Also where files are chosen anew, on another machine."""
    out = tmp_path / "out"
    shutil.copytree(small.folder, out)
    found = choose_among(out, uses=["batches"], batch_size=4, seconds=0.1)
    (best,) = found.uses.values()
    assert any('reader(["a query"], ["a text"], padding' in line for line in best.load)
    compile("\n".join(best.load), "deploy.json", "exec")


def test_its_files_rank_as_the_model_does(small: Any) -> None:
    """ONNX Runtime alone, on a query with its candidates."""
    import onnxruntime

    texts = [row["text"] for row in rows()[:4]]
    batch = small.tokenizer([rows()[0]["query"]] * 4, texts, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(small.folder / "onnx" / "model.onnx")
    names = {one.name for one in session.get_inputs()}
    (scores,) = session.run(None, {n: v for n, v in batch.items() if n in names})
    assert scores.shape == (4, 1)
    with torch.no_grad():
        given = {name: torch.from_numpy(value) for name, value in batch.items()}
        np.testing.assert_allclose(small.model(**given).logits.numpy(), scores, atol=1e-4)


def test_it_is_evaluated_again(small: Any, tmp_path: Path) -> None:
    report = evaluate(small.folder)
    assert report.task == "reranking"
    for name in ("PyTorch", "int8"):
        found = report.models[name].metrics
        want = small.results.evaluation.models[f"pruned {name}"].metrics
        assert found == pytest.approx(want, abs=1e-9)
        assert report.models[name].agreement is None
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(4)))
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((small.folder / name).read_bytes())
    bare = evaluate(
        tmp_path / "bare", [file], text_column="query", text_pair_column="text",
        metrics=["mrr_at_10"],
    )  # fmt: skip
    assert bare.task == "reranking"
    assert bare.samples == 16
    assert 0 < bare.models["PyTorch"].metrics["mrr_at_10"] <= 1


def test_its_card_and_report_say_what_it_is(small: Any) -> None:
    card = model_card(small.folder, "me/small")
    assert "pipeline_tag: text-ranking" in card
    assert "A pruned reranker." in card
    assert "20 test pairs, 95% intervals over their queries." in card
    html = (small.folder / "report.html").read_text(encoding="utf-8")
    # Every metric of the rows with its interval over queries, and that of its difference.
    quality = small.results.evaluation.models["pruned int8"]
    assert quality.intervals.keys() == quality.differences.keys() == quality.metrics.keys()
    for name, (low, high) in quality.intervals.items():
        assert low <= quality.metrics[name] <= high
        told = f"{low:.3f} to {high:.3f}"
        assert told in html
        assert (
            f"{quality.metrics[name]:.4f} {'|' if name == small.results.primary else '('}" in card
        )
        dense = small.results.evaluation.models["dense PyTorch"].metrics[name]
        assert quality.differences[name][0] == pytest.approx(quality.metrics[name] - dense)
    assert "ndcg_at_10" in html
    assert "of 5 test queries have another first text than with the dense model" in html
    details = json.loads((small.folder / "details.json").read_text())
    for row in details["changed"]["pruned int8"]:
        assert row["before"].startswith("place ")
        assert row["label"] == 1.0
    assert (small.folder / "details.json").is_file()


def test_its_card_tells_of_queries_that_train_asks_too(small: Any, tmp_path: Path) -> None:
    """Which texts are new is another matter: what was counted are queries."""
    for name in ("recipe.yaml", "config.json", "metrics.json"):
        shutil.copy(small.folder / name, tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    found["data"]["seen_in_train"]["test"] = 8
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    assert "- 8 of the test pairs ask what training pairs ask.\n" in model_card(tmp_path, "me/a")


def test_what_its_card_and_report_show_runs_as_it_is(
    small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also with texts that are longer than the model reads."""
    monkeypatch.chdir(small.folder)  # as the report's code is for the folder that it lies in
    card = model_card(small.folder, "me/small").replace('snapshot_download("me/small")', '"."')
    blocks = re.findall(r"```python\n(.*?)```", card.replace('"me/small"', '"."'), re.DOTALL)
    ((_, _), (_, code)) = usage(small.results)
    ranking = [block for block in (*blocks, code) if "order =" in block]
    assert len(ranking) == 2
    for block in ranking:
        if "optimum" in block and importlib.util.find_spec("optimum") is None:
            continue  # which is not for transformers 5
        long = block.replace('"another text"', f'"{NEUTRAL[0]} " * 900')
        assert long != block
        file = tmp_path / "shown.py"
        file.write_text(long)
        assert sorted(runpy.run_path(str(file))["order"]) == [0, 1]
    for block in blocks:
        file.write_text(block)
        runpy.run_path(str(file))


def test_it_predicts_scores(small: Any) -> None:
    query, texts = rows()[0]["query"], [row["text"] for row in rows()[:4]]
    ask = Predictor(small.folder)
    assert (ask.task, ask.labels) == ("reranking", [])
    found = list(ask([Row(query, text) for text in texts]))
    batch = small.tokenizer([query] * 4, texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        want = small.model(**batch).logits[:, 0].numpy()
    np.testing.assert_allclose([told["value"] for told in found], want, atol=0.2)


def test_a_cross_encoder_in_memory_brings_what_it_takes(tmp_path: Path) -> None:
    """Its task and its tokenizer, as an object of sentence-transformers has them."""
    folder = cross_encoder(tmp_path / "dense")

    class CrossEncoder:
        __module__ = "sentence_transformers.cross_encoder.model"

        def save_pretrained(self, path: str) -> None:
            shutil.copytree(folder, path)

    assert task_of(folder) == "reranking"
    classes = tiny_model("bert", labels=3)  # such as those of natural language inference
    classes.save_pretrained(cross_encoder(tmp_path / "classes"))
    assert task_of(tmp_path / "classes") == "single_label_classification"
    of_classes = CrossEncoder()
    of_classes.config = classes.config  # type: ignore[attr-defined]
    assert task_of(of_classes) == "single_label_classification", "in memory as in its folder"
    assert task_of(CrossEncoder()) == "reranking"
    quick = {**QUICK, "recovery": {"num_train_epochs": 0}, "pruning": {"method": "reconstruction"}}
    found = hfprune.compress(
        CrossEncoder(), train=rows(12), sparsity=0.4, quiet=True,
        output_dir=tmp_path / "small", **quick,
    )  # fmt: skip
    assert found.results.task == "reranking"
    assert (tmp_path / "small" / "modules.json").is_file()


def test_the_files_beside_are_those_of_the_model_that_is_pruned(tmp_path: Path) -> None:
    """Of the teacher, where it is given: by them CrossEncoder(folder) chooses its activation."""
    bare = tmp_path / "bare"
    tiny_model("bert", labels=1).base_model.save_pretrained(bare)
    tiny_tokenizer().save_pretrained(bare)
    quick = {**QUICK, "recovery": {"num_train_epochs": 0}, "pruning": {"method": "reconstruction"}}
    dense, settings = cross_encoder(tmp_path / "dense"), "config_sentence_transformers.json"
    found = hfprune.compress(
        bare, train=rows(12), task="reranking", sparsity=0.4, quiet=True,
        teacher={"name_or_path": str(dense)}, output_dir=tmp_path / "small", **quick,
    )  # fmt: skip
    assert (found.folder / settings).read_bytes() == (dense / settings).read_bytes()
    assert (found.folder / "modules.json").is_file()


LOAD = """
import hfprune
from hfprune.core.errors import UnsupportedModelError
from hfprune.data.loading import load_rows
from hfprune.models.fetching import small_files
from hfprune.models.layout import cross_encoder_files
from hfprune.models.loading import load_classifier, load_processor
from hfprune.recipe.sections.data import DataConfig

config = DataConfig(train_file="rows.jsonl", text_column="query", text_pair_column="text",
                    max_length=24)
for name in ("user/plain", "user/prompted"):
    reader = load_processor(name, "reranking", revision=None, trust_remote_code=False, key="k")
    data = load_rows(config, ["rows.jsonl"], reader, "reranking")
    try:
        load_classifier(name, data, revision=None, trust_remote_code=False, key="k", trained=True)
    except UnsupportedModelError as error:
        print("UnsupportedModelError", error)
    else:
        print(sorted(cross_encoder_files(small_files(name))))
"""


def test_a_cross_encoder_of_the_hub_is_read_as_its_folder_is(tmp_path: Path) -> None:
    """Its modules and settings are carried along, and a prompt before its pairs is refused."""
    place = cross_encoder(tmp_path / "dense")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(4)))
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    said = {"prompts": {"web": "Rank: "}, "default_prompt_name": "web"}
    prompted = {**files, "config_sentence_transformers.json": json.dumps(said).encode()}
    with LoopbackHub(TOKEN) as server:
        server.add("user/plain").commit("main", files)
        server.add("user/prompted").commit("main", prompted)
        done = subprocess.run(
            [sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, cwd=tmp_path,
            env=environment(server.url, tmp_path / "home") | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == str(
        ["config_sentence_transformers.json", "modules.json", "sentence_bert_config.json"]
    )
    assert "UnsupportedModelError" in second
    assert "names the prompt 'web', 'Rank: ', as what stands before all pairs" in second


def test_a_cross_encoder_whose_output_has_a_name_stays_a_reranker(tmp_path: Path) -> None:
    """Also where no recipe lies beside it: one class with a name would be something else."""
    name = {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}
    folder = cross_encoder(tmp_path / "dense", **name)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    config = DataConfig(
        train_file=str(tmp_path / "rows.jsonl"), text_column="query", text_pair_column="text",
        max_length=24,
    )  # fmt: skip
    data = load_task_data(config, tiny_tokenizer(), "reranking")
    model = load_classifier(
        str(folder), data, revision=None, trust_remote_code=False, key="k", trained=True
    )
    assert task_of(model) == "reranking"
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    become_reranker_(loaded.config)
    assert task_of(loaded) == "reranking"


def test_a_teacher_of_another_task_is_refused(tmp_path: Path) -> None:
    other = cross_encoder(tmp_path / "other", problem_type="regression")
    with pytest.raises(CheckpointError, match="fine-tuned for regression, the recipe's task is re"):
        hfprune.compress(
            other, train=rows(12), task="reranking", sparsity=0.4, quiet=True,
            output_dir=tmp_path / "small", **QUICK,
        )  # fmt: skip


def tokenized(count: int, tokenizer: Any, *, flat: bool) -> list[dict[str, Any]]:
    """Pairs of ``count`` queries as a Trainer takes them, labels flat or not."""
    found = []
    for number, row in enumerate(rows(count)):
        encoded = tokenizer(row["query"], row["text"], truncation=True, max_length=24)
        label = row["label"] if flat else [float(row["label"])]
        found.append({**encoded, "labels": label, "query_row": number // 4})
    return found


def test_the_trainers_rows_are_judged_query_by_query(tmp_path: Path) -> None:
    """Whatever order a user's rows and numbers of queries have."""
    folder, tokenizer = cross_encoder(tmp_path / "dense"), tiny_tokenizer()
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, problem_type="multi_label_classification"
    )
    some = tokenized(5, tokenizer, flat=False)
    for row, source in zip(some, rows(5), strict=True):
        row |= {"query_row": (9 - row["query_row"]) % 7, "text": source["text"]}
    random.Random(1).shuffle(some)
    given = Dataset.from_list(some)
    data = task_data(model, given, given, None)
    for name in ("train", "validation", "test"):
        assert sorted(data.queries(name)) == list(data.queries(name))
        told = [(row["input_ids"], row["query_row"]) for row in some]
        found = list(zip(data.split(name)["input_ids"], data.queries(name), strict=True))
        assert sorted(found) == sorted(told)
        for text, ids in zip(data.texts[name], data.split(name)["input_ids"], strict=True):
            assert {row["text"] for row in some if row["input_ids"] == ids} == {text}
    kept = whole_queries(data.label_array("validation")[:, 1], 10)
    assert np.unique(data.queries("validation")[kept], return_counts=True)[1].tolist() == [4, 4]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("ready", [True, False], ids=["a model", "model_init"])
def test_the_trainer_takes_a_cross_encoder_as_it_is_loaded(
    flat: bool, ready: bool, tmp_path: Path
) -> None:
    """Its config says nothing of its task: rows that name their query do."""
    folder, tokenizer = cross_encoder(tmp_path / "dense"), tiny_tokenizer()

    def load() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder)

    trainer = hfprune.HFPruneTrainer(
        load() if ready else None,
        TrainingArguments(
            str(tmp_path / "out"), num_train_epochs=1, use_cpu=True, report_to=[],
            save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(tokenized(12, tokenizer, flat=flat)),
        eval_dataset=Dataset.from_list(tokenized(4, tokenizer, flat=flat)),
        processing_class=tokenizer,
        model_init=None if ready else load,
        pruning={"sparsity": 0.3, "min_neurons": 4, "update_every_steps": 1},
    )  # fmt: skip
    trainer.train()
    assert trainer.model.config.problem_type == "multi_label_classification"
    assert task_of(trainer.model) == "reranking"
    # The loss is the cross entropy of each pair, by hand.
    found = trainer.predict(Dataset.from_list(tokenized(4, tokenizer, flat=flat)))
    truth = torch.tensor([float(row["label"]) for row in rows(4)])
    want = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(found.predictions[:, 0]), truth
    )
    assert found.metrics["test_loss"] == pytest.approx(float(want), abs=1e-5)


def test_files_are_judged_by_whole_queries(small: Any, tmp_path: Path) -> None:
    """Chosen among runtimes and by the search for int8: no metric sees a part of a query."""
    data = load_task_data(
        load_recipe(small.folder / "recipe.yaml").data, small.tokenizer, "reranking"
    )
    truth = data.label_array("validation")
    seen = set()

    def metric(logits: Any, labels: Any) -> float:
        seen.update(np.unique(labels[:, 1], return_counts=True)[1].tolist())
        return score("ndcg_at_10", logits, labels, "reranking", 1)

    judging = Judging(
        data.validation, truth, metric, small.tokenizer, ranked=True, max_drop=1.0
    )  # fmt: skip
    found = choose_files(
        small.folder / "onnx", tmp_path / "chosen", judging, calibration=data.train,
        uses=("batches",), batch_size=4, seconds=1, quantization=None, runtimes=["onnxruntime"],
    )  # fmt: skip
    assert found.uses["batches"].precision == "float32"
    copy = tmp_path / "onnx"
    copy.mkdir()
    for file in (small.folder / "onnx").iterdir():
        if file.name != "model_quantized.onnx":
            (copy / file.name).write_bytes(file.read_bytes())
    record = quantize_auto(
        copy, calibration=data.train, validation=data.validation, collator=small.tokenizer,
        metric=lambda logits, rows: metric(logits, truth[list(rows)]), shapes=[(4, 16)],
        seconds=0.01, max_drop=1.0, queries=data.queries("validation"),
    )  # fmt: skip
    assert record.within
    assert seen == {4}


def test_what_it_says_to_type_reads_a_query_with_a_text(small: Any) -> None:
    from hfprune.deploy.calling import Example
    from hfprune.deploy.runtimes.base import loading
    from hfprune.deploy.runtimes.registry import runtime

    ((_, command), (_, code)) = usage(small.results)
    assert command == 'hfprune predict . "a query of yours" --pair "a text that may answer it"'
    compile(code, "report", "exec")
    assert '"text_pair": text' in code
    for name in ("onnxruntime", "openvino", "torch"):
        example = Example(pairs=True, max_length=16)
        lines = loading(runtime(name), "x", "text-classification", example)
        read = 'reader(["a query"], ["a text"], padding=True, truncation=True, max_length=16'
        assert sum(read in line for line in lines) == 1
