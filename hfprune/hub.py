"""The Hub: a model card made from what was measured, and the upload of a finished run.

Two rules. What is published names no path of this machine: local models, data and folders are
called local, in the card and in the recipe that goes with it. And an access token is sent to the
Hub and goes nowhere else: what the Hub or a library says of a failed request passes through
:func:`redact` before it is shown.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    constants,
    get_token,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from hfprune.errors import HubError, RecipeError
from hfprune.files import atomic_write_text
from hfprune.recipe import (
    HubConfig,
    Recipe,
    branch_problem,
    dump_recipe,
    load_recipe,
    repo_id_problem,
)
from hfprune.tasks import IMAGE, TOKENS, kind_of_task

CARD_NAME: Final = "README.md"
# As in surgery and pipeline; not imported, so that a command that only uploads starts at once.
RECORD_KEY: Final = "hfprune"
RESULTS_VERSION: Final = 1

_RESULT_FILES = frozenset({"config.json", "metrics.json", "plan.json", "recipe.yaml", CARD_NAME})
_TOKENIZER_FILES = frozenset(
    {
        "added_tokens.json",
        "bpe.codes",
        "merges.txt",
        "preprocessor_config.json",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
_WEIGHTS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
# Of html_report's figures those that the card shows, by path; and what they show.
_FIGURES: Final = {
    "figures/accuracy_latency.png": "The first metric against the time of a batch, all models",
    "figures/layers.png": "Heads and neurons that each layer kept",
}
# Ours, but not published: they quote test rows, or show what metrics.json and the card say.
_KEPT_HERE = re.compile(r"details\.json|report\.html|figures/[\w-]+\.png")
_ONNX = re.compile(r"model[\w-]*\.onnx(?:[._]data)?|config\.json|ort_config\.json")

_MOST_SECONDS_TO_WAIT: Final = 30.0
_MOST_LABELS: Final = 30
_SECRETS = re.compile(
    r"hf_[A-Za-z0-9]{8,}|(?<=Bearer )\S+|eyJ[\w-]{8,}\.[\w.-]+|(?<=://)[^/\s@]+(?=@)"
)

# Our name of a metric -> the Hub's name, its arguments, and how people write it.
_HUB_METRICS: Final[Mapping[str, tuple[str, dict[str, str], str]]] = {
    "accuracy": ("accuracy", {}, "Accuracy"),
    "f1_macro": ("f1", {"average": "macro"}, "F1 (macro)"),
    "f1_weighted": ("f1", {"average": "weighted"}, "F1 (weighted)"),
    "precision_macro": ("precision", {"average": "macro"}, "Precision (macro)"),
    "precision_weighted": ("precision", {"average": "weighted"}, "Precision (weighted)"),
    "recall_macro": ("recall", {"average": "macro"}, "Recall (macro)"),
    "recall_weighted": ("recall", {"average": "weighted"}, "Recall (weighted)"),
    "mcc": ("matthews_correlation", {}, "Matthews correlation"),
    "pearson": ("pearsonr", {}, "Pearson correlation"),
    "spearman": ("spearmanr", {}, "Spearman correlation"),
    "mse": ("mse", {}, "Mean squared error"),
    "entity_f1": ("f1", {"average": "micro"}, "F1 of entities"),
    "entity_precision": ("precision", {"average": "micro"}, "Precision of entities"),
    "entity_recall": ("recall", {"average": "micro"}, "Recall of entities"),
    "token_accuracy": ("accuracy", {}, "Accuracy of tokens"),
}


# --- names ----------------------------------------------------------------------------------


def hub_name(name: str | None) -> str | None:
    """The name if it is one on the Hub; ``None`` for a local file or folder.

    Looks where transformers and datasets look: what exists here, relative to the working
    directory, is local. So this is to be asked when and where the run reads it.
    """
    if name is None or os.path.exists(name):
        return None
    return name if not repo_id_problem(name if "/" in name else f"owner/{name}") else None


def sources(recipe: Recipe) -> dict[str, str | None]:
    """Where a run's inputs come from, for ``metrics.json``: a Hub name each, ``None`` if local."""
    return {
        "model": hub_name(recipe.model.name_or_path),
        "tokenizer": hub_name(recipe.model.tokenizer),
        "teacher": hub_name(recipe.teacher.name_or_path),
        "dataset": hub_name(recipe.data.name),
    }


def public_recipe(recipe: Recipe, names: Mapping[str, str | None]) -> Recipe:
    """The recipe as it may be published: no local path, and it publishes nothing itself.

    Args:
        recipe: what was run.
        names: what :func:`sources` said when it was run.
    """

    def shown(value: str | None, name: str | None, otherwise: str) -> str | None:
        return None if value is None else name or otherwise

    model, data = recipe.model, recipe.data
    return recipe.model_copy(
        update={
            "model": model.model_copy(
                update={
                    "name_or_path": shown(model.name_or_path, names.get("model"), "a local model"),
                    "tokenizer": shown(
                        model.tokenizer, names.get("tokenizer"), "a local tokenizer"
                    ),
                }
            ),
            "teacher": recipe.teacher.model_copy(
                update={
                    "name_or_path": shown(
                        recipe.teacher.name_or_path, names.get("teacher"), "a local teacher"
                    )
                }
            ),
            "data": data.model_copy(
                update={
                    "name": shown(data.name, names.get("dataset"), "local files"),
                    "train_file": shown(data.train_file, None, "local files (train)"),
                    "validation_file": shown(
                        data.validation_file, None, "local files (validation)"
                    ),
                    "test_file": shown(data.test_file, None, "local files (test)"),
                }
            ),
            "hub": HubConfig(),
            "output_dir": f"runs/{_title(recipe)}",
            "overwrite": False,
            "resume": False,
        }
    )


def member_repo_id(repo_id: str, member: str | None) -> str:
    """The repository of one model of a family (``4x``, say); ``None``: of the only one."""
    return repo_id if member is None else f"{repo_id}-{member}"


def _title(recipe: Recipe) -> str:
    if recipe.hub.hub_model_id is not None:
        return recipe.hub.hub_model_id.split("/")[-1]
    return PurePath(recipe.output_dir).name or "model"


# --- the finished run -----------------------------------------------------------------------


class _Finished(NamedTuple):
    """What an output directory says about itself."""

    folder: Path
    results: dict[str, Any]
    recipe: Recipe
    config: dict[str, Any]


def _read(folder: Path) -> _Finished:
    """Raises HubError for anything but the output directory of a finished run."""
    expected = "give the output_dir of a finished run"
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".work").is_dir()
        hint = "its run has not finished: run it again with resume=true" if unfinished else expected
        raise HubError(f"there is no folder {folder}; {hint}")
    members = sorted(path.parent.name for path in folder.glob("*/metrics.json"))
    if members and not (folder / "config.json").is_file():
        raise HubError(
            f"{folder} holds a family of models, each a repository of its own: give "
            f"{' or '.join(str(folder / name) for name in members)}"
        )
    needed = ("config.json", "metrics.json", "recipe.yaml")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise HubError(
            f"{folder} is not the output of a run of hfprune: it holds no "
            f"{' and no '.join(missing)}; {expected}"
        )
    config, results = (_read_json(folder / name) for name in ("config.json", "metrics.json"))
    if RECORD_KEY not in config:
        raise HubError(
            f"{folder / 'config.json'} has no {RECORD_KEY!r} record, so this model was not shrunk "
            f"by hfprune; {expected}"
        )
    if results.get("format_version") != RESULTS_VERSION:
        raise HubError(
            f"{folder / 'metrics.json'}: format_version must be {RESULTS_VERSION}, got "
            f"{results.get('format_version')!r:.40}; {expected} of this version of hfprune"
        )
    try:
        recipe = load_recipe(folder / "recipe.yaml")
    except RecipeError as error:
        raise HubError(f"the recipe of the run cannot be read: {error}") from error
    return _Finished(folder, results, recipe, config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HubError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise HubError(f"{path} holds no JSON object")
    return value


# --- the model card -------------------------------------------------------------------------


def model_card(output_dir: str | Path, repo_id: str | None = None) -> str:
    """The model card of a finished run, as Markdown with YAML metadata.

    Args:
        output_dir: with the ``metrics.json``, ``recipe.yaml`` and ``config.json`` of the run; the
            card shows two of its ``figures/``, if they are there.
        repo_id: the repository that the card is for, as its examples name it. ``None``: the
            recipe's ``hub_model_id``, or ``user/<name of the output directory>``; for a model of
            a family as :func:`member_repo_id` has it.

    Raises:
        HubError: the directory is not the output of a finished run.
    """
    run = _read(Path(output_dir))
    return _card(run, repo_id, [path for path in _FIGURES if (run.folder / path).is_file()])


def _card(run: _Finished, repo_id: str | None, figures: Sequence[str]) -> str:
    name = repo_id or member_repo_id(
        run.recipe.hub.hub_model_id or f"user/{_title(run.recipe)}", run.results.get("member")
    )
    try:
        card = _Card(run, name, figures)
        text = f"---\n{card.metadata().to_yaml()}\n---\n\n" + "\n".join(card.body()) + "\n"
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"{run.folder / 'metrics.json'} lacks something that a model card needs "
            f"({type(error).__name__}: {error}); was it edited?"
        ) from error
    return str(ModelCard(text))


def write_card(output_dir: str | Path) -> None:
    """Write :func:`model_card` to ``README.md`` in the directory, whole or not at all.

    Raises:
        HubError: as :func:`model_card`.
        OutputError: the file cannot be written.
    """
    atomic_write_text(Path(output_dir) / CARD_NAME, model_card(output_dir))


class _Card:
    """The parts of one card; every number in it comes from ``metrics.json``."""

    def __init__(self, run: _Finished, repo_id: str, figures: Sequence[str]) -> None:
        self.figures = figures
        self.recipe, self.config, self.repo_id = run.recipe, run.config, repo_id
        self.results = run.results
        self.names: Mapping[str, str | None] = self.results.get("sources") or {}
        self.evaluation = self.results["evaluation"]
        self.benchmark = self.results["benchmark"]
        self.models: dict[str, Any] = self.evaluation["models"]
        # What one would serve: int8 where there is one.
        self.served = next(n for n in ("pruned int8", "pruned ONNX") if n in self.models)
        self.public = public_recipe(self.recipe, self.names)
        self.kind = kind_of_task(self.results["task"])
        self.item = "image" if self.kind is IMAGE else "text"

    @property
    def base_model(self) -> str | None:
        """The Hub name of the model that the weights started from."""
        given = self.recipe.teacher.name_or_path is not None
        return self.names.get("teacher" if given else "model")

    @property
    def unit(self) -> str:
        """What lengths in the benchmark are counted in."""
        return str(self.benchmark.get("length_unit", "tokens"))

    def metadata(self) -> ModelCardData:
        base, dataset = self.base_model, self.names.get("dataset")
        more: dict[str, Any] = {} if base is None else {"base_model_relation": "finetune"}
        return ModelCardData(
            base_model=base,
            library_name="transformers",
            pipeline_tag=self.kind.export_task,
            tags=["hfprune", "pruned", "onnx"],
            datasets=None if dataset is None else [dataset],
            model_name=self.repo_id.split("/")[-1],
            eval_results=list(self._eval_results(dataset)),
            **more,
        )

    def _eval_results(self, dataset: str | None) -> Iterator[EvalResult]:
        data = self.recipe.data
        held_out = "test" if data.test_file is not None else "test (held out)"
        for model in ("pruned PyTorch", "pruned int8"):
            for metric, value in self.models.get(model, {"metrics": {}})["metrics"].items():
                kind, arguments, title = _HUB_METRICS.get(metric, (metric, {}, metric))
                yield EvalResult(
                    task_type=self.kind.export_task,
                    task_name=self.kind.export_task.replace("-", " ").capitalize(),
                    dataset_type=dataset or "local-files",
                    dataset_name=dataset or "Local files",
                    dataset_config=data.config_name if dataset else None,
                    dataset_split=(data.test_split if dataset else None) or held_out,
                    dataset_revision=data.revision if dataset else None,
                    metric_type=kind,
                    metric_value=round(float(value), 6),
                    metric_name=f"{title}, {model.removeprefix('pruned ')}",
                    metric_args=arguments or None,
                )

    def body(self) -> Iterator[str]:
        yield f"# {_cell(self.repo_id.split('/')[-1])}"
        yield from ("", " ".join(self._what()), "")
        yield from self._headline()
        yield from ("", "## Measured", "")
        yield from self._table()
        yield from self._figure("figures/accuracy_latency.png")
        yield from ("", "## What each layer kept", "")
        yield from self._layers()
        yield from self._figure("figures/layers.png")
        yield from ("", "## How to load it", "")
        yield from self._loading()
        yield from ("", "## Limits", "")
        yield from self._limits()
        yield from ("", "## Recipe", "")
        recipe = dump_recipe(self.public)
        fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", recipe)), default=0))
        version = self.results["environment"]["libraries"].get("hfprune")
        yield f"What was asked of hfprune{f' {version}' if version else ''}, every key written out."
        yield from ("", f"{fence}yaml", recipe.rstrip("\n"), fence)

    def _figure(self, path: str) -> Iterator[str]:
        if path in self.figures:
            yield from ("", f"![{_FIGURES[path]}]({path})")

    def _what(self) -> Iterator[str]:
        base = self.base_model
        start = f"[{base}](https://huggingface.co/{base})" if base else "a local model"
        distilled = ", distilled from its dense form" if self.recipe.distillation else ""
        if self.recipe.pruning.method == "gates":
            when = f"while the model was fine-tuned{distilled}"
        elif self.recipe.recovery.num_train_epochs > 0:
            when = f"after fine-tuning; what was left was trained further{distilled}"
        else:
            when = "after fine-tuning, without training it again"
        yield (
            f"A pruned {'token' if self.kind is TOKENS else self.item} classifier. It was made "
            f"from {start} with hfprune, which removed "
            f"attention heads, feed-forward neurons and whole blocks {when}. "
            f"{self.results['pruning']['sparsity']:.1%} of the encoder's weights are gone."
        )
        if member := self.results.get("member"):
            yield f"It is the {_cell(str(member))} model of a family from one run."
        task, labels = self.results["task"], self.results["labels"]
        if task == "regression":
            yield "It predicts a number."
        elif labels:
            some = ", ".join(_cell(str(label)) for label in labels[:_MOST_LABELS])
            more = len(labels) - _MOST_LABELS
            yield (
                f"It gives {'each word of a text' if self.kind is TOKENS else f'a {self.item}'} "
                f"{'any' if task == 'multi_label_classification' else 'one'} of "
                f"these labels: {some}{f' and {more} more' if more > 0 else ''}."
            )

    def _headline(self) -> Iterator[str]:
        primary, served = self.evaluation["primary"], self.models[self.served]
        dense, baseline = self.models["dense PyTorch"], self.benchmark["baseline"]
        change, low, high = served["difference"]
        yield (
            f"- **{_cell(primary)}**: {served['metrics'][primary]:.4f} "
            f"({_span(served['interval'])}) as {self.served.removeprefix('pruned ')}; before "
            f"pruning {dense['metrics'][primary]:.4f} ({_span(dense['interval'])}). Change "
            f"{change:+.4f} ({low:+.4f} to {high:+.4f}). {self.evaluation['samples']:,} test "
            f"{self.item}s, {self.evaluation['confidence']:.0%} intervals."
        )
        rows = [row for row in self.benchmark["rows"] if row["name"] == self.served]
        speeds = "; ".join(
            f"{row['speedup']:.1f}x ({_span(row['speedup_interval'], 1)}) at batch "
            f"{row['batch_size']} x {row['sequence_length']} {self.unit}"
            for row in rows
        )
        yield (
            f"- **speed** over the {baseline} model, {_threads(self.benchmark['threads'])}: "
            f"{speeds}."
        )
        sizes, parameters = self.benchmark["file_bytes"], self.benchmark["parameters"]
        yield (
            f"- **size**: {sizes[self.served] / 1e6:.1f} MB instead of "
            f"{sizes[baseline] / 1e6:.1f} MB; {parameters['pruned']['total'] / 1e6:.1f} million "
            f"parameters instead of {parameters['dense']['total'] / 1e6:.1f} million, in the "
            f"encoder {parameters['pruned']['encoder'] / 1e6:.2f} instead of "
            f"{parameters['dense']['encoder'] / 1e6:.2f}."
        )

    def _table(self) -> Iterator[str]:
        primary = self.evaluation["primary"]
        others = [name for name in self.models["dense PyTorch"]["metrics"] if name != primary]
        rows = self.benchmark["rows"]
        shapes = list(dict.fromkeys((r["batch_size"], r["sequence_length"]) for r in rows))
        found = {(r["name"], (r["batch_size"], r["sequence_length"])): r for r in rows}
        heads = ["model", primary, "interval", *others, "MB", *(f"{b} x {n}" for b, n in shapes)]
        yield _row(heads)
        yield _row(["---", *["---:"] * (len(heads) - 1)])
        for name, entry in self.models.items():
            cells = [name, f"{entry['metrics'][primary]:.4f}", _span(entry["interval"])]
            cells += [f"{entry['metrics'][other]:.4f}" for other in others]
            cells.append(f"{self.benchmark['file_bytes'][name] / 1e6:.1f}")
            for shape in shapes:
                row = found[name, shape]
                cells.append(f"{row['median_ms']:.2f} ms, {row['speedup']:.1f}x")
            yield _row(cells)
        yield ""
        yield (
            f"The last columns are batch x {self.unit}: the median time of a batch, and how many "
            "times "
            f"as fast as {self.benchmark['baseline']} that is."
        )

    def _layers(self) -> Iterator[str]:
        pruning = self.results["pruning"]
        yield from (_row(["layer", "heads", "neurons"]), _row(["---", "---:", "---:"]))
        columns = (pruning[name] for name in ("heads", "of_heads", "neurons", "of_neurons"))
        for layer, (heads, of_heads, neurons, of_neurons) in enumerate(zip(*columns, strict=True)):
            yield _row([str(layer), _kept(heads, of_heads), _kept(neurons, of_neurons)])

    def _loading(self) -> Iterator[str]:
        # Images have a processor where texts have a tokenizer.
        images = self.kind is IMAGE
        loader = "AutoImageProcessor" if images else "AutoTokenizer"
        variable = "processor" if images else "tokenizer"
        argument = "image_processor" if images else "tokenizer"
        load = f"{variable} = {loader}.from_pretrained(name)"
        call = f'classify = pipeline("{self.kind.export_task}", model=model, {argument}={variable})'
        file = "model_quantized.onnx" if self.served == "pruned int8" else "model.onnx"
        yield from (
            "In PyTorch:",
            "",
            "```python",
            "import hfprune",
            f"from transformers import {loader}, pipeline",
            "",
            f'name = "{self.repo_id}"',
            "model = hfprune.from_pretrained(name)",
            load,
            call,
            "```",
            "",
            "`from_pretrained` of transformers itself stops with a size mismatch, since it builds "
            "all layers alike. The ONNX files need no hfprune:",
            "",
            "```python",
            f"from optimum.onnxruntime import {self.kind.onnx_class}",
            f"from transformers import {loader}, pipeline",
            "",
            f'name = "{self.repo_id}"',
            f"model = {self.kind.onnx_class}.from_pretrained(",
            f'    name, subfolder="onnx", file_name="{file}"',
            ")",
            load,
            call,
            "```",
        )

    def _limits(self) -> Iterator[str]:
        results, data = self.results, self.results["data"]
        yield (
            f"- One run with one seed ({results['seed']}). The intervals say how far the test "
            f"{self.item}s, being a sample, let the numbers be trusted, not how another seed would "
            "do."
        )
        yield f"- The test split is {self._test_split()}. It was not used to train or to choose."
        if seen := data["seen_in_train"].get("test"):
            yield f"- {seen:,} of the test {self.item}s also occur among the training {self.item}s."
        if cut := data["truncated"].get("test"):
            yield f"- {cut:,} of the test texts were cut at {data['max_length']} tokens."
        place, libraries = results["environment"], results["environment"]["libraries"]
        yield (
            f"- Times were measured on {_cell(place['cpu'] or place['machine'])} "
            f"({place['machine']}, {place['instruction_set']}), "
            f"{_threads(self.benchmark['threads'])}, ONNX Runtime {libraries['onnxruntime']}, "
            f"PyTorch {libraries['torch']}: medians of {self.benchmark['repeats']} interleaved "
            f"rounds on random {'pixels' if self.kind is IMAGE else 'token ids without padding'}. "
            "Other CPUs gain more or less, from int8 "
            "above all."
        )
        yield (
            "- What the model it started from and the data get wrong or leave out, this model "
            "does too. Their licences apply; this card states none."
        )

    def _test_split(self) -> str:
        data, samples = self.recipe.data, self.evaluation["samples"]
        name = self.names.get("dataset")
        config = f" ({_cell(data.config_name)})" if data.config_name else ""
        source = f"the data set {_cell(name)}{config}" if name else "local files"
        if data.test_split is not None:
            split = f"the split {_cell(data.test_split)} of {source}"
        elif data.test_file is not None:
            split = "a local file of its own"
        else:
            split = (
                f"a random {data.test_fraction:.0%} of the training rows of {source}, held out "
                f"(seed {data.split_seed})"
            )
        limit = data.max_test_samples
        most = f", of which at most {limit:,} were taken at random" if limit is not None else ""
        return f"{split}{most}: {samples:,} {self.item}s"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text from outside on one line of Markdown, standing for itself."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)


def _span(interval: Sequence[float], digits: int = 3) -> str:
    low, high = interval
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _kept(count: int, total: int) -> str:
    return f"{count} of {total}" if count else f"none of {total}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


# --- the upload -----------------------------------------------------------------------------


def find_token(token: str | None = None) -> str:
    """The access token to use, if an upload can be tried at all. Sends nothing.

    Raises:
        HubError: offline mode is on, there is no token, or it cannot be one.
    """
    if constants.HF_HUB_OFFLINE:
        raise HubError(
            "offline mode is on, so nothing can be uploaded: unset HF_HUB_OFFLINE and "
            "TRANSFORMERS_OFFLINE"
        )
    token = token or get_token()
    if token is None:
        raise HubError(
            "there is no access token: run `hf auth login`, or set the variable HF_TOKEN"
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise HubError(
            "the access token holds spaces, line breaks or other signs that no token has; check "
            "how it was copied"
        )
    return token


def push(
    output_dir: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    retries: int = 3,
    backoff: float = 1.0,
    note: Callable[[str], None] | None = None,
) -> str:
    """Upload a finished run to the Hub, in one commit.

    Model, tokenizer, ``onnx/``, ``metrics.json``, ``plan.json``, ``recipe.yaml`` (without local
    paths) and the model card with its figures are uploaded, no other file. What an earlier upload
    left of the model's own files and this one lacks is removed. The directory is only read. A card
    that was edited is uploaded as it is; else it names ``repo_id`` in its examples.

    Args:
        output_dir: of a finished run.
        repo_id: ``owner/name``; made if it is not there.
        private: upload only if the repository is private. False: a new one is made as the
            account's settings say.
        revision: branch, made if it is not there; ``None``: ``main``.
        token: access token; ``None``: that of ``HF_TOKEN`` or ``hf auth login``.
        retries: further attempts after a failure that may pass (no connection, HTTP 408, 429 or
            5xx). Files that have arrived are not sent again.
        backoff: seconds before the first of them; doubled for each, at most 30.
        note: is told what happens, line by line; ``None``: silence, without progress bars.

    Returns:
        The address of the commit.

    Raises:
        HubError: whatever went wrong, with the command that tries again.
    """
    folder = Path(output_dir)
    for what, problem in (
        ("repository", repo_id_problem(repo_id)),
        ("branch", branch_problem(revision) if revision is not None else ""),
    ):
        if problem:
            raise HubError(f"the name of the {what} {problem}")
    say = note or (lambda text: None)
    run = _read(folder)
    files, left_out = _files(run, repo_id)
    if left_out:
        say(f"not uploaded, being none of hfprune's files: {', '.join(left_out)}")
    again = _command(folder, repo_id, private, revision)
    try:
        secret = find_token(token)
    except HubError as error:
        raise HubError(f"{error}. Then: {again}") from None

    api = HfApi(token=secret, library_name="hfprune")
    failure = _Failure("", False)
    tries = max(0, retries) + 1
    for attempt in range(tries):
        if attempt:
            wait = min(backoff * 2 ** (attempt - 1), _MOST_SECONDS_TO_WAIT)
            say(f"{failure.why}; attempt {attempt + 1} of {tries} in {wait:.0f} s")
            time.sleep(wait)
        try:
            with _progress_bars(note is not None):
                url = _upload(api, repo_id, revision, private, files)
            return redact(url, secret)
        except HubError as error:
            failure = _Failure(str(error), False)
        # The transfer libraries document no errors of their own; their cause is told apart below.
        except Exception as error:
            failure = _diagnose(error, repo_id, revision, secret)
        if not failure.passing:
            break
    # Raised here and not in the handler: the original error may hold the token, and a traceback
    # would print it as the context of this one.
    count = f" after {tries} attempts" if failure.passing and tries > 1 else ""
    raise HubError(
        f"the upload of {folder} to {repo_id} failed{count}: {failure.why}. The folder is whole "
        f"and unchanged; to try again: {again}"
    )


def redact(text: str, *tokens: str | None) -> str:
    """The text without these tokens, the stored one, and whatever looks like one."""
    for token in (*tokens, get_token()):
        if token:
            text = text.replace(token, "***")
    return _SECRETS.sub("***", text)


def _command(folder: Path, repo_id: str, private: bool, revision: str | None) -> str:
    words = ["hfprune", "push", str(folder), "--repo-id", repo_id]
    words += ["--private"] * private
    words += ["--revision", revision] if revision is not None else []
    return shlex.join(words)


def _is_ours(path: str) -> bool:
    """Whether a path inside the repository is one that hfprune uploads."""
    if path in _FIGURES:
        return True
    folder, _, name = path.rpartition("/")
    if folder not in ("", "onnx"):
        return False
    of_folder = _ONNX if folder else _WEIGHTS
    return (
        name in _TOKENIZER_FILES
        or of_folder.fullmatch(name) is not None
        or (not folder and name in _RESULT_FILES)
    )


def _files(run: _Finished, repo_id: str) -> tuple[dict[str, Path | bytes], list[str]]:
    """What goes into the repository, by path; and the paths of files that are none of ours."""
    files: dict[str, Path | bytes] = {}
    left_out = []
    for path in sorted(run.folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(run.folder).as_posix()
            if _is_ours(name):
                files[name] = path
            elif not _KEPT_HERE.fullmatch(name):
                left_out.append(name)
    if not any(_WEIGHTS.fullmatch(name) for name in files):
        raise HubError(
            f"{run.folder} holds no model.safetensors; give the output_dir of a finished run"
        )
    names = run.results.get("sources") or {}
    files["recipe.yaml"] = dump_recipe(public_recipe(run.recipe, names)).encode()
    figures = [path for path in _FIGURES if path in files]
    card = run.folder / CARD_NAME
    # Figures can have come after the card, by `hfprune report`: it is none the less not edited.
    ours = (_card(run, None, shown) for shown in (figures, []))
    if not card.is_file() or card.read_text("utf-8", "replace") in ours:
        files[CARD_NAME] = _card(run, repo_id, figures).encode()
    return files, left_out


def _upload(
    api: HfApi,
    repo_id: str,
    revision: str | None,
    private: bool,
    files: Mapping[str, Path | bytes],
) -> str:
    """One attempt. May be repeated: what is done already is left as it is."""
    # None, not False: where an organisation's repositories are private, this one is too.
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise HubError(
            "the repository is there already and is public, but a private one was asked for; "
            "nothing was uploaded. Make it private in its settings, name another one, or leave "
            "out --private (hub_private_repo)"
        )
    if revision is not None and revision != constants.DEFAULT_REVISION:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    there = api.list_repo_files(repo_id, revision=revision)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, source if isinstance(source, bytes) else str(source))
        for name, source in files.items()
    ]
    operations += [
        CommitOperationDelete(name) for name in there if _is_ours(name) and name not in files
    ]
    commit = api.create_commit(
        repo_id, operations, commit_message="Upload a model pruned by hfprune", revision=revision
    )
    return str(commit.commit_url)


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


class _Failure(NamedTuple):
    why: str
    passing: bool
    """Whether it may be gone the next time."""


def _diagnose(
    error: BaseException, repo_id: str, revision: str | None, token: str | None
) -> _Failure:
    """What a failed attempt means. The transfer libraries wrap errors: their causes are read."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            said = getattr(link, "server_message", None)
            said = f" (it said: {_brief(str(said), token)})" if said else ""
            return _Failure(
                _meaning(status, repo_id, revision) + said,
                status >= 500 or status in (408, 429),
            )
    told = f"{type(error).__name__}: {error}"
    if any(_is_network_error(link) for link in chain):
        where = redact(constants.ENDPOINT, token)
        return _Failure(f"no answer from {where} ({_brief(told, token)})", True)
    return _Failure(_brief(told, token), False)


def _meaning(status: int, repo_id: str, revision: str | None) -> str:
    owner = repo_id.split("/")[0]
    if status == 401:
        return (
            "the Hub did not accept the access token (401); make a new one that may write, and run "
            "`hf auth login` or set HF_TOKEN"
        )
    if status == 403:
        return (
            f"the access token may not write to {repo_id} (403); it must be one with write "
            f"access, of {owner} or a member of {owner}"
        )
    if status == 404:
        branch = f" or its branch {revision}" if revision else ""
        return f"the Hub does not know {repo_id}{branch} (404); check the name and the token"
    if status == 409:
        return (
            f"{repo_id} was being changed by something else (409), or has that name for something "
            "else; look at it before trying again"
        )
    if status == 429:
        return "the Hub asks for patience: too many requests (429)"
    if status >= 500:
        return f"the Hub failed ({status})"
    return f"the Hub refused the request ({status})"


def _is_network_error(error: BaseException) -> bool:
    """Whether no whole answer came. By name: which HTTP library there is depends on the version."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    # A ValueError of theirs is about what was asked, such as a malformed address.
    return bool(libraries & {"requests", "urllib3", "httpx", "httpx2", "httpcore"}) and not (
        isinstance(error, ValueError)
    )


def _brief(text: str, token: str | None) -> str:
    text = re.sub(r"\s+", " ", redact(text, token)).strip()
    return text if len(text) <= 300 else f"{text[:297]}..."
