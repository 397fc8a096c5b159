"""Where the rows are, and how they are read, split and cut."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Annotated, TypeAlias

from pydantic import Field

from hfprune.recipe.places import Clash
from hfprune.recipe.sections.base import MOST_TOKENS, Name, Positive, Section, twice
from hfprune.recipe.wording import describe_value

Files: TypeAlias = Name | Annotated[list[Name], Field(min_length=1)]


class DataConfig(Section):
    """Where the labelled texts are: a data set by `name`, or local files from `train_file`."""

    name: Name | None = Field(
        default=None,
        description="Data set on the Hub (or a local folder that `datasets` loads).",
        examples=["nyu-mll/glue"],
    )
    config_name: Name | None = Field(
        default=None, description="Configuration of the data set, for example sst2 of GLUE."
    )
    revision: Name | None = Field(
        default=None, description="Branch, tag or commit of the data set; null: main."
    )
    train_file: Files | None = Field(
        default=None,
        description="Local file of training rows (relative to the working directory), instead of "
        "`name`: .csv, .tsv (no quoting: a line is a row), .json, .jsonl, .ndjson, .parquet or "
        ".conll, each also packed as .gz, .bz2 or .xz, or a folder that `Dataset.save_to_disk` "
        "wrote. A list of files, or a pattern such as `rows/*.csv`, is read in order.",
        examples=["train.csv", ["first.jsonl.gz", "second.jsonl.gz"]],
    )
    validation_file: Files | None = Field(
        default=None,
        description="Local file (or files) of validation rows; null: taken from the training.",
    )
    test_file: Files | None = Field(
        default=None,
        description="Local file (or files) of test rows; null: taken from the training rows.",
    )
    unlabeled_file: Files | None = Field(
        default=None,
        description="Local file (or files) of further texts of the task, without labels, in "
        "`text_column` (and `text_pair_column`): the teacher labels them, and the pruned model "
        "learns from them. Texts that stand in validation or test are left out, of "
        "reranking all of their queries.",
        examples=["unlabeled.jsonl"],
    )
    format: Name | None = Field(
        default=None,
        description="What the files hold, in spite of their endings: csv, tsv, json, parquet, "
        "conll or what a plug-in reads; null: by the ending.",
        examples=["tsv"],
    )
    encoding: Name | None = Field(
        default=None,
        description="Encoding of files of text, as Python names it; null: UTF-8, with or without "
        "a byte order mark.",
        examples=["cp1252"],
    )
    train_split: Name = Field(default="train", description="Split of `name` to train on.")
    validation_split: Name | None = Field(
        default=None,
        description="Split of `name` that chooses the best checkpoint; null: taken from the "
        "training rows.",
    )
    test_split: Name | None = Field(
        default=None,
        description="Split of `name` that is only reported on; null: taken from the training rows.",
    )
    text_column: Name = Field(
        default="text",
        description="Column of the text; for token_classification of the list of words, for "
        "reranking of the query (there where not given: query).",
    )
    image_column: Name = Field(
        default="image",
        description="Column of the image (image_classification): an image, or the path of one, "
        "relative to the file that names it.",
    )
    text_pair_column: Name | None = Field(
        default=None,
        description="Column of a second text (premise and hypothesis); null: none. For reranking "
        "of the text that may answer the query, or of a list of such (where not given: text, with "
        "negative_column positive).",
    )
    negative_column: Name | Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None,
        description="Reranking: column, or columns, of texts (or lists of texts) that do not "
        "answer the query; text_pair_column then holds those that do, and label_column is not "
        "read. null: label_column says how relevant each text is.",
        examples=["negative", ["negative_1", "negative_2"]],
    )
    prompt: Name | None = Field(
        default=None,
        description="Sentence embedding: which of the model's prompts stands before each text, by "
        "its name; null: the one that the model's folder means without a word, if any.",
        examples=["query"],
    )
    highest_relevance: float | None = Field(
        default=None,
        gt=0,
        description="Reranking: the label of a text that is wholly relevant, which labels are "
        "divided by. null: 1 where no training label is above that, else the highest grade (a "
        "whole number) in train. A text counts as relevant from half of it on.",
        examples=[3.0],
    )
    label_column: Name | Annotated[list[Name], Field(min_length=1)] = Field(
        default="label",
        description="Column of the label. Multi-label: a column of lists of labels or of lists of "
        "0/1, one for each label, or a list of columns of 0/1. Token classification: a column of "
        "lists of tags, one for each word. Reranking: how relevant the text is to the query, from "
        "0, or a list of that.",
    )
    label_names: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None,
        description="Names of the labels in the order of their ids, which count from 0; null: read "
        "from the data.",
    )
    validation_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Fraction of the training rows held out for validation, where no file or "
        "split is named.",
    )
    test_fraction: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Fraction of the training rows held out for the test, where no file or split "
        "is named.",
    )
    split_seed: int = Field(
        default=42, ge=0, lt=2**32, description="Seed of the held-out rows and of the limits below."
    )
    max_length: int = Field(
        default=128,
        ge=2,
        le=MOST_TOKENS,
        description="Longest input in tokens; what is longer is cut.",
    )
    stride: int | None = Field(
        default=None,
        ge=0,
        le=MOST_TOKENS,
        description="A longer text is not cut but becomes windows of max_length tokens, each "
        "sharing so many with the one before. Each window is trained on with the text's label; the "
        "prediction for a text is the mean of its windows' logits. null: long texts are cut.",
        examples=[32],
    )
    max_train_samples: Positive | None = Field(
        default=None, description="Use at most this many training rows; null: all."
    )
    max_validation_samples: Positive | None = Field(
        default=None, description="Use at most this many validation rows; null: all."
    )
    max_test_samples: Positive | None = Field(
        default=None, description="Use at most this many test rows; null: all."
    )

    def _clashes(self) -> Iterator[Clash]:
        if self.name is None and self.train_file is None:
            yield Clash("no data: give either name or train_file", ("name", "train_file"))
        if self.name is not None and self.train_file is not None:
            yield Clash(
                f"two sources of data, name {describe_value(self.name)} and train_file "
                f"{describe_value(self.train_file)}: keep one",
                ("name", "train_file"),
            )
        elif self.train_file is not None:
            for key in ("config_name", "revision", "validation_split", "test_split"):
                if getattr(self, key) is not None:
                    yield Clash(
                        f"{key} belongs to a data set by name, but the data comes from "
                        "train_file: remove it",
                        (key, "train_file"),
                    )
            if self.train_split != "train":
                yield Clash(
                    "train_split belongs to a data set by name, but the data comes from "
                    "train_file: remove it",
                    ("train_split", "train_file"),
                )
        elif self.name is not None:
            for key in ("validation_file", "test_file"):
                if getattr(self, key) is not None:
                    yield Clash(
                        f"{key} needs train_file, but the data comes from name: use "
                        f"{key.replace('_file', '_split')}",
                        (key, "name"),
                    )
            for key in ("format", "encoding"):
                if getattr(self, key) is not None and self.unlabeled_file is None:
                    yield Clash(
                        f"{key} is for files of rows, but the data comes from name: remove it",
                        (key, "name"),
                    )
        yield from self._encoding_clashes()

        for kind in ("split", "file"):
            keys = [f"{part}_{kind}" for part in ("train", "validation", "test")]
            if kind == "file":
                keys.append("unlabeled_file")
            yield from self._same(keys, "the rows reported on must not be those learned from")
        if self.stride is not None and self.stride >= self.max_length - 1:
            yield Clash(
                f"stride {self.stride} must be less than max_length {self.max_length} less the "
                "special tokens, or no window gets any further",
                ("stride", "max_length"),
            )
        if self.stride is not None and self.text_pair_column is not None:
            yield Clash(
                "stride is for single texts: which text of a pair would be cut in windows? Remove "
                "it",
                ("stride", "text_pair_column"),
            )
        columns = ["text_column", "text_pair_column"]
        if isinstance(self.label_column, str):
            columns.append("label_column")
        else:
            for key in columns:
                if getattr(self, key) in self.label_column:
                    yield Clash(
                        f"{key} {describe_value(getattr(self, key))} is also listed in "
                        "label_column",
                        (key, "label_column"),
                    )
            yield from twice("label_column", self.label_column)
        if self.negative_column is not None:
            columns.append("negative_column")
        yield from self._same(columns, "name the column of each")
        yield from twice("negative_column", _listed(self.negative_column))
        for key in ("train_file", "validation_file", "test_file", "unlabeled_file"):
            yield from twice(key, _listed(getattr(self, key)))

        if self.label_names is not None:
            yield from twice("label_names", self.label_names)
            if isinstance(self.label_column, list) and len(self.label_column) != len(
                self.label_names
            ):
                yield Clash(
                    f"{len(self.label_names)} names for {len(self.label_column)} label columns: "
                    "give one name for each column, or none",
                    ("label_names", "label_column"),
                )
        held_out = [
            part
            for part in ("validation", "test")
            if getattr(self, f"{part}_file") is None and getattr(self, f"{part}_split") is None
        ]
        if len(held_out) == 2 and self.validation_fraction + self.test_fraction >= 1:
            yield Clash(
                f"validation_fraction {self.validation_fraction} and test_fraction "
                f"{self.test_fraction} leave nothing to train on: their sum must be less than 1",
                ("validation_fraction", "test_fraction"),
            )

    def _encoding_clashes(self) -> Iterator[Clash]:
        if self.encoding is None:
            return
        try:
            # Codecs such as rot13 or zip are no encodings of text; only trying tells.
            "".encode(self.encoding)
            codecs.getincrementaldecoder(self.encoding)
        except (LookupError, ValueError) as error:
            yield Clash(
                f"encoding {self.encoding!r} is none that Python knows for text ({error}): "
                "expected utf-8, utf-16, cp1252, latin-1, gb18030, shift_jis or the like",
                ("encoding",),
            )

    def _same(self, keys: Sequence[str], why: str) -> Iterator[Clash]:
        for index, key in enumerate(keys):
            for other in keys[:index]:
                theirs = _listed(getattr(self, other))
                for value in _listed(getattr(self, key)):
                    if value in theirs:
                        yield Clash(f"{other} and {key} are both {value!r}: {why}", (key, other))


def _listed(value: str | Sequence[str] | None) -> list[str]:
    """No, one or several names."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
