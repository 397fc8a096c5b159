"""``metrics.json`` as the first runs wrote it, with made-up numbers: all readers must take it."""

from __future__ import annotations

from typing import Any

FORMS = ("PyTorch", "ONNX", "int8")
SHAPES = ((1, 32), (8, 128))


def first_format() -> dict[str, Any]:
    """No sources, classes, changes, searches, units of lengths; each number another one."""
    names = [f"{label} {form}" for label in ("dense", "pruned") for form in FORMS]
    return {
        "format_version": 1,
        "task": "single_label_classification",
        "labels": ["negative", "positive"],
        "data": {
            "samples": {"train": 400, "validation": 80, "test": 120},
            "truncated": {"train": 0, "validation": 0, "test": 3},
            "seen_in_train": {"validation": 0, "test": 7},
            "max_length": 64,
        },
        "seed": 13,
        "processes": 1,
        "pruning": {
            "sparsity": 0.85,
            "heads": [4, 0],
            "neurons": [395, 1],
            "of_heads": [12, 12],
            "of_neurons": [1536, 1536],
        },
        "evaluation": {
            "primary": "accuracy",
            "confidence": 0.95,
            "samples": 120,
            "models": {
                name: {
                    "metrics": {"accuracy": 0.875 - i / 16, "f1_macro": 0.75 - i / 16},
                    "interval": [0.8125 - i / 16, 0.9375 - i / 16],
                    "difference": [-i / 16, -i / 16 - 0.25, -i / 16 + 0.25],
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
                    "median_ms": 50.0 - i + length,
                    "p95_ms": 55.0 - i + length,
                    "throughput": 10.0 + i,
                    "speedup": 1.0 + i,
                    "speedup_interval": [0.5 + i, 1.5 + i],
                }
                for batch, length in SHAPES
                for i, name in enumerate(names)
            ],
            "file_bytes": {name: (90 - 5 * i) * 10**6 for i, name in enumerate(names)},
            "parameters": {
                "dense": {"total": 22_700_000, "encoder": 10_800_000},
                "pruned": {"total": 13_700_000, "encoder": 1_750_000},
            },
            "macs": {"dense": {"32": 900, "128": 3600}, "pruned": {"32": 90, "128": 360}},
        },
        "seconds": {"teacher": 10.5, "prune": 20.0},
        "environment": {
            "python": "3.11.7",
            "platform": "Linux 6.1",
            "machine": "x86_64",
            "cpu": "Some CPU",
            "cpu_count": 4,
            "cpu_usable": 2,
            "instruction_set": "avx2",
            "libraries": {"hfprune": "0.1.0", "onnxruntime": "1.20.0", "torch": "2.6.0"},
        },
    }
