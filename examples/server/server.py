"""Serve a classifier, a sentence encoder or a reranker over HTTP, without hfprune.

Needs onnxruntime, tokenizers and numpy.

Takes a run's folder, what `--layout plain` wrote of it, or a family with its cascade.json.

hfprune export runs/reviews --layout plain --output served
python examples/server/server.py served --port 8000
curl localhost:8000/classify -d '["a moving film", "dull"]'
curl localhost:8000/classify -d '[["It rains.", "The street is wet."]]'
curl localhost:8000/embed -d '["a text", "another one"]'
curl localhost:8000/rerank -d '{"query": "a moving film", "texts": ["dull", "it made me cry"]}'
"""

import argparse
import json
import re
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MOST_BYTES, MOST_TEXTS = 2**20, 128  # a search has a hundred candidates
LONGEST = 100_000  # tokens; tokenizers without a limit write a larger number
NOT_SERVED = ("ForTokenClassification", "ForImageClassification")
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")


def file_of(folder: Path, first: str = "batches") -> Path:
    """What deploy.json recommends, if it is an ONNX file; else int8, else what there is."""
    record = folder / "deploy.json"
    uses = json.loads(record.read_text(encoding="utf-8"))["uses"] if record.is_file() else {}
    for use in (first, "batches", "single"):
        if use in uses and uses[use]["runtime"] == "onnxruntime":
            return folder / uses[use]["path"]
    files = sorted((folder / "onnx").glob("*.onnx"), key=lambda file: "quantized" not in file.name)
    if not files:
        sys.exit(f"{folder}/onnx holds no ONNX file; of a family name one model, or make a cascade")
    return files[0]


def said(folder: Path, name: str) -> dict[str, Any]:
    """What a file of JSON says, if it is there."""
    file = folder / name
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def length_of(folder: Path) -> int:
    """Tokens of a text at most: what recipe or tokenizer says, and the modules of an encoder."""
    most = said(folder, "sentence_bert_config.json").get("max_seq_length")
    return min(filter(None, (most, tokens_of(folder))), default=512)


def tokens_of(folder: Path) -> int | None:
    """Of a run what its recipe says, of a layout what the tokenizer; None: neither does."""
    recipe = folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    if found := re.search(r"^ +max_length: (\d+)$", text, re.MULTILINE):
        return int(found[1])
    limit = said(folder, "tokenizer_config.json").get("model_max_length")
    return limit if isinstance(limit, int) and limit <= LONGEST else None


def stride_of(folder: Path) -> int | None:
    """Tokens that two windows of a long text share, as the recipe or the layout says; None: cut."""
    recipe = folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    if found := re.search(r"^ +stride: (\d+)$", text, re.MULTILINE):
        return int(found[1])
    return said(folder, "windows.json").get("stride")


class Model:
    """The ONNX file of a folder, with its tokenizer.

    Kinds of models differ in the path that answers, in what its body must be, and in the answer.
    """

    path: str
    use = "batches"
    wanted = 'a JSON list of texts: ["a moving film"]'

    def __init__(self, folder: Path, threads: int, max_length: int | None) -> None:
        max_length = max_length or length_of(folder)
        config = said(folder, "config.json")
        names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        self.labels = [names[number] for number in sorted(names, key=int)]
        problem = config.get("problem_type")
        self.several = problem == "multi_label_classification"
        self.number = problem == "regression" or (problem is None and len(self.labels) == 1)
        settings = said(folder, "config_sentence_transformers.json")
        self.prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name"), "")
        padding = config.get("pad_token_id") or 0
        # RoBERTa and its kin count positions from after the padding's id.
        first = padding + 1 if config["model_type"] in COUNT_FROM_PADDING else 0
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        said_by = said(folder, "tokenizer_config.json")
        pads, cuts = (said_by.get(f"{what}_side", "right") for what in ("padding", "truncation"))
        self.tokenizer.enable_padding(direction=pads, pad_id=padding)
        longest = config.get("max_position_embeddings", max_length + first) - first
        stride = stride_of(folder)
        self.in_windows = stride is not None
        most = min(max_length, longest)
        self.tokenizer.enable_truncation(most, stride=stride or 0, direction=cuts)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(file_of(folder, self.use)), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [node.name for node in self.session.get_inputs()]
        # One batch at a time: more at once would only share the same cores.
        self.lock = threading.Lock()

    def read(self, body: object) -> list[Any] | None:
        """The texts of a request, or the pairs; None where it is something else."""
        return body if is_texts(body) else None

    def outputs(self, texts: Sequence[Any]) -> np.ndarray:
        """The only output of the graph, of texts or pairs: logits, or embeddings."""
        rows = self.tokenizer.encode_batch(texts)
        if not self.in_windows:
            return self.run(rows)
        found = self.run([window for row in rows for window in (row, *row.overflowing)])
        ends = np.cumsum([1 + len(row.overflowing) for row in rows])
        return np.array([part.mean(axis=0) for part in np.split(found, ends[:-1])])

    def run(self, rows: Sequence[Any]) -> np.ndarray:
        columns = {
            "input_ids": [row.ids for row in rows],
            "attention_mask": [row.attention_mask for row in rows],
            "token_type_ids": [row.type_ids for row in rows],
        }
        feed = {name: np.array(columns[name], dtype=np.int64) for name in self.inputs}
        with self.lock:
            return self.session.run(None, feed)[0].astype(np.float64)


class Classifier(Model):
    path = "/classify"
    wanted = 'a JSON list of texts, or of pairs: ["a moving film"] or [["It rains.", "It is wet."]]'

    def __init__(self, folder: Path, threads: int, max_length: int | None) -> None:
        super().__init__(folder, threads, max_length)
        if len(set(self.labels)) < len(self.labels):
            sys.exit(f"{folder}/config.json gives two labels one name: {self.labels}"[:500])
        if self.in_windows:  # which are of one text
            self.wanted = Model.wanted

    def read(self, body: object) -> list[Any] | None:
        pairs = isinstance(body, list) and all(is_texts(row) and len(row) == 2 for row in body)
        if pairs and not self.in_windows:
            return [tuple(row) for row in body]
        return super().read(body)

    def __call__(self, texts: list[Any]) -> list[dict[str, object]]:
        return [self.answer(row) for row in self.outputs(texts)]

    def answer(self, logits: np.ndarray) -> dict[str, object]:
        if self.number:
            return {"value": float(logits[0])}
        if self.several:
            shares = 0.5 * (1 + np.tanh(0.5 * logits))
            scores = dict(zip(self.labels, shares.tolist(), strict=True))
            return {"labels": [name for name in scores if scores[name] > 0.5], "scores": scores}
        odds = np.exp(logits - logits.max())
        scores = dict(zip(self.labels, (odds / odds.sum()).tolist(), strict=True))
        best = max(scores, key=scores.__getitem__)
        return {"label": best, "score": scores[best], "scores": scores}


class Encoder(Model):
    """An embedding a text, with the prompt before it that the folder names as its default."""

    path = "/embed"

    def __call__(self, texts: list[str]) -> list[list[float]]:
        return self.outputs([self.prompt + text for text in texts]).tolist()


class Reranker(Model):
    """The texts of a query, by their places, the best first."""

    path, wanted = "/rerank", 'a JSON object: {"query": "a moving film", "texts": ["dull"]}'

    def read(self, body: object) -> list[Any] | None:
        if not isinstance(body, dict) or not isinstance(body.get("query"), str):
            return None
        texts = body.get("texts")
        return [(body["query"], text) for text in texts] if is_texts(texts) else None

    def __call__(self, pairs: list[tuple[str, str]]) -> list[dict[str, object]]:
        scores = self.outputs(pairs)[:, 0]
        return [
            {"index": int(n), "score": float(scores[n])} for n in np.argsort(-scores, kind="stable")
        ]


def is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def model_of(folder: Path, threads: int, max_length: int | None) -> Model:
    """By what the folder says; hfprune gives a reranker one label, without a name."""
    if (folder / "cascade.json").is_file():
        return Cascade(folder, threads, max_length)
    config = said(folder, "config.json")
    if "model_type" not in config or not (folder / "tokenizer.json").is_file():
        sys.exit(f"{folder} must hold config.json and tokenizer.json of a model of texts")
    architectures = config.get("architectures") or [""]
    if architectures[0].endswith(NOT_SERVED):
        sys.exit(
            f"{folder} is a {architectures[0]}: of classifiers, those of whole texts are served"
        )
    ranks = config.get("problem_type") == "multi_label_classification"
    kind: type[Model] = Classifier
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        kind = Encoder
    elif ranks and list((config.get("id2label") or {}).values()) == ["LABEL_0"]:
        kind = Reranker
    return kind(folder, threads, max_length)


class Member(Classifier):
    use = "single"  # the file that the threshold was chosen with


class Cascade(Classifier):
    """Two models of a family: the fast one answers when it is sure, else the slow one (`by`)."""

    def __init__(self, folder: Path, threads: int, max_length: int | None) -> None:
        record = json.loads((folder / "cascade.json").read_text(encoding="utf-8"))
        self.threshold = record["threshold"]
        self.fast, self.slow = (
            Member(folder / record[name], threads, max_length) for name in ("fast", "slow")
        )

    def __call__(self, texts: list[Any]) -> list[dict[str, object]]:
        answers = [told | {"by": "fast"} for told in self.fast(texts)]
        unsure = [n for n, told in enumerate(answers) if told["score"] < self.threshold]
        again = self.slow([texts[n] for n in unsure]) if unsure else []
        for number, told in zip(unsure, again, strict=True):
            answers[number] = told | {"by": "slow"}
        return answers


def handler(model: Model) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds that a client may be silent

        def do_GET(self) -> None:
            known = self.path == "/health"
            self.say(200 if known else 404, {"status": "ok"} if known else {"error": "not found"})

        def do_POST(self) -> None:
            if self.path != model.path:
                self.say(404, {"error": f"not found: POST to {model.path}"})
                return
            size = self.headers.get("content-length", "")
            if not size.isdecimal() or len(size) > 9 or not 0 < int(size) <= MOST_BYTES:
                self.close_connection = True
                self.say(413, {"error": f"a body of 1 to {MOST_BYTES} bytes, with its length"})
                return
            try:
                value = json.loads(self.rfile.read(int(size)))
                json.dumps(value, ensure_ascii=False).encode()  # half a character is no text
                texts = model.read(value)
            except (ValueError, RecursionError):
                texts = None
            if texts is None:
                self.say(400, {"error": model.wanted})
            elif not 0 < len(texts) <= MOST_TEXTS:
                self.say(400, {"error": f"1 to {MOST_TEXTS} texts, got {len(texts)}"})
            else:
                self.say(200, model(texts))

        def say(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, form: str, *values: object) -> None:
            """Texts of requests are nobody's business; a proxy counts them."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--threads", type=int, default=1, help="of one batch, as measured")
    parser.add_argument(
        "--max-length", type=int,
        help="tokens, where texts are cut; without, what the folder says",
    )  # fmt: skip
    given = parser.parse_args()
    model = model_of(given.folder, given.threads, given.max_length)
    server = ThreadingHTTPServer((given.host, given.port), handler(model))
    print(f"http://{given.host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
