"""A file of rows: where it is, what is asked of it, and how its bytes become text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, TextIO, cast

from hfprune.core.errors import DataError
from hfprune.data.readers.columns import check_columns

PACKED: Final = (".gz", ".bz2", ".xz")
"""Endings of packed files, which are unpacked as they are read."""
_CHUNK: Final = 1 << 20
# How files begin that are no UTF-8 text, and what to do; UTF-32 before UTF-16, whose mark it has.
# Windows programs write UTF-16 with its mark as "Unicode".
_BEGINNINGS: Final = (
    (codecs.BOM_UTF32_LE, "or say that it is UTF-32: data.encoding: utf-32"),
    (codecs.BOM_UTF32_BE, "or say that it is UTF-32: data.encoding: utf-32"),
    (codecs.BOM_UTF16_LE, "or say that it is UTF-16: data.encoding: utf-16"),
    (codecs.BOM_UTF16_BE, "or say that it is UTF-16: data.encoding: utf-16"),
    (b"\x1f\x8b", "It is packed: give its name the ending .gz"),
    (b"BZh", "It is packed: give its name the ending .bz2"),
    (b"\xfd7zXZ", "It is packed: give its name the ending .xz"),
    (b"PK\x03\x04", "It is a ZIP archive, as workbooks .xlsx are: save the rows as CSV"),
    (b"PAR1", "It is a Parquet file: give its name the ending .parquet"),
)


@dataclass(frozen=True)
class RowsFile:
    """What a reader is given.

    Attributes:
        path: Of the file; it exists.
        where: How errors name it, such as ``train (reviews.csv)``.
        wanted: The columns to return, each with the recipe key that names it.
        encoding: The recipe's ``data.encoding``; ``None`` is UTF-8, with or without a byte order
            mark.
        most: Read only so many rows from the beginning; ``None`` reads all. A reader that does not
            look at it reads all, which is slower and no mistake.
    """

    path: Path
    where: str
    wanted: Mapping[str, str]
    encoding: str | None = None
    most: int | None = None

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise DataError for the first wanted column that is not among the names."""
        check_columns(self.where, names, self.wanted)

    def open(self) -> BinaryIO:
        """The file's bytes, unpacked."""
        ending = self.path.suffix.lower()
        if ending == ".gz":
            return cast("BinaryIO", gzip.open(self.path, "rb"))
        if ending == ".bz2":
            return cast("BinaryIO", bz2.open(self.path, "rb"))
        if ending == ".xz":
            return cast("BinaryIO", lzma.open(self.path, "rb"))
        return self.path.open("rb")

    @contextmanager
    def binary(self) -> Iterator[BinaryIO]:
        """The file's bytes, unpacked, as a ``with`` block.

        Raises:
            DataError: The file cannot be opened or unpacked.
        """
        try:
            with self.open() as file:
                yield file
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self.where}: the packed file is damaged or cut short: {error}. Copy it anew, or "
                "unpack it by hand"
            ) from error
        except OSError as error:
            if self.path.suffix.lower() in PACKED and error.errno is None:
                raise DataError(
                    f"{self.where}: this is no packed file, in spite of its name: {error}. Name it "
                    "by what it holds"
                ) from error
            raise DataError(f"{self.where}: the file cannot be read: {error}") from error

    @contextmanager
    def text(self, newline: str = "") -> Iterator[TextIO]:
        r"""The file's text as a stream, as a ``with`` block; never the whole file in memory.

        Args:
            newline: As for ``open``: ``""`` ends lines at ``\n``, ``\r`` and both, ``"\n"`` only
                there. Nothing is translated.

        Raises:
            DataError: As :meth:`binary`, or the bytes are not of the encoding.
        """
        encoding = "utf-8-sig" if self.of_utf8 else self.encoding
        try:
            with (
                self.binary() as file,
                io.TextIOWrapper(file, encoding=encoding, newline=newline) as text,
            ):
                yield text
        except UnicodeError as error:
            raise self._undecodable(error) from error

    @property
    def of_utf8(self) -> bool:
        """Whether the text is read as UTF-8."""
        return self.encoding is None or codecs.lookup(self.encoding).name.startswith("utf-8")

    def misread(self) -> bool:
        """Whether the file is UTF-8 with more than ASCII, although another encoding is named."""
        if self.of_utf8 or self.encoding is None:
            return False
        decoder, beyond = codecs.getincrementaldecoder("utf-8")(), False
        with self.binary() as file:
            while chunk := file.read(_CHUNK):
                beyond = beyond or not chunk.isascii()
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    return False
        return beyond

    def _undecodable(self, error: UnicodeError) -> DataError:
        """Find the place: the stream knows it only within the piece that it had in hand."""
        named = self.encoding or "UTF-8"
        decoder = codecs.getincrementaldecoder("utf-8" if self.of_utf8 else named)()
        done = lines = 0
        with self.binary() as file:
            begin = file.read(8)
            file.seek(0)
            while True:
                chunk = file.read(_CHUNK)
                try:
                    decoder.decode(chunk, final=not chunk)
                except UnicodeDecodeError as found:
                    # What the decoder kept from the piece before comes first in its object.
                    place = done + len(chunk) - len(found.object) + found.start
                    line = lines + found.object.count(b"\n", 0, found.start) + 1
                    byte = found.object[found.start]
                    return DataError(
                        f"{self.where} is not {'UTF-8' if self.of_utf8 else named}: byte "
                        f"0x{byte:02x} on line {line}, at byte {place} of the file, cannot be "
                        f"read. {self._remedy(begin, byte)}"
                    )
                except UnicodeError as found:
                    error = found
                    break
                if not chunk:
                    break
                done += len(chunk)
                lines += chunk.count(b"\n")
        return DataError(f"{self.where} is not {named}: {error}. Correct data.encoding")

    def _remedy(self, begin: bytes, byte: int) -> str:
        if not self.of_utf8:
            return "Correct data.encoding, or save the file as UTF-8 and leave the option out"
        for mark, remedy in _BEGINNINGS:
            if begin.startswith(mark):
                return f"Save the file as UTF-8, {remedy}" if remedy.startswith("or") else remedy
        if b"\0" in begin[:2]:  # of a Latin letter, without a mark
            order = "be" if begin[0] == 0 else "le"
            return (
                f"Save the file as UTF-8, or say that it is UTF-16: data.encoding: utf-16-{order}"
            )
        letter = bytes([byte]).decode("cp1252", errors="replace")
        guess = f", where this byte is {letter!r}" if letter.isprintable() else ""
        return (
            "Save the file as UTF-8, or name its encoding: data.encoding: cp1252 (Windows and "
            f"Excel in the West{guess}), latin-1, or another that Python knows"
        )
