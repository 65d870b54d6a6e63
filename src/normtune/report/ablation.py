"""The picture of an ablation: what the score loses against how much is switched off."""

from __future__ import annotations

from pathlib import Path

from normtune.files import write_atomically
from normtune.records.ablation import AblationRecord
from normtune.report.drawing import SOFT, STYLE, check, grid, laid_out, rendered

#: By what dimensions were ranked over: how their line is called, its colour and its marker.
_LOOKS = {
    "model": ("largest weights, the same in every layer", "#1f77b4", "o"),
    "layer": ("largest weights of each layer", "#d95f02", "s"),
}


def draw(record: AblationRecord, path: Path) -> None:
    """Write a line for each ranking of dimensions and a mark for each part, with the range of the random draws.

    Raises:
        ConfigError: If matplotlib is missing, or the file's suffix is none of SVG, PNG and PDF.
    """
    check(path)
    import matplotlib as mpl
    from matplotlib.ticker import LogLocator

    with mpl.rc_context(STYLE):
        figure, (axes,) = grid(1, 1, (5.6, 3.4))
        for per, (name, colour, marker) in _LOOKS.items():
            if points := sorted((p for p in record.points if p.per == per), key=lambda point: point.entries):
                sizes = [point.entries for point in points]
                lost = [100 * record.loss(point.scores) for point in points]
                axes.plot(sizes, lost, color=colour, marker=marker, ms=5, lw=1.3, label=name, zorder=3)
                if record.config.draws:
                    drawn = [sorted(100 * record.loss(scores) for scores in point.random) for point in points]
                    label = f"as many at random: {record.config.draws} draws and their mean"
                    low, high = [own[0] for own in drawn], [own[-1] for own in drawn]
                    axes.fill_between(sizes, low, high, color=colour, alpha=0.2, lw=0, label=label)
                    axes.plot(sizes, [sum(own) / len(own) for own in drawn], color=colour, lw=1, ls="--")
        label = f"as many random entries: {record.config.draws} draws"
        for point in record.points:
            if point.per is None:
                at, *others = [100 * record.loss(scores) for scores in (point.scores, *point.random)]
                if others:
                    axes.vlines(point.entries, min(others), max(others), color=SOFT, lw=3, alpha=0.4, label=label)
                    label = ""
                axes.plot(point.entries, at, color=SOFT, marker="D", ms=5, ls="", zorder=3)
                axes.annotate(point.name, (point.entries, at), (4, 3), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", xlabel="entries switched off", ylabel=f"loss of {record.primary} × 100")
        sizes = [point.entries for point in record.points]
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 100 * min(sizes) else (1,)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.set_title(f"{record.config.task} dev")
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
        write_atomically(path, rendered(laid_out(figure), path.suffix.lower()))
