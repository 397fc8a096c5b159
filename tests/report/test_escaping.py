"""Labels, names and paths that hold markup or control characters: shown, never obeyed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from rich.console import Console as RichConsole
from tiny import save_tiny_classifier
from typer.testing import CliRunner

from hfprune.cli import app
from hfprune.core.results import RunResults
from hfprune.deploy.evaluation import EvaluationReport, FormQuality, table
from hfprune.publish.card import model_card
from hfprune.report.console import Console
from hfprune.report.html import write_report
from hfprune.report.tables import summary_table
from tests.publish.test_hub import results_of as card_results
from tests.publish.test_hub import written
from tests.report.test_html_report import results_of as report_results

LABELS = [
    *("[/INST]", "[bold]x[/bold]", "\x1b[31mred\x1b[0m", "\x07bell", "\u202eodd", "\x9b2J"),
    *("$x_y$", "<script>alert(1)</script>", "a|b", "&lt;", "`code`", "![i](http://x)", ":smile:"),
]
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_tiny_classifier("bert", tmp_path / "model", labels=len(LABELS))
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["id2label"] = {str(i): label for i, label in enumerate(LABELS)}
    config["label2id"] = {label: i for i, label in enumerate(LABELS)}
    path.write_text(json.dumps(config))
    return tmp_path / "model"


def test_inspect_shows_labels_as_they_are(model: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(model)], terminal_width=400)
    assert result.exit_code == 0, result.output
    assert not RAW.search(result.stdout)
    flat = re.sub(r"[\s\u2502]+", "", result.stdout)
    for shown in ("[/INST]", "[bold]x[/bold]", r"\x1b[31mred", r"\x07bell"):
        assert shown in flat


def test_json_holds_no_control_characters(model: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(model), "--json"])
    assert not RAW.search(result.stdout.replace("\n", ""))
    assert json.loads(result.stdout)["labels"] == LABELS


def test_errors_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    place = tmp_path / "no\x1b]0;title\x07 \udcff [/red]"
    for command in (["inspect"], ["evaluate"], ["export"], ["benchmark"], ["report"]):
        result = CliRunner().invoke(app, [*command, str(place)])
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("error: ")
        assert r"\x1b]0;title\x07" in result.stderr.replace("\n", "")
        assert "[/red]" in result.stderr
        assert not RAW.search(result.stderr)


def test_the_consoles_tables_take_names_as_they_are() -> None:
    label = "[/red]\x1b[2J"
    written = json.dumps(f"{label} int8")[1:-1]
    text = json.dumps(report_results()).replace("pruned int8", written)
    results = RunResults.model_validate(json.loads(text))
    console = RichConsole(record=True, width=200)
    console.print(summary_table(results))
    quality = FormQuality(metrics={"[/m]": 1.0}, intervals={"[/m]": (0.0, 1.0)}, agreement=1.0)
    evaluated = EvaluationReport(
        format_version=1, task="single_label_classification", labels=LABELS, primary="[/m]",
        samples=1, rows=["[/x]\x07.csv"], confidence=0.95, truncated=0, max_length=1,
        models={"[/red]": quality},
    )  # fmt: skip
    console.print(table(evaluated))
    said = console.export_text()
    for shown in (r"[/red]\x1b[2J", "[/m]", r"[/x]\x07.csv"):
        assert shown in said
    assert not RAW.search(said)


def test_notes_and_warnings_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.note("[/red] \x1b[2J")
    console.warn("[/red] \x07")
    with console.stage("[/red] \x9b2J"):
        pass
    said = capsys.readouterr().err
    assert said.count("[/red]") == 4
    assert not RAW.search(said)


def test_the_report_shows_labels_as_they_are(tmp_path: Path) -> None:
    results = report_results()
    results["labels"] = LABELS
    classes = [
        {"label": label, "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}
        for label in LABELS
    ]
    confusion = [[1] * len(LABELS)] * len(LABELS)
    for entry in results["evaluation"]["models"].values():
        entry["by_class"] = {"classes": classes, "confusion": confusion}
    (tmp_path / "metrics.json").write_text(json.dumps(results))
    files, _ = write_report(tmp_path)
    text = files[0].read_text(encoding="utf-8")
    assert not RAW.search(text)
    assert "<script>alert" not in text
    assert "[/INST]" in text
    assert r"\x1b[31mred" in text


def test_the_card_shows_labels_as_they_are(tmp_path: Path) -> None:
    folder = written(tmp_path, card_results(labels=LABELS))
    text = model_card(folder)
    assert not RAW.search(text)
    line = next(line for line in text.splitlines() if "one of these labels" in line)
    for shown in (r"\[/INST\]", r"\\x1b\[31mred", r"\\x07bell", r"\<script\>", r"a\|b", "&amp;lt;",
                  r"\`code\`", r"!\[i\](http://x)", r"\$x_y\$"):  # fmt: skip
        assert shown in line, shown


def test_the_cards_metadata_and_code_take_no_foreign_text(tmp_path: Path) -> None:
    sources = {"model": 'x\n---\nlicense: "evil', "tokenizer": None, "teacher": None,
               "dataset": "org/data"}  # fmt: skip
    card = model_card(written(tmp_path, card_results(sources=sources)), 'user/x"\nimport os #')
    _, head, body = card.split("---\n", 2)
    assert "base_model" not in yaml.safe_load(head)
    assert "license" not in yaml.safe_load(head)
    assert 'name = "user/x\\"\\nimport os #"' in body
    assert "\nimport os" not in body
    assert ModelCard(card).data.to_dict()["library_name"] == "transformers"
