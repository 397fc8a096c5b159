"""Ask a cascade of two exported models. Needs onnxruntime, tokenizers and numpy; no hfprune.

Long texts are cut; examples/server reads them in windows too, where the run did (data.stride).

hfprune cascade runs/family
python examples/cascade.py runs/family "a moving film" "dull"
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

LONGEST, USUAL = 100_000, 512  # tokens of a text
COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
family, texts = Path(sys.argv[1]), sys.argv[2:]
cascade = json.loads((family / "cascade.json").read_text(encoding="utf-8"))


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


def opened(folder: Path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # RoBERTa and its kin count positions from after the padding's id: of 514 they use 512.
    shifted = config["model_type"] in COUNT_FROM_PADDING
    first = (config.get("pad_token_id") or 0) + 1 if shifted else 0
    longest = config.get("max_position_embeddings", 512) - first
    cuts = settings_of(folder).get("truncation_side", "right")
    tokenizer.enable_truncation(length_of(folder, longest), direction=cuts)
    # The threshold was chosen with the file that is recommended for single texts.
    record = folder / "deploy.json"
    uses = json.loads(record.read_text(encoding="utf-8"))["uses"] if record.is_file() else {}
    single = uses.get("single", {"runtime": None})
    files = [folder / single["path"]] if single["runtime"] == "onnxruntime" else []
    files += sorted((folder / "onnx").glob("*.onnx"), key=lambda file: "quantized" not in file.name)
    session = onnxruntime.InferenceSession(str(next(file for file in files if file.is_file())))
    names = [node.name for node in session.get_inputs()]

    def ask(text: str) -> np.ndarray:
        row = tokenizer.encode(text)
        columns = {"input_ids": row.ids, "attention_mask": row.attention_mask}
        columns["token_type_ids"] = row.type_ids
        feed = {name: np.array([columns[name]], dtype=np.int64) for name in names}
        logits = session.run(["logits"], feed)[0][0].astype(np.float64)
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()

    # Names that nobody gave are left out of config.json.
    return ask, config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}


(fast, labels), (slow, _) = (opened(family / cascade[name]) for name in ("fast", "slow"))
for text in texts:
    shares, by = fast(text), "fast"
    if shares.max() < cascade["threshold"]:  # not sure: the slow model is asked
        shares, by = slow(text), "slow"
    label, share = labels[str(shares.argmax())], round(float(shares.max()), 4)
    print(json.dumps({"text": text, "label": label, "probability": share, "by": by}))
