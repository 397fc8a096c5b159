"""Small random models, plans and batches of every supported family, for fast tests."""

from __future__ import annotations

import random
from typing import Any

import torch
import transformers

from hfprune.families import model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.plan import PruningPlan

TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5
VOCAB = 100
GROUPED = {"num_attention_heads": 8, "num_key_value_heads": 4}  # so 4 units, of 2 heads each
RELATIVE = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}

# What a family's tiny config has besides, or instead of, the common sizes.
TEXT_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {"embedding_size": 16},
    "distilbert": {},
    # Three groups, of two layers each: as many views as the others have layers.
    "albert": {"embedding_size": 16, "num_hidden_groups": 3, "num_hidden_layers": 6},
    "mpnet": {},
    "deberta-v2": {**RELATIVE, "share_att_key": False},
    "deberta-v3": {
        **RELATIVE,
        "model_type": "deberta-v2",
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    "modernbert": {"local_attention": 8, "pad_token_id": 1, "reference_compile": False},
    "gpt2": {"n_inner": 48, "pad_token_id": 1},
    "llama": {**GROUPED, "pad_token_id": 1},
    "qwen2": {**GROUPED, "pad_token_id": 1},
    "qwen3": {**GROUPED, "head_dim": 8, "pad_token_id": 1},  # heads wider than the model
}
IMAGE_CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 12, "patch_size": 4},
    "deit": {
        "image_size": 12,
        "patch_size": 4,
        "architectures": ["DeiTForImageClassification"],  # not the one with a second head
    },
}
TEXT_FAMILIES = tuple(TEXT_CONFIGS)
IMAGE_FAMILIES = tuple(IMAGE_CONFIGS)
FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES)


def tiny_model(
    family: str,
    *,
    labels: int = 3,
    layers: int = 3,
    seed: int = 0,
    tokens: bool = False,
    **extra: Any,
) -> Any:
    """A classifier of texts, tokens or images: 32 hidden units, 4 heads a layer, in eval mode."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"num_labels": labels}
    if family == "distilbert":
        settings |= {"dim": 32, "n_heads": 4, "n_layers": layers, "hidden_dim": 48}
    else:
        settings |= {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": layers}
        settings |= {} if family == "gpt2" else {"intermediate_size": 48}
    if family in TEXT_CONFIGS:
        settings |= {"vocab_size": VOCAB, "max_position_embeddings": 66, **TEXT_CONFIGS[family]}
        maker: Any = transformers.AutoModelForSequenceClassification
        if tokens:
            maker = transformers.AutoModelForTokenClassification
    else:
        settings |= IMAGE_CONFIGS[family]
        maker = transformers.AutoModelForImageClassification
    settings |= extra
    kind = transformers.AutoConfig.for_model(settings.pop("model_type", family)).__class__
    model = maker.from_config(kind(**settings))
    with torch.no_grad():
        for parameter in model.parameters():  # zero biases would hide mistakes
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def tiny_batch(
    batch: int = 4,
    length: int = 12,
    *,
    seed: int = 1,
    padded: bool = True,
    family: str = "bert",
) -> Any:
    """Token ids (never the padding ids 0 and 1) with ragged attention masks; or images."""
    generator = torch.Generator().manual_seed(seed)
    if family in IMAGE_FAMILIES:
        return {"pixel_values": torch.randn(batch, 3, 12, 12, generator=generator)}
    ids = torch.randint(5, VOCAB, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(1, batch):
            cut = 1 + int(torch.randint(1, length, (1,), generator=generator))
            mask[row, cut:] = 0
            ids[row, cut:] = 1
    return {"input_ids": ids, "attention_mask": mask}


def by_length(grouped: bool = True) -> dict[str, Any]:
    """What TrainingArguments call batches of rows of like length."""
    if TRANSFORMERS_5:
        return {"train_sampling_strategy": "group_by_length" if grouped else "random"}
    return {"group_by_length": grouped}


def random_plan(model: Any, *, seed: int = 0, removed: tuple[BlockKey, ...] = ()) -> PruningPlan:
    """An uneven plan; every block keeps something but those in ``removed``."""
    draw = random.Random(seed)
    plan = PruningPlan.dense(model_sizes(model))
    for key in plan.keys():
        total = len(plan.mask(key))
        if not total:
            continue
        count = 0 if key in removed else draw.randint(1, total)
        chosen = set(draw.sample(range(total), count))
        plan = plan.with_block(key, [index in chosen for index in range(total)])
    return plan


POSITIVE = ["good", "fine", "great", "moving", "funny", "clever"]
NEGATIVE = ["bad", "dull", "weak", "boring", "stale"]
NEUTRAL = ["film", "plot", "actor", "scene", "a", "the", "is", "was", "it", "but", "very", "story"]


def tiny_tokenizer() -> Any:
    """A WordPiece tokenizer of whole words, of the size that the tiny models expect."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *POSITIVE, *NEGATIVE, *NEUTRAL]
    vocab = {word: index for index, word in enumerate(words)}
    while len(vocab) < VOCAB:
        vocab[f"[unused{len(vocab)}]"] = len(vocab)
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_image_processor() -> Any:
    """Scales to the 12 x 12 pixels of the tiny image models."""
    return transformers.ViTImageProcessor(
        size={"height": 12, "width": 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def save_tiny_classifier(family: str, folder: Any, *, labels: int = 2, layers: int = 3) -> None:
    """A tiny model and its tokenizer or image processor as ``save_pretrained`` leaves them."""
    tiny_model(family, labels=labels, layers=layers).save_pretrained(folder)
    processor = tiny_image_processor() if family in IMAGE_FAMILIES else tiny_tokenizer()
    processor.save_pretrained(folder)


def write_images(folder: Any, rows: int) -> None:
    """An image folder: noise that is bright on the left, or on the right."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for split, count in (("train", rows), ("test", rows // 4)):
        for index in range(count):
            name = ("left", "right")[index % 2]
            pixels = draw.integers(0, 120, (12, 12), dtype=np.uint8)
            pixels[:, slice(0, 6) if name == "left" else slice(6, 12)] += 130
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{index:03d}.png")


def write_tagged(path: Any, rows: int) -> None:
    """JSON Lines of made-up sentences: runs of adjectives are entities, of two types."""
    import json

    draw = random.Random(0)
    lines = []
    for _ in range(rows):
        words: list[str] = []
        tags: list[str] = []
        for _ in range(draw.randint(1, 3)):
            plain = draw.choices(NEUTRAL, k=draw.randint(1, 3))
            kind, pool = draw.choice((("POS", POSITIVE), ("NEG", NEGATIVE)))
            entity = draw.choices(pool, k=draw.randint(1, 2))
            words += [*plain, *entity]
            tags += ["O"] * len(plain) + [f"B-{kind}"] + [f"I-{kind}"] * (len(entity) - 1)
        lines.append(json.dumps({"words": words, "tags": tags}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_reviews(path: Any, rows: int) -> None:
    """A CSV of made-up sentences whose label is the side of their adjectives."""
    draw = random.Random(0)
    lines = ["text,label"]
    for index in range(rows):
        positive = index % 2 == 0
        adjectives = POSITIVE if positive else NEGATIVE
        words = [draw.choice(adjectives), *draw.choices(NEUTRAL, k=draw.randint(2, 6))]
        draw.shuffle(words)
        lines.append(f"{' '.join(words)},{'positive' if positive else 'negative'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def within(plan: PruningPlan, other: PruningPlan) -> bool:
    """Whether everything that a plan keeps is kept by the other too."""
    return plan.totals() == other.totals() and all(
        set(plan.kept(key)) <= set(other.kept(key)) for key in plan.keys()
    )


def opened_store(recipe: Any) -> Any:
    """The work folder of a recipe, opened as a run opens it."""
    from hfprune.pipeline.context import Context
    from hfprune.pipeline.fingerprint import recipe_digest
    from hfprune.recipe.reading import dump_recipe

    store = Context.of(recipe).store
    store.open(
        recipe_digest(recipe),
        dump_recipe(recipe),
        resume=recipe.resume,
        overwrite=recipe.overwrite,
    )
    return store


def prepared_run(recipe: Any, console: Any) -> tuple[Any, Any]:
    """The context of a run, and its rows, read; the first stage has not begun."""
    from importlib import import_module

    from hfprune.pipeline.context import Context

    context = Context.of(recipe, console)
    return context, import_module("hfprune.pipeline.run")._prepare(context)


def random_rows(count: int = 16, seed: int = 0) -> Any:
    """A data set of rows of ten random tokens, in two classes that nothing tells apart."""
    import datasets  # most of those who read this file need none

    ids = torch.randint(5, 100, (count, 10), generator=torch.Generator().manual_seed(seed))
    return datasets.Dataset.from_dict(
        {"input_ids": ids.tolist(), "label": [i % 2 for i in range(count)]}
    )
