"""Settings that must stand before any library is imported, and what the markers need.

The tests are offline and hermetic: they neither reach the Hub nor read or write the user's
cache, settings or tokens. ``HF_HUB_OFFLINE=0`` in the environment lets the tests marked
``network`` run.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

_home = tempfile.mkdtemp(prefix="hfprune-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
_OFFLINE = os.environ["HF_HUB_OFFLINE"].upper() in {"1", "ON", "YES", "TRUE"}
os.environ.update(
    HF_HOME=_home,
    XDG_CACHE_HOME=_home,
    HF_DATASETS_OFFLINE=str(int(_OFFLINE)),
    HF_EVALUATE_OFFLINE=str(int(_OFFLINE)),
    TRANSFORMERS_OFFLINE=str(int(_OFFLINE)),
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; threads beside them would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each would point a library somewhere else than the folder above, or at the user's account.
for _name in (
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_EVALUATE_CACHE",
    "HF_MODULES_CACHE",
    "HF_METRICS_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "TRANSFORMERS_CACHE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGING_FACE_HUB_TOKEN",
):
    os.environ.pop(_name, None)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# The same examples in every run, nothing written to disk, no failure for a busy machine.
settings.register_profile("hfprune", derandomize=True, deadline=None, database=None)
settings.load_profile("hfprune")


@pytest.fixture(autouse=True, scope="module")
def no_mixed_precision_of_another_module() -> None:
    """What a module's own fixtures train comes before the next one."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"


@pytest.fixture(autouse=True)
def no_mixed_precision_is_left() -> Iterator[None]:
    """TrainingArguments with bf16 turn it on for all that come after, by this variable."""
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    yield
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PNG figures of a report take a second a run: only the report's own tests draw them."""
    report = sys.modules.get("hfprune.report.html")
    if report is None or request.module.__name__ == "test_html_report":
        return

    def missing() -> None:
        from hfprune.core.errors import MissingExtraError

        raise MissingExtraError("no figures in tests")

    monkeypatch.setattr(report, "check_matplotlib", missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        import torch

        if not torch.cuda.is_available():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if _OFFLINE:
        for item in items:
            if item.get_closest_marker("network"):
                item.add_marker(pytest.mark.skip(reason="set HF_HUB_OFFLINE=0 to reach the Hub"))
