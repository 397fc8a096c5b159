"""Classify texts with an exported model. Needs onnxruntime, tokenizers and numpy; no hfprune.

python examples/onnxruntime_only.py runs/demo-minilm-movie-reviews "a moving film" "dull"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
folder, texts = Path(sys.argv[1]), sys.argv[2:]
config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
pads, cuts = (settings.get(f"{what}_side", "right") for what in ("padding", "truncation"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_padding(direction=pads, pad_id=config.get("pad_token_id") or 0)
# RoBERTa and its kin count positions from after the padding's id: of 514 they use 512.
first = (config.get("pad_token_id") or 0) + 1 if config["model_type"] in COUNT_FROM_PADDING else 0
longest = min(settings["model_max_length"], config.get("max_position_embeddings", 512) - first)
tokenizer.enable_truncation(longest, direction=cuts)
session = onnxruntime.InferenceSession(str(folder / "onnx" / "model_quantized.onnx"))

rows = tokenizer.encode_batch(texts)
columns = {
    "input_ids": [row.ids for row in rows],
    "attention_mask": [row.attention_mask for row in rows],
    "token_type_ids": [row.type_ids for row in rows],
}
feed = {node.name: np.array(columns[node.name], dtype=np.int64) for node in session.get_inputs()}
logits = session.run(["logits"], feed)[0]
for text, row in zip(texts, logits, strict=True):
    label = config.get("id2label", {}).get(str(row.argmax()), f"LABEL_{row.argmax()}")
    print(json.dumps({"text": text, "label": label, "logits": row.tolist()}))
