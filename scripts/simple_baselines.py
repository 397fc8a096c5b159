#!/usr/bin/env python
"""What classifiers without an encoder reach on a recipe's data: TF-IDF, and static embeddings.

    python scripts/simple_baselines.py --recipe recipes/movie-reviews-minilm-speed.yaml

TF-IDF: words and pairs of words, logistic regression; its strength is chosen on the validation
rows. Static embeddings: each token of the vocabulary goes through the recipe's model alone, the
vectors are reduced by PCA and weighted down where a token is frequent, a text is the mean of its
tokens' vectors, and logistic regression sorts them (after Model2Vec; the weights are those of Arora
et al., A simple but tough-to-beat baseline for sentence embeddings, 2017). Both are judged once on
the test rows, and timed from the text on, while encoders are timed from the token ids on.

``benchmark_methods.py`` has them among its rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from scripting import carry_out, parser_of

TFIDF, STATIC = "TF-IDF", "static embeddings"
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
COMPONENTS = 256
# Weight of a token of relative frequency p: A / (A + p).
A = 1e-3


class Simple:
    """A classifier of texts, as a runner for :func:`hfprune.measure.latency.measure_latency`.

    Attributes:
        name: of it.
        scores: of texts, float ``[texts, labels]``.
        bytes: that it takes when it is saved.
    """

    threads = 1

    def __init__(
        self, name: str, scores: Callable[[Sequence[str]], Any], size: int, tokenizer: Any
    ) -> None:
        self.name, self.scores, self.bytes = name, scores, size
        self._tokenizer = tokenizer
        self._texts: dict[tuple[int, ...], list[str]] = {}

    def __call__(self, batch: Any) -> object:
        """Scores of the texts that token ids stand for; ids become texts once, untimed."""
        shape = np.shape(batch["input_ids"])
        if shape not in self._texts:
            self._texts[shape] = self._tokenizer.batch_decode(batch["input_ids"])
        return self.scores(self._texts[shape])


def simple_baselines(recipe: Any, data: Any, tokenizer: Any, names: Sequence[str]) -> list[Simple]:
    """The classifiers with these names, fitted on the training rows.

    Args:
        recipe: of the comparison; its model gives the token embeddings.
        data: its rows; of one label each.
        tokenizer: of the model.
        names: ``TFIDF``, ``STATIC`` or both.

    Raises:
        DataError: for texts that have no single label each.
    """
    from hfprune.core.errors import DataError

    if data.task != "single_label_classification" or data.of_images or data.text_pairs:
        raise DataError(
            f"TF-IDF and static embeddings are for single texts of one label each, not for task "
            f"{data.task}{' of pairs' if data.text_pairs else ''}: leave them out (--only)"
        )
    makers = {TFIDF: _tfidf, STATIC: _static}
    return [makers[name](recipe, data, tokenizer) for name in names]


def _fitted(make: Callable[[float], Any], data: Any, train: Any, validation: Any) -> Any:
    """The logistic regression whose strength is the best on the validation rows."""
    labels, truth = data.label_array("train"), data.label_array("validation")
    found = [make(strength).fit(train, labels) for strength in STRENGTHS]
    return max(found, key=lambda each: float((each.predict(validation) == truth).mean()))


def _logits(model: Any, rows: Any, labels: int) -> Any:
    """``[texts, labels]``; of two labels scikit-learn gives one column."""
    scores = np.asarray(model.decision_function(rows))
    found = np.full((len(scores), labels), -np.inf)
    columns = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
    found[:, model.classes_] = columns
    return found


def _tfidf(recipe: Any, data: Any, tokenizer: Any) -> Simple:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    train = words.fit_transform(data.texts["train"])
    model = _fitted(
        lambda c: LogisticRegression(C=c, max_iter=1000), data, train,
        words.transform(data.texts["validation"]),
    )  # fmt: skip
    count = len(data.label_names)
    # The words, a weight each, and the coefficients.
    size = sum(len(word.encode()) for word in words.vocabulary_)
    size += words.idf_.nbytes + model.coef_.nbytes
    return Simple(
        TFIDF, lambda texts: _logits(model, words.transform(texts), count), size, tokenizer
    )


def _static(recipe: Any, data: Any, tokenizer: Any) -> Simple:
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    vectors = token_vectors(recipe, tokenizer)
    ids = _ids(tokenizer, data.texts["train"], data.max_length)
    counts = np.bincount(np.concatenate(ids), minlength=len(vectors))
    weights = A / (A + counts / counts.sum())
    size = min(COMPONENTS, *vectors.shape)
    table = (PCA(size, random_state=0).fit_transform(vectors) * weights[:, None]).astype(np.float32)

    def rows(texts: Sequence[str]) -> Any:
        found = np.zeros((len(texts), size), dtype=np.float32)
        for place, tokens in enumerate(_ids(tokenizer, texts, data.max_length)):
            if len(tokens):
                found[place] = table[tokens].mean(axis=0)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)

    model = _fitted(
        lambda c: LogisticRegression(C=10 * c, max_iter=1000), data,
        rows(data.texts["train"]), rows(data.texts["validation"]),
    )  # fmt: skip
    count = len(data.label_names)
    total = table.nbytes + model.coef_.nbytes
    return Simple(STATIC, lambda texts: _logits(model, rows(texts), count), total, tokenizer)


def _ids(tokenizer: Any, texts: Sequence[str], longest: int) -> list[Any]:
    found = tokenizer(
        list(texts), add_special_tokens=False, truncation=True, max_length=longest,
        return_attention_mask=False, return_token_type_ids=False,
    )["input_ids"]  # fmt: skip
    return [np.asarray(tokens, dtype=np.int64) for tokens in found]


def token_vectors(recipe: Any, tokenizer: Any, batch: int = 1024) -> Any:
    """What the recipe's model makes of each token alone: float32 ``[vocabulary, hidden]``."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        recipe.model.name_or_path, revision=recipe.model.revision, trust_remote_code=False
    ).eval()
    count = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    found = []
    with torch.inference_mode():
        for start in range(0, count, batch):
            ids = torch.arange(start, min(count, start + batch))[:, None]
            parts = [ids] if begin is None or end is None else [
                torch.full_like(ids, begin), ids, torch.full_like(ids, end),
            ]  # fmt: skip
            hidden = model(input_ids=torch.cat(parts, dim=1)).last_hidden_state
            found.append(hidden.mean(dim=1).float().numpy())
    return np.concatenate(found)


def load(recipe: Any) -> tuple[Any, Any]:
    """The rows of a recipe, and its tokenizer."""
    from hfprune.data.loading import load_task_data
    from hfprune.models.loading import load_processor

    model = recipe.model
    tokenizer = load_processor(
        model.tokenizer or model.name_or_path, recipe.task, revision=None,
        trust_remote_code=False, key="model.name_or_path",
    )  # fmt: skip
    return load_task_data(recipe.data, tokenizer, recipe.task), tokenizer


def score_of(recipe: Any, data: Any, simple: Simple) -> float:
    """The first metric on the test rows."""
    from hfprune.measure.scores import score

    name = recipe.evaluation.metrics[0]
    logits = simple.scores(data.texts["test"])
    labels = data.label_array("test")
    return float(score(name, logits, labels, data.task, data.num_labels, data.label_names))


def rows_of(
    recipe: Any, names: Sequence[str], dense: float, seed: int
) -> tuple[list[Simple], list[dict[str, Any]]]:
    """The classifiers, and a row each for the table of ``benchmark_methods.py``.

    Nothing, and a word of why, for tasks that they are not for.

    Args:
        recipe: of the comparison.
        names: of the classifiers.
        dense: the metric of the dense model, which changes are against.
        seed: that the rows are told under; nothing of them is random.
    """
    from hfprune.core.errors import DataError

    if not names:
        return [], []
    data, tokenizer = load(recipe)
    try:
        found = simple_baselines(recipe, data, tokenizer, names)
    except DataError as error:
        print(f"left out: {error}", file=sys.stderr)
        return [], []
    rows = []
    for each in found:
        metric = score_of(recipe, data, each)
        row = {"name": each.name, "seed": seed, "metric": metric, "change": metric - dense}
        rows.append({**row, "bytes": each.bytes, "removed": 0.0})
    return found, rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--recipe", required=True, metavar="FILE")
    parser.add_argument("--only", nargs="+", default=[TFIDF, STATIC], choices=[TFIDF, STATIC])
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    return carry_out(work, parser.parse_args(arguments))


def work(options: argparse.Namespace) -> int:
    from hfprune.recipe.reading import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    data, tokenizer = load(recipe)
    print(f"| method | {recipe.evaluation.metrics[0]} | MB | ms a text, one by one |")
    print("|---|---|---|---|")
    for simple in simple_baselines(recipe, data, tokenizer, options.only):
        value = score_of(recipe, data, simple)
        texts = data.texts["test"][:200]
        start = time.process_time()
        for text in texts:
            simple.scores([text])
        ms = 1e3 * (time.process_time() - start) / len(texts)
        print(f"| {simple.name} | {value:.4f} | {simple.bytes / 1e6:.1f} | {ms:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
