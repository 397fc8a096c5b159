"""``hfprune export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hfprune.cli.app import AsJson, Folder, app, example, explained, print_json, say


@app.command(
    epilog=example(
        "hfprune export runs/reviews",
        "hfprune export my-model --output onnx",
        "hfprune export my-model --runtime openvino",
        "hfprune export runs/reviews --layout tei --output served/reviews",
    )
)
def export(
    folder: Folder,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write; without: DIR/onnx. A layout wants a new folder."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Copy what a server reads of a finished run instead: plain (ONNX Runtime), tei "
            "(text-embeddings-inference), transformersjs, sentence-transformers (its "
            "backend='onnx'), triton, or remote-code (weights of an uneven model with a file of "
            "code that loads it without hfprune)."
        ),
    ] = None,
    quantize: Annotated[bool, typer.Option(help="Also write model_quantized.onnx.")] = True,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What will run the files: onnxruntime (without this option), openvino, or one of "
            "a plug-in; may be given again.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write files of a classifier, pruned by hfprune or dense; checked against PyTorch.

    The float32 ONNX file is written in any case: the others are made from it.
    """
    with explained("earlier files are untouched, run the same command again", as_json=as_json):
        from hfprune.core.errors import ExportError

        if layout is not None:
            if runtime or not quantize:
                raise ExportError(
                    "--layout copies files that are there, so --runtime and --no-quantize mean "
                    f"nothing beside it: leave them out, or write files first (hfprune export "
                    f"{folder} --runtime NAME)"
                )
            _as_layout(folder, layout, output, as_json)
            return
        from hfprune.core.kinds import kind_of_model, task_of_kind
        from hfprune.deploy.exporters.exporting import export_onnx
        from hfprune.deploy.quantize.quantizing import quantize_onnx
        from hfprune.deploy.quantize.search import usual_settings
        from hfprune.deploy.runtimes.writing import check_writable, write_usual
        from hfprune.models.loading import load_processor
        from hfprune.models.saved import load_saved_classifier

        names = list(dict.fromkeys(runtime or ["onnxruntime"]))
        check_writable(names)
        model = load_saved_classifier(str(folder))
        processor = load_processor(
            str(folder),
            task_of_kind(kind_of_model(model)),
            revision=None,
            trust_remote_code=False,
            key="the folder",
        )
        target = output or folder / "onnx"
        written = {"float32": export_onnx(model, processor, target)}
        if quantize and "onnxruntime" in names:
            written["int8"] = quantize_onnx(target, usual_settings(target))
        for name in names:
            if name != "onnxruntime":
                written[name] = write_usual(name, target, output or folder)
        if as_json:
            print_json({name: str(file) for name, file in written.items()})
            return
        for file in written.values():
            say(str(file))


def _as_layout(folder: Path, layout: str, output: Path | None, as_json: bool) -> None:
    from hfprune.core.errors import ExportError
    from hfprune.deploy.layouts import write_layout
    from hfprune.deploy.not_served import not_served

    if output is None:
        raise ExportError(f"say where to write the layout {layout}: --output FOLDER")
    written = write_layout(folder, layout, output)
    if (told := not_served(folder, layout)) is not None:
        typer.echo(f"note: {told}", err=True)
    if as_json:
        print_json({"layout": layout, "folder": str(written)})
    else:
        say(str(written))
