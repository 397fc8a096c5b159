"""What a run came to, in sentences: reached against asked, which file, what it costs, where not.

Pure functions of results; the console, the report and tests read the same words.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from hfprune.core.model_ref import DENSE, REFERENCE, ModelRef
from hfprune.core.results import AS_FAST, ModelQuality, RunResults, Timing
from hfprune.core.tasks import LOWER_IS_BETTER
from hfprune.deploy.choose.told import Told, recommended_files
from hfprune.recipe.sections.pruning import PruningConfig

# A speed that falls short by no more than this counts as reached: it is what rounds differ by.
SHORT: Final = 0.03
# Ends of an interval of a speed-up that are further apart were not measured on an idle machine.
UNSTEADY: Final = 1.6
# Files as runs write them, below the folder of a model.
FILES: Final = {
    "ONNX": "onnx/model.onnx",
    "int8": "onnx/model_quantized.onnx",
    "ONNX-lean": "onnx/model_optimized.onnx",
    "OpenVINO": "openvino/openvino_model.xml",
    "OpenVINO-bf16": "openvino/openvino_model.xml",
}


@dataclass(frozen=True)
class Verdict:
    """One pruned model in sentences.

    Attributes:
        label: of the model.
        ref: the file to deploy; ``file``: where it lies below the output folder.
        reached: against what was asked.
        deploy: which file, and why.
        cost: of the metric, with its uncertainty in words.
        slower: where it is no faster than the dense model, alone quantized; ``None``: nowhere.
        kept: whether the target was reached and no loss was shown.
        hollow: where the dense model itself has learned nothing, that; ``None``: it has.
    """

    label: str
    ref: ModelRef
    file: str
    reached: str
    deploy: str
    cost: str
    slower: str | None
    kept: bool
    hollow: str | None = None

    def text(self) -> str:
        """All of it in one paragraph."""
        parts = [self.reached, self.deploy, self.cost, self.hollow, self.slower]
        return " ".join(part for part in parts if part)


def verdicts(results: RunResults, asked: PruningConfig | None) -> list[Verdict]:
    """A verdict for each pruned model of a run.

    Args:
        results: with quality and times of all models.
        asked: the recipe's ``pruning``; ``None`` where there is no recipe.
    """
    return [verdict(results, label, asked) for label in results.members]


def verdict(results: RunResults, label: str, asked: PruningConfig | None) -> Verdict:
    """Of one model; errors as :meth:`RunResults.served` and for times that are missing."""
    benchmark, ref = results.benchmark, results.served(label)
    times, shape = benchmark.times(), benchmark.shapes()[0]
    row = times[str(ref), shape]
    reached, met = _reached(results, label, asked, row)
    cost, lost = cost_in_words(
        results.quality(REFERENCE), results.quality(ref), results.primary,
        results.evaluation.samples, results.evaluation.confidence,
    )  # fmt: skip
    hollow = hollow_in_words(results)
    # In a folder of its own, a member of a family is the only one.
    inside = f"{label}/" if results.family is not None else ""
    chosen = recommended_files(results, label)
    file = f"{inside}{chosen[0].path if chosen else FILES.get(ref.form, '')}"
    return Verdict(
        label=label,
        ref=ref,
        file=file,
        reached=reached,
        deploy=_chosen(results, chosen, inside, ref)
        if chosen
        else _deploy(results, label, ref, file),
        cost=cost,
        slower=_slower(results, ref),
        kept=met and not lost and hollow is None,
        hollow=hollow,
    )


def _at(results: RunResults, shape: tuple[int, int]) -> str:
    batch, length = shape
    texts = "one input" if batch == 1 else f"{batch} inputs"
    return f"{texts} of {length} {results.benchmark.length_unit}"


def _times(row: Timing) -> str:
    """A speed-up with its interval."""
    low_high = row.speedup_interval
    if low_high is None or f"{low_high[0]:.1f}" == f"{low_high[1]:.1f}":
        return f"{row.speedup:.1f}x"
    unsteady = "" if low_high[1] <= UNSTEADY * low_high[0] else ", unsteady: time it when idle"
    return f"{row.speedup:.1f}x ({low_high[0]:.1f} to {low_high[1]:.1f}{unsteady})"


def _reached(
    results: RunResults, label: str, asked: PruningConfig | None, row: Timing
) -> tuple[str, bool]:
    """What was reached against what was asked for, and whether it was."""
    fast = (
        f"{_times(row)} as fast as the dense float32 model, at {_at(results, row.shape)} and "
        f"{results.benchmark.threads} thread{'s' if results.benchmark.threads != 1 else ''}"
    )
    sparsity = results.members[label].sparsity
    wanted = wanted_speed(label, asked)
    if wanted is not None:
        if row.speedup >= wanted * (1 - SHORT):
            return f"Asked for {wanted:g}x, and it is {fast}.", True
        short = 1 - row.speedup / wanted
        return f"Asked for {wanted:g}x, but it is only {fast}: {short:.0%} short.", False
    if asked is not None and asked.sparsity is not None:
        enough = sparsity >= asked.sparsity - 0.005
        word = "and" if enough else "but only"
        return (
            f"Asked to remove {asked.sparsity:.0%} of the encoder's weights, {word} {sparsity:.1%} "
            f"are gone; it is {fast}."
        ), enough
    if asked is not None and asked.max_metric_drop is not None:
        return (
            f"Asked to lose at most {asked.max_metric_drop:g} on the validation rows; the fastest "
            f"model within that is {fast}."
        ), True
    if asked is not None and asked.keep_layers is not None:
        kept = ", ".join(map(str, asked.keep_layers))
        return f"Layers {kept} were kept; it is {fast}.", True
    return f"It is {fast}; {sparsity:.1%} of the encoder's weights are gone.", True


def wanted_speed(label: str, asked: PruningConfig | None) -> float | None:
    """The speed that was asked of a model: of a family each its own, by its label."""
    if asked is None or asked.speedup is None:
        return None
    speeds = asked.speedup if isinstance(asked.speedup, list) else [asked.speedup]
    if len(speeds) == 1:
        return float(speeds[0])
    return next((float(speed) for speed in speeds if f"{speed:g}x" == label), None)


def _chosen(results: RunResults, rows: Sequence[Told], inside: str, ref: ModelRef) -> str:
    """The files that were chosen for each use, each named once, and what they bring."""
    size = f" ({results.benchmark.file_bytes[str(ref)] / 1e6:.1f} MB)"
    said: list[str] = []
    for path in dict.fromkeys(row.path for row in rows):
        uses = [row for row in rows if row.path == path]
        fast = "; ".join(
            row.served if row.ms is None else f"{row.served} {row.ms:.2f} ms, {row.speeds}"
            for row in uses
        )
        why = "; ".join(dict.fromkeys(row.why for row in uses))
        said.append(f"Deploy {inside}{path}{'' if said else size}: {fast} ({why}).")
    return " ".join(said)


def _deploy(results: RunResults, label: str, ref: ModelRef, file: str) -> str:
    benchmark = results.benchmark
    size = f"{benchmark.file_bytes[str(ref)] / 1e6:.1f} MB"
    times, shape = benchmark.times(), benchmark.shapes()[0]
    others = [
        each for each in results.refs()
        if each.label == label and each.format != "pytorch" and each != ref
        and (str(each), shape) in times
    ]  # fmt: skip
    mine = times[str(ref), shape]
    if not others:
        why = "the only file that was written"
    else:
        other = max(others, key=lambda each: times[str(each), shape].speedup)
        theirs = times[str(other), shape]
        told = f"{mine.median_ms:.3g} ms, {theirs.median_ms:.3g} ms as {other.form}"
        if mine.speedup > AS_FAST * theirs.speedup:
            why = f"the fastest: {mine.speedup:.1f}x, {theirs.speedup:.1f}x as {other.form}"
        else:
            why = f"as fast as the others and smaller: {told}"
    return f"Deploy {file or ref} ({size}), {why}."


def cost_in_words(
    before: ModelQuality, after: ModelQuality, metric: str, rows: int, confidence: float
) -> tuple[str, bool]:
    """What the metric lost, and whether that is more than chance.

    Args:
        before, after: of the dense PyTorch model and of the file.
        metric: the first.
        rows: of the test.
        confidence: level of the intervals.

    Returns:
        The sentence, and whether the loss is beyond chance.
    """
    old, new = before.metrics[metric], after.metrics[metric]
    lower = metric in LOWER_IS_BETTER
    moved = f"{metric} {old:.4f} before, {new:.4f} after, on {rows:,} test rows"
    if after.difference is None:
        return f"What it costs: {moved}.", False
    change, low, high = after.difference
    if change == low == high == 0:
        return f"It costs nothing that the test shows: {moved}.", False
    bounds = f"{_points(low, metric)} to {_points(high, metric)}"
    sure = f"{confidence:.0%} interval {bounds}"
    worse = low > 0 if lower else high < 0
    better = high < 0 if lower else low > 0
    if worse or better:  # of the cost or the gain that is told, not of the signed difference
        least, most = sorted((abs(low), abs(high)))
        sure = (
            f"{confidence:.0%} interval {_points(least, metric, False)} to "
            f"{_points(most, metric, False)}"
        )
    if worse:
        return f"It costs {_points(abs(change), metric, False)}: {moved} ({sure}).", True
    if better:
        return f"It costs nothing; it is better by {_points(abs(change), metric, False)}: " \
               f"{moved} ({sure}).", False  # fmt: skip
    return (
        f"The difference of {_points(change, metric)} can be chance: {moved} ({sure}); a loss of "
        f"{_points(abs(high if lower else low), metric, False)} is not ruled out."
    ), False


def hollow_in_words(results: RunResults) -> str | None:
    """That the dense model is no better than its most frequent answer, which hides every loss."""
    dense = results.quality(REFERENCE)
    if results.primary != "accuracy" or dense.by_class is None:
        return None
    rows = {str(one["label"]): one.get("support", 0) for one in dense.by_class.classes}
    most = max(rows, key=lambda label: rows[label], default="")
    if not sum(rows.values()) or dense.metrics["accuracy"] > rows[most] / sum(rows.values()):
        return None
    return (
        f"But the dense model is no better than always saying {most!r}: nothing was learned that "
        "pruning could lose; give the teacher more epochs, more rows or another learning rate."
    )


def _points(value: float, metric: str, sign: bool = True) -> str:
    """A difference of a metric: in points where it is a fraction."""
    if metric in LOWER_IS_BETTER:
        return f"{value:{'+' if sign else ''}.4g}"
    return f"{100 * value:{'+' if sign else ''}.2f} points"


def _slower(results: RunResults, ref: ModelRef) -> str | None:
    """Where the dense model alone, in its fastest file, is as fast."""
    times = results.benchmark.times()
    dense = [each for each in results.refs() if each.label == DENSE and each.format != "pytorch"]
    found = []
    for shape in results.benchmark.shapes():
        rivals = [(times[str(each), shape].speedup, each) for each in dense
                  if (str(each), shape) in times]  # fmt: skip
        if (str(ref), shape) not in times or not rivals:
            continue
        best, rival = max(rivals)
        if times[str(ref), shape].speedup <= AS_FAST * best:
            found.append(f"{_at(results, shape)} ({rival} is {best:.1f}x)")
    if not found:
        return None
    return f"It is no faster than the dense model was for {' and '.join(found)}."


# What a model of the task could be asked about, quoted as every shell reads it.
_TEXT: Final = '"a text of yours"'
_EXAMPLES: Final = {
    "image_classification": "photo.jpg",
    "token_classification": '"Ada Lovelace was born in London."',
    "reranking": '"a query of yours" --pair "a text that may answer it"',
}


def asked_about(task: str, pairs: bool) -> str:
    """What ``hfprune predict`` could be asked about, quoted.

    Args:
        task: of the recipe.
        pairs: whether its rows have two texts.
    """
    two = pairs and task not in (*_EXAMPLES, "sentence_embedding")
    return f'{_TEXT} --pair "its second text"' if two else _EXAMPLES.get(task, _TEXT)


def next_commands(
    folder: str, labels: Sequence[str], task: str, *, pairs: bool = False
) -> list[str]:
    """What to type next, with the paths of this run.

    Args:
        folder: of the output.
        labels: of a family the models, each in a folder of its own, the fastest last; empty where
            there is one.
        task: of the recipe.
        pairs: whether its rows have two texts.
    """
    place = shlex.quote(str(PurePath(folder) / labels[-1]) if labels else folder)
    name = PurePath(folder).name or "model"
    return [
        f"hfprune predict {place} {asked_about(task, pairs)}",
        f"hfprune report {shlex.quote(folder)}",
        f"hfprune push {place} --repo-id USER/{name.replace(' ', '-')}",
    ]
