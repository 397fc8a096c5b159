"""A run's output in the form that a server reads, written anew in a folder of its own.

What each reads was taken from its source. text-embeddings-inference: ``backends/ort/src/lib.rs``
(``model.onnx``, then ``onnx/model.onnx``, and a few keys of ``config.json``; from 1.8 on an output
``sentence_embedding`` is given as it is) and ``router/src/lib.rs`` (of sentence-transformers' files
the old forms). Triton: the documentation of its model repository, and ``model_config.proto``.
Transformers.js: ``src/utils/dtypes.js`` and ``configs.js``. sentence-transformers:
``backend/load.py`` (``onnx/model.onnx``, or the name that it is given).
``tests/deploy/test_layouts.py`` holds the folders against it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import CheckpointError, ExportError
from hfprune.core.files import atomic_directory, atomic_write_json
from hfprune.core.ownership import TOKENIZER_FILES
from hfprune.core.reading import read_json
from hfprune.deploy.choose.record import DEPLOY_FILE, read_deployment
from hfprune.deploy.exporters.pooling import token_graph
from hfprune.deploy.files import (
    MODEL_FILE,
    QUANTIZED_FILE,
    onnx_files,
    precisions_to_serve,
    require,
)
from hfprune.deploy.predict.cascade import CASCADE_FILE, read_cascade, write_cascade
from hfprune.deploy.predict.places import WINDOWS_FILE, recipe_of, stride_in
from hfprune.deploy.staging import data_files
from hfprune.measure.traffic import Use
from hfprune.models.layout import (
    LENGTH_FILE,
    PROMPTS_FILE,
    SentenceLayout,
    cross_encoder_files,
    cut_at,
    layout_or_note,
    longest_of,
    prompts_of,
    write_modules,
)
from hfprune.models.remote import write_modeling_file
from hfprune.pruning.surgery import RECORD_KEY

READERS: Final = (
    *sorted(TOKENIZER_FILES),
    "preprocessor_config.json",
    # Of a sentence encoder: who tokenizes puts its prompt before texts, and cuts them.
    PROMPTS_FILE,
    LENGTH_FILE,
)
WEIGHTS: Final = ("model.safetensors", "model.safetensors.index.json")
# Of the names of ONNX's types in Triton's configuration.
_TRITON_TYPES: Final = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}


def write_layout(folder: str | Path, layout: str, output: str | Path) -> Path:
    """Write what a server reads of a run's output.

    Args:
        folder: a run's output, or any folder with ``config.json`` and ONNX files in ``onnx/``. For
            ``plain`` also a family with its ``cascade.json``: both members are then written.
        layout: one of :data:`LAYOUTS`.
        output: a new folder, or an empty one. Of Triton the last part of its name is the model's.

    Returns:
        ``output``.

    Raises:
        ExportError: there is no such layout, or the server does not read such a model.
        CheckpointError: the folder lacks what the layout needs.
        OutputError: ``output`` is there and not empty, or cannot be written.
    """
    write = LAYOUTS.get(layout)
    if write is None:
        raise ExportError(f"there is no layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    source, target = Path(folder), Path(output)
    if layout == "plain" and (source / CASCADE_FILE).is_file():
        with atomic_directory(target, overwrite=False) as place:
            _cascade(source, place)
        return target
    if not (source / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds no config.json: give the output_dir of a run, or one model of a family"
        )
    with atomic_directory(target, overwrite=False) as place:
        write(source, place, target.name)
    return target


def onnx_to_serve(folder: Path, use: Use = "batches") -> Path:
    """The ONNX file that a server should get: what ``deploy.json`` recommends, or the run's table.

    A recommended file of another runtime is passed over. Servers put what comes at one time
    together, so what is recommended for batches comes first.

    Raises:
        CheckpointError: there is none.
    """
    if (folder / DEPLOY_FILE).is_file():
        uses = read_deployment(folder).uses
        for chosen in (uses.get(use), uses.get("batches"), uses.get("single")):
            if chosen is not None and chosen.runtime == "onnxruntime":
                return folder / chosen.path
    files = onnx_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder} holds no ONNX file: run `hfprune export {folder}` first, or set "
            "export in the recipe"
        )
    precisions, _ = precisions_to_serve(folder)
    return next(files[precision] for precision in precisions if precision in files)


def _plain(source: Path, place: Path, name: str, use: Use = "batches") -> None:
    """The file to serve under its own name, for programs that call ONNX Runtime themselves."""
    file = onnx_to_serve(source, use)
    _copy_readers(source, place)
    _copy_modules(source, place)
    _write_config(place, _config(source))
    _copy_graph(file, place / "onnx" / file.name)
    if (stride := stride_in(source)) is not None:
        atomic_write_json(place / WINDOWS_FILE, {"stride": stride})


def _cascade(source: Path, place: Path) -> None:
    """Both members of a cascade, each ``plain`` in a folder of its name, and its record."""
    record = read_cascade(source)
    for name in (record.fast, record.slow):
        (place / name).mkdir()
        # The threshold was chosen with the files for one text at a time.
        _plain(source / name, place / name, name, "single")
    write_cascade(record, place)


def _tei(source: Path, place: Path, name: str) -> None:
    """``model.onnx`` at the top; the config has the keys that every model must have there."""
    config, layout = _config(source), _layout_of(source)
    if layout is None:
        _refuse_others(config, "text-embeddings-inference", ("ForSequenceClassification",))
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{source} holds no tokenizer.json, the only tokenizer that text-embeddings-inference "
            "reads: save a fast tokenizer beside the model"
        )
    # hidden_size and num_hidden_layers, or GPT-2's names for them; never both.
    for wanted, others in (
        ("hidden_size", ("n_embd", "dim")),
        ("num_hidden_layers", ("n_layer", "n_layers")),
    ):
        if wanted not in config and others[0] not in config and others[1] in config:
            config[wanted] = config[others[1]]
    _copy_readers(source, place)
    if layout is not None:
        _tei_settings(layout, config, place)
    _write_config(place, config)
    _copy_graph(onnx_to_serve(source), place / MODEL_FILE)


def _tei_settings(layout: SentenceLayout, config: Mapping[str, Any], place: Path) -> None:
    """Pooling, length and prompts, in the only forms of these files that it reads."""
    # The graph pools: this only lets the server start, which knows no pooling by the maximum.
    first = layout.pooling == "cls_token"
    modes = {"pooling_mode_cls_token": first, "pooling_mode_mean_tokens": not first}
    (place / "1_Pooling").mkdir()
    atomic_write_json(place / "1_Pooling" / "config.json", modes)
    longest = longest_of(layout) or config.get("max_position_embeddings")
    if isinstance(longest, int):
        atomic_write_json(place / LENGTH_FILE, {"max_seq_length": longest, "do_lower_case": False})
    prompts, default = prompts_of(layout)
    atomic_write_json(place / PROMPTS_FILE, {"prompts": prompts, "default_prompt_name": default})


def _transformers_js(source: Path, place: Path, name: str) -> None:
    """Both precisions under the names that ``dtype`` looks for; the config says which is meant."""
    config, layout = _config(source), _layout_of(source)
    if layout is not None:
        _refuse_its_pooling(layout)
    _copy_readers(source, place)
    file = place / "tokenizer_config.json"
    if layout is not None and longest_of(layout) is not None and file.is_file():
        # Its pipelines cut texts where the tokenizer says, and nowhere else.
        atomic_write_json(file, {**read_json(file), "model_max_length": longest_of(layout)})
    precisions = _copy_graphs(source, place)
    config["transformers.js_config"] = {"dtype": "q8" if "int8" in precisions else "fp32"}
    _write_config(place, config)


def _refuse_its_pooling(layout: SentenceLayout) -> None:
    """What the pipeline of Transformers.js, which pools by itself, would give other vectors for."""
    unknown = ["pooling by the maximum"] if layout.pooling == "max_tokens" else []
    unknown += ["Dense layers"] if any(one.kind == "Dense" for one in layout.later) else []
    if unknown:
        raise ExportError(
            "feature-extraction of Transformers.js pools by itself, by the mean or the first "
            f"token, and knows no {' and no '.join(unknown)}, as this encoder has: take the layout "
            "plain, whose files give the embeddings"
        )


def _sentence_transformers(source: Path, place: Path, name: str) -> None:
    """What its ``backend="onnx"`` loads of an encoder or a CrossEncoder: no weights but graphs."""
    config = _config(source)
    if _layout_of(source) is None:
        _refuse_others(config, "sentence-transformers", ("ForSequenceClassification",))
    _copy_readers(source, place)
    _copy_modules(source, place)
    _copy_graphs(source, place)
    _write_config(place, config)


def _copy_graphs(source: Path, place: Path) -> list[str]:
    """Both precisions, by Optimum's names; of an encoder with the hidden states as their output.

    Who calls them pools by itself.
    """
    files = onnx_files(source)
    if not files:
        onnx_to_serve(source)  # says what to do
    for precision, file in files.items():
        target = place / "onnx" / {"float32": MODEL_FILE, "int8": QUANTIZED_FILE}[precision]
        if _layout_of(source) is None:
            _copy_graph(file, target)
        else:
            target.parent.mkdir(exist_ok=True)
            token_graph(file, target)
    return list(files)


def _layout_of(source: Path) -> SentenceLayout | None:
    """What a sentence encoder's folder says; ``None`` for others."""
    return layout_or_note(source)[0]


def _copy_modules(source: Path, place: Path) -> None:
    """Of a sentence encoder pooling and what follows it, of a CrossEncoder what it lists."""
    layout = _layout_of(source)
    if layout is not None:
        write_modules(layout, place)
    for name, file in cross_encoder_files(source).items():
        shutil.copyfile(file, place / name)


def _triton(source: Path, place: Path, name: str) -> None:
    """A model of a model repository: its configuration, version 1, its labels, its tokenizer."""
    config = _config(source)
    file = onnx_to_serve(source)
    _copy_graph(file, place / "1" / MODEL_FILE)
    # Folders whose name is no number are not looked at.
    (place / "tokenizer").mkdir()
    _copy_readers(source, place / "tokenizer")
    _write_config(place / "tokenizer", config)
    if _layout_of(source) is not None:
        (place / "config.pbtxt").write_text(triton_config(file, name), encoding="utf-8")
        return
    found = _labels(config, source / "config.json")
    labels = [label for _, label in sorted(found.items())]
    text = "".join(f"{' '.join(label.split())}\n" for label in labels)
    (place / "labels.txt").write_text(text, encoding="utf-8")
    (place / "config.pbtxt").write_text(triton_config(file, name), encoding="utf-8")


def triton_config(file: Path, name: str, *, instances: int = 1, threads: int = 1) -> str:
    """``config.pbtxt`` of an ONNX file: every input but the batch's own dimension, by its graph.

    Args:
        file: whose inputs and outputs are told.
        name: of the model.
        instances: that run at one time.
        threads: of each.

    Raises:
        ExportError: the graph has an input or output of a type that is not expected.
    """
    session = require("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def tensor(node: Any, more: str = "") -> str:
        kind = _TRITON_TYPES.get(node.type)
        if kind is None:
            raise ExportError(f"{file}: {node.name!r} is a {node.type}; expected int64 or float")
        dims = ", ".join(str(d if isinstance(d, int) else -1) for d in node.shape[1:])
        return f"  {{ name: {json.dumps(node.name)}  data_type: {kind}  dims: [ {dims} ]{more} }}"

    label = '  label_filename: "labels.txt"'
    inputs = ",\n".join(tensor(node) for node in session.get_inputs())
    outputs = ",\n".join(
        tensor(node, label if _has_labels(node) else "") for node in session.get_outputs()
    )
    return "\n".join(
        [
            f"name: {json.dumps(name)}",
            'backend: "onnxruntime"',
            "max_batch_size: 32",
            f"input [\n{inputs}\n]",
            f"output [\n{outputs}\n]",
            f"instance_group [ {{ kind: KIND_CPU  count: {instances} }} ]",
            "dynamic_batching { max_queue_delay_microseconds: 200 }",
            'parameters { key: "intra_op_thread_count"  value: { string_value: "'
            + f'{threads}" }} }}',
            "",
        ]
    )


def _has_labels(node: Any) -> bool:
    return len(node.shape) == 2 and node.name == "logits"


def _remote_code(source: Path, place: Path, name: str) -> None:
    """The weights of an uneven model and a file of code that builds it, to be read and trusted."""
    found = [*source.glob("*.safetensors"), *(source / n for n in WEIGHTS[1:])]
    for file in (path for path in found if path.is_file()):
        shutil.copyfile(file, place / file.name)
    shutil.copyfile(source / "config.json", place / "config.json")
    _copy_readers(source, place)
    _copy_modules(source, place)
    write_modeling_file(place)


LAYOUTS: Final[Mapping[str, Callable[[Path, Path, str], None]]] = {
    "plain": _plain,
    "tei": _tei,
    "transformersjs": _transformers_js,
    "sentence-transformers": _sentence_transformers,
    "triton": _triton,
    "remote-code": _remote_code,
}
"""By name what writes a layout: from a folder into a new one, with the name that it will have."""


def _config(source: Path) -> dict[str, Any]:
    """The config as a server gets it: nothing in it that only hfprune reads."""
    value = read_json(source / "config.json")
    if not isinstance(value, dict):
        raise CheckpointError(f"{source / 'config.json'} must hold a JSON object")
    for key in (RECORD_KEY, "attn_implementation", "_attn_implementation", "auto_map"):
        value.pop(key, None)
    return value


def _labels(config: Mapping[str, Any], file: Path) -> dict[int, str]:
    found = config.get("id2label")
    if not isinstance(found, dict):
        return {0: "LABEL_0", 1: "LABEL_1"}  # which config.json leaves out
    try:
        return {int(number): str(label) for number, label in found.items()}
    except ValueError as error:
        raise CheckpointError(
            f"{file} names labels by {list(found)!r:.120}, expected numbers (id2label): give each "
            "label that of its logit, from 0 on"
        ) from error


def _refuse_others(config: Mapping[str, Any], server: str, endings: tuple[str, ...]) -> None:
    names = [str(name) for name in config.get("architectures") or []]
    if not any(name.endswith(endings) for name in names):
        raise ExportError(
            f"{server} serves classifiers of texts ({', '.join(endings)}); this is a "
            f"{' or '.join(names) or 'model of no class'}: take the layout plain or triton"
        )


def _write_config(place: Path, config: Mapping[str, Any]) -> None:
    atomic_write_json(place / "config.json", config)


def _copy_readers(source: Path, place: Path) -> None:
    for name in READERS:
        if (source / name).is_file():
            shutil.copyfile(source / name, place / name)
    _cut_as_trained(source, place)


def _cut_as_trained(source: Path, place: Path) -> None:
    """Let the tokenizer cut texts where the run did: no server reads its recipe."""
    recipe = recipe_of(source)
    if recipe is not None and recipe.task != "sentence_embedding":
        cut_at(place, recipe.data.max_length)


def _copy_graph(file: Path, target: Path) -> None:
    """A graph, and the files of its weights, whose names stand in it."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, target)
    for data in data_files(file):
        shutil.copyfile(data, target.parent / data.name)
