"""``hfprune benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from hfprune.cli.app import AsJson, Folder, Quiet, app, example, explained, print_json, say
from hfprune.cli.limits import MOST_BATCH, MOST_ROUNDS, MOST_THREADS, MOST_TOKENS
from hfprune.core.errors import HFPruneError


class _Row(NamedTuple):
    """A line of the result, and with ``--json`` an entry."""

    model: str
    batch_size: int
    sequence_length: int
    ms: float
    speedup: float
    bytes: int


@app.command(
    epilog=example("hfprune benchmark runs/reviews --batch-size 1 --batch-size 32 --length 128")
)
def benchmark(
    folder: Folder,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, max=MOST_BATCH, help="May be given again.")
    ] = None,
    length: Annotated[
        list[int] | None, typer.Option(min=1, max=MOST_TOKENS, help="Tokens; may be given again.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, max=MOST_ROUNDS, help="Rounds, all models in turn.")
    ] = 30,
    baseline: Annotated[
        Path | None, typer.Option(help="An ONNX file to compare with; without: onnx/model.onnx.")
    ] = None,
    choose: Annotated[
        bool, typer.Option(help="Record in deploy.json which file is the fastest here.")
    ] = False,
    traffic: Annotated[
        Literal["single", "batches", "both"],
        typer.Option(help="With --choose: how texts come in, one by one or in batches."),
    ] = "both",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time the deployed files of a directory on this machine, interleaved."""
    if choose:
        _choose(folder, (batch_size or [32])[-1], threads, traffic, quiet, as_json)
        return
    with explained("nothing was changed", as_json=as_json):
        from hfprune.deploy.files import MODEL_FILE, QUANTIZED_FILE, onnx_files
        from hfprune.deploy.runtimes.registry import usable_runtimes
        from hfprune.measure.latency import measure_latency, ratios
        from hfprune.measure.runners import batches_for, config_beside, onnx_runner
        from hfprune.models.configs import longest_input
        from hfprune.report.console import Console

        if not folder.is_dir():
            raise HFPruneError(f"there is no folder {folder}")
        found = onnx_files(folder)
        if not found:
            raise HFPruneError(
                f"there is no {MODEL_FILE} or {QUANTIZED_FILE} in {folder}; run "
                f"`hfprune export {folder}` first"
            )
        limits = config_beside(next(iter(found.values())))
        longest = longest_input(limits)
        if longest is not None and max(length or [0]) > longest:
            raise HFPruneError(
                f"--length {max(length or [0])} is longer than the {longest} tokens that this "
                f"model has positions for: give {longest} or less"
            )
        if baseline is not None:
            if not baseline.is_file():
                raise HFPruneError(f"there is no {baseline}; --baseline names an ONNX file")
            found = {"baseline": baseline, **found}
        usual = sorted({min(tokens, longest or tokens) for tokens in (32, 128)})
        first = next(iter(found))
        shapes = [(b, n) for b in batch_size or [1, 32] for n in length or usual]
        runners: dict[str, Any] = {name: onnx_runner(file, threads) for name, file in found.items()}
        for each in usable_runtimes():
            others = {} if each.keeps or each.name == "onnxruntime" else each.files(folder)
            for precision, file in others.items():
                name = f"{each.name} {precision}"
                found[name], runners[name] = file, each.open(file, threads, precision)
        width = max(9, *map(len, runners))
        with Console(quiet=quiet or as_json).progress("benchmark") as progress:
            rows = measure_latency(
                runners,
                shapes,
                repeats=repeats,
                warmup=3,
                make_batch=batches_for(limits),
                progress=progress,
            )
        factors = ratios(rows, first)
        results = [
            _Row(
                model=row.name,
                batch_size=row.batch_size,
                sequence_length=row.sequence_length,
                ms=row.median_ms,
                speedup=factors[row.name, row.shape].value,
                bytes=_bytes(found[row.name]),
            )
            for row in rows
        ]
        if as_json:
            print_json([entry._asdict() for entry in results])
            return
        for entry in results:
            shape = f"{entry.batch_size}x{entry.sequence_length}"
            say(
                f"{entry.model:>{width}} {shape:>7} {entry.ms:9.2f} ms  {entry.speedup:5.1f}x  "
                f"{entry.bytes / 1e6:6.1f} MB"
            )


def _bytes(file: Path) -> int:
    """Of a file; of an OpenVINO file with the weights that lie beside it."""
    beside = [file] if file.suffix == ".onnx" else file.parent.glob(f"{file.stem}.*")
    return sum(part.stat().st_size for part in beside)


def _choose(
    folder: Path, batch_size: int, threads: int, traffic: str, quiet: bool, as_json: bool
) -> None:
    with explained("nothing was changed", as_json=as_json):
        from hfprune.deploy.choose.present import choose_among
        from hfprune.deploy.choose.record import one_line
        from hfprune.measure.traffic import USES
        from hfprune.report.console import Console

        if not folder.is_dir():
            raise HFPruneError(f"there is no folder {folder}")
        with Console(quiet=quiet or as_json).progress("choosing") as progress:
            found = choose_among(
                folder,
                uses=[use for use in USES if traffic in (use, "both")],
                batch_size=batch_size,
                threads=threads,
                progress=lambda done, what: progress(round(100 * done), 100),
            )
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in (*found.notes, one_line(found)):
        say(line)
