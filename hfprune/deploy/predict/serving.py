"""A run's output, opened to be asked: its recommended file, its tokenizer, its labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfprune.core.errors import CheckpointError, DataError
from hfprune.core.kinds import (
    IMAGE,
    TEXT_INPUTS,
    kind_of_task,
)
from hfprune.core.results import METRICS_FILE
from hfprune.core.tasks import WITHOUT_CLASSES, Task
from hfprune.data.collate import ImageCollator
from hfprune.data.images import IMAGE_COLUMN
from hfprune.data.windows import mean_by_text, windows
from hfprune.deploy.choose.record import DEPLOY_FILE, read_deployment
from hfprune.deploy.files import precisions_to_serve
from hfprune.deploy.predict.answers import answer, split_words, tagged
from hfprune.deploy.predict.cascade import CASCADE_FILE, check_alike, read_cascade
from hfprune.deploy.predict.places import (
    LONGEST,
    check_names,
    columns_of,
    folder_with,
    longest_text,
    prompt_before,
    reads_pairs,
    stride_in,
    task_of,
    where_cut,
)
from hfprune.deploy.predict.rows import Row, check_single
from hfprune.deploy.runtimes.base import Runtime, Session
from hfprune.deploy.runtimes.registry import RUNTIMES, runtime
from hfprune.measure.traffic import Use
from hfprune.models.configs import load_config
from hfprune.models.cross_encoder import refuse_changed_texts
from hfprune.models.loading import load_processor


@dataclass(frozen=True)
class ServedFile:
    """A file to answer with.

    Attributes:
        runtime: what opens it.
        path: of it.
        precision: in which it computes.
        why: it is this one, in words.
    """

    runtime: Runtime
    path: Path
    precision: str
    why: str


def served_file(folder: str | Path, use: Use = "single") -> ServedFile:
    """The file of a folder that answers: the recommended one, or what is usual.

    Args:
        folder: a run's output, what ``save_pretrained`` wrote, or a folder of ONNX files.
        use: one text at a time, or batches.

    Raises:
        CheckpointError: there is none that an installed runtime takes.
        OutputError: ``deploy.json`` is damaged.
    """
    place, left = Path(folder), list[str]()
    if (place / DEPLOY_FILE).is_file():
        chosen = read_deployment(place).uses.get(use)
        if chosen is not None:
            missing = _missing(chosen.runtime)
            if missing is None:
                return ServedFile(
                    runtime(chosen.runtime),
                    place / chosen.path,
                    chosen.precision,
                    f"{DEPLOY_FILE} recommends it",
                )
            left.append(f"{chosen.path}: {missing}")
    precisions, why = precisions_to_serve(place)
    usual = [*(("onnxruntime", precision) for precision in precisions), ("torch", "float32")]
    for name, precision in usual:
        each = runtime(name)
        file = each.files(place).get(precision)
        if file is None:
            continue
        if (missing := each.missing()) is not None:
            left.append(f"{file.name}: {missing}")
            continue
        told = f"; {'; '.join(left)}" if left else ""
        return ServedFile(each, file, precision, f"{why}{told}")
    if left:
        raise CheckpointError(f"no file of {folder} can be run here: {'; '.join(left)}")
    raise CheckpointError(
        f"{folder} holds no model: give the output_dir of a run, a folder that save_pretrained "
        "wrote, or one of ONNX files"
    )


def _missing(name: str) -> str | None:
    if name not in RUNTIMES:
        return f"there is no runtime {name!r} here"
    return runtime(name).missing()


class Predictor:
    """A folder that answers.

    >>> ask = Predictor("runs/reviews")  # doctest: +SKIP
    >>> list(ask([Row("a moving film")]))  # doctest: +SKIP
    [{'text': 'a moving film', 'label': 'positive', 'score': 0.98, 'scores': {...}}]

    Args:
        folder: as for :func:`served_file`.
        batch_size: rows that are computed together.
        threads: of one batch.
        use: ``single`` or ``batches``, which the recommended file may depend on; ``None``: by the
            batch size.

    Attributes:
        file: that answers.
        task, labels: of the model; no labels for regression, reranking and embeddings.
        reads_pairs: whether it reads two texts together: a query and a text, or what its recipe
            names a second column for.
        max_length: tokens, where a text is cut; ``None`` for images.
        session: the opened file.
        stride: of the windows in which long texts are read, as the recipe says.
        prompt: what stands before each text that is embedded, by the folder's default.

    Raises:
        CheckpointError: the folder holds no model that can be run, no tokenizer, or a family; or
            two labels have one name.
        OutputError: ``deploy.json`` is damaged.
        MissingExtraError: without the package of a runtime.
        UnsupportedModelError: a CrossEncoder that puts a prompt before its pairs.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        batch_size: int = 32,
        threads: int = 1,
        use: Use | None = None,
    ) -> None:
        place = Path(folder)
        _check_single(place)
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        self.folder, self.batch_size = place, batch_size
        self.file = served_file(place, use or ("single" if batch_size == 1 else "batches"))
        files = folder_with(place, "config.json")
        config = load_config(files)
        refuse_changed_texts(files)
        self.task: Task = task_of(place, config)
        self.reads_pairs = reads_pairs(place)
        self.labels: list[str] = []
        if self.task not in WITHOUT_CLASSES:
            self.labels = [str(config.id2label[number]) for number in sorted(config.id2label)]
            if self.task != "token_classification":
                check_names(files / "config.json", self.labels)
        self.processor: Any = load_processor(
            str(folder_with(place, *_readers(self.task))), self.task, revision=None,
            trust_remote_code=False, key="the folder",
        )  # fmt: skip
        self.prompt = prompt_before(place) if self.task == "sentence_embedding" else ""
        self.max_length, self.stride = None, None
        if self.task != "image_classification":
            self.max_length = where_cut(
                longest_text(place, config), getattr(self.processor, "model_max_length", None)
            )
            self.stride = stride_in(place)
            if getattr(self.processor, "pad_token", None) is None:
                self.processor.pad_token = self.processor.eos_token
        self.session: Session = self.file.runtime.open(self.file.path, threads, self.file.precision)

    def __call__(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """Answers as they come, in the order of the rows.

        Yields:
            What :func:`~hfprune.deploy.predict.answers.answer` (or ``tagged``) gives, with the
            row's ``text`` (and ``text_pair``), of reranking its ``query`` and ``text``, or its
            ``image``.

        Raises:
            DataError: a row that this model does not take.
        """
        numbered = _checked(rows, of_texts=self.task != "image_classification")
        while batch := list(itertools.islice(numbered, self.batch_size)):
            yield from self._answers(batch)

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Of one batch of texts or images: ``(rows, labels)``.

        Raises:
            DataError: as the call.
        """
        if self.task == "image_classification":
            pixels = ImageCollator(self.processor)(
                [{IMAGE_COLUMN: {"bytes": None, "path": _image(row)}} for row in rows]
            )["pixel_values"]
            return self.session.logits({"pixel_values": np.asarray(pixels)})
        if self.stride is not None or self.task == "sentence_embedding":
            does = "reads long texts in windows" if self.stride else "gives each text one vector"
            check_single(rows, does, f"hfprune predict {self.folder}")
        if self.stride is not None:
            columns, owners = windows(
                self.processor, [row.text for row in rows], self.max_length or LONGEST, self.stride
            )
            padded = self.processor.pad(columns, return_tensors="np")
            return mean_by_text(self.session.logits(_inputs(padded)), owners)
        self._check_pairs(rows)
        pairs = [row.pair for row in rows if row.pair is not None]
        if pairs and len(pairs) < len(rows):
            raise DataError("some rows have a second text and some have none: give all or none one")
        encoded = self.processor(
            [self.prompt + row.text for row in rows],
            pairs or None,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="np",
        )
        return self.session.logits(_inputs(encoded))

    def _answers(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        if self.task == "token_classification":
            yield from self._tagged(rows)
            return
        names = ("text", "text_pair")
        if kind_of_task(self.task) is IMAGE or self.task == "reranking":
            names = ("query", "text") if self.task == "reranking" else ("image", "")
        for row, logits in zip(rows, self.logits(rows), strict=True):
            told: dict[str, Any] = {names[0]: row.text}
            if row.pair is not None:
                told[names[1]] = row.pair
            yield told | answer(logits, self.task, self.labels)

    def _check_pairs(self, rows: Sequence[Row]) -> None:
        alone = next((row.text for row in rows if row.pair is None), None)
        if alone is None or not self.reads_pairs:
            return
        first, second = columns_of(self.folder)
        ranks = self.task == "reranking"
        what = "scores a text for a query" if ranks else "reads two texts together"
        other = "a text that may answer it" if ranks else "the second text"
        raise DataError(
            f"the model {what}, and {alone!r:.80} came alone: call hfprune predict {self.folder} "
            f'"{"a query" if ranks else "a text"}" --pair "{other}", or name a file with the '
            f"columns {first!r} and {second!r} (in Python: Row(text, pair))"
        )

    def _tagged(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        if any(row.pair is not None for row in rows):
            raise DataError("the model marks words of one text: leave the second texts out")
        words = [split_words(row.text) for row in rows]
        encoded = self.processor(
            [[word for word, _, _ in row] for row in words],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="np",
        )
        found = self.session.logits(_inputs(encoded))
        for number, row in enumerate(rows):
            ids = encoded.word_ids(number)
            yield {"text": row.text} | tagged(
                row.text, words[number], ids, found[number], self.labels
            )


class CascadePredictor:
    """A family with a ``cascade.json``: its fast member answers when it is sure, else its slow one.

    Args:
        folder: of the family; the rest as for :class:`Predictor`.

    Attributes:
        fast, slow: the two members.
        threshold: from which the fast one's answer is taken.
        file, task: of the fast one.

    Raises:
        OutputError: ``cascade.json`` is damaged, or its models do not give the same labels, one a
            row; else as :class:`Predictor`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        batch_size: int = 32,
        threads: int = 1,
        use: Use | None = None,
    ) -> None:
        found = read_cascade(folder)
        self.threshold, self.batch_size = found.threshold, batch_size
        # The threshold was chosen with the files for one text at a time: another is as sure of
        # other texts.
        use = use or "single"
        self.fast, self.slow = (
            Predictor(Path(folder) / name, batch_size=batch_size, threads=threads, use=use)
            for name in (found.fast, found.slow)
        )
        self.file, self.task = self.fast.file, self.fast.task
        check_alike(folder, [(one.task, one.labels) for one in (self.fast, self.slow)])

    def __call__(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """Answers as they come, each with ``by``: ``fast`` or ``slow``."""
        numbered = _checked(rows, of_texts=self.task != "image_classification")
        while batch := list(itertools.islice(numbered, self.batch_size)):
            answers = [told | {"by": "fast"} for told in self.fast(batch)]
            unsure = [n for n, told in enumerate(answers) if told["score"] < self.threshold]
            for number, told in zip(unsure, self.slow(batch[n] for n in unsure), strict=True):
                answers[number] = told | {"by": "slow"}
            yield from answers


def opened(folder: str | Path, **options: Any) -> Predictor | CascadePredictor:
    """A folder that answers: a model, or a family with a cascade. Arguments as for both."""
    if (Path(folder) / CASCADE_FILE).is_file():
        return CascadePredictor(folder, **options)
    return Predictor(folder, **options)


def _checked(rows: Iterable[Row], *, of_texts: bool) -> Iterator[Row]:
    """The rows as they come; of images, whose names may be any bytes, not all is checked.

    Raises:
        DataError: one that is no :class:`Row`, such as a text by itself, or of which no tokenizer
            reads a text.
    """
    if isinstance(rows, str):
        raise DataError(f"expected rows, got the text {rows!r:.80}: give [Row(text)]")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Row):
            raise DataError(
                f"expected rows, got {row!r:.80} ({type(row).__name__}): give Row(text), or "
                "Row(text, pair) to a model that reads two texts"
            )
        if of_texts:
            _check_whole(row, number)
        yield row


def _check_whole(row: Row, number: int) -> None:
    """Refuse half a character: JSON may spell one, and so do bytes that are not UTF-8."""
    try:
        for text in row:
            (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"row {number}: {error.object!a:.80} holds half a character (a lone surrogate, "
            f"U+{ord(error.object[error.start]):04X}), so it may not have been UTF-8: correct it"
        ) from error


def _inputs(encoded: Any) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(encoded[name]) for name in TEXT_INPUTS if name in encoded}


def _image(row: Row) -> str:
    if row.pair is not None:
        raise DataError("the model reads images, one a row: leave the second texts out")
    if not Path(row.text).is_file():
        raise DataError(f"the model reads images: expected the path of one, got {row.text!r:.80}")
    return row.text


def _readers(task: Task) -> tuple[str, ...]:
    if kind_of_task(task) is IMAGE:
        return ("preprocessor_config.json",)
    return ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def _check_single(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}: give the output_dir of a run")
    if (folder / "config.json").is_file() or (folder / "onnx").is_dir():
        return
    members = sorted(path.parent for path in folder.glob(f"*/{METRICS_FILE}"))
    if members:
        raise CheckpointError(
            f"{folder} holds a family of models: give {' or '.join(map(str, members))}, or make a "
            f"cascade of it (`hfprune cascade {folder}`)"
        )
