"""The model card: made from what was measured, without a path of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from huggingface_hub import ModelCard

from hfprune.core.errors import HubError, OutputError
from hfprune.core.files import atomic_write_text
from hfprune.core.kinds import IMAGE, TOKENS, kind_of_task
from hfprune.core.model_ref import DENSE, PRUNED, REFERENCE
from hfprune.core.results import METRICS_FILE
from hfprune.core.text import visible
from hfprune.deploy.calling import calls, reader
from hfprune.deploy.choose.told import recommended_files
from hfprune.deploy.worth import layout_in_words, probabilities_in_words
from hfprune.models.layout import layout_or_note, prompt_of
from hfprune.publish.finished import (
    CARD_NAME,
    FIGURES,
    NEEDED_BY,
    Finished,
    member_repo_id,
    read,
)
from hfprune.publish.metadata import base_model, card_metadata
from hfprune.publish.usage import (
    WHAT_EMBEDDINGS_ARE,
    embedding,
    example_of,
    how_embeddings_were_made,
    is_for_javascript,
    javascript,
    onnx_runtime,
    openvino,
)
from hfprune.recipe.public import public_recipe, title_of
from hfprune.recipe.reading import dump_recipe

_MOST_LABELS: Final = 30
FILES: Final = {"int8": "model_quantized.onnx", "ONNX-lean": "model_optimized.onnx"}


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
    run = read(Path(output_dir))
    return build_card(run, repo_id, [path for path in FIGURES if (run.folder / path).is_file()])


def build_card(run: Finished, repo_id: str | None, figures: Sequence[str]) -> str:
    name = repo_id or member_repo_id(
        run.recipe.hub.hub_model_id or f"user/{title_of(run.recipe)}", run.results.member
    )
    try:
        card = _Card(run, name, figures)
        text = f"---\n{card_metadata(run, name).to_yaml()}\n---\n\n" + "\n".join(card.body()) + "\n"
    except OutputError as error:
        raise HubError(f"{run.folder / METRICS_FILE}: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"{run.folder / METRICS_FILE} lacks something that {NEEDED_BY} needs "
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

    def __init__(self, run: Finished, repo_id: str, figures: Sequence[str]) -> None:
        self.figures, self.folder = figures, run.folder
        self.recipe, self.config, self.repo_id = run.recipe, run.config, repo_id
        self.results, task = run.results, run.results.task
        self.names: Mapping[str, str | None] = self.results.sources
        self.evaluation = self.results.evaluation
        self.benchmark = self.results.benchmark
        # What one would serve: int8 where there is one.
        self.served = self.results.served(PRUNED)
        self.base = base_model(run)
        self.public = public_recipe(self.recipe, self.names)
        self.kind = kind_of_task(self.results.task)
        self.ranks, self.embeds = task == "reranking", task == "sentence_embedding"
        self.item = "image" if self.kind is IMAGE else "pair" if self.ranks else "text"
        # A Trainer may have been given no rows of their own to report on.
        self.chosen_by = self.results.data.get("judged_on") == "eval_dataset"
        self.split = "evaluation" if self.chosen_by else "test"

    @property
    def unit(self) -> str:
        """What lengths in the benchmark are counted in."""
        return self.benchmark.length_unit

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
        version = self.results.environment["libraries"].get("hfprune")
        yield f"What was asked of hfprune{f' {version}' if version else ''}, every key written out."
        yield from ("", "<details><summary>The recipe</summary>", "")
        yield from (f"{fence}yaml", recipe.rstrip("\n"), fence, "", "</details>")

    def _figure(self, path: str) -> Iterator[str]:
        if path in self.figures:
            yield from ("", f"![{FIGURES[path]}]({path})")

    def _what(self) -> Iterator[str]:
        base = self.base
        start = f"[{base}](https://huggingface.co/{base})" if base else "a local model"
        distilled = ", distilled from its dense form" if self.recipe.distillation else ""
        if self.embeds:
            when = how_embeddings_were_made(self.recipe)
        elif self.recipe.pruning.method == "gates":
            when = f"while the model was fine-tuned{distilled}"
        elif self.recipe.recovery.trains:
            when = f"after fine-tuning; what was left was trained further{distilled}"
        else:
            when = "after fine-tuning, without training it again"
        what = f"{'token' if self.kind is TOKENS else self.item} classifier"
        what = "reranker" if self.ranks else "sentence encoder" if self.embeds else what
        yield (
            f"A pruned {what}. It was made "
            f"from {start} with hfprune, which removed "
            f"attention heads, feed-forward neurons and whole blocks {when}. "
            f"{self.results.members[PRUNED].sparsity:.1%} of the encoder's weights are gone."
        )
        if member := self.results.member:
            yield f"It is the {_cell(member)} model of a family from one run."
        task, labels = self.results.task, self.results.labels
        if task == "regression":
            yield "It predicts a number."
        elif self.ranks:
            yield (
                "It gives a query and a text a score: the greater, the better the text answers the "
                "query. Texts of one query are put in order by it."
            )
        elif self.embeds:
            yield WHAT_EMBEDDINGS_ARE
        elif labels:
            some = ", ".join(_cell(label) for label in labels[:_MOST_LABELS])
            more = len(labels) - _MOST_LABELS
            yield (
                f"It gives {'each word of a text' if self.kind is TOKENS else f'a {self.item}'} "
                f"{'any' if task == 'multi_label_classification' else 'one'} of "
                f"these labels: {some}{f' and {more} more' if more > 0 else ''}."
            )

    def _headline(self) -> Iterator[str]:
        results, primary, baseline = self.results, self.results.primary, self.benchmark.baseline
        served, dense = results.quality(self.served), results.quality(REFERENCE)
        yield (
            f"- **{_cell(primary)}**: {served.metrics[primary]:.4f} "
            f"({_span(served.interval)}) as {self.served.form}; before "
            f"pruning {dense.metrics[primary]:.4f} ({_span(dense.interval)})."
            f"{_change(served.difference)} {self.evaluation.samples:,} {self.split} "
            f"{self.item}s, {self.evaluation.confidence:.0%} intervals"
            f"{' over their queries' if self.ranks else ''}."
        )
        speeds = "; ".join(
            f"{row.speedup:.1f}x{_spread(row.speedup_interval)} at batch "
            f"{row.batch_size} x {row.sequence_length} {self.unit}"
            for row in self.benchmark.rows
            if row.name == str(self.served)
        )
        yield (
            f"- **speed** over the {baseline} model, {_threads(self.benchmark.threads)}: {speeds}."
        )
        for told in recommended_files(results, PRUNED):
            yield f"- **to deploy**, {_cell(told.line)}. Why: {_cell(told.why)}."
        if results.targets:
            yield f"- **target**: {_cell(results.targets[PRUNED].text())}."
        if (said := probabilities_in_words(results, self.served)) is not None:
            yield f"- **probabilities**: {said}"
        sizes, parameters = self.benchmark.file_bytes, self.benchmark.parameters
        before, after = parameters[DENSE], parameters[PRUNED]
        yield (
            f"- **size**: {sizes[str(self.served)] / 1e6:.1f} MB instead of "
            f"{sizes[baseline] / 1e6:.1f} MB; {after['total'] / 1e6:.1f} million "
            f"parameters instead of {before['total'] / 1e6:.1f} million, in the "
            f"encoder {after['encoder'] / 1e6:.2f} instead of {before['encoder'] / 1e6:.2f}."
        )

    def _table(self) -> Iterator[str]:
        results, primary = self.results, self.results.primary
        others = [name for name in results.quality(REFERENCE).metrics if name != primary]
        shapes, times = self.benchmark.shapes(), self.benchmark.times()
        heads = ["model", primary, "interval", *others, "MB", *(f"{b} x {n}" for b, n in shapes)]
        yield _row(heads)
        yield _row(["---", *["---:"] * (len(heads) - 1)])
        for name, entry in self.evaluation.models.items():
            cells = [name, f"{entry.metrics[primary]:.4f}", _span(entry.interval)]
            for other in others:
                sure = entry.intervals.get(other)
                told = "" if sure is None else f" ({_span(sure)})"
                cells.append(f"{entry.metrics[other]:.4f}{told}")
            cells.append(f"{self.benchmark.file_bytes[name] / 1e6:.1f}")
            for shape in shapes:
                row = times[name, shape]
                cells.append(f"{row.median_ms:.2f} ms, {row.speedup:.1f}x")
            yield _row(cells)
        yield ""
        yield (
            f"The last columns are batch x {self.unit}: the median time of a batch, and how many "
            "times "
            f"as fast as {self.benchmark.baseline} that is."
        )

    def _layers(self) -> Iterator[str]:
        kept = self.results.members[PRUNED]
        if (said := layout_in_words(kept)) is not None:
            yield from (said, "")
        yield from (_row(["layer", "heads", "neurons"]), _row(["---", "---:", "---:"]))
        columns = (kept.heads, kept.of_heads, kept.neurons, kept.of_neurons)
        for layer, (heads, of_heads, neurons, of_neurons) in enumerate(zip(*columns, strict=True)):
            yield _row([str(layer), _kept(heads, of_heads), _kept(neurons, of_neurons)])

    def _loading(self) -> Iterator[str]:
        file = FILES.get(self.served.form, "model.onnx")
        alone = self.results.members[PRUNED].stock is True
        recommended = list(recommended_files(self.results, PRUNED))
        example = example_of(self.recipe, self.results.data["max_length"])
        if self.embeds:
            layout = layout_or_note(self.folder)[0]
            yield from embedding(
                visible(self.repo_id), file, recommended, alone=alone,
                example=replace(example, prompt=prompt_of(layout) if layout else ""),
            )  # fmt: skip
            return
        loader, variable = reader(self.kind)
        call = calls(self.kind, example)
        auto = self.kind.auto_class
        yield from (
            "In PyTorch:",
            "",
            "```python",
            *([] if alone else ["import hfprune"]),
            f"from transformers import {f'{auto}, ' if alone else ''}{loader}, pipeline",
            "",
            f"name = {json.dumps(visible(self.repo_id))}",
            f"model = {auto if alone else 'hfprune'}.from_pretrained(name)",
            f"{variable} = {loader}.from_pretrained(name)",
            *call,
            "```",
            "",
            "All layers have one size, so hfprune is not needed."
            if alone
            else "`from_pretrained` of transformers itself stops with an error that says the same, "
            "since it builds all layers alike. "
            + (
                "As a CrossEncoder of sentence-transformers it comes with "
                f"`hfprune.load_as(CrossEncoder, {json.dumps(visible(self.repo_id))})`. "
                if self.ranks
                else ""
            )
            + "The ONNX files need no hfprune.",
            "",
            *onnx_runtime(self.kind, example, visible(self.repo_id), file),
        )
        for told in recommended:
            yield from (
                "", f"The file that was the fastest {told.served}, from this repository's folder:",
                "", "```python", *told.load, "```",
            )  # fmt: skip
        if not any("openvino" in line for told in recommended for line in told.load):
            # Of the first of OpenVINO's files, if the folder holds any.
            for model in sorted(self.folder.glob("openvino/*.xml"))[:1]:
                yield from openvino(self.kind, example, visible(self.repo_id), model.name)
        if file == "model_quantized.onnx" and is_for_javascript(self.recipe):
            yield from javascript(self.kind, visible(self.repo_id))

    def _limits(self) -> Iterator[str]:
        results, data = self.results, self.results.data
        yield (
            f"- One run with one seed ({results.seed}). The intervals say how far the {self.split} "
            f"{self.item}s, being a sample, let the numbers be trusted, not how another seed would "
            "do."
        )
        if self.chosen_by:
            yield (
                f"- The numbers are of the {self.evaluation.samples:,} {self.item}s by which "
                "checkpoints and sizes were chosen (the Trainer's eval_dataset), so they flatter "
                "the model; it was given no test_dataset."
            )
        else:
            split = self._test_split()
            yield f"- The test split is {split}. It was not used to train or to choose."
        if seen := data["seen_in_train"].get("test"):
            also = f"also occur among the training {self.item}s"
            also = "ask what training pairs ask" if self.ranks else also
            yield f"- {seen:,} of the {self.split} {self.item}s {also}."
        if cut := data["truncated"].get("test"):
            yield f"- {cut:,} of the test texts were cut at {data['max_length']} tokens."
        place, libraries = results.environment, results.environment["libraries"]
        yield (
            f"- Times were measured on {_cell(place['cpu'] or place['machine'])} "
            f"({place['machine']}, {place['instruction_set']}), "
            f"{_threads(self.benchmark.threads)}, ONNX Runtime {libraries['onnxruntime']}, "
            f"PyTorch {libraries['torch']}: medians of {self.benchmark.repeats} interleaved "
            f"rounds on random {'pixels' if self.kind is IMAGE else 'token ids without padding'}. "
            "Other CPUs gain more or less, from int8 "
            "above all."
        )
        yield (
            "- What the model it started from and the data get wrong or leave out, this model "
            "does too. Their licences apply"
            + ("; this card states none." if self.recipe.hub.license is None else " besides.")
        )

    def _test_split(self) -> str:
        data, samples = self.recipe.data, self.evaluation.samples
        if self.results.data.get("judged_on") == "test_dataset":
            return f"what the Trainer was given as test_dataset: {samples:,} {self.item}s"
        name = self.names.get("dataset")
        config = f" ({_cell(data.config_name)})" if data.config_name else ""
        source = f"the data set {_cell(name)}{config}" if name else "local files"
        rows = "queries" if self.ranks else "rows"
        if data.test_split is not None:
            split = f"the split {_cell(data.test_split)} of {source}"
        elif data.test_file is not None:
            several = isinstance(data.test_file, list) and len(data.test_file) > 1
            split = "local files of their own" if several else "a local file of its own"
        else:
            split = (
                f"a random {data.test_fraction:.0%} of the training {rows} of {source}, held out "
                f"(seed {data.split_seed})"
            )
        limit = data.max_test_samples
        most = f", of which at most {limit:,} were taken at random" if limit is not None else ""
        return f"{split}{most}: {samples:,} {self.item}s"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text from outside on one line of Markdown, standing for itself."""
    text = visible(re.sub(r"\s+", " ", text)).replace("&", "&amp;")
    # An underscore within a word means nothing to Markdown.
    return re.sub(r"([\\`*~\[\]<>|$]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _span(interval: Sequence[float], digits: int = 3) -> str:
    low, high = interval
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _change(difference: tuple[float, float, float] | None) -> str:
    return "" if difference is None else " Change {:+.4f} ({:+.4f} to {:+.4f}).".format(*difference)


def _spread(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({_span(interval, 1)})"


def _kept(count: int, total: int) -> str:
    return f"{count} of {total}" if count else f"none of {total}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
