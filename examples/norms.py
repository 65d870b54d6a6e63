"""Normalisation by the paper's equations 3 to 5, the five shortcomings of BatchNorm (appendix A), and other norms.

It prints the table of ``docs/norms.md``; with a file it draws the picture of that page too::

    python examples/norms.py docs/assets/norms.svg
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

EPS = 1e-5


def statistics(x: Tensor, over: int) -> tuple[Tensor, Tensor]:
    """Equation 3: mean and variance."""
    mean = x.mean(over, keepdim=True)
    return mean, (x - mean).square().mean(over, keepdim=True)


def normalized(x: Tensor, over: int) -> Tensor:
    """Equation 4."""
    mean, variance = statistics(x, over)
    return (x - mean) / (variance + EPS).sqrt()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Equation 5, of a table of examples (rows) and features (columns): each row is normalised by itself."""
    return weight * normalized(x, over=-1) + bias


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same with equations 3 and 4 down each column, as in training."""
    return weight * normalized(x, over=0) + bias


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """LayerNorm without the mean and the bias (Zhang and Sennrich, 2019)."""
    return weight * x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()


def simple_norm(x: Tensor) -> Tensor:
    """LayerNorm without gain and bias (Xu et al., 2019)."""
    return normalized(x, over=-1)


def variance_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm that keeps the mean: equation 4 with x in place of x - mean (Wang et al., 2020)."""
    return weight * x / (statistics(x, over=-1)[1] + EPS).sqrt() + bias


@dataclass
class PowerNorm:
    """BatchNorm without the mean, by a running mean square in training too (Shen et al., 2020)."""

    square: Tensor  # the running mean square of each feature
    slope: Tensor  # the running mean of output times gradient
    keep: float = 0.9

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Normalise by the mean square of the batches before; in training follow this one."""
        hat = x / (self.square + EPS).sqrt()
        if hat.requires_grad:
            self.square = self.keep * self.square + (1 - self.keep) * x.detach().square().mean(0)
            hat.register_hook(lambda gradient: self.backward(hat.detach(), gradient))
        return weight * hat + bias

    def backward(self, hat: Tensor, gradient: Tensor) -> Tensor:
        """The gradient, less what it owes to the mean square."""
        gradient = gradient - self.slope * hat
        self.slope = self.slope + (1 - self.keep) * (gradient * hat).mean(0)
        return gradient


class NormFormer(nn.Module):
    """A pre-norm layer with three operators more (Shleifer and Ott, 2022)."""

    def __init__(self, width: int, heads: int, extra: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head_scale = nn.Parameter(torch.ones(heads, 1, 1), requires_grad=extra)  # the first
        self.after_attention = nn.LayerNorm(width) if extra else nn.Identity()  # the second
        self.after_gelu = nn.LayerNorm(4 * width) if extra else nn.Identity()  # the third

    def forward(self, x: Tensor) -> Tensor:
        """Texts x tokens x width, in and out."""
        split = self.qkv(self.norm1(x)).unflatten(-1, (3, len(self.head_scale), -1)).permute(2, 0, 3, 1, 4)
        heads = self.head_scale * scaled_dot_product_attention(*split)
        x = x + self.after_attention(self.out(heads.transpose(1, 2).flatten(2)))
        return x + self.down(self.after_gelu(gelu(self.up(self.norm2(x)))))


NORMS = {"BatchNorm": partial(normalized, over=0), "LayerNorm": partial(normalized, over=-1)}
SIZES, STEPS, SHIFTS, EXAMPLES, LAYERS = [2, 4, 8, 16, 32, 64, 128, 256], range(1, 21), range(5), 8, 30
Curves = dict[str, list[float]]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from the normal distribution."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def batch_size(draws: int = 60) -> Curves:
    """1: how much the output of one example varies over draws of the rest of its batch, by batch size."""
    others = normal(draws, max(SIZES), 64, seed=1)
    others[:, 0] = normal(64)

    def spread(norm: Callable[[Tensor], Tensor], size: int) -> float:
        return float(torch.stack([norm(batch[:size])[0] for batch in others]).std(0).mean())

    return {name: [spread(norm, size) for size in SIZES] for name, norm in NORMS.items()}


@cache
def recurrent(sequences: int = 128, width: int = 64) -> Curves:
    """2: the spread of a recurrent network's normalised sums, step by step; BatchNorm has one set of statistics."""
    inner, outer = 1.1 * normal(width, width, seed=1) / width**0.5, 0.3 * normal(width, width, seed=2) / width**0.5
    sums, state = [], torch.zeros(sequences, width, dtype=torch.float64)
    for step in STEPS:
        sums.append(state @ inner + normal(sequences, width, seed=2 + step) @ outer)
        state = sums[-1].tanh()
    outputs = {
        "BatchNorm": NORMS["BatchNorm"](torch.cat(sums)).split(sequences),
        "LayerNorm": [NORMS["LayerNorm"](step) for step in sums],
    }
    return {name: [float(step.square().mean().sqrt()) for step in steps] for name, steps in outputs.items()}


@cache
def inference() -> Curves:
    """3: the mean output of trained layers, for inputs shifted from those of training."""
    layers = {"BatchNorm": nn.BatchNorm1d(64).double(), "LayerNorm": nn.LayerNorm(64).double()}
    for seed in range(100):
        layers["BatchNorm"](normal(32, 64, seed=seed))
    inputs = normal(256, 64, seed=100)
    return {
        name: [float(layer.eval()(inputs + shift).detach().mean()) for shift in SHIFTS]
        for name, layer in layers.items()
    }


@cache
def dependence() -> dict[str, Tensor]:
    """4: how far the output of each example (row) depends on the input of each (column): norms of the Jacobian."""
    inputs = normal(EXAMPLES, 16)
    return {
        name: torch.autograd.functional.jacobian(norm, inputs).square().sum((1, 3)).sqrt()
        for name, norm in NORMS.items()
    }


def to_others(sizes: Tensor) -> float:
    """The share of the Jacobian's squares that belongs to other examples."""
    return float(1 - sizes.diagonal().square().sum() / sizes.square().sum())


@cache
def depth(scale: float = 1.0, width: int = 256) -> Curves:
    """5: the gradient's norm below each layer of a random network (linear, norm, ReLU), over that at its output."""
    weights = [scale * normal(width, width, seed=layer + 1) / width**0.5 for layer in range(LAYERS)]

    def sizes(norm: Callable[[Tensor], Tensor]) -> list[float]:
        states = [normal(width, width).relu().requires_grad_()]
        for weight in weights:
            states.append(norm(states[-1] @ weight).relu())
        gradients = torch.autograd.grad((states[-1] * normal(width, width, seed=LAYERS + 1)).sum(), states)
        return [float(gradient.norm() / gradients[-1].norm()) for gradient in gradients]

    return {name: sizes(norm) for name, norm in NORMS.items()}


def rows() -> Iterator[str]:
    """The table of the page."""

    def row(words: str, number: Callable[[str], float], form: str = ".2f") -> str:
        return " | ".join([f"| {words}", *(f"{abs(number(name)):{form}}" for name in NORMS)]) + " |"

    yield f"| | {' | '.join(NORMS)} |\n| --- | ---: | ---: |"
    yield row("1. spread of an example's output in batches of 2", lambda name: batch_size()[name][0])
    yield row("in batches of 256", lambda name: batch_size()[name][-1])
    yield row("2. spread of a recurrent network's sums at step 1", lambda name: recurrent()[name][0])
    yield row("at step 20", lambda name: recurrent()[name][-1])
    yield row("3. mean output for inputs as in training", lambda name: inference()[name][0])
    yield row("for inputs shifted by 3", lambda name: inference()[name][3])
    yield row("4. share of the Jacobian that belongs to other examples", lambda name: to_others(dependence()[name]))
    yield row("5. growth of the gradient's norm in a layer", lambda name: depth()[name][0] ** (1 / LAYERS))
    yield row(f"in {LAYERS} layers", lambda name: depth()[name][0], ".1f")


#: Of medium lightness, readable on white and on black.
INK, COLOURS = "#82878f", {"BatchNorm": "#c28e0e", "LayerNorm": "#12a08c"}


def draw(path: str) -> None:
    """The picture of the page: what is normalised (the paper's figure 6), and the five shortcomings."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.colors import to_rgba

    inked = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    small = {"font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left", "svg.hashsalt": "normtune"}
    mpl.rcParams.update({**inked, **small, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 3, figsize=(8.2, 5.0), layout="constrained")
    cells, *panels = axes.flat

    def squares(panel: Axes, size: float, faces: list[tuple[int, int, str, float]], **axis: object) -> None:
        rows, columns, colours, strengths = zip(*faces, strict=True)
        inks = [to_rgba(colour, strength) for colour, strength in zip(colours, strengths, strict=True)]
        panel.scatter(columns, rows, s=size, c=inks, marker="s", linewidths=0)
        panel.set(aspect="equal", xticks=[], yticks=[], **axis)
        panel.invert_yaxis()
        panel.spines[:].set_visible(False)

    faces = [(row, column, INK, 0.18) for row in range(6) for column in range(9) if row != 3 and column != 6]
    faces += [(3, column, COLOURS["LayerNorm"], 1.0) for column in range(9) if column != 6]
    faces += [(row, 6, COLOURS["BatchNorm"], 1.0) for row in range(6)]
    squares(cells, 190, faces, title="what is normalised together", xlabel="features", ylabel="examples")

    def lines(place: int, x: list[int], curves: Curves, **axis: object) -> None:
        for name, values in curves.items():
            panels[place].plot(x, values, "o-", color=COLOURS[name], markersize=3, linewidth=1.4, label=name)
        panels[place].set(**axis)
        panels[place].grid(color=INK, alpha=0.25)

    lines(0, SIZES, batch_size(), title="1. batch size: spread of an output", xlabel="examples in the batch")
    panels[0].set_xscale("log", base=2)
    panels[0].set_xticks(SIZES, [str(size) for size in SIZES])
    lines(1, [*STEPS], recurrent(), title="2. recurrence: spread of the sums", xlabel="step", ylim=(0, 1.15))
    panels[1].set_xticks([1, 5, 10, 15, 20])
    lines(2, [*SHIFTS], inference(), title="3. inference: mean output", xlabel="shift of the inputs")

    faces = [
        (row, column + number * (EXAMPLES + 1), COLOURS[name], 0.08 + 0.92 * float(sizes[row, column] / sizes.max()))
        for number, (name, sizes) in enumerate(dependence().items())
        for row in range(EXAMPLES)
        for column in range(EXAMPLES)
    ]
    squares(panels[3], 62, faces, title="4. batch dependency", xlabel="input of each example", ylabel="output of each")
    lines(4, [*range(LAYERS, -1, -1)], depth(), title="5. criticality: gradient's norm", xlabel="layers back")
    panels[4].set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None}, transparent=True)


if __name__ == "__main__":
    print("\n".join(rows()))
    if sys.argv[1:]:
        draw(sys.argv[1])
