"""What is known at once: heads of files, small files of models, and the recipe's checks."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import TEXT_FAMILIES, save_tiny_classifier, tiny_model, tiny_tokenizer, write_reviews
from typer.testing import CliRunner

from hfprune.cli import app
from hfprune.core.errors import (
    CheckpointError,
    DataError,
    HFPruneError,
    OutputError,
    RecipeError,
    UnsupportedModelError,
)
from hfprune.core.kinds import OWN_MODEL_TYPES, TEXT
from hfprune.data.readers.named import read_saved
from hfprune.data.readers.source import RowsFile
from hfprune.early.checks import check_early
from hfprune.early.model import ModelFacts, guessed_lengths, lengths_of, look_at
from hfprune.early.quick import look
from hfprune.early.rows import read_head
from hfprune.families import position_limit
from hfprune.families.registry import BUILT_IN
from hfprune.recipe.sections.whole import Recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model, a plain one, and rows."""
    folder = tmp_path_factory.mktemp("early")
    save_tiny_classifier("bert", folder / "tuned")
    raw = json.loads((folder / "tuned/config.json").read_text())
    raw |= {"id2label": {"0": "positive", "1": "negative"}}
    (folder / "tuned/config.json").write_text(json.dumps(raw))
    tiny_tokenizer().save_pretrained(folder / "plain")
    plain = {**raw, "architectures": ["BertModel"]}
    (folder / "plain/config.json").write_text(json.dumps(plain))
    write_reviews(folder / "rows.csv", 60)
    return folder


def recipe(place: Path, **changed: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"name_or_path": str(place / "tuned")},
        "data": {"train_file": str(place / "rows.csv"), "max_length": 32},
        "pruning": {"sparsity": 0.5},
        "output_dir": str(place / "out"),
    }
    for key, value in changed.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return Recipe(**values)


def test_a_cross_encoder_that_would_read_one_text_is_told(place: Path, tmp_path: Path) -> None:
    """As ``quick`` does; also where it is the teacher that is pruned."""
    shutil.copytree(place / "tuned", tmp_path / "pairs")
    raw = json.loads((tmp_path / "pairs/config.json").read_text())
    raw["sentence_transformers"] = {"version": "5.1.0"}
    (tmp_path / "pairs/config.json").write_text(json.dumps(raw))
    named = {"name_or_path": str(tmp_path / "pairs")}
    for key in ("model", "teacher"):
        told = " ".join(check_early(recipe(place, **{key: named})))
        assert f"{key}.name_or_path '{tmp_path}/pairs' is a CrossEncoder, which reads two" in told
        assert "column of the second ones in data.text_pair_column" in told
    told = " ".join(check_early(recipe(place)))
    assert "CrossEncoder" not in told
    (tmp_path / "rows.csv").write_text("text,more,label\n" + "good,film,a\nbad,plot,b\n" * 40)
    two = {"train_file": str(tmp_path / "rows.csv"), "text_pair_column": "more"}
    assert "CrossEncoder" not in " ".join(check_early(recipe(place, model=named, data=two)))


# -- models -----------------------------------------------------------------------------------


def test_families_are_known_without_pytorch() -> None:
    assert list(OWN_MODEL_TYPES) == [kind for family in BUILT_IN for kind in family.model_types]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_sizes_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    facts = look_at(str(tmp_path), "the model")
    assert (facts.kind, facts.width, facts.inner) == (TEXT, 32, 48)
    assert facts.layers == model.config.num_hidden_layers
    assert len(facts.labels or ()) == 3
    assert facts.vocabulary == model.config.vocab_size


def test_the_limit_is_that_of_positions(place: Path, tmp_path: Path) -> None:
    assert look_at(str(place / "tuned"), "m").limit == 64, "of the tokenizer, which is less"
    for family, limit in (("bert", 66), ("roberta", 64), ("deberta-v3", None)):
        model = tiny_model(family)
        model.config.save_pretrained(tmp_path)
        assert look_at(str(tmp_path), "m").limit == limit
        if limit is not None:
            assert position_limit(model) == limit


@pytest.mark.parametrize(
    ("config", "kind", "text"),
    [
        ({"model_type": "t5"}, UnsupportedModelError, "model type 't5'; supported: bert,"),
        ([1], CheckpointError, "must hold a JSON object"),
        (None, CheckpointError, "holds no config.json"),
    ],
)
def test_folders_that_are_no_model_are_refused(
    config: Any, kind: type[HFPruneError], text: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(kind, match="model.name_or_path") as found:
        look_at(str(tmp_path), "model.name_or_path")
    assert text in str(found.value)


def test_a_typo_in_a_path_is_told_at_once_and_a_hub_name_is_not_asked_for() -> None:
    with pytest.raises(CheckpointError, match="there is no such folder here"):
        look_at("./modle", "model.name_or_path")
    assert look_at("some/name", "model.name_or_path") == ModelFacts("some/name")


def test_lengths_are_those_of_the_tokenizer(place: Path, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    texts = ["a good film", "good", ""]
    expected = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    file = place / "tuned/tokenizer.json"
    assert lengths_of(file, texts) == expected
    pairs = [len(ids) for ids in tokenizer(texts, texts)["input_ids"]]
    assert lengths_of(file, texts, texts) == pairs
    assert guessed_lengths(["one two three"]) == [6]
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read"):
        lengths_of(broken, texts)


# -- rows -------------------------------------------------------------------------------------


def test_heads_of_all_formats(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"row {n}", "label": "ab"[n % 2]} for n in range(100)]
    files = {
        "a.csv": "id,text,label\n" + "".join(f"{r['id']},{r['text']},{r['label']}\n" for r in rows),
        "a.tsv": "id\ttext\tlabel\n" + "".join(f"{r['id']}\t{r['text']}\t{r['label']}\n"
                                               for r in rows),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with gzip.open(tmp_path / "a.csv.gz", "wt") as packed:
        packed.write(files["a.csv"])
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in (*files, "a.csv.gz", "a.parquet"):
        head = read_head(str(tmp_path / name))
        assert (list(head.columns), head.size, head.whole) == (["id", "text", "label"], 100, True)
        assert head.total == 100
        some = read_head(str(tmp_path / name), most=40)
        assert (some.size, some.whole, len(some.columns["text"])) == (40, False, 40)
        assert some.columns["text"][39] == "row 39"
        if name != "a.csv.gz":
            assert 85 <= some.total <= 115, name


def test_heads_leave_out_columns_that_nobody_can_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label,x,x,\na,b,1,2,3\n")
    assert list(read_head(str(file)).columns) == ["text", "label"]
    conll = tmp_path / "rows.conll"
    conll.write_text("Ada B-PER\nslept O\n\n")
    assert read_head(str(conll)).columns == {"words": [["Ada", "slept"]], "tags": [["B-PER", "O"]]}
    file.write_text("text,label\n")
    with pytest.raises(DataError, match="has no rows"):
        read_head(str(file))
    with pytest.raises(DataError, match=r"no such file .*Did you mean '.*rows.csv'"):
        read_head(str(tmp_path / "rws.csv"))


def test_a_proposal_from_files(place: Path) -> None:
    looked = look(str(place / "tuned"), str(place / "rows.csv"), output="runs/x")
    assert looked.proposal.teacher == str(place / "tuned")
    assert dict(looked.rows.labels) == {"positive": 30, "negative": 30}
    assert looked.rows.measured
    said = " ".join(looked.proposal.said)
    assert "is fine-tuned for these labels already" in said
    unknown = look("some/name", str(place / "rows.csv"), output="runs/x")
    assert not unknown.rows.measured
    assert "guessed from words" in " ".join(unknown.proposal.said)


# -- a recipe ---------------------------------------------------------------------------------


def test_a_good_recipe_passes_and_tells_what_the_rows_are_like(place: Path, tmp_path: Path) -> None:
    assert check_early(recipe(place)) == ()
    odd = tmp_path / "odd.csv"
    odd.write_text((place / "rows.csv").read_text() + "film,Positive\nplot,Positive\n")
    told = check_early(recipe(place, data={"train_file": str(odd)}))
    assert any("differ only in case" in text for text in told)
    assert any("fewer than 5 training rows" in text for text in told)


@pytest.mark.parametrize(
    ("changed", "kind", "text"),
    [
        ({"data": {"text_column": "txt"}}, DataError, "Did you mean 'text'?"),
        ({"data": {"max_length": 65}}, DataError, "model_max_length): set data.max_length to 64"),
        ({"data": {"label_names": ["a", "b"]}}, DataError, "the label 'positive' is unknown"),
        ({"pruning": {"sparsity": None, "keep_layers": [0, 3]}}, RecipeError,
         "names layer 3, but {tuned} has 3: numbers are 0 to 2"),
        ({"teacher": {"name_or_path": "{plain}"}}, CheckpointError,
         "was not fine-tuned as a classifier"),
        ({"teacher": {"name_or_path": "{tuned}/no"}}, CheckpointError, "there is no such folder"),
        ({"training": {"report_to": ["foo"]}}, RecipeError, "names 'foo'"),
    ],
)  # fmt: skip
def test_mistakes_are_found_at_once(
    changed: dict[str, Any], kind: type[HFPruneError], text: str, place: Path
) -> None:
    names = {"tuned": place / "tuned", "plain": place / "plain"}
    if "teacher" in changed:
        name = changed["teacher"]["name_or_path"].format(**names)
        changed = {"teacher": {"name_or_path": name}}
    with pytest.raises(kind) as found:
        check_early(recipe(place, **changed))
    assert text.format(**names) in str(found.value)


def test_a_teacher_of_other_labels_and_a_full_output_are_found(place: Path, tmp_path: Path) -> None:
    save_tiny_classifier("bert", tmp_path / "three", labels=3)
    other = recipe(place, teacher={"name_or_path": str(tmp_path / "three")})
    with pytest.raises(CheckpointError, match=r"a head for 3 labels .*, the data has 2 \(negative"):
        check_early(other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").write_text("x")
    with pytest.raises(OutputError, match="is not empty"):
        check_early(recipe(place, output_dir=str(tmp_path / "full")))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text((place / "tuned/config.json").read_text())
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        check_early(recipe(place, model={"name_or_path": str(tmp_path / "bare")}))


def test_a_speed_that_cannot_be_is_refused_by_the_commands(place: Path, tmp_path: Path) -> None:
    """From the sizes of a config alone: nothing is loaded, nothing trained."""
    big = {
        "model_type": "bert",
        "num_hidden_layers": 6,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "vocab_size": 100,
        "max_position_embeddings": 512,
    }
    tiny_tokenizer().save_pretrained(tmp_path / "big")
    (tmp_path / "big/config.json").write_text(json.dumps(big))
    wanted = {"sparsity": None, "speedup": 900, "method": "reconstruction"}
    asked = recipe(place, model={"name_or_path": str(tmp_path / "big")}, pruning=wanted)
    with pytest.raises(
        RecipeError, match=r"pruning\.speedup is 900, but .*big cannot get that fast"
    ):
        check_early(asked)
    words = ["quick", str(tmp_path / "big"), str(place / "rows.csv"), "--speedup", "900",
             "--output", str(tmp_path / "out")]  # fmt: skip
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 1
    assert "cannot get that fast" in found.stderr
    assert not (tmp_path / "out.yaml").exists(), "nothing is left of a recipe that cannot be run"
    daring = recipe(place, model=asked.model.model_dump(), pruning={**wanted, "speedup": 40})
    assert "40x is beyond what" in check_early(daring)[0]


def test_a_misspelled_folder_is_told_before_the_hub_is_asked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name without a slash may be one of the Hub, so it is no error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model/config.json").write_text((place / "tuned/config.json").read_text())
    (note,) = check_early(recipe(place, model={"name_or_path": "my-modle"}))
    assert note == (
        "my-modle is not on this machine yet: a run looks it up on the Hub; did you mean the "
        "folder 'my-model'?"
    )
    assert check_early(recipe(place, model={"name_or_path": "bert-base-uncased"})) == ()
    rows = str(place / "rows.csv")
    found = CliRunner().invoke(app, ["quick", "my-modle", rows, "--output", "o", "--dry-run"])
    assert found.stderr.count(note) == 1


def test_of_large_files_only_the_head_is_read(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sorted file holds one class at its head, which is no mistake."""
    import hfprune.early.checks as checks

    monkeypatch.setattr(checks, "_WHOLE_BYTES", 10)
    file = tmp_path / "sorted.csv"
    file.write_text("text,label\n" + "film,a\n" * 1500 + "plot,b\n" * 10 + ",\n")
    assert check_early(recipe(place, data={"train_file": str(file)})) == ()
    with pytest.raises(DataError, match="has no column 'no'"):
        check_early(recipe(place, data={"train_file": str(file), "label_column": "no"}))


def test_the_checks_import_nothing_heavy() -> None:
    program = (
        "import sys, hfprune.early.quick, hfprune.early.checks, hfprune.early.writing\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_reranker_is_checked_by_its_queries(place: Path, tmp_path: Path) -> None:
    """Held out as a run does, and a teacher with one output of yes or no is one for it."""
    rows = [
        {"query": f"good {query}", "text": f"film {text}", "label": int(text == query % 3)}
        for query in range(20)
        for text in range(3)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_model("bert", labels=1, problem_type="multi_label_classification").save_pretrained(
        tmp_path / "dense"
    )
    tiny_tokenizer().save_pretrained(tmp_path / "dense")
    dense = {"name_or_path": str(tmp_path / "dense")}
    data = {"train_file": str(file), "text_column": "query", "text_pair_column": "text"}
    asked = recipe(place, task="reranking", model=dense, teacher=dense, data=data)
    assert check_early(asked) == ()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(DataError, match="has 1 queries: too few to hold out"):
        check_early(asked)


def test_a_saved_data_set_is_looked_at_by_its_first_rows(tmp_path: Path) -> None:
    """Of a million rows the rest would take its time and gigabytes, before any run."""
    import datasets

    rows = {"text": [f"text {number}" for number in range(40)], "label": [0, 1] * 20}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "rows"))
    head = read_head(str(tmp_path / "rows"), most=5)
    assert (head.size, head.total, head.whole) == (5, 40, False)
    assert head.columns == {"text": rows["text"][:5], "label": rows["label"][:5]}
    wanted = {"text": "data.text_column"}
    assert read_saved(RowsFile(tmp_path / "rows", "rows", wanted, most=3)).size == 3
    assert read_saved(RowsFile(tmp_path / "rows", "rows", wanted)).size == 40
