"""scripts/gpu_check.py, make_scale.py, cost_model.py and the models and rows that they make up."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from scripts import cost_model, gpu_check, make_scale, whole_run
from scripts.synthetic import write_model, write_rows


def test_made_up_rows_tell_their_label_by_one_word(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.csv", 50, words=10, labels=5, vocabulary=100)
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert len(rows) == 50
    for row in rows:
        words = row["text"].split()
        assert 5 <= len(words) <= 15
        assert [w for w in words if int(w[1:]) < 5] == [f"w{row['label'][1:]}"]


def test_a_made_up_model_reads_them(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    sizes = {"layers": 2, "width": 16, "inner": 24, "heads": 2, "vocabulary": 50, "positions": 32}
    write_model(tmp_path, **sizes)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(["w0 w1", "w2 w3 w4 w999"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[2, 5, 6, 3, 0, 0], [2, 7, 8, 9, 1, 3]]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    assert model(**batch).logits.shape == (2, 3)
    assert len(model.bert.encoder.layer) == 2


def test_a_part_that_fails_is_noted_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def part(name: str, cpu: bool, limit: float) -> dict[str, Any]:
        if name == "torch":
            return {"ok": False, "error": "exit code 1", "said": "", "took_seconds": 0.0}
        return {"ok": True, "took_seconds": 0.0}

    monkeypatch.setattr(gpu_check, "alone", part)
    out = tmp_path / "gpu.json"
    assert gpu_check.main(["--cpu", "--out", str(out)]) == 1
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [name for name, one in found["parts"].items() if one["ok"]] == [
        "tests", "reconstruction", "onnx", "recipe",
    ]  # fmt: skip
    assert found["smoke"] is True
    assert "torch: exit code 1" in capsys.readouterr().out


def test_the_parts_take_ten_minutes_at_most() -> None:
    assert set(gpu_check.LIMITS) == set(gpu_check.PARTS)
    assert sum(gpu_check.LIMITS.values()) <= 600


def test_a_part_that_takes_too_long_is_ended() -> None:
    found = gpu_check.alone("torch", True, 0.05)
    assert not found["ok"]
    assert found["error"].startswith("not done after")


def test_what_it_has_started_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else pytest, or a run, would go on beside the next part."""
    part, known = tmp_path / "part.py", tmp_path / "pid"
    part.write_text(
        "import subprocess, sys, pathlib, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "one = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        f"pathlib.Path({str(known)!r}).write_text(str(one.pid))\n"
        "print('it has begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(part))
    found = gpu_check.alone("recipe", True, 5.0)
    assert found["error"] == "not done after 5 s"
    assert found["said"] == "it has begun\n"
    started = int(known.read_text())
    for _ in range(100):
        if not psutil.pid_exists(started) or psutil.Process(started).status() == "zombie":
            return
        time.sleep(0.05)
    psutil.Process(started).kill()
    pytest.fail("what the part has started runs on")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    assert "--cpu tries the script without one" in capsys.readouterr().err


def test_slopes() -> None:
    assert make_scale.slope([(1, 3.0), (10, 300.0)]) == pytest.approx(2.0)
    assert make_scale.slope([(1, 5.0), (7, 5.0), (9, 5.0)]) == pytest.approx(0.0)


def test_the_page_is_made_of_measurements_and_the_model() -> None:
    known = {
        json.dumps(["data", {"rows": rows, "words": 62}]): {
            "seconds": rows / 1000, "peak_bytes": 1e9, "added": 1e8,
        }
        for rows in (1_000, 10_000)
    }  # fmt: skip
    text = make_scale.page(known)
    assert "| 10,000 | 62 | 6 | 2 | 10.0 | 1.00 |" in text
    assert "Slope over rows: 1.00" in text
    rows = text[text.index("### Rows") : text.index("### Layers")]
    slopes = next(line for line in rows.splitlines() if line.startswith("| slope"))
    values = [float(cell) for cell in slopes.split("|")[2:-3]]
    assert max(values) <= 1.001, "no stage is superlinear in rows"
    assert "not run here" in text


def test_what_takes_too_long_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **options: Any) -> Any:
        if "teacher" in command[-1]:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, 0, '{"seconds": 1.0}\n', "")

    monkeypatch.setattr(make_scale.subprocess, "run", run)
    assert make_scale.main(["--measure", str(tmp_path / "scale.json")]) == 0
    known = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))
    assert {json.loads(key)[0] for key in known} == {"data", "answers", "reconstruct"}
    assert "not done after 900 s" in capsys.readouterr().err


def test_the_page_predicts_what_the_model_says() -> None:
    """What was measured is of some machine; the rest follows from the code, and was left behind."""
    page = make_scale.PAGE.read_text(encoding="utf-8")
    lines = [make_scale.PREDICTED, *make_scale.predicted_tables(), make_scale.TAIL]
    assert page.endswith("\n".join(lines)), (
        "docs/scale.md: run scripts/make_scale.py --from with what was measured"
    )


SIZES = {
    "rows": 300, "words": 6, "layers": 2, "width": 32, "inner": 64, "heads": 2, "speedup": 4.0,
}  # fmt: skip


def test_a_whole_run_stands_beside_them() -> None:
    found = {
        "sizes": SIZES,
        "threads": 1,
        "seconds": {"teacher": 120.0, "trial searched": 60.0, "trial layers 0": 30.0},
        "peak_bytes": {"data": 5e8, "teacher": 2.5e9, "trial": 2.0e9},
    }
    lines = make_scale.whole_run(found)
    assert "It took 4 minutes, and held 2.5 GB at most (teacher)." in lines[2]
    assert lines[6:9] == [
        "| data | - | 0.50 |", "| teacher | 2.0 | 2.50 |", "| trial | 1.5 | 2.00 |",
    ]  # fmt: skip
    assert "Not run here." in make_scale.whole_run(None)


def test_a_whole_run_that_goes_on_is_of_the_sizes_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "w"

    class Run(subprocess.Popen[str]):
        """What is started in place of a run: it leaves a work folder, then what a run leaves."""

        def __init__(self, command: list[str], **options: Any) -> None:
            code = "raise SystemExit(3)"
            if (place / "out.work").is_dir():
                (place / "out").mkdir()
                (place / "out" / "metrics.json").write_text('{"seconds": {"teacher": 1.0}}')
                code = ""
            (place / "out.work").mkdir(exist_ok=True)
            super().__init__([sys.executable, "-c", code], **options)

    monkeypatch.setattr(whole_run.subprocess, "Popen", Run)
    with pytest.raises(SystemExit):
        whole_run.main([str(place), *(f"--{name}={value}" for name, value in SIZES.items())])
    assert whole_run.main([str(place)]) == 0
    assert json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))["sizes"] == SIZES


@pytest.mark.slow
def test_a_whole_run_tells_its_stages(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "w"), *(f"--{name}={value}" for name, value in SIZES.items())]
    assert whole_run.main(arguments) == 0
    found = json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))
    assert found["sizes"] == SIZES
    assert {"data", "teacher", "reconstruct", "recover", "benchmark"} <= found["peak_bytes"].keys()
    assert all(1e8 < peak < 4e9 for peak in found["peak_bytes"].values())
    assert found["seconds"]["teacher"] > 0


def test_a_prediction_beside_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hfprune.early.cost import Cost

    cost = Cost((60.0, 190.0), 1.2e9, 1e8, (("data", 10.0, 1e9), ("teacher", 90.0, 1.2e9)))
    monkeypatch.setattr(cost_model, "cost_of", lambda recipe, rates: cost)
    monkeypatch.setattr(cost_model, "load_recipe", lambda file, overrides: None)
    for teacher, code in ((120.0, 0), (160.0, 1)):
        run = tmp_path / "metrics.json"
        run.write_text(json.dumps({"seconds": {"data": 10.0, "teacher": teacher}}))
        assert cost_model.main(["r.yaml", "--usual", "--against", str(run)]) == code
    said = capsys.readouterr().out
    assert "| teacher | 90 | 1.2 | 160 |" in said
    assert "predicted 100 s, measured 170 s: 1.70 times as long" in said


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not say what is shared"
)
def test_what_a_fork_shares_is_counted_once() -> None:
    script = (
        "import os, time; held = b'x' * 300_000_000; pid = os.fork(); "
        "print('there', flush=True) if pid else None; time.sleep(30)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "there\n"
            looked = psutil.Process(parent.pid)
            assert len(looked.children()) == 1
            assert 300e6 < whole_run.held(looked) < 450e6
        finally:
            for child in psutil.Process(parent.pid).children():
                child.kill()
            parent.kill()
