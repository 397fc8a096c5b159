"""What hfprune does on one GPU, in at most ten minutes, as one JSON.

    python scripts/gpu_check.py --out gpu.json
    python scripts/gpu_check.py --cpu --out smoke.json      # the same code, tiny, on the CPU

Every part is a process of its own with a time limit: one that fails, hangs or runs out of memory
is noted with the end of what it said, and the others go on. Needs no network: models have random
weights and rows are made up.

tests           pytest -m gpu
reconstruction  the plan and the weights of pruning without training, on the GPU and on the CPU
torch           throughput and peak memory of dense and pruned: eager, compiled, float32, bfloat16
onnx            the same models in ONNX Runtime with CUDA and TensorRT, where they are installed
recipe          a recipe of BERT-base size in bfloat16, end to end
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for place in (ROOT, ROOT / "scripts"):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

# Seconds of each part; ten minutes in all.
LIMITS = {"tests": 110, "reconstruction": 100, "torch": 100, "onnx": 60, "recipe": 220}
BASE = {"layers": 12, "width": 768, "inner": 3072, "heads": 12}
TINY = {"layers": 2, "width": 32, "inner": 64, "heads": 4, "vocabulary": 300, "positions": 128}


def environment(cpu: bool) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu" if cpu else torch.cuda.get_device_name(),
    }
    if not cpu:
        found["capability"] = list(torch.cuda.get_device_capability())
        found["cuda"] = torch.version.cuda
        found["memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    for package in ("transformers", "accelerate", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tests(folder: Path, cpu: bool) -> dict[str, Any]:
    """The tests that are marked so. Without a GPU they skip themselves."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "0", "tests/pruning"]
        if cpu
        else [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "0", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
    # 5: no test was selected, which is as wrong as one that failed.
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-3000:])
    return {"summary": last[0].strip("= ") if last else ""}


def models(folder: Path, cpu: bool, cuda: bool) -> tuple[Any, Any, Any]:
    """A dense classifier, the same pruned to a quarter of its blocks, and its tokenizer."""
    import torch
    from synthetic import write_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from hfprune.families import model_sizes
    from hfprune.pruning.surgery import resize_

    place = folder / "model"
    if not place.is_dir():
        write_model(place, **(TINY if cpu else BASE))
    torch.manual_seed(0)
    dense = AutoModelForSequenceClassification.from_pretrained(
        place, num_labels=2, trust_remote_code=False
    ).eval()
    sizes = [(max(1, h // 4), n // 4) for h, n in model_sizes(dense)]
    pruned = resize_(copy.deepcopy(dense), sizes).eval()
    device = "cuda" if cuda and not cpu else "cpu"
    return (
        dense.to(device),
        pruned.to(device),
        AutoTokenizer.from_pretrained(place, trust_remote_code=False),
    )


def reconstruction(folder: Path, cpu: bool) -> dict[str, Any]:
    """Plans of both devices must agree in nearly all units: float32 is summed in another order."""
    import torch

    from hfprune.families import block_views
    from hfprune.pruning.cost import parameter_costs
    from hfprune.pruning.reconstruction.reconstruct import Reconstruction

    dense, _, tokenizer = models(folder, cpu, cuda=False)
    rows, length = (32, 16) if cpu else (128, 64)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tokenizer), (rows, length), generator=generator)
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(32)
    ]
    costs = parameter_costs(dense)
    budget = 0.4 * sum(costs[key] * view.units for key, view in block_views(dense).items())
    found: dict[str, Any] = {}
    plans, outputs = [], []
    for device in ("cpu", "cpu" if cpu else "cuda"):
        model = copy.deepcopy(dense).to(device)
        start = time.perf_counter()
        known = Reconstruction(model, copy.deepcopy(model), batches)
        plan = known.search(budget, lambda key, count: costs[key] * count, rounds=10)
        known.prune_(model, plan)
        found.setdefault("seconds", []).append(round(time.perf_counter() - start, 2))
        plans.append(plan)
        with torch.no_grad():
            batch = {name: value.to(device) for name, value in batches[0].items()}
            outputs.append(model(**batch).logits.float().cpu())
        if device == "cuda":
            found["peak_bytes"] = torch.cuda.max_memory_allocated()
    masks = [[bit for key in plan.keys() for bit in plan.mask(key)] for plan in plans]
    same = sum(a == b for a, b in zip(*masks, strict=True)) / len(masks[0])
    found |= {
        "same_plan": plans[0] == plans[1],
        "same_units": round(same, 5),
        "largest_difference_of_logits": float((outputs[0] - outputs[1]).abs().max()),
    }
    if same < 0.99:
        raise RuntimeError(f"the plans differ in {1 - same:.2%} of the units: {found}")
    return found


def throughput(folder: Path, cpu: bool) -> dict[str, Any]:
    """Rows a second, and bytes at the peak, of dense and pruned."""
    import torch

    dense, pruned, tokenizer = models(folder, cpu, cuda=True)
    device = next(dense.parameters()).device
    shapes = [(2, 16)] if cpu else [(1, 128), (32, 128), (128, 512)]
    found: list[dict[str, Any]] = []
    for name, model in (("dense", dense), ("pruned", pruned)):
        for dtype in (torch.float32, torch.bfloat16):
            for compiled in (False, True):
                if compiled and cpu:
                    continue  # needs a compiler, and says nothing of a GPU
                run = copy.deepcopy(model).to(dtype)
                call: Callable[..., Any] = torch.compile(run) if compiled else run
                for rows, length in shapes:
                    ids = torch.randint(5, len(tokenizer), (rows, length), device=device)
                    mask = torch.ones_like(ids)
                    found.append(
                        {
                            "model": name,
                            "dtype": str(dtype).removeprefix("torch."),
                            "compiled": compiled,
                            "batch_size": rows,
                            "sequence_length": length,
                            **timed(
                                lambda call=call, ids=ids, mask=mask: call(
                                    input_ids=ids, attention_mask=mask
                                ),
                                rows,
                                device.type,
                            ),
                        }
                    )
                del run, call
    return {"rows": found}


def timed(call: Callable[[], Any], rows: int, device: str, seconds: float = 1.0) -> dict[str, Any]:
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        for _ in range(3):
            call()
        wait()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            call()
            wait()
            times.append(time.perf_counter() - start)
    middle = sorted(times)[len(times) // 2]
    found = {"median_ms": round(1e3 * middle, 4), "rows_a_second": round(rows / middle, 1)}
    if device == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found


def onnx(folder: Path, cpu: bool) -> dict[str, Any]:
    """Float graphs on each provider of a GPU that is installed; ``providers`` says which."""
    import numpy as np
    import onnxruntime as ort

    from hfprune.deploy.exporters.exporting import export_onnx

    dense, pruned, tokenizer = models(folder, cpu, cuda=False)
    wanted = ("CPUExecutionProvider",) if cpu else (
        "CUDAExecutionProvider", "TensorrtExecutionProvider",
    )  # fmt: skip
    providers = [name for name in wanted if name in ort.get_available_providers()]
    found: list[dict[str, Any]] = []
    for name, model in (("dense", dense), ("pruned", pruned)) if providers else ():
        file = export_onnx(model, tokenizer, folder / f"onnx-{name}")
        for provider in providers:
            session = ort.InferenceSession(str(file), providers=[provider])
            if provider not in session.get_providers():
                found.append({"model": name, "provider": provider, "refused": True})
                continue
            inputs = [node.name for node in session.get_inputs()]
            for rows, length in [(2, 16)] if cpu else [(1, 128), (32, 128)]:
                ids = np.random.default_rng(0).integers(5, len(tokenizer), (rows, length))
                batch = {key: np.ones_like(ids) for key in inputs} | {"input_ids": ids}
                batch = {key: batch[key] for key in inputs}
                found.append(
                    {
                        "model": name,
                        "provider": provider,
                        "batch_size": rows,
                        "sequence_length": length,
                        **timed(lambda s=session, b=batch: s.run(None, b), rows, "cpu"),
                    }
                )
    return {"providers": providers, "rows": found}


def recipe(folder: Path, cpu: bool) -> dict[str, Any]:
    """Teacher, reconstruction, recovery, export, benchmark; stage times from metrics.json."""
    from synthetic import write_model, write_rows

    size = TINY if cpu else BASE
    model = folder / "recipe-model"
    write_model(model, **size)
    rows = write_rows(
        folder / "rows.csv",
        200 if cpu else 4000,
        words=8 if cpu else 48,
        vocabulary=250 if cpu else 30_000,
    )
    values = {
        "model": {"name_or_path": str(model)},
        "data": {"train_file": str(rows), "max_length": 24 if cpu else 96},
        "training": {"bf16": "auto", "num_train_epochs": 1},
        "pruning": {"sparsity": 0.7, "method": "reconstruction", "scoring_samples": 64,
                    "search_rounds": 10, "trial_epochs": 0},
        "recovery": {"num_train_epochs": 1},
        "distillation": {"hidden_weight": 0},
        "export": {"quantization": None},
        "benchmark": {"repeats": 3, "batch_sizes": [1], "sequence_lengths": [16]},
        "output_dir": str(folder / "out"),
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(values), encoding="utf-8")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prune.py"), "--recipe", str(file)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    metrics = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))
    return {
        "seconds": metrics["seconds"],
        "wall_seconds": round(time.perf_counter() - start, 1),
    }


PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {
    "tests": tests,
    "reconstruction": reconstruction,
    "torch": throughput,
    "onnx": onnx,
    "recipe": recipe,
}


def run_until(command: list[str], limit: float) -> tuple[str, str]:
    """How a command ended, empty if well, and what it said; with all that it started."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            said = process.communicate(timeout=limit)[0]
            ended = f"exit code {process.returncode}" if process.returncode else ""
        except BaseException as error:
            # What it started (pytest, a run) would hold the GPU while the next part is timed.
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):  # an interruption of this script
                raise
            said, ended = process.communicate()[0], f"not done after {limit:.0f} s"
    return ended, said.decode(errors="replace")


def alone(name: str, cpu: bool, limit: float) -> dict[str, Any]:
    """One part in a process of its own; never raises."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out = Path(folder) / "part.json"
        command = [sys.executable, __file__, "--part", name, "--out", str(out)]
        ended, said = run_until([*command, *(["--cpu"] if cpu else [])], limit)
        found: dict[str, Any] = {"ok": not ended and out.is_file()}
        if found["ok"]:
            found |= json.loads(out.read_text(encoding="utf-8"))
        else:
            found |= {"error": ended, "said": said[-3000:]}
    return found | {"took_seconds": round(time.perf_counter() - start, 1)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--cpu", action="store_true", help="tiny, and without a GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    import torch

    if not given.cpu and not torch.cuda.is_available():
        print("no GPU that PyTorch can use; --cpu tries the script without one", file=sys.stderr)
        return 2
    if given.part is not None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            found = PARTS[given.part](Path(folder), given.cpu)
        given.out.write_text(json.dumps(found), encoding="utf-8")
        return 0
    start = time.perf_counter()
    report: dict[str, Any] = {"format_version": 1, "smoke": given.cpu}
    report["environment"] = environment(given.cpu)
    report["parts"] = {}
    for name in given.only:
        report["parts"][name] = alone(name, given.cpu, LIMITS[name])
        part = report["parts"][name]
        print(f"{name}: {'ok' if part['ok'] else part['error']}, {part['took_seconds']} s")
        report["took_seconds"] = round(time.perf_counter() - start, 1)
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(not all(part["ok"] for part in report["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
