"""The HTML report: the numbers of metrics.json, escaped, with nothing to load."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hfprune.cli import app
from hfprune.core.errors import OutputError
from hfprune.measure.comparison import changes, class_scores
from hfprune.recipe.reading import dump_recipe
from hfprune.recipe.sections.whole import Recipe
from hfprune.report.charts import Point, front_of, log_ticks, ticks
from hfprune.report.compare import compare, write_comparison
from hfprune.report.html import TEMPLATES, render, write_report
from hfprune.report.page import Page as ReportPage

NASTY = "<script>alert('x')</script> & <img src=\"http://evil.example/a.png\">"
KINDS = ("PyTorch", "ONNX", "int8")
SHAPES = ((1, 32), (8, 128))
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What stands where: tags, ids, marked numbers, text; complains of tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.values: dict[str, float] = {}
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data" and found.get("data-at"):
            self.values[str(found["data-at"])] = float(str(found["value"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def sections(self) -> set[str]:
        return {str(found["id"]) for tag, found in self.tags if tag == "section"}


def results_of(members: tuple[str, ...] = ("pruned",), **changed: Any) -> dict[str, Any]:
    """Made-up measurements, each number another one."""
    names = [f"{label} {kind}" for label in ("dense", *members) for kind in KINDS]
    kept = {
        label: {
            "sparsity": 0.8 + i / 100,
            "heads": [4 - i, 0],
            "of_heads": [12, 12],
            "neurons": [395 + i, 1],
            "of_neurons": [1536, 1536],
        }
        for i, label in enumerate(members)
    }
    return {
        "format_version": 1,
        "task": "single_label_classification",
        "labels": ["bad", NASTY],
        "data": {
            "samples": {"train": 4000, "validation": 845, "test": 2114},
            "truncated": {"train": 0, "validation": 0, "test": 3},
            "seen_in_train": {"validation": 0, "test": 7},
            "max_length": 64,
        },
        "seed": 13,
        **({"pruning": kept["pruned"]} if members == ("pruned",) else {"family": kept}),
        "evaluation": {
            "primary": "accuracy",
            "confidence": 0.95,
            "samples": 2114,
            "models": {
                name: {
                    "metrics": {"accuracy": 0.85 - i / 100, "f1_macro": 0.84 - i / 100},
                    "interval": [0.83 - i / 100, 0.86 - i / 100],
                    "difference": [-i / 100, -i / 100 - 0.01, -i / 100 + 0.02],
                }
                for i, name in enumerate(names)
            },
        },
        "benchmark": {
            "threads": 2,
            "repeats": 30,
            "baseline": "dense ONNX",
            "rows": [
                {
                    "name": name,
                    "batch_size": batch,
                    "sequence_length": length,
                    "median_ms": 50.123 - i + length,
                    "speedup": 1.017 + i + length / 100,
                }
                for batch, length in SHAPES
                for i, name in enumerate(names)
            ],
            "full_table": None,
            "file_bytes": {name: (90 - 5 * i) * 10**6 + i for i, name in enumerate(names)},
        },
        "environment": {"cpu": "Some <CPU>", "libraries": {"torch": "2.13.0", "peft": None}},
        **changed,
    }


def folder_of(folder: Path, results: dict[str, Any], details: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    recipe = Recipe(
        model={"name_or_path": "/secret/place/model"},
        data={"train_file": "/secret/place/train.csv"},
        pruning={"sparsity": 0.85},
        output_dir="/secret/place/a-run",
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / "metrics.json").write_text(json.dumps(results))
    if details is not None:
        (folder / "details.json").write_text(json.dumps(details))
    return folder


def rich_run(folder: Path) -> Path:
    """All sections, and markup wherever a user's words can stand."""
    import numpy as np

    logits = np.asarray([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    other, labels = logits[:, ::-1].copy(), np.asarray([0, 0, 1])
    results = results_of()
    about = (labels, "single_label_classification", 2, results["labels"])
    models = results["evaluation"]["models"]
    summary, rows = changes(logits, other, *about)
    for name, entry in models.items():
        entry["by_class"] = class_scores(other if "pruned" in name else logits, *about)
    models["pruned int8"]["changes"] = summary
    results["pruning"]["candidates"] = {
        "searched": {"sizes": [[4, 395], [0, 1]], "chosen": True, "divergence": 0.1}
    }
    candidate = {
        "settings": {}, "ms": {"1x32": 1.5}, "speedup": 1.0, "metric": 0.8, "drop": 0.0,
        "agreement": 0.99, "file_bytes": 10**7, "refused": None,
    }  # fmt: skip
    refused = {**candidate, "settings": {"graph": "lean"}, "speedup": None, "refused": NASTY}
    results["quantization"] = {
        "pruned": {
            "metric": "accuracy", "chosen": {}, "within": True, "float_metric": 0.81,
            "not_tried": 2, "seconds": 11.0, "candidates": [candidate, refused],
        }
    }  # fmt: skip
    results["pruning"] |= {"layout": "uniform", "stock": True, "temperature": 1.25}
    for i, entry in enumerate(models.values()):
        entry["probabilities"] = {"ece": 0.0625 - i / 128, "brier": 0.25 + i / 64}
    models["dense PyTorch"]["probabilities"] |= {
        "temperature": 1.5, "scaled_ece": 0.0125, "scaled_brier": 0.2375,
    }  # fmt: skip
    chosen = {
        "path": "onnx/model_quantized.onnx", "candidate": "c", "runtime": "onnxruntime",
        "precision": "int8", "graph": "lean", "ms": 0.61, "speedup": [10.9, 10.5, 11.2],
        "over_best": [4.3, 4.1, 4.5], "parts": {"pruning": 4.1}, "why": NASTY,
        "load": ["import onnxruntime", "one", "two"],
    }  # fmt: skip
    results["deployment"] = {
        "pruned": {
            "cpu": "vnni", "measured": True, "threads": 1, "batch_size": 32,
            "baseline": "dense float32 ONNX", "best": {"single": "dense int8"},
            "uses": {"single": chosen, "batches": chosen}, "notes": [NASTY],
        }
    }  # fmt: skip
    results["search"] = {
        "dense": 0.9, "limit": 0.01, "chosen": "3x",
        "steps": [{"speedup": 3.0, "metric": 0.9, "drop": 0.0}, {"speedup": 3.9, "stopped": NASTY}],
    }  # fmt: skip
    log = [
        {"epoch": 0.5, "step": 5, "pruning/sparsity": 0.4, "loss": 0.9},
        {"epoch": 1.0, "step": 10, "eval_loss": 0.6, "eval_accuracy": 0.7},
    ]
    details = {
        "format_version": 1,
        "training": [
            {"model": "dense", "stage": "teacher", "log": log[1:]},
            {"model": "pruned", "stage": "prune", "log": log},
            {"model": "pruned", "stage": "recover", "log": log[1:]},
        ],
        "changed": {"pruned int8": [{**row, "text": NASTY, "text_pair": NASTY} for row in rows]},
    }
    return folder_of(folder, results, details)


def test_numbers_are_those_of_the_results(tmp_path: Path) -> None:
    results = results_of()
    html = render(folder_of(tmp_path / "run", results))
    page = Page(html)
    models, sizes = results["evaluation"]["models"], results["benchmark"]["file_bytes"]
    wanted = {
        f"{name}/{metric}": value
        for name, entry in models.items()
        for metric, value in entry["metrics"].items()
    }
    wanted |= {f"{name}/size": value for name, value in sizes.items()}
    wanted |= {
        f"{row['name']}/{row['batch_size']}x{row['sequence_length']}": row["median_ms"]
        for row in results["benchmark"]["rows"]
    }
    wanted |= {
        "pruned int8/headline": models["pruned int8"]["metrics"]["accuracy"],
        "pruned int8/speedup": 1.017 + 5 + 0.32,
        "pruned int8/bytes": sizes["pruned int8"],
        "pruned int8/sparsity": 0.8,
    }
    assert page.values == pytest.approx(wanted)
    assert "0.8500 →0.8000" in re.sub(r"\s+(?=\d|→)", "", page.text).replace("→", " →")
    assert "80.0 %" in page.text
    assert "<h1>a-run</h1>" in html


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    always = {"verdict", "use", "headline", "models", "pareto", "layers", "origin"}
    assert Page(render(folder_of(tmp_path / "old", results_of()))).sections == always
    assert Page(render(rich_run(tmp_path / "rich"))).sections == always | {
        "training", "classes", "changed-1", "choices", "quantization", "deployment",
        "probabilities",
    }  # fmt: skip


def test_a_family(tmp_path: Path) -> None:
    html = render(folder_of(tmp_path / "run", results_of(("4x", "12x"))))
    page = Page(html)
    assert page.values["4x int8/sparsity"] == 0.8
    assert page.values["12x int8/sparsity"] == 0.81
    assert "4x: 4 of 24 heads, 396 of 3072 neurons" in page.text
    assert html.count('class="fill c2"') >= 2 * 3, "the second model has a colour of its own"


def test_words_of_users_are_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    html = render(rich_run(tmp_path / "run"))
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object")]
    # One script, ours, without a word of the run in it; the policy runs no other.
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert script == (TEMPLATES / "script.js").read_text(encoding="utf-8")
    assert [found for tag, found in page.tags if tag == "script"] == [{}]
    assert page.text.count(NASTY) >= 7, "twice a text, the label, the verdict, the search"
    for tag, found in page.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert found.get(name) in (None, "data:,"), (tag, found)
        assert not any(name.startswith("on") for name in found)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(found["content"] for tag, found in page.tags if "http-equiv" in found)
    assert str(policy).startswith("default-src 'none'")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert str(policy).endswith(f"script-src 'sha256-{digest}'")
    assert "/secret/place" not in html
    assert "a local model" in page.text
    assert "Some <CPU>" in page.text


def test_changed_rows_of_the_other_tasks(tmp_path: Path) -> None:
    """Several labels, a number, words, an image without text."""
    said = {"label": ["a"], "before": [], "after": ["a", "b"]}
    number = {"label": 1.5, "before": 1.25, "after": 1.75}
    word = {"word": 1, "label": "B-X", "before": "O", "after": "B-X"}
    results = results_of()
    entry = results["evaluation"]["models"]["pruned int8"]
    entry["changes"] = {"rows": 9, "changed": 4, "fixed": 1, "broken": 2}
    rows = [
        {"row": 1, "text": "one", **said},
        {"row": 2, "text": "two", **number},
        {"row": 3, "text": ["in", "Par<i>s"], "words": [word, {**word, "word": 7}]},
        {"row": 4, **said, "after": "b"},
    ]
    details = {"format_version": 1, "training": [], "changed": {"pruned int8": rows}}
    text = " ".join(Page(render(folder_of(tmp_path / "run", results, details))).text.split())
    assert "one still wrong none → a, b; labelled a" in text
    assert "two 1.25 → 1.75; labelled 1.5" in text
    assert "in Par<i>s Par<i>s: O → B-X; labelled B-X word 7: O → B-X" in text
    assert "test row 4" in text
    entry["changes"] = {"rows": 9, "mean_change": 0.125}
    text = Page(render(folder_of(tmp_path / "run", results, details))).text
    assert "On average a prediction moved by 0.125" in text


def test_files_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    folder = rich_run(tmp_path / "run")
    found = CliRunner().invoke(app, ["report", str(folder), "--json"])
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["report"] == str(folder / "report.html")
    names = [Path(file).name for file in told["figures"]]
    assert names == [
        "accuracy_latency.png", "layers.png", "training_dense.png", "training_pruned.png",
        "confusion_pruned.png",
    ]  # fmt: skip
    for file in told["figures"]:
        assert Path(file).read_bytes().startswith(b"\x89PNG\r\n")
    assert (folder / "report.html").read_text(encoding="utf-8") == render(folder)

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    files, note = write_report(folder, tmp_path / "else" / "page.html")
    assert files == [tmp_path / "else" / "page.html"]
    assert note is not None
    assert 'figures need matplotlib: pip install "hfprune[bench]"' in note


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (None, "holds no metrics.json: give the output_dir of a finished run"),
        ({"format_version": 9}, "format_version must be 1, got 9"),
        ([], "format_version must be 1, got None"),
        ({**results_of(), "benchmark": {}}, "lacks something that a report needs .*KeyError"),
        ({**results_of(), "data": {}}, "lacks something that a report needs .*KeyError"),
    ],
)
def test_what_is_no_run_is_refused(results: Any, message: str, tmp_path: Path) -> None:
    if results is not None:
        folder_of(tmp_path, results)
    with pytest.raises(OutputError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    failed = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")


def test_ticks_and_the_front() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.83, 0.85) == pytest.approx([0.83, 0.835, 0.84, 0.845, 0.85])
    assert ticks(3.0, 3.0) == [3.0]
    assert log_ticks(0.9, 25.0) == [1, 2, 5, 10, 20]
    assert log_ticks(0.1, 1000.0) == [0.1, 1, 10, 100, 1000]
    points = [
        Point(name, x, y, y, y, 0, "circle")
        for name, x, y in (("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.9), ("d", 3, 0.8))
    ]
    assert [p.name for p in front_of(points, lower_is_better=False)] == ["a", "c"]
    assert [p.name for p in front_of(points, lower_is_better=True)] == ["a", "b"]


def test_the_verdict_stands_on_top_with_what_to_copy(tmp_path: Path) -> None:
    html = render(rich_run(tmp_path / "run"))
    text = " ".join(Page(html).text.split())
    assert html.index('id="verdict"') < html.index('id="use"') < html.index('id="headline"')
    assert "Asked to remove 85% of the encoder's weights, but only 80.0% are gone" in text
    assert "Base model: model (local); data: train.csv (local)" in text
    assert 'hfprune predict . "a text of yours"' in text
    assert 'ORTModelForSequenceClassification.from_pretrained(".", subfolder="onnx"' in text
    assert 'classify(["a text"]' in text
    results = results_of()
    results["data"]["pairs"] = True
    text = " ".join(Page(render(folder_of(tmp_path / "pairs", results))).text.split())
    assert 'hfprune predict . "a text of yours" --pair "its second text"' in text
    assert '[{"text": "a text", "text_pair": "its second text"}]' in text


def test_what_scrolls_is_reachable_and_headers_have_a_scope(tmp_path: Path) -> None:
    pages = (rich_run(tmp_path / "run"), cascaded(tmp_path / "family"))
    for page in (*(Page(render(each)) for each in pages), Page(comparison(tmp_path)[0])):
        scrolls = [found for tag, found in page.tags
                   if found.get("class") == "scroll" or tag == "pre"]  # fmt: skip
        assert scrolls
        names = [found["aria-label"] for found in scrolls]
        assert len(set(names)) == len(names), "each has a name of its own"
        for found in scrolls:
            assert (found["role"], found["tabindex"]) == ("region", "0")
        heads = [found for tag, found in page.tags if tag == "th"]
        assert {found.get("scope") for found in heads} <= {"col", "row", "colgroup"}


def test_charts_stand_in_two_columns_without_an_orphan(tmp_path: Path) -> None:
    html = render(rich_run(tmp_path / "run"))
    widths = re.findall(r'<figure( class="whole")?><b>([^<]+)</b>.*?viewBox="0 0 (\d+) ', html)
    alone = [width for whole, _, width in widths if whole]
    assert set(alone) == {"738"}
    assert {width for whole, _, width in widths if not whole} == {"360"}
    assert len(alone) == 1, "of two charts none, of the three of pruning the last"
    assert "y axis from 0.7" in html, "accuracies do not begin at zero, which is said"


def cascaded(folder: Path) -> Path:
    place = folder_of(folder, results_of(("2x", "8x")))
    for label in ("2x", "8x"):
        (place / label).mkdir()
    row = {"metric": 0.8, "interval": [0.78, 0.82], "mean_ms": 2.0, "p95_ms": 2.5, "slow_share": 1}
    record = {
        "format_version": 1, "fast": "8x", "slow": "2x", "threshold": 0.875, "metric": "accuracy",
        "wanted": 0.81, "reached": 0.8125, "rows": 2114,
        "measured": {
            "slow": row,
            "fast": {**row, "metric": 0.75, "mean_ms": 0.4, "slow_share": 0},
            "cascade": {**row, "metric": 0.7969, "mean_ms": 0.8, "slow_share": 0.2},
        },
    }  # fmt: skip
    (place / "cascade.json").write_text(json.dumps(record))
    return place


def test_probabilities_layout_and_cascade_are_shown_where_they_were_measured(
    tmp_path: Path,
) -> None:
    page = Page(render(rich_run(tmp_path / "run")))
    text = " ".join(page.text.split())
    assert (
        "Probabilities are off by 2.3 points on average: expected calibration error 0.0234 (dense "
        "0.0625, with a temperature of its own 0.0125), Brier score 0.3281 (dense 0.2500, with a "
        "temperature of its own 0.2375); less is better. The logits are divided by a "
        "temperature of 1.250, fitted on the validation rows; the files have it."
    ) in text
    assert (
        "All layers that stay have one size (pruning.layout: uniform); from_pretrained of "
        "transformers loads the model without hfprune."
    ) in text
    data = {found["data-at"]: found["value"] for tag, found in page.tags if "data-at" in found}
    assert data["dense ONNX/ece"] == str(0.0625 - 1 / 128)
    assert data["dense PyTorch, divided/brier"] == "0.2375"
    assert "cascade" not in page.sections
    place = cascaded(tmp_path / "family")
    both = Page(render(place))
    assert "probabilities" not in both.sections, "of a run that did not measure them"
    told = " ".join(both.text.split())
    assert "8x answers where its probability is 0.875 or more, 2x else." in told
    assert "cascade0.79690.780 to 0.8200.82.52.50x20.0 %" in told
    (place / "cascade.json").write_text("{}")
    with pytest.raises(OutputError, match=r"cascade\.json is no record of a cascade"):
        render(place)


# -- several runs --------------------------------------------------------------------------------


def comparison(folder: Path, **changed: Any) -> tuple[str, list[Path]]:
    runs = [
        folder_of(folder / "first", results_of()),
        folder_of(folder / "second", results_of(("4x", "12x"), **changed)),
    ]
    file = write_comparison(runs, folder / "page.html")
    return file.read_text(encoding="utf-8"), runs


def test_several_runs_stand_on_one_page(tmp_path: Path) -> None:
    html, runs = comparison(tmp_path, environment={"cpu": NASTY}, seed=14)
    page = Page(html)
    assert page.sections == {"notes", "runs", "pareto", "asked"}
    entries, notes = compare([ReportPage.read(run) for run in runs])
    # Both were written by a recipe of one name.
    assert [entry.name for entry in entries] == [
        "a-run", "a-run dense", "a-run (2) 4x", "a-run (2) 12x", "a-run (2) dense",
    ]  # fmt: skip
    assert entries[0].quality == 0.85 - 5 / 100
    assert [time.speedup for time in entries[0].times if time] == pytest.approx([6.337, 7.297])
    assert len(notes) == 2
    assert notes[0].startswith("CPUs differ (a-run: Some <CPU>; a-run (2): <script>")
    assert (
        notes[1] == "Seeds differ (a-run: 13; a-run (2): 14): a part of the difference is chance."
    )
    assert html.count("<script>") == 1, "and none of a name of a CPU"


def test_runs_that_are_judged_otherwise_are_not_compared(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "first", results_of())
    values = results_of()
    values["evaluation"]["primary"] = "f1_macro"
    other = folder_of(tmp_path / "other", values)
    found = CliRunner().invoke(app, ["report", str(first), str(other)])
    assert found.exit_code == 1
    assert "judged by different metrics (accuracy, f1_macro)" in found.stderr
    again = CliRunner().invoke(
        app, ["report", str(first), str(first), "--output", str(tmp_path / "c.html"), "--json"]
    )
    assert json.loads(again.stdout) == {"report": str(tmp_path / "c.html"), "figures": []}


@pytest.mark.slow
def test_chromium_shows_it_without_a_complaint(tmp_path: Path) -> None:
    """Rendered, nothing in the console, no wider than a phone."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium here")
    (page,) = write_report(rich_run(tmp_path / "run"))[0][:1]
    # A frame as wide as a phone: chromium's own window does not get that narrow.
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<iframe src="{page.as_uri()}" style="width:390px;height:800px"></iframe><p>?</p><script>'
        'onload = () => { const d = document.querySelector("iframe").contentDocument;'
        'document.querySelector("p").textContent = `width ${d.documentElement.scrollWidth} '
        'charts ${d.querySelectorAll("figure svg path").length > 20}`; };</script>'
    )
    done = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
            "--allow-file-access-from-files", "--enable-logging=stderr", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    found = re.search(r"width (\d+) charts (\w+)", done.stdout)
    assert found is not None, done.stdout[-500:]
    assert int(found[1]) <= 390
    assert found[2] == "true"
