"""What a runtime usually takes of an exported model, written without a choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hfprune.core.errors import ExportError, MissingExtraError
from hfprune.deploy.runtimes.base import Offer, Runtime
from hfprune.deploy.runtimes.registry import RUNTIMES, runtime


def check_writable(names: Sequence[str]) -> None:
    """Refuse runtimes that are not here or write no files, before any work.

    Raises:
        ExtensionError: for an unknown name.
        MissingExtraError: without a runtime's packages.
        ExportError: for a runtime that runs the saved model itself.
    """
    for name in names:
        each = runtime(name)
        if (why := each.missing()) is not None:
            raise MissingExtraError(why)
        _usual(each)


def _usual(each: Runtime) -> Offer:
    able = [] if each.keeps else [offer for offer in each.offers() if offer.settings is None]
    if not able:
        others = [name for name in RUNTIMES.names() if not runtime(name).keeps]
        raise ExportError(
            f"{each.title} runs the saved model itself, and needs no other file; runtimes that do "
            f"are {', '.join(others)}"
        )
    return min(able, key=lambda offer: offer.prior)


def write_usual(name: str, onnx_dir: str | Path, output: str | Path) -> Path:
    """Write the float file that usually is the fastest of a runtime, checked against the ONNX.

    Where its graph cannot be had of this model, the next offer is taken.

    Args:
        name: of the runtime.
        onnx_dir: what ``export_onnx`` wrote.
        output: the folder that the file lies in by its :meth:`Runtime.place`.

    Returns:
        Its path.

    Raises:
        ExportError: if none can be written; errors of :func:`check_writable`.
    """
    check_writable([name])
    each = runtime(name)
    offers = sorted(
        (offer for offer in each.offers() if offer.settings is None), key=lambda o: o.prior
    )
    for number, offer in enumerate(offers, 1):
        target = Path(output) / Path(each.place(offer)).parent
        try:
            return each.write(onnx_dir, target, offer)
        except ExportError:
            if number == len(offers):
                raise
    raise ExportError(f"{each.title} offers no file to write")
