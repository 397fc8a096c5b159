"""Answer texts over HTTP with an exported model; needs onnxruntime, tokenizers, numpy, no hfprune.

Long texts are cut; examples/server reads them in windows too, where the run did (data.stride).

python examples/serve_http.py runs/tickets 8080
curl -s localhost:8080 -d '["my card was charged twice"]'
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MOST_BYTES = 1_000_000
LONGEST, USUAL = 100_000, 512  # tokens of a text
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")


def settings_of(folder: Path) -> dict[str, Any]:
    """What the tokenizer says of itself besides: where it cuts texts, and on which side."""
    file = folder / "tokenizer_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def length_of(folder: Path, longest: int) -> int:
    """Tokens of a text at most: of a run what its recipe says, of a layout what the tokenizer."""
    recipe = folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    if found := re.search(r"^ +max_length: (\d+)$", text, re.MULTILINE):
        return min(longest, int(found[1]))
    limit = settings_of(folder).get("model_max_length")
    # Of tokenizers without a limit it is a huge number.
    return min(longest, limit if isinstance(limit, int) and limit <= LONGEST else USUAL)


folder, port = Path(sys.argv[1]), int(sys.argv[2])
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
settings = settings_of(folder)
pads, cuts = (settings.get(f"{what}_side", "right") for what in ("padding", "truncation"))
tokenizer.enable_padding(direction=pads, pad_id=config.get("pad_token_id") or 0)
# RoBERTa and its kin count positions from after the padding's id: of 514 they use 512.
first = (config.get("pad_token_id") or 0) + 1 if config["model_type"] in COUNT_FROM_PADDING else 0
longest = config.get("max_position_embeddings", 512) - first
tokenizer.enable_truncation(length_of(folder, longest), direction=cuts)
files = [folder / "onnx" / name for name in ("model_quantized.onnx", "model.onnx")]
# What the logits mean, as hfprune writes it.
labels, problem = config.get("id2label") or {}, config.get("problem_type")
several = problem == "multi_label_classification"
number = problem == "regression" or (problem is None and len(labels) == 1)
ranks = several and list(labels.values()) == ["LABEL_0"]
heads = config.get("architectures") or [""]
if ranks or not heads[0].endswith("ForSequenceClassification"):
    sys.exit(f"{folder} is no classifier of single texts ({heads[0]}): take examples/server")
session = onnxruntime.InferenceSession(str(next(file for file in files if file.is_file())))


def answers(texts: list[str]) -> list[dict[str, object]]:
    rows = tokenizer.encode_batch(texts)
    columns = {
        "input_ids": [row.ids for row in rows],
        "attention_mask": [row.attention_mask for row in rows],
        "token_type_ids": [row.type_ids for row in rows],
    }
    feed = {node.name: np.array(columns[node.name], np.int64) for node in session.get_inputs()}
    logits = session.run(["logits"], feed)[0].astype(np.float64)
    return [answer(row) for row in logits]


def answer(logits: np.ndarray) -> dict[str, object]:
    names = [labels.get(str(place), f"LABEL_{place}") for place in range(len(logits))]
    if number:
        return {"value": float(logits[0])}
    if several:  # any number of labels, each with a probability of its own
        likely = (0.5 * (1 + np.tanh(0.5 * logits))).round(4).tolist()
        chosen = [name for name, logit in zip(names, logits, strict=True) if logit > 0]
        return {"labels": chosen, "probabilities": dict(zip(names, likely, strict=True))}
    odds = np.exp(logits - logits.max())
    best = int(logits.argmax())
    return {"label": names[best], "probability": round(float(odds[best] / odds.sum()), 4)}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length") or 0)
            # Below zero it would be read until the client hangs up.
            taken = 0 < length <= MOST_BYTES
            texts = json.loads(self.rfile.read(length)) if taken else None
            good = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
            json.dumps(texts, ensure_ascii=False).encode()  # half a character is no text
        except (ValueError, RecursionError):
            good, texts = False, None
        status = 200 if good and texts else 400
        told = answers(texts) if status == 200 else {"error": 'send a list: ["a text"]'}
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("localhost", port), Handler)
print(f"http://localhost:{server.server_address[1]}", flush=True)  # it listens from here on
server.serve_forever()
