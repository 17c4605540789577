"""Drawings for the notebooks: a chain of layers with shortcuts, what one output of a layer reads, pairs of accuracies, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kws.audio import SAMPLE_RATE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

KINDS = {  # words in the name of a layer, and the colour of its box: a number of the palette
    ("conv", "dense", "gru", "depthwise", "attention", "token"): 0,  # has weights
    ("norm", "relu", "softmax", "silu"): 1,  # normalisation, activation
    ("mean", "max", "pool", "slice"): 2,  # without weights
}


def _colour(name: str) -> tuple[float, float, float]:
    """Light colour of the box of a layer."""
    import seaborn as sns

    for words, number in KINDS.items():
        if any(word in name.lower() for word in words):
            return tuple(0.35 * np.array(sns.color_palette()[number]) + 0.65)
    return (1.0, 1.0, 1.0)


def draw_chain(
    steps: Sequence[str], skips: Sequence[tuple[int, int, str]] = (), title: str = "", width: float = 8
) -> Figure:
    """Layers from left to right; `skips` are (from, to, text): the result of a layer goes around others.

    A step + adds what comes in. A line break in a name makes two lines.
    """
    import matplotlib.pyplot as plt

    size = [0.5 if step == "+" else 0.35 + 0.11 * max(map(len, step.split("\n"))) for step in steps]
    left = np.cumsum([0, *(s + 0.42 for s in size[:-1])])
    middle = left + np.array(size) / 2
    high = 0.75 + 0.5 * len(skips)
    fig, ax = plt.subplots(figsize=(width, width * (0.65 + high) / max(left[-1] + size[-1] + 0.4, 9) + 0.35))
    boxes = []
    line = {"arrowstyle": "->", "color": "0.3", "shrinkA": 0, "shrinkB": 1}
    for number, step in enumerate(steps):
        style = "circle" if step == "+" else "round,pad=0.5"
        box = {"boxstyle": style, "fc": _colour(step), "ec": "0.3"}
        name = ax.text(middle[number], 0, step, ha="center", va="center", fontsize=8, bbox=box)
        boxes.append(name.get_bbox_patch())
        if number:
            arrow = line | {"patchA": boxes[-2], "patchB": boxes[-1]}
            ax.annotate("", (middle[number], 0), (middle[number - 1], 0), arrowprops=arrow)
    for level, (start, end, text) in enumerate(skips):
        up, x0, x1 = (
            0.75 + 0.5 * level,
            left[start] + size[start] + 0.25,
            middle[end] + 0.12 * (2 * level - 1),
        )
        ax.plot([x0, x0, x1], [0, up, up], color="0.3", lw=1)
        ax.annotate("", (x1, 0), (x1, up), arrowprops=line | {"patchB": boxes[end]})
        ax.text((x0 + x1) / 2, up + 0.06, text, ha="center", fontsize=8)
    ax.set(xlim=(-0.3, max(left[-1] + size[-1] + 0.1, 8.6)), ylim=(-0.6, high), title=title)
    ax.axis("off")
    fig.tight_layout(pad=0.3)
    return fig


def draw_reach(reach: Mapping[str, np.ndarray], across: str, down: str, title: str = "") -> Figure:
    """What one output of a layer reads: {title: numbers [down, across]}, 0 where it reads nothing, one colour for each number."""
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([(0.95, 0.95, 0.95), *sns.color_palette()])
    fig, axes = plt.subplots(
        1, len(reach), figsize=(8, 2.2), squeeze=False, sharey=True, constrained_layout=True
    )
    for ax, (name, cells) in zip(axes[0], reach.items()):
        ax.pcolormesh(np.asarray(cells), cmap=colours, vmin=0, vmax=len(colours.colors) - 1, ec="white", lw=1)
        ax.set(title=name, xlabel=across, xticks=[], yticks=[])
        ax.title.set_size(9)
    axes[0, 0].set_ylabel(down)
    fig.suptitle(title)
    return fig


def _find_room(
    size: np.ndarray,
    point: np.ndarray,
    places: Sequence[tuple[float, float, float]],
    edges: Bbox,
    dots: Sequence[Bbox],
    names: Sequence[Bbox],
    lines: Sequence[Any],
) -> tuple[tuple[float, float, float], Bbox, Any]:
    """The place of a name of this size beside a point that covers the fewest dots and names and crosses the fewest lines.

    Places are (right, up, share of the name that is left of it); everything is in pixels. The place, its box, the line to it.
    """
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

    trials = []
    for x, y, share in places:
        box = Bbox.from_bounds(point[0] + x - share * size[0], point[1] + y, *size)
        line = Path([(point[0] + x, box.y1 if y < 0 else box.y0), point])
        covered = [*map(box.overlaps, names), not (edges.contains(*box.min) and edges.contains(*box.max))]
        crossed = [line.intersects_bbox(name, False) for name in names]
        crossed += [line.intersects_bbox(dot, False) for dot in dots if not dot.contains(*point)]
        crossed += [line.intersects_path(other) or other.intersects_bbox(box, False) for other in lines]
        trials.append((4 * sum(covered) + 2 * sum(map(box.overlaps, dots)) + sum(crossed), box, line))
    best = min(range(len(trials)), key=lambda number: trials[number][0])
    return places[best], *trials[best][1:]


def draw_field(
    ax: Axes,
    table: pd.DataFrame,
    family: Mapping[str, str],
    names: Sequence[str] | None = None,
    chosen: str | None = None,
) -> None:
    """Accuracy against multiplications (columns accuracy, MACs; the index names the models), a colour for each family.

    Where there are columns low and high, bars join them. The front of those that none beats at the same cost is joined and in
    bold. Rows whose `run` is not *here* are hollow. With `names` only these, the front and `chosen` are named; an arrow points
    at the latter. A name that finds no room beside its dot is joined to it by a thin line.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib.transforms import Bbox

    palette = sns.color_palette("colorblind")
    kinds = list(dict.fromkeys(family.values()))
    colours = dict(zip(kinds, [*palette[:3], "black", palette[4], palette[9], palette[8]]))
    table = table.sort_values(["MACs", "accuracy"], ascending=[True, False])
    front = table[table.accuracy > table.accuracy.cummax().shift(fill_value=0)]
    for name, row in table.iterrows():
        colour = colours[family[name]]
        if "low" in table:
            ax.plot([row.MACs] * 2, [100 * row.low, 100 * row.high], color=colour, alpha=0.35, zorder=1)
        ax.plot(row.MACs, 100 * row.accuracy, "o", color=colour, mfc=colour if row.run == "here" else "white")
    ax.step(front.MACs, 100 * front.accuracy, where="post", color="0.6", zorder=0)
    marks = [plt.Line2D([], [], marker="o", ls="", color=colour) for colour in colours.values()]
    legend = ax.legend(marks, colours, loc="lower right", fontsize=8)
    ax.set(xscale="log", xlabel="multiplications per clip", ylabel="validation accuracy in %")
    ax.margins(x=0.12, y=0.12)
    ax.figure.canvas.draw()  # from here on it is known where things are, and a name can look for room
    points = dict(zip(table.index, ax.transData.transform(table[["MACs", "accuracy"]] * (1, 100))))
    dots = [Bbox.from_extents(*(point - 7), *(point + 7)) for point in points.values()]
    boxes, lines, pixels = [legend.get_window_extent()], [], ax.figure.dpi / 72
    beside = [(x, y, share) for y in (-5, 3, -13) for x, share in ((6, 0), (-6, 1))]
    away = [
        (x, y, share) for y in (12, -24, 22, -34, 32, -44, 42) for x, share in ((8, 0), (0, 0.5), (-8, 1))
    ]
    written = [name for name in table.index if names is None or name in {*names, *front.index, chosen}]
    for name in sorted(written, key=lambda n: (n != chosen, n not in front.index, -table.MACs[n])):
        # the front's line would cross a name at its height
        places = away[::-1] if name == chosen else beside[2:] if name in front.index else beside[:2] + away
        text, bold = f"chosen: {name}" if name == chosen else name, name == chosen or name in front.index
        style = {"fontsize": 8, "weight": "bold" if bold else "normal", "va": "bottom"}
        measured = ax.text(0, 0, text, **style)
        size, at = measured.get_window_extent().size, (table.MACs[name], 100 * table.accuracy[name])
        measured.remove()
        places = [(pixels * x, pixels * y, share) for x, y, share in places]
        (x, y, share), box, line = _find_room(size, points[name], places, ax.bbox, dots, boxes, lines)
        arrow = {"arrowstyle": "-", "color": "0.4", "lw": 0.5, "shrinkA": 0, "shrinkB": 2}
        arrow |= {"arrowstyle": "->", "color": "black", "lw": 1.5} if name == chosen else {}
        style |= {"ha": ("left", "center", "right")[int(2 * share)], "textcoords": "offset points"}
        if name == chosen or (name not in front.index and abs(y) > 6 * pixels):
            style["arrowprops"] = arrow | {"relpos": (share, float(y < 0))}
        ax.annotate(text, at, (x / pixels, y / pixels), **style)
        boxes.append(box)
        lines.append(line)


def draw_pairs(table: pd.DataFrame, first: str, second: str, title: str = "") -> Figure:
    """Two accuracies (columns `first`, `second`) of each row of a table, joined by a line, with their difference in points.

    The table has the columns name, chance, difference, low and high.
    """
    import matplotlib.pyplot as plt

    table = table.reindex(columns=["name", first, second, "chance", "difference", "low", "high"])
    fig, ax = plt.subplots(figsize=(8, 0.42 * len(table) + 1.1), constrained_layout=True)
    at = np.arange(len(table))
    ax.hlines(
        at, table[[first, second]].min(axis=1), table[[first, second]].max(axis=1), color="0.6", zorder=1
    )
    for column, marker, colour in ((first, "o", "C3"), (second, "s", "C9"), ("chance", "|", "0.4")):
        ax.plot(table[column], at, marker, color=colour, label=column)
    for height, row in zip(at, table.to_dict("records")):
        gap, low, high = (100 * row[name] for name in ("difference", "low", "high"))
        text = f"{gap:.1f} points ({low:.1f} to {high:.1f})".replace("-", "\N{MINUS SIGN}")
        ax.text(1.02, height, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(at, table.name)
    ax.set(xlabel="accuracy", xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), title=title)
    ax.set_title("difference (95 % interval)", loc="right", x=1.02, ha="left", fontsize=9)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return fig


def draw_people(
    speakers: pd.Series, ways: Mapping[str, Sequence[str]], colours: Mapping[str, str], seed: int = 0
) -> Figure:
    """The clips of some people, a row for each person, coloured by their split in each of two ways to split them.

    `speakers` and the ways are of all clips. Eight people of each split of the second way are shown, who recorded eight clips or
    more where somebody did.
    """
    import matplotlib.pyplot as plt
    import pandas as pd

    ways = {title: pd.Series(np.asarray(splits), speakers.index) for title, splits in ways.items()}
    recorded = speakers.groupby(speakers).size()
    many = recorded[recorded >= min(8, recorded.max())].sample(frac=1, random_state=seed).index
    split_of = [*ways.values()][1].groupby(speakers).first()[many]
    some = pd.concat([split_of[split_of == split][:8] for split in list(colours)[::-1]]).index
    few = speakers[speakers.isin(some)]
    x, y = few.groupby(few).cumcount() + 1, few.map(some.get_loc)
    fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True, constrained_layout=True)
    for ax, (title, splits) in zip(axes, ways.items()):
        for split, colour in colours.items():
            there = splits[few.index] == split
            ax.scatter(x[there], y[there], s=9, marker="s", color=colour, label=split)
        ax.set(xlabel="clips of this person", yticks=[], title=title)
    axes[0].set_ylabel("one row = one person")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    fig.suptitle(
        "Eight people of each split, one square = one clip. Which rows have more than one colour?", size=11
    )
    return fig


def draw_stretches(stretches: pd.DataFrame, clips: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """Which part of each of up to eight recordings belongs to which split, and the clips that are cut from it.

    Both tables have the columns path, split, start and stop (samples).
    """
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(8, 2.6), constrained_layout=True)
    for rows, height, alpha in ((stretches, 0.7, 0.4), (clips, 0.2, 1)):
        rows = rows[rows.path.isin(stretches.path.unique()[:8])]
        for split, colour in colours.items():
            paths, start, stop = rows[rows.split == split][["path", "start", "stop"]].to_numpy().T
            names, length = [Path(path).stem for path in paths], (stop - start) / SAMPLE_RATE
            style = {"color": colour, "alpha": alpha, "ec": "white", "lw": 0.3, "label": split}
            ax.barh(names, length, height, start / SAMPLE_RATE, **style)
    ax.set(xlabel="time in the recording (s)", title="Who gets which second of noise (small boxes: clips)")
    fig.legend(handles=ax.containers[: len(colours)], loc="outside right center")
    return fig
