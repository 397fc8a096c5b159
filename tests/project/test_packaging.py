"""What users install: the wheel works outside the repository, the source archive builds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("hatchling")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def call(*words: str | Path, cwd: Path) -> str:
    """Standard output of a command that sees neither the repository nor its tests."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def build(source: Path, to: Path, *what: str) -> None:
    # Without isolation, which would fetch hatchling; `build` itself must not come from the sources.
    call(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", to, source, cwd=to)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def contents(wheel: Path) -> dict[str, int]:
    """Name to checksum of what a wheel installs."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "--wheel", "--sdist")
    return Built(only(folder, "*.whl"), only(folder, "*.tar.gz"))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    call(
        *(sys.executable, "-m", "pip", "--python", programs / "python"),
        *("install", *options, built.wheel),
        cwd=folder,
    )
    # Torch and the rest are borrowed. Python does not follow `.pth` files in a folder that a `.pth`
    # file names, so an editable install that is borrowed with them stays out of the way.
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(call(programs / "python", "-c", code, cwd=folder).strip())
    (purelib / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return programs


def test_the_wheel_holds_the_package_and_no_more(built: Built) -> None:
    names = {name for name in contents(built.wheel) if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "ls-files", "hfprune"], cwd=ROOT, capture_output=True, text=True
    )
    if tracked.returncode == 0 and tracked.stdout:
        assert names == set(tracked.stdout.split())
    assert {"hfprune/py.typed", "hfprune/report/templates/report.html.jinja"} <= names
    assert {name.partition("/")[0] for name in names} == {"hfprune"}


def test_the_command_runs_from_another_directory(installed: Path, tmp_path: Path) -> None:
    version = call(
        *(installed / "python", "-c"),
        "from importlib.metadata import version; print(version('hfprune'))",
        cwd=tmp_path,
    ).strip()
    assert call(installed / "hfprune", "--version", cwd=tmp_path).strip().endswith(version)
    schema = json.loads(call(installed / "hfprune", "recipe", "schema", cwd=tmp_path))
    assert schema == json.loads((ROOT / "recipes" / "recipe.schema.json").read_text())


def test_the_library_that_is_imported_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import hfprune; from hfprune import HFPruneTrainer; print(hfprune.__file__)"
    file = Path(call(installed / "python", "-c", code, cwd=tmp_path).strip().splitlines()[-1])
    assert file.resolve().is_relative_to(installed.parent.resolve())


def test_the_source_archive_builds_the_same_wheel_alone(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    source = only(tmp_path / "unpacked", "hfprune-*")
    for name in ("LICENSE", "README.md", "pyproject.toml", "constraints.txt", "tests/tiny.py"):
        assert (source / name).is_file(), name
    (tmp_path / "dist").mkdir()
    build(source, tmp_path / "dist", "--wheel")
    again = only(tmp_path / "dist", "*.whl")
    assert again.name == built.wheel.name
    assert contents(again) == contents(built.wheel)
