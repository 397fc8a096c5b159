"""``hfprune predict``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfprune.cli.app import AsJson, Folder, app, example, explained, say
from hfprune.cli.limits import MOST_BATCH, MOST_THREADS

if TYPE_CHECKING:
    from hfprune.deploy.predict.rows import Row


@app.command(
    epilog=example(
        'hfprune predict runs/reviews "a moving film" "dull"',
        "hfprune predict runs/reviews reviews.csv --column review --json",
        "cat reviews.txt | hfprune predict runs/reviews -",
        'hfprune predict runs/nli "It rains." --pair "The street is wet."',
        'hfprune predict runs/reranker "a query" --pair "a text" --pair "another text"',
    )
)
def predict(
    folder: Folder,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT...|FILE",
            help="Texts (of images their paths), or one file of them: .txt (a text a line), .csv, "
            ".tsv or .jsonl; - or nothing: standard input, a text a line.",
        ),
    ] = None,
    pair: Annotated[
        list[str] | None,
        typer.Option(
            help="A second text, of models that read pairs: once for each text, or several times "
            "for one. Of rerankers a text that may answer the query."
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the text. Without: the recipe's, or text.")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="Column of a second text. Without: the recipe's, or none.")
    ] = None,
    top: Annotated[
        int,
        typer.Option(
            min=1,
            help="Show so many labels of a text, the likeliest first, where each text has one.",
        ),
    ] = 1,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_BATCH,
            help="Rows that are computed together; 1 answers each as it comes.",
        ),
    ] = 32,
    threads: Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="Of one batch.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Say what a model says of texts: labels with probabilities, a number, or entities.

    From the file that deploy.json recommends, else the int8 or float32 ONNX file, else PyTorch.
    Rows are answered batch by batch, a line each; with --json an object a line. A reranker puts
    texts of the command line in order, the best first; those of a file stay in the file's.
    """
    with explained(
        "what was printed stands, run the same command again for the rest", as_json=as_json
    ):
        import json

        from hfprune.core.errors import DataError
        from hfprune.core.text import visible_json
        from hfprune.deploy.predict.answers import as_line, best_first
        from hfprune.deploy.predict.places import columns_of
        from hfprune.deploy.predict.rows import (
            STDIN,
            check_columns,
            check_no_file,
            given_rows,
            is_file_of_rows,
        )
        from hfprune.deploy.predict.serving import opened

        given = texts or [STDIN]
        rows: Iterable[Row]
        streamed = len(given) == 1 and is_file_of_rows(given[0])
        check_columns(given, streamed=streamed, column=column, pair_column=pair_column)
        if streamed and pair:
            raise DataError(
                f"--pair is for texts of the command line, and {given[0]!r} is read as a file: "
                "name its column of second texts with --pair-column"
            )
        if streamed:
            recorded = columns_of(folder)
            source = _streamed(given[0], column or recorded[0], pair_column or recorded[1])
        else:
            source = _as_they_are(given_rows(given, pair))
        with source as rows:
            alone = not streamed and len(given) == 1 and len(pair or ()) < 2
            ask = opened(
                folder, batch_size=batch_size, threads=threads, use="single" if alone else None
            )
            if not streamed and len(given) == 1 and ask.task != "image_classification":
                check_no_file(given[0])
            say(f"{ask.file.path} ({ask.file.precision}, {ask.file.why})", err=True)
            answers = ask(rows)
            for told in answers if streamed else best_first(list(answers)):
                if as_json:
                    typer.echo(visible_json(json.dumps(told, ensure_ascii=False)))
                else:
                    say(as_line(told, top=top))
                sys.stdout.flush()


@contextmanager
def _as_they_are(rows: list[Row]) -> Iterator[Iterable[Row]]:
    yield rows


@contextmanager
def _streamed(name: str, column: str, pair_column: str | None) -> Iterator[Iterable[Row]]:
    """Rows of a file or of standard input, as they come.

    Only what keeps them from being read becomes an error of the file: what goes wrong with an
    answer, such as a pipe that nobody reads any more, is none.
    """
    from hfprune.deploy.predict.rows import STDIN, read_rows, readable, unreadable

    if name == STDIN:
        place = "standard input"
        found = read_rows(sys.stdin, place, column=column, pair_column=pair_column)
        yield readable(found, place)
        return
    with ExitStack() as stack:
        try:
            with Path(name).open(encoding="utf-8-sig", newline="") as first:
                # A stray carriage return within a text ends no line, unless it ends the first one.
                ends = "" if first.readline().endswith("\r") else "\n"
            file = stack.enter_context(Path(name).open(encoding="utf-8-sig", newline=ends))
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(name, error) from error
        found = read_rows(file, name, column=column, pair_column=pair_column)
        yield readable(found, name)
