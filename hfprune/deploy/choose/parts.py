"""What of a speed-up comes from where: pruning, the graph, the runtime, the precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

PRUNING: Final = "pruning"
GRAPH: Final = "graph"
RUNTIME: Final = "runtime"
PRECISION: Final = "precision"
BOTH: Final = "runtime and precision"
PLAIN: Final = "exported"
FIRST_RUNTIME: Final = "onnxruntime"


class Variant(NamedTuple):
    """One way to run a model."""

    runtime: str
    precision: str
    graph: str


def parts_of(
    chosen: Variant, ms: Mapping[Variant, float], total: float, pruning: float
) -> dict[str, float]:
    """Factors whose product is the speed-up, in the order in which one would take the steps.

    From the dense float32 model in ONNX Runtime to the same of the pruned model (pruning), to its
    rewritten graph, to another runtime, and to another precision. A step that was not timed is
    told together with the next one; the last step is what is left, so that the product is exact.

    Args:
        chosen: what ``total`` is of.
        ms: times of the pruned model's variants, of one measurement, in any unit; with the one of
            float32 in ONNX Runtime as it was exported.
        total: speed-up of the chosen one over the dense model.
        pruning: speed-up of the pruned model as it was exported over the dense one; 1 for the dense
            model itself.

    Returns:
        By name, the factors that are there at all: a step that was not taken has none.

    >>> lean, plain = Variant("onnxruntime", "float32", "lean"), Variant("onnxruntime", "float32",
    ...     "exported")
    >>> parts_of(Variant("onnxruntime", "int8", "lean"), {plain: 6.0, lean: 4.0}, 12.0, 4.0)
    {'pruning': 4.0, 'graph': 1.5, 'precision': 2.0}
    """
    found = {} if pruning == 1.0 else {PRUNING: pruning}
    left = total / pruning
    start = Variant(FIRST_RUNTIME, "float32", PLAIN)
    if chosen == start or start not in ms:
        return found
    here = start
    if chosen.graph != PLAIN:
        lean = _lean(chosen.graph, ms)
        if lean is not None:
            found[GRAPH] = ms[start] / ms[lean]
            left /= found[GRAPH]
            here = lean
    other, rounded = chosen.runtime != FIRST_RUNTIME, chosen.precision != "float32"
    if other and rounded:
        same = chosen._replace(precision="float32")
        if same in ms:
            found[RUNTIME] = ms[here] / ms[same]
            left /= found[RUNTIME]
            found[PRECISION] = left
        else:
            found[BOTH] = left
    elif other or rounded:
        found[RUNTIME if other else PRECISION] = left
    else:  # float32 in ONNX Runtime: the graph is all there is
        found[GRAPH] = found.get(GRAPH, 1.0) * left
    return found


def _lean(graph: str, ms: Mapping[Variant, float]) -> Variant | None:
    """The float32 file in ONNX Runtime of this graph, else the fastest rewritten one."""
    same = Variant(FIRST_RUNTIME, "float32", graph)
    if same in ms:
        return same
    able = [v for v in ms if v[:2] == same[:2] and v.graph != PLAIN]
    return min(able, key=lambda variant: ms[variant], default=None)
