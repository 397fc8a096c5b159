"""What comes from elsewhere is pinned by revision, never run, and written down."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny import prepared_run, save_tiny_classifier, tiny_model, write_reviews

import hfprune
from hfprune import load_recipe
from hfprune.core.errors import CheckpointError
from hfprune.models import configs, loading, sentences
from hfprune.pipeline.stages import teacher as teacher_stage
from hfprune.report.console import Console

ROOT = Path(__file__).parents[2]
RECIPE = """
model: {{name_or_path: some/model, revision: "1111"{model}}}
{more}
data: {{train_file: "{folder}/reviews.csv", max_length: 32}}
training: {{max_steps: 1}}
pruning: {{sparsity: 0.5}}
output_dir: "{folder}/out"
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The Hub, on this disk: every request is written down and answered from one folder."""
    save_tiny_classifier("bert", tmp_path / "hub")
    write_reviews(tmp_path / "reviews.csv", 40)
    found: list[tuple[Any, ...]] = []

    def answered(what: str, real: Any) -> Any:
        def load(name: str, *, revision: Any = None, **more: Any) -> Any:
            if str(name).startswith("some/"):
                found.append((what, name, revision, more.get("trust_remote_code", False)))
                name = str(tmp_path / "hub")
            return real(name, **more)

        return load

    for owner, name in (
        (configs.AutoConfig, "from_pretrained"),
        (configs.PretrainedConfig, "get_config_dict"),
        (transformers.AutoModelForSequenceClassification, "from_pretrained"),
        (transformers.AutoTokenizer, "from_pretrained"),
        (loading, "get_tokenizer_config"),
    ):
        what = owner.__name__ if name == "from_pretrained" else name
        monkeypatch.setattr(owner, name, answered(what, getattr(owner, name)))
    return found


@pytest.mark.parametrize(
    ("model", "more", "wanted"),
    [
        ("", "", {("some/model", "1111")}),
        (
            ', tokenizer: some/words, tokenizer_revision: "2222"',
            "",
            {("some/model", "1111"), ("some/words", "2222")},
        ),
        (
            "",
            'teacher: {name_or_path: some/teacher, revision: "3333"}',
            {("some/model", "1111"), ("some/teacher", "3333")},
        ),
    ],
    ids=["model", "tokenizer", "teacher"],
)
@pytest.mark.parametrize("trusted", [False, True])
def test_every_request_names_its_revision(
    model: str, more: str, wanted: set[Any], trusted: bool, asked: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(folder=tmp_path, model=model, more=more))
    recipe = load_recipe(file, [f"model.trust_remote_code={str(trusted).lower()}"])
    context, prepared = prepared_run(recipe, Console(quiet=True))
    prepared.load(
        context,
        recipe.teacher.name_or_path or recipe.model.name_or_path,
        recipe.teacher.revision or recipe.model.revision,
    )
    if not more:
        assert {(name, revision) for _, name, revision, _ in asked} == wanted
    else:
        teacher_stage.run(context, prepared)
        assert {(name, revision) for _, name, revision, _ in asked} == wanted
    answers = {kind: trust for kind, _, _, trust in asked if kind.startswith("Auto")}
    assert answers == dict.fromkeys(
        ("AutoConfig", "AutoTokenizer", "AutoModelForSequenceClassification"), trusted
    )


@pytest.mark.parametrize("task", ["reranking", "sentence_embedding"])
def test_tasks_without_classes_name_their_revision_too(
    task: str, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reranker's head, and the snapshot that a sentence encoder's modules are read from."""
    import huggingface_hub

    save_tiny_classifier("bert", tmp_path / "hub", labels=1)
    if task == "sentence_embedding":
        tiny_model("bert").base_model.save_pretrained(tmp_path / "hub")
    for owner, name in ((huggingface_hub, "snapshot_download"), (sentences, "fetch")):

        def answered(what: str, revision: Any = None, *, name: str = name, **more: Any) -> str:
            asked.append((name, what, revision, more.get("trust_remote_code", False)))
            return str(tmp_path / "hub")

        monkeypatch.setattr(owner, name, answered)
    lines = (tmp_path / "reviews.csv").read_text().splitlines()[1:]
    rows = [f"film {n // 4},{line.rpartition(',')[0]},{n % 4 // 3}" for n, line in enumerate(lines)]
    (tmp_path / "reviews.csv").write_text("\n".join(["query,text,label", *rows]))
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(folder=tmp_path, model="", more=f"task: {task}"))
    recipe = load_recipe(file)
    context, prepared = prepared_run(recipe, Console(quiet=True))
    prepared.load(context, recipe.model.name_or_path, recipe.model.revision)
    found = {(name, revision) for _, name, revision, _ in asked}
    assert found == {("some/model", "1111")}
    assert not any(trusted for _, _, _, trusted in asked)
    kinds = {kind for kind, *_ in asked}
    wanted = "snapshot_download" if task == "sentence_embedding" else (
        "AutoModelForSequenceClassification"
    )  # fmt: skip
    assert wanted in kinds


def test_nothing_is_asked_and_nothing_run_when_a_saved_model_brings_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask on the terminal, and run the code where somebody answers."""
    tiny_model("bert").save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('this code was run')")
    path = tmp_path / "config.json"
    changes = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    monkeypatch.setattr("builtins.input", lambda text: pytest.fail(text))
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        hfprune.from_pretrained(tmp_path)


def test_the_library_never_trusts_by_itself() -> None:
    for file in (ROOT / "hfprune").rglob("*.py"):
        assert not re.search(r"trust_remote_code\s*=\s*True", file.read_text()), file
    for file in (ROOT / "recipes").glob("*.yaml"):
        assert not re.search(r"trust_remote_code:\s*true", file.read_text()), file


# -- dependencies ----------------------------------------------------------------------------------


def licence(name: str) -> str:
    """As the package's own metadata puts it."""
    about = metadata.metadata(name)
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    classes = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or []
        if text.startswith("License :: OSI")
    ]
    return "; ".join(classes) or str(about.get("License", "")).splitlines()[0]


def listed() -> dict[str, tuple[str, str, str]]:
    """Name to extra, version and licence, from the table of docs/dependencies.md."""
    lines = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {row[0].strip("`"): (row[1], row[2], row[3]) for row in rows if row[0].startswith("`")}


def test_the_list_of_dependencies_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"always": project["dependencies"], **project["optional-dependencies"]}
    wanted: dict[str, str] = {}
    for group, texts in groups.items():
        for text in texts:  # a package of several groups is listed with the first
            wanted.setdefault(re.split(r"[<>=!~ \[]", text, maxsplit=1)[0], group)
    del wanted["hfprune"]  # a group that takes another one in
    assert {name: group for name, (group, _, _) in listed().items()} == wanted


def test_the_list_of_dependencies_has_the_pinned_versions() -> None:
    pins = dict(
        line.split("==")
        for file in ("constraints-v5.txt", "constraints.txt")  # the second counts for both
        for line in (ROOT / file).read_text().splitlines()
        if "==" in line
    )
    for name, (_, version, _) in listed().items():
        assert pins[name] == version, name


@pytest.mark.parametrize("name", listed())
def test_the_list_of_dependencies_has_the_licences(name: str) -> None:
    _, version, said = listed()[name]
    try:
        installed = metadata.version(name).removesuffix("+cpu")
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if installed != version:
        pytest.skip(f"{name} {installed} is installed, {version} is listed")
    assert licence(name) == said
