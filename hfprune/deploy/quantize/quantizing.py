"""An int8 file beside the float one: Optimum's quantizer, or ONNX Runtime's where that refuses."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfprune.core.errors import ExportError
from hfprune.core.machine import detect_instruction_set
from hfprune.deploy.files import (
    MODEL_FILE,
    QUANTIZED_FILE,
    UNTOUCHED,
    brief,
    has_module,
    require,
)
from hfprune.deploy.graph.embeddings import store_embeddings
from hfprune.deploy.graph.rewriting import rewrite
from hfprune.deploy.parity import check_quantized, check_rewritten
from hfprune.deploy.quantize.calibrating import Ranges, measure_ranges
from hfprune.deploy.quantize.checks import calibration_samples, check_nodes, check_operators, reader
from hfprune.deploy.quantize.constant import OPERATORS, find_products, quantize_constant
from hfprune.deploy.staging import data_files, quietly, save_graph, staged

if TYPE_CHECKING:
    import datasets

    from hfprune.recipe.sections.export import QuantizationConfig

logger = logging.getLogger(__name__)

# Of an ONNX file's metadata.
CUT_KEY = "hfprune.values_beyond_scales"


def quantize_onnx(
    onnx_dir: str | Path,
    config: QuantizationConfig,
    *,
    calibration: datasets.Dataset | None = None,
    file_name: str = QUANTIZED_FILE,
    ranges: dict[str, Ranges] | None = None,
) -> Path:
    """Write an 8-bit version of ``model.onnx`` beside it.

    Done by Optimum's ``ORTQuantizer``, or by ONNX Runtime's own functions with the same settings
    where Optimum is not installed or lacks a setting: another ``graph`` or form of
    ``embeddings``, ``matmul_const_b_only``, the QOperator format.

    Dynamic quantization measures activations while running, one scale for a whole batch. With
    ``activations: constant`` ranges are fixed beforehand (:mod:`hfprune.deploy.quantize.constant`),
    and the file tells how much of the calibration's values they cut (:func:`cut_values`). Static
    quantization is ONNX Runtime's way to do so. The new file is run once on random batches before
    it is kept; how well it predicts must be measured on real data.

    Args:
        onnx_dir: what :func:`export_onnx` wrote.
        config: the recipe's settings. ``reduce_range=None`` means 7-bit weights for CPUs without
            VNNI (``avx2``, ``avx512``), where products of 8-bit numbers can overflow their 16-bit
            sums, and 8-bit weights elsewhere; ``operators_to_quantize=None`` means all that ONNX
            Runtime quantizes in this mode.
        calibration: tokenised, unpadded samples, or ``pixel_values``; used where
            ``config.needs_calibration``, at most ``config.calibration_samples``, drawn with a fixed
            seed.
        file_name: of the new file. Optimum writes ``ort_config.json`` with its settings too.
        ranges: what was seen of activations, by the ``graph`` of the settings; filled here and
            taken from here, for many calls with the same source and calibration rows.

    Returns:
        The path of the new file.

    Raises:
        MissingExtraError: without the packages of the ``onnx`` extra.
        ExportError: for settings that do not fit the graph, missing calibration data, or a result
            that does not run. Earlier files are then untouched.
    """
    require("onnx", "onnxruntime")
    quantize = _quantize_with_onnxruntime
    if has_module("optimum.onnxruntime"):
        quantize = _quantize_with_optimum
    import onnx

    directory = Path(onnx_dir)
    source = directory / MODEL_FILE
    for needed in (source, directory / "config.json"):
        if not needed.is_file():
            raise ExportError(f"there is no {needed.name} in {directory}; call export_onnx first")
    if Path(file_name).name != file_name or not file_name.endswith(".onnx"):
        raise ExportError(f"file_name must be a bare name that ends in .onnx, got {file_name!r}")
    if file_name == MODEL_FILE:
        raise ExportError(f"file_name must not be {MODEL_FILE!r}, which is what gets quantized")

    samples = None
    if config.needs_calibration:
        inputs = [
            node.name for node in onnx.load(str(source), load_external_data=False).graph.input
        ]
        samples = calibration_samples(
            calibration,
            inputs,
            config.calibration_samples,
            constant=config.activations == "constant",
        )

    with staged(directory) as staging:
        work = Path(tempfile.mkdtemp(dir=staging))
        prepared, untouchable = _prepared(source, config, work)
        if prepared != source or config.matmul_const_b_only or config.static_format != "qdq":
            quantize = _quantize_with_onnxruntime
        graph = onnx.load(str(prepared), load_external_data=False).graph
        check_nodes(config.nodes_to_exclude, [node.name for node in graph.node])
        present = {node.op_type for node in graph.node}
        way = "static" if config.is_static else "dynamic"
        if config.activations == "constant":
            way = "constant"
        check_operators(config.operators_to_quantize, present, way)
        settings = _settings(config, graph.node, untouchable)
        with quietly():
            try:
                if way == "constant":
                    seen = {} if ranges is None else ranges.setdefault(config.graph, {})
                    written = _quantize_constant(prepared, config, settings, samples, work, seen)
                else:
                    written = quantize(prepared, settings, samples, work)
            except Exception as error:  # ONNX Runtime raises whatever it met
                raise ExportError(
                    f"{way} quantization of {source} failed: {brief(error)}. {UNTOUCHED}"
                ) from error
        quantized = onnx.load(str(written))
        if not any("Quantize" in n.op_type or "Integer" in n.op_type for n in quantized.graph.node):
            raise ExportError(
                f"nothing was quantized: operators_to_quantize={config.operators_to_quantize} and "
                f"{len(config.nodes_to_exclude)} nodes_to_exclude leave no node. {UNTOUCHED}"
            )
        save_graph(quantized, staging / file_name)
        if (work / "ort_config.json").is_file():
            os.replace(work / "ort_config.json", staging / "ort_config.json")
        shutil.rmtree(work)
        check_quantized(staging / file_name, source)
    return directory / file_name


def prepare_graph(source: str | Path, config: QuantizationConfig, work: str | Path) -> Path:
    """The float graph that :func:`quantize_onnx` starts from, with these settings.

    For those who want its names of nodes, or to run it. Written to ``work`` where the settings
    rewrite the graph; else ``source`` itself. Errors as :func:`quantize_onnx`.
    """
    return _prepared(Path(source), config, Path(work))[0]


def _prepared(source: Path, config: QuantizationConfig, work: Path) -> tuple[Path, list[str]]:
    """The graph to quantize, and the nodes of it that are to be left alone."""
    import onnx

    form = config.embeddings
    if form == "usual" and config.activations == "constant":
        form = "int8"  # ours: the usual quantizer, which stores them otherwise, is not asked
    if config.graph == "exported" and form == "usual":
        return source, []
    place = work / "prepared.onnx"
    with quietly():
        try:
            if config.graph == "exported":
                model = onnx.load(str(source))
            else:
                model = rewrite(source, config.graph)
        except Exception as error:  # ONNX Runtime's optimizer raises whatever it met
            raise ExportError(
                f"graph: {config.graph} cannot be made of {source}: {brief(error)}. {UNTOUCHED}"
            ) from error
    if config.graph != "exported":
        save_graph(model, place)
        check_rewritten(place, source, config.graph)
    untouchable = []
    if form != "usual":
        try:
            untouchable = store_embeddings(model, form)
        except ExportError:
            if config.embeddings != "usual":
                raise
            # Of images, say: there are none to store.
        save_graph(model, place)
    return place, untouchable


@dataclass(frozen=True)
class _Settings:
    """A :class:`QuantizationConfig` made concrete for one graph and instruction set."""

    instruction_set: str
    is_static: bool
    per_channel: bool
    reduce_range: bool
    operators: tuple[str, ...] | None
    excluded: tuple[str, ...]
    weights_only: bool = False
    format: str = "qdq"


def _settings(
    config: QuantizationConfig, nodes: Sequence[Any], untouchable: Sequence[str] = ()
) -> _Settings:
    wanted = config.instruction_set
    name = detect_instruction_set() if wanted == "auto" else wanted
    excluded = list(config.nodes_to_exclude)
    if not config.needs_calibration:
        # Dynamic quantization turns Gemm into MatMul first and looks for the new names.
        gemms = {node.name for node in nodes if node.op_type == "Gemm"}
        excluded += [f"{node}_MatMul" for node in config.nodes_to_exclude if node in gemms]
    reduce = config.reduce_range
    operators = config.operators_to_quantize
    dynamic = not config.needs_calibration
    if operators is None and dynamic and any(n.op_type == "Conv" for n in nodes):
        from onnxruntime.quantization.registry import IntegerOpsRegistry

        # ONNX Runtime writes ConvInteger with signed weights, which it cannot run on CPUs.
        operators = [name for name in IntegerOpsRegistry if name != "Conv"]
    return _Settings(
        instruction_set=name,
        is_static=config.is_static,
        per_channel=config.per_channel,
        reduce_range=name in {"avx2", "avx512"} if reduce is None else reduce,
        operators=None if operators is None else tuple(operators),
        excluded=(*excluded, *untouchable),
        weights_only=config.matmul_const_b_only,
        format=config.static_format,
    )


def cut_values(path: str | Path) -> dict[str, float]:
    """How much of what calibration saw the constant scales of a file cut off.

    Returns:
        The fraction of each activation's values beyond its range, by name; empty for a file whose
        scales are not constant.
    """
    onnx = require("onnx")
    model = onnx.load(str(path), load_external_data=False)
    texts = [entry.value for entry in model.metadata_props if entry.key == CUT_KEY]
    found: dict[str, float] = json.loads(texts[0]) if texts else {}
    return found


def _quantize_constant(
    source: Path,
    config: QuantizationConfig,
    settings: _Settings,
    samples: Any,
    work: Path,
    ranges: Ranges,
) -> Path:
    import onnx

    model = onnx.load(str(source))
    products = find_products(model.graph, settings.operators or OPERATORS, settings.excluded)
    names = dict.fromkeys(product.activation for product in products)
    missing = [name for name in names if name not in ranges]
    if missing:
        ranges.update(measure_ranges(model, missing, samples))
    cut = quantize_constant(
        model,
        products,
        ranges,
        rule=config.activation_range,
        per_channel=settings.per_channel,
        bits=7 if settings.reduce_range else 8,
    )
    entry = model.metadata_props.add()
    entry.key = CUT_KEY
    entry.value = json.dumps({name: round(share, 8) for name, share in cut.items()})
    if cut:
        name = max(cut, key=lambda name: cut[name])
        logger.info("constant scales cut at most %.4f%% of values, of %s", 100 * cut[name], name)
    written = work / "constant.onnx"
    save_graph(model, written)
    return written


def _quantize_with_optimum(
    source: Path, settings: _Settings, samples: Any | None, work: Path
) -> Path:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

    config = getattr(AutoQuantizationConfig, settings.instruction_set)(
        is_static=settings.is_static,
        per_channel=settings.per_channel,
        nodes_to_exclude=list(settings.excluded),
        operators_to_quantize=None if settings.operators is None else list(settings.operators),
    )
    # Set here because Optimum takes it for two of the four instruction sets only.
    config.reduce_range = settings.reduce_range
    quantizer = ORTQuantizer.from_pretrained(source.parent, file_name=source.name)
    external = len(data_files(source)) > 0
    ranges = None
    if samples is not None:
        ranges = quantizer.fit(
            samples,
            AutoCalibrationConfig.minmax(samples),
            onnx_augmented_model_name=str(work / "augmented_model.onnx"),
            operators_to_quantize=config.operators_to_quantize,
            batch_size=1,  # samples are unpadded and so of different lengths
            use_external_data_format=external,
        )
    quantizer.quantize(
        config,
        work,
        file_suffix="quantized",
        calibration_tensors_range=ranges,
        use_external_data_format=external,
    )
    return work / f"{source.stem}_quantized.onnx"


def _quantize_with_onnxruntime(
    source: Path, settings: _Settings, samples: Any | None, work: Path
) -> Path:
    import onnx
    from onnxruntime.quantization import (
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.registry import (
        IntegerOpsRegistry,
        QDQRegistry,
        QLinearOpsRegistry,
    )

    written = work / f"{source.stem}_quantized.onnx"
    # Optimum's choices, here and below: weights are unsigned on AVX2 alone, symmetric everywhere.
    weights = QuantType.QUInt8 if settings.instruction_set == "avx2" else QuantType.QInt8
    usual = IntegerOpsRegistry
    if settings.is_static:
        usual = QDQRegistry if settings.format == "qdq" else QLinearOpsRegistry
    common: dict[str, Any] = {
        "op_types_to_quantize": list(settings.operators or usual),
        "per_channel": settings.per_channel,
        "reduce_range": settings.reduce_range,
        "weight_type": weights,
        "nodes_to_exclude": list(settings.excluded),
        "use_external_data_format": len(data_files(source)) > 0,
        "extra_options": {
            "WeightSymmetric": True,
            "ActivationSymmetric": False,
            "MatMulConstBOnly": settings.weights_only,
            # Where shape inference does not know an operator (fused ones), or quantization stops.
            "DefaultTensorType": onnx.TensorProto.FLOAT,
        },
    }
    # A loaded graph and not its path, beside which ONNX Runtime would write a file of its own.
    graph = onnx.load(str(source))
    if samples is None:
        quantize_dynamic(graph, written, **common)
    else:
        quantize_static(
            graph,
            written,
            reader(samples),
            activation_type=QuantType.QUInt8,
            quant_format=QuantFormat.QDQ if settings.format == "qdq" else QuantFormat.QOperator,
            **common,
        )
    return written
