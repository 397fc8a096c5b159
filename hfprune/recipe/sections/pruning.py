"""What to remove, and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from hfprune.core.scores import OWN_SCORES, SCORES, score_names
from hfprune.recipe.places import Clash
from hfprune.recipe.sections.base import MOST, MOST_EPOCHS, MOST_ROUNDS, Name, Section
from hfprune.recipe.wording import describe_value, suggest


class VocabularyConfig(Section):
    """Removal of tokens that the training texts do not use, and of their embeddings."""

    min_count: int = Field(
        default=1,
        ge=1,
        le=MOST,
        description="A token stays if the training rows hold it at least so often. Special tokens, "
        "single characters and bytes always stay. Above 1 the model also learns to read rare words "
        "in pieces.",
    )


# Epochs of a first trial; that of two which it does not part is twice as long.
USUAL_TRIAL: Final = 0.5


class PruningConfig(Section):
    """What to remove, and when."""

    sparsity: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Target: fraction of the encoder's weights to remove, in [0, 1).",
        examples=[0.8],
    )
    speedup: (
        Annotated[float, Field(gt=1, le=10_000)]
        | Annotated[list[Annotated[float, Field(gt=1, le=10_000)]], Field(min_length=1)]
        | None
    ) = Field(
        default=None,
        description="Target: how many times faster than the dense float32 ONNX model, as measured "
        "here, quantized, at the first batch size and length of `benchmark`. A list gives a family "
        "of models from one gradual run.",
        examples=[8.0],
    )
    max_metric_drop: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Target: the fastest model whose metric on the validation rows is at most this "
        "much below the dense model's (0.01: one point), found by stepping up the speed.",
        examples=[0.01],
    )
    keep_layers: (
        Annotated[list[Annotated[int, Field(ge=0, le=1000)]], Field(min_length=1)] | None
    ) = Field(
        default=None,
        description="Target: keep these layers (numbers from 0) whole and drop the others at once, "
        "the usual baseline; `recovery` trains what is left.",
        examples=[[0, 2, 4]],
    )
    vocabulary: VocabularyConfig | None = Field(
        default=None,
        description="Also remove tokens that the task does not need, before anything else is "
        "pruned; the tokenizer is saved with the model. null: keep all; {}: the defaults.",
    )
    layout: Literal["uneven", "uniform"] = Field(
        default="uneven",
        description="uneven: each layer keeps what it needs, which hfprune loads. uniform: all "
        "layers that stay have one size, so that transformers loads the model alone; it is less "
        "accurate at the same speed.",
    )
    method: Literal["gates", "reconstruction"] = Field(
        default="gates",
        description="gates: prune while training, by `score`. reconstruction: prune in minutes "
        "without training, each block by structured OBS, its output refitted; `recovery` trains "
        "what is left.",
    )
    selection: Literal["obs", "fisher", "kprune"] = Field(
        default="obs",
        description="How heads and neurons are chosen (reconstruction). obs: those whose loss the "
        "others can make up for best (ZipLM). fisher: by squared gradients of their gates, then "
        "rearranged. kprune: by what they add to outputs and predictions (K-prune).",
    )
    search_rounds: int = Field(
        default=60,
        ge=0,
        le=MOST_ROUNDS,
        description="Mutations tried in the search over the sizes of blocks (reconstruction).",
    )
    scoring_samples: int = Field(
        default=1024,
        ge=1,
        le=MOST,
        description="Training rows that pruning looks at (reconstruction).",
    )
    memory_gb: float = Field(
        default=2.0,
        gt=0,
        le=1_000_000,
        description="Gigabytes that each of these may take: activations of a scoring batch, "
        "moments of blocks (`selection: obs`), weights of their levels, targets of the refit, what "
        "enters the layer that is fitted (reconstruction). What is more is done in parts, or lies "
        "in files.",
    )
    trial_epochs: float | None = Field(
        default=None,
        ge=0,
        le=MOST_EPOCHS,
        description="Epochs that each candidate (the searched sizes; fewer layers) is trained "
        "before the best goes on to recovery, which must have epochs; two that are not shown to "
        "differ are tried once more, twice as long; 0: chosen untrained; null: 0.5 "
        "(reconstruction).",
    )
    schedule: Literal["one_shot", "linear", "cubic"] = Field(
        default="cubic",
        description="Course from nothing to `sparsity`: at once (at `start`), at a constant rate, "
        "or fast first and slow near the target.",
    )
    start: float = Field(
        default=0.1, ge=0, le=1, description="Fraction of the training at which pruning begins."
    )
    end: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Fraction of the training from which `sparsity` is reached (one_shot: not "
        "used).",
    )
    update_every_steps: int = Field(
        default=20, ge=1, le=MOST, description="Choose anew what is removed every so many steps."
    )
    score: Name = Field(
        default="fisher",
        description="How the importance of a head or neuron is measured: "
        + ", ".join(OWN_SCORES)
        + ", or a score that a plug-in adds.",
    )
    score_decay: float = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="Weight of the past in the running mean of the scores (taylor, fisher).",
    )
    allocation: Literal["uniform", "global"] = Field(
        default="global",
        description="The same sparsity in each block, or what matters least anywhere.",
    )
    min_heads: int = Field(
        default=2,
        ge=0,
        le=MOST_ROUNDS,
        description="An attention block left with fewer heads is removed whole; 0 or 1: never.",
    )
    min_neurons: int = Field(
        default=32,
        ge=0,
        le=MOST_ROUNDS,
        description="A feed-forward block left with fewer neurons is removed whole; 0 or 1: never.",
    )

    @property
    def epochs_of_trial(self) -> float:
        """Epochs of the first trial of a candidate."""
        return USUAL_TRIAL if self.trial_epochs is None else self.trial_epochs

    @property
    def by_gates(self) -> bool:
        """Whether the removal itself is a training, with gates on heads and neurons."""
        return self.method == "gates" and self.keep_layers is None

    def _clashes(self) -> Iterator[Clash]:
        targets = ("sparsity", "speedup", "max_metric_drop", "keep_layers")
        given = [key for key in targets if getattr(self, key) is not None]
        if len(given) != 1:
            came = " and ".join(given) if given else "none"
            yield Clash(f"give exactly one of {', '.join(targets)}; got {came}", targets)
        if isinstance(self.speedup, list) and self.speedup != sorted(set(self.speedup)):
            yield Clash(
                f"speedup {self.speedup} must rise: each model is pruned from the one before it",
                ("speedup",),
            )
        if self.score not in OWN_SCORES and self.score not in SCORES:
            names = score_names()
            yield Clash(
                f"expected one of {', '.join(names)}, got {describe_value(self.score)}. "
                + suggest(self.score, names, "Choose from"),
                ("score",),
            )
        layers = self.keep_layers
        if layers is not None and layers != sorted(set(layers)):
            yield Clash(f"keep_layers {layers} must rise, each layer once", ("keep_layers",))
        by_method = {
            "gates": (
                "schedule",
                "start",
                "end",
                "update_every_steps",
                "score",
                "score_decay",
                "allocation",
                "min_heads",
                "min_neurons",
            ),
            "reconstruction": (
                "selection",
                "search_rounds",
                "scoring_samples",
                "memory_gb",
                "trial_epochs",
            ),
        }
        for method, keys in by_method.items():
            for key in keys:
                changed = getattr(self, key) != type(self).model_fields[key].default
                if changed and layers is not None:
                    yield Clash(
                        f"{key} has no meaning with keep_layers: remove it", (key, "keep_layers")
                    )
                elif changed and method != self.method:
                    yield Clash(
                        f"{key} is only used with method: {method}: remove it", (key, "method")
                    )
        if self.layout == "uniform" and self.allocation != "global":
            yield Clash(
                "allocation has no meaning with layout: uniform, which has a search of its own: "
                "remove it",
                ("allocation", "layout"),
            )
        if self.sparsity is None and layers is None:
            for key in ("allocation", "min_heads", "min_neurons"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    yield Clash(
                        f"{key} is only used with sparsity; with a speed as the target, sizes come "
                        "from measured times: remove it",
                        (key,),
                    )
        if self.schedule != "one_shot" and self.start > self.end:
            yield Clash(
                f"pruning cannot start ({self.start}) after its end ({self.end}): swap them",
                ("start", "end"),
            )
