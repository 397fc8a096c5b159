"""What a release needs: one version everywhere, and files that say what they should."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

import hfprune
from hfprune.cli import app

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_one_version_everywhere() -> None:
    assert re.search(r"^## (\S+?),? ", text("CHANGELOG.md"), flags=re.MULTILINE)[1] == (  # type: ignore[index]
        hfprune.__version__
    )
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == hfprune.__version__
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "authors", "message"} <= set(citation)
    assert citation["license"] == "Apache-2.0"


def test_the_workflow_checks_what_it_publishes_and_holds_no_secret() -> None:
    source = text(".github/workflows/release.yml")
    flow = yaml.safe_load(source)
    assert list(flow["jobs"]) == ["build", "publish"]
    assert flow["jobs"]["publish"]["needs"] == "build"
    assert flow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    ran = " ".join(step.get("run", "") for step in flow["jobs"]["build"]["steps"])
    for command in ("python -m build", "twine check --strict", "hfprune --version", "hfprune env"):
        assert command in ran
    assert "secrets." not in source


def test_forms_for_issues_are_whole() -> None:
    assert len(FORMS) == 4
    for form in FORMS:
        values = yaml.safe_load(form.read_text(encoding="utf-8"))
        if form.stem == "config":
            continue
        assert {"name", "description", "body"} <= set(values)
        ids = [entry["id"] for entry in values["body"]]
        assert len(set(ids)) == len(ids)
    assert "`hfprune env`" in text(".github/ISSUE_TEMPLATE/bug.yml")


def test_env_says_what_matters_and_nothing_of_the_user() -> None:
    found = json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout)
    assert found["libraries"]["hfprune"] == hfprune.__version__
    assert {"python", "cpu", "instruction_set", "cpu_flags", "memory_gib"} <= set(found)
    said = CliRunner().invoke(app, ["env"]).stdout
    assert f"hfprune {hfprune.__version__}" in said
    for private in (str(Path.home()), str(ROOT), Path.home().name + "@"):
        assert private not in said
