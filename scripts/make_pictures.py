"""Draw the pictures of the documentation, docs/pictures/*.svg.

python scripts/make_pictures.py
python scripts/make_pictures.py --check   # exit 1 if one of them is stale

Colours are CSS variables. Seen alone, as on a code host, a picture follows the system's light or
dark setting; the site puts it into its pages, where it follows the site's switch (docs_hooks.py).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "pictures"
TABLE = ROOT / "docs" / "benchmark-table.md"
DASHES = ("6 4", "2 3", "9 3 2 3")
LIGHT = {
    "ink": "#1f2933",
    "soft": "#52606d",
    "line": "#9aa5b1",
    "kept": "#3f6fb5",
    "other": "#b3541e",
    "gone": "#d5dbe3",
    "card": "#edf1f7",
}
DARK = {
    "ink": "#e4e7eb",
    "soft": "#b4bdc9",
    "line": "#7b8794",
    "kept": "#7aa5e8",
    "other": "#e59560",
    "gone": "#3e4652",
    "card": "#2a303c",
}
# Of the demonstration model, sparsity 0.85: what each layer kept of 12 heads and 1,536 neurons.
HEADS, NEURONS = (4, 3, 4, 2, 2, 5), (395, 228, 132, 38, 0, 0)
# Milliseconds of int8 blocks, batch 1, 32 tokens, one thread (docs/notes.md).
PRICES = (
    ("attention, 1 head", 0.05),
    ("attention, 12 heads", 0.22),
    ("feed-forward, 9 neurons", 0.08),
    ("feed-forward, 1,536 neurons", 0.35),
)


def colour(name: str) -> str:
    return f"var(--hp-{name},{LIGHT[name]})"


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    light = ";".join(f"--hp-{name}:{value}" for name, value in LIGHT.items())
    dark = ";".join(f"--hp-{name}:{value}" for name, value in DARK.items())
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" '
        'font-family="system-ui, sans-serif">'
    )
    style = f"<style>svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return "\n".join([head, f"<title>{escape(title)}</title>", style, *parts, "</svg>"]) + "\n"


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: int = 14,
    fill: str = "ink",
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight} '
        f'style="fill:{colour(fill)}">{escape(content)}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str, *, radius: int = 0) -> str:
    corner = f' rx="{radius}"' if radius else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"{corner} '
        f'style="fill:{colour(fill)}"/>'
    )


def line(
    points: Sequence[tuple[float, float]],
    stroke: str = "line",
    width: float = 1.5,
    dash: str = "",
) -> str:
    joined = " ".join(f"{x:g},{y:g}" for x, y in points)
    style = f"fill:none;stroke:{colour(stroke)};stroke-width:{width:g}"
    style += f";stroke-dasharray:{dash}" if dash else ""
    return f'<polyline points="{joined}" style="{style}"/>'


def arrow(start: tuple[float, float], end: tuple[float, float]) -> list[str]:
    """A straight arrow, along one axis."""
    (x, y), (u, v) = start, end
    if y == v:
        way = 1 if u > x else -1
        tip = [(u, v), (u - 8 * way, v - 5), (u - 8 * way, v + 5)]
        stop = (u - 6 * way, v)
    else:
        tip = [(u, v), (u - 5, v - 8), (u + 5, v - 8)]
        stop = (u, v - 6)
    joined = " ".join(f"{a:g},{b:g}" for a, b in tip)
    return [
        line([start, stop], width=2),
        f'<polygon points="{joined}" style="fill:{colour("line")}"/>',
    ]


def pipeline() -> str:
    """The stages of a run."""
    stages = (
        ("teacher", "fine-tune the", "dense model"),
        ("prune", "gates close while", "the model trains"),
        ("shrink", "slice matrices,", "remove blocks"),
        ("recover", "train the", "small model"),
        ("export", "ONNX, checked", "against PyTorch"),
        ("quantize", "int8 settings,", "tried here"),
        ("evaluate", "test rows, read", "once, with intervals"),
        ("benchmark", "interleaved", "latency, sizes"),
    )
    parts = []
    wide, high, step = 158, 92, 184
    for index, (name, *words) in enumerate(stages):
        row, place = divmod(index, 4)
        x, y = 5 + place * step, 8 + row * 142
        parts.append(box(x, y, wide, high, "card", radius=8))
        parts.append(box(x, y, wide, 5, "kept" if row == 0 else "other"))
        parts.append(text(x + wide / 2, y + 34, name, size=17, bold=True))
        for number, word in enumerate(words):
            parts.append(text(x + wide / 2, y + 57 + 19 * number, word, fill="soft"))
        if place < 3:
            parts += arrow((x + wide + 2, y + high / 2), (x + step - 2, y + high / 2))
    turn, begin = 5 + 3 * step + wide / 2, 5 + wide / 2
    parts.append(line([(turn, 102), (turn, 125), (begin, 125)], width=2))
    parts += arrow((begin, 125), (begin, 148))
    return svg(720, 250, "The stages of a run, from the dense teacher to the benchmark", parts)


def shrinking() -> str:
    """A feed-forward block: dense, with gates, and shrunk."""
    units, kept = 8, (0, 2, 3, 6)
    parts = []
    for column, (name, note) in enumerate(
        (
            ("dense", "8 neurons"),
            ("while training", "4 gates at 0: same size"),
            ("shrunk", "4 neurons, smaller matrices"),
        )
    ):
        x = 20 + column * 236
        shown = kept if column == 2 else tuple(range(units))
        high = 20 * len(shown) - 4
        top = 84 + (20 * units - 4 - high) / 2
        parts.append(text(x + 104, 26, name, size=17, bold=True))
        parts.append(text(x + 104, 48, note, fill="soft"))
        parts.append(text(x + 40, 76, "rows", size=13, fill="soft"))
        parts.append(text(x + 172, 76, "columns", size=13, fill="soft"))
        for place, unit in enumerate(shown):
            is_open = unit in kept
            y = top + 20 * place
            parts.append(box(x, y, 80, 16, "kept" if is_open else "gone"))
            if column == 1:
                parts.append(text(x + 107, y + 13, "1" if is_open else "0", bold=True))
            else:
                parts.append(line([(x + 86, y + 8), (x + 128, y + 8)]))
            # Columns of the second matrix stand upright, one a neuron.
            across = x + 172 + 9.5 * (place - len(shown) / 2)
            parts.append(box(across, 122, 6.5, 80, "other" if is_open else "gone"))
    parts.append(text(360, 276, "first Linear (producer): one row a neuron", fill="soft"))
    parts.append(
        text(
            360, 298, "second Linear (consumer): one column a neuron, its input gated", fill="soft"
        )
    )
    return svg(720, 310, "A feed-forward block: dense, gated while training, and shrunk", parts)


def schedule() -> str:
    """The fraction of the target that is due, by the three schedules."""
    from hfprune.pruning.schedule import ScheduleKind, fraction

    left, right, top, bottom = 70, 690, 38, 262

    def at(progress: float, share: float) -> tuple[float, float]:
        return left + progress * (right - left), bottom - share * (bottom - top)

    parts = [line([(left, top), (left, bottom), (right, bottom)])]
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(text(at(value, 0)[0], bottom + 22, f"{value:.0%}"))
        parts.append(text(left - 10, at(0, value)[1] + 5, f"{value:.0%}", anchor="end"))
    parts.append(text((left + right) / 2, bottom + 46, "of the training", fill="soft"))
    parts.append(text(left, 18, "of the target", fill="soft"))
    kinds: dict[ScheduleKind, str] = {"one_shot": "line", "linear": "other", "cubic": "kept"}
    steps = [index / 400 for index in range(401)]
    for kind, stroke in kinds.items():
        values = [at(p, fraction(kind, p, start=0.1, end=0.5)) for p in steps]
        parts.append(line(values, stroke, 3))
    for number, (kind, stroke) in enumerate(kinds.items()):
        y = 130 + 28 * number
        parts.append(line([(480, y - 5), (520, y - 5)], stroke, 3))
        parts.append(text(530, y, kind, size=15, anchor="start"))
    return svg(720, 318, "Schedules with start 0.1 and end 0.5", parts)


def layers() -> str:
    """What the layers of a real pruned model kept."""
    parts = []
    for side, (name, values, total) in enumerate(
        (("heads, of 12", HEADS, 12), ("neurons, of 1,536", NEURONS, 1536))
    ):
        x = 90 + side * 330
        parts.append(text(x, 24, name, size=16, anchor="start", bold=True))
        for layer, value in enumerate(values):
            y = 40 + 34 * layer
            if side == 0:
                parts.append(text(x - 14, y + 17, f"layer {layer}", anchor="end"))
            parts.append(box(x, y, 240, 22, "gone"))
            parts.append(box(x, y, 240 * value / total, 22, "other" if side else "kept"))
            label = f"{value}" if value else "block removed"
            parts.append(text(x + 240 * value / total + 7, y + 16, label, anchor="start"))
    return svg(680, 250, "Heads and neurons that each layer of a pruned MiniLM kept", parts)


def prices() -> str:
    """Milliseconds of small and whole blocks."""
    parts = []
    for index, (name, value) in enumerate(PRICES):
        y = 14 + 38 * index
        parts.append(text(225, y + 17, name, anchor="end", size=15))
        parts.append(box(238, y, 1100 * value, 24, "other" if "feed" in name else "kept"))
        parts.append(text(238 + 1100 * value + 8, y + 17, f"{value:.2f} ms", anchor="start"))
    return svg(720, 170, "Measured time of int8 blocks with one unit or few, and with all", parts)


def measured() -> Iterator[tuple[str, str, float, float]]:
    """Series, label, speed-up and change in points of each row of the benchmark's table."""
    table = TABLE.read_text(encoding="utf-8").splitlines()
    head = next(cells_of(row) for row in table if row.startswith("| method"))
    change, speed = head.index("change, points"), head.index("MB") + 1  # the first shape
    for row in table:
        cells = cells_of(row)
        if len(cells) == len(head) and cells != head and not cells[0].startswith("-"):
            words = cells[0].rsplit(maxsplit=1)  # a method and its strength, if it has one
            points = float(cells[change].split()[0])
            yield words[0], words[-1], float(cells[speed].removesuffix("x")), points


def cells_of(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")] if row.startswith("|") else []


def methods() -> str:
    """What each method costs at the speed that it brings."""
    left, right, top, bottom, low, high = 64, 700, 14, 330, -8.0, 1.0
    longest = math.log2(32)

    def place(speed: float, change: float) -> tuple[float, float]:
        x = left + (right - left) * math.log2(speed) / longest
        y = top + (bottom - top) * (high - max(change, low)) / (high - low)
        return round(x, 1), round(y, 1)

    parts = []
    for points in range(int(low), int(high) + 1, 2):
        y = place(1, points)[1]
        parts.append(line([(left, y), (right, y)], "gone", 1))
        parts.append(text(left - 8, y + 5, f"{points:+d}" if points else "0", anchor="end"))
    for speed in (1, 2, 4, 8, 16, 32):
        x = place(speed, 0)[0]
        parts.append(line([(x, bottom), (x, bottom + 6)]))
        parts.append(text(x, bottom + 23, f"{speed}x"))
    parts.append(line([(left, top), (left, bottom), (right, bottom)]))
    series: dict[str, list[tuple[float, float, str]]] = {}
    for name, label, speed, change in measured():
        series.setdefault(name, []).append((*place(speed, change), label))
    for index, (name, found) in enumerate(series.items()):
        ours = name == "hfprune"
        stroke = "kept" if ours else "other" if name == "training-free" else "soft"
        dash = "" if ours or name == "training-free" else DASHES[index % len(DASHES)]
        spots = sorted(found)
        parts.append(line([spot[:2] for spot in spots], stroke, 3 if ours else 1.5, dash))
        for x, y, _ in spots:
            parts.append(
                f'<circle cx="{x:g}" cy="{y:g}" r="{5 if ours else 3.5}" '
                f'style="fill:{colour(stroke)}"/>'
            )
        x, y, _ = spots[-1]
        if name == "training-free":  # where it ends, others end too
            x, y = x - 118, y + 8
        parts.append(text(x + 9, y + 5, name, fill=stroke, anchor="start", bold=ours))
    parts.append(text((left + right) / 2, bottom + 46, "speed-up, one sentence of 32 tokens"))
    parts.append(text(left + 8, top + 12, "change in accuracy, points", anchor="start"))
    return svg(780, 390, "Accuracy against measured speed-up of each method", parts)


def routes() -> str:
    """Questions from the simplest route on, with the numbers of the benchmark's table."""
    rows = {f"{name} {label}".strip(): (speed, change) for name, label, speed, change in measured()}

    def told(row: str) -> str:
        speed, change = rows[row]
        return f"{speed:g}x, {change:+.2f} points"

    int8, whole = rows["dense int8"][0], rows["layers 4"][0]
    steps = (
        (("Does it generate text?",), ("LLM Compressor, vLLM", "and their like")),
        (("Is it fast and small enough?",), ("You are done.",)),
        (("Do words alone tell the classes", "apart? (topics, language, spam)"),
         ("Static embeddings, TF-IDF: minutes", "(on reviews 12 and 6 points less)")),
        (("Is it large, and no small", "pretrained model was tried?"),
         ("Fine-tune MiniLM, Ettin or the like,", "distil into it, and come back")),
        ((f"Is {int8:g} times as fast enough?",), ("int8 alone, an export:", told("dense int8"))),
        ((f"Is {whole:g} times as fast enough?",),
         ("Whole layers dropped, int8:", told("layers 4"))),
    )  # fmt: skip
    after = (
        (("Served in batches, on a CPU", "with instructions for bf16?"),
         ("OpenVINO, bf16, of the same model:", "13.9x where int8 is 9.0x")),
        (("Are most texts easy,", "and some are not?"),
         ("A cascade: the fast model answers when", "it is sure, a slow one else")),
    )  # fmt: skip
    parts, left, right, wide, high, step = [], 8, 408, 304, 58, 84

    def asked(y: float, question: Sequence[str], answer: Sequence[str]) -> None:
        for x, lines, fill in ((left, question, "card"), (right, answer, "gone")):
            parts.append(box(x, y, wide, high, fill, radius=8))
            top = y + (35 if len(lines) == 1 else 25)
            parts.extend(text(x + wide / 2, top + 20 * n, part) for n, part in enumerate(lines))
        parts.extend(arrow((left + wide + 2, y + high / 2), (right - 2, y + high / 2)))
        parts.append(text((left + wide + right) / 2, y + high / 2 - 7, "yes", size=13, fill="soft"))

    for index, (question, answer) in enumerate(steps):
        y = 8 + index * step
        asked(y, question, answer)
        parts += arrow((left + wide / 2, y + high + 2), (left + wide / 2, y + step - 2))
        parts.append(text(left + wide / 2 + 18, y + high + 18, "no", size=13, fill="soft"))
    y = 8 + len(steps) * step
    parts.append(box(left, y, right - left + wide, high + 26, "card", radius=8))
    parts.append(box(left, y, right - left + wide, 5, "kept"))
    parts.append(text((left + right + wide) / 2, y + 32, "hfprune, int8", size=17, bold=True))
    ours = "; ".join(told(f"hfprune {speed}") for speed in ("6x", "10x", "16x"))
    parts.append(text((left + right + wide) / 2, y + 58, ours))
    y += high + 26
    for question, answer in after:
        parts += arrow((left + wide / 2, y + 2), (left + wide / 2, y + step - high - 2))
        y += step - high
        asked(y, question, answer)
        y += high
    y -= high
    return svg(720, y + high + 8, "Which route to take, from the simplest on", parts)


PICTURES = {
    "pipeline": pipeline,
    "shrinking": shrinking,
    "schedule": schedule,
    "layers": layers,
    "prices": prices,
    "methods": methods,
    "routes": routes,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a picture is stale")
    check = parser.parse_args(arguments).check
    sys.path.insert(0, str(ROOT))  # the checkout that this script is in, installed or not
    from scripts.generated import keep

    drawn = {FOLDER / f"{name}.svg": draw() for name, draw in PICTURES.items()}
    remark = "is not what scripts/make_pictures.py draws: run it"
    return keep(drawn, check=check, remark=remark)


if __name__ == "__main__":
    sys.exit(main())
