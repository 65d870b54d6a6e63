"""A model whose vectors, and whose head, differ from row to row of a batch.

It is a twin of the model: it has its modules, whose forward passes are replaced by sites, and the model's own
parameters, which it only reads. The model itself stays as it is. Where a family's head reads the first token alone, the
last layer computes no other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from normtune.deltas.sites import HeadSite, LinearSite, Site, site_of
from normtune.errors import ModelError
from normtune.fast.first_token import first_token, reads_first_token
from normtune.models.layout import Layout


@dataclass(frozen=True, eq=False)
class Row:
    """The values that a row of a batch has for itself.

    Attributes:
        names: The vectors that it changes, in the layout's order, those of the head's norms included.
        packed: Their values one after the other, float32.
        head: The values of the head's linear layers by parameter name, float32.
    """

    names: tuple[str, ...]
    packed: Tensor
    head: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        """Bytes of its values."""
        return sum(value.numel() * value.element_size() for value in (self.packed, *self.head.values()))


class RowModel:
    """The twin of a model.

    Args:
        model: The model; the twin reads its parameters, so that they may not change while it is used.
        layout: The model's parameters.
    """

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self._model, self._layout = model, layout
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._twin: PreTrainedModel = copy.deepcopy(model, shared).eval()
        self._sites: dict[str, Site] = {}
        self._heads: dict[str, HeadSite] = {}
        #: Vectors that can differ from row to row, with the model's own values, float32.
        self.vectors: dict[str, Tensor] = {}
        self._place_sites()
        if reads_first_token(model.config):
            last = self._twin.base_model.encoder.layer[-1]
            last.forward = partial(first_token, last)
        self._plans: dict[tuple[str, ...], list[tuple[Site, str, int, int]]] = {}
        self._proven: set[str] = set()

    def _place_sites(self) -> None:
        heads = {place.parameter.rpartition(".")[0] for place in self._layout.head}
        for path, module in self._twin.named_modules():
            if path in heads and type(module) is nn.Linear:
                self._heads[path] = HeadSite(module)
                continue
            for name, value in module.named_parameters(recurse=False):
                kind = site_of(module, name) if value.ndim == 1 else None
                if kind is not None:
                    if path not in self._sites:
                        self._sites[path] = kind(module)
                    # A copy, since the model's own change while a delta runs apart.
                    self.vectors[f"{path}.{name}"] = value.detach().to(torch.float32, copy=True)
            if type(module) is nn.Linear and path not in self._sites:
                self._sites[path] = LinearSite(module)

    def row(self, values: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> Row:
        """A row's values.

        Args:
            values: The vectors that it changes, whole, by parameter name; each is among `vectors`.
            head: The head's values by parameter name.

        Returns:
            The values, copied, on the model's device.
        """
        device = next(self._model.parameters()).device
        own = {name: value for name, value in head.items() if name in self.vectors}
        every = {**values, **own}
        names = tuple(name for name in self.vectors if name in every)
        parts = [every[name].detach().reshape(-1).float() for name in names]
        packed = torch.cat(parts) if parts else torch.empty(0)
        linear = {name: value.detach().float() for name, value in head.items() if name not in own}
        return Row(
            names, packed.to(device, copy=True), {name: value.to(device, copy=True) for name, value in linear.items()}
        )

    def logits(self, rows: Sequence[Row], inputs: Mapping[str, Tensor]) -> Tensor:
        """The outputs of a batch.

        Args:
            rows: The values of each row.
            inputs: The model's inputs, each of shape (rows, tokens).

        Returns:
            Float32, of shape (rows, most outputs of a row); a row with fewer is filled up.
        """
        with torch.inference_mode():
            plan = self._bind(rows)
            try:
                outputs: Tensor = self._twin(**inputs).logits
            finally:
                self._free(plan)
        return outputs.float()

    def is_proven(self, names: Sequence[str]) -> bool:
        """Whether `prove` has found nothing wrong with `names`."""
        return bool(self._proven) and self._proven.issuperset(names)

    def prove(self, names: Sequence[str]) -> None:
        """Check on a small made-up batch that rows with their own values of `names` get what they would get alone.

        The head is among what differs. What was proven once is not checked again.

        Raises:
            ModelError: If they do not.
        """
        if self.is_proven(names):
            return
        wanted = set(names) - self._proven
        if not self._holds(wanted):
            culprit = next((name for name in sorted(wanted) if not self._holds({name})), "the head")
            raise ModelError(
                f"in a {self._layout.model_type!r} model {culprit} cannot differ from row to row of a batch."
            )
        self._proven |= {*wanted, "head"}

    def _holds(self, names: set[str]) -> bool:
        values = [self._made_up(names, seed) for seed in (0, 1)]
        inputs = self._made_up_inputs()
        try:
            got = self.logits([self.row(*self._split(one)) for one in values], inputs)
        except Exception:  # code of any family, run with values that it was not written for, fails in its own ways
            return False
        return all(self._agrees(got[i], one, inputs, i) for i, one in enumerate(values))

    def _bind(self, rows: Sequence[Row]) -> list[tuple[Site, str, int, int]]:
        if all(row is rows[0] for row in rows):
            rows = rows[:1]
        names = rows[0].names
        if any(row.names != names for row in rows):
            every = {name for row in rows for name in row.names}
            names = tuple(name for name in self.vectors if name in every)
        plan = self._plan(names)
        if len(rows) == 1:
            for site, leaf, start, stop in plan:
                site.values[leaf] = rows[0].packed[start:stop]
        else:
            packed = self._gathered(rows, names)
            for site, leaf, start, stop in plan:
                site.values[leaf] = packed[:, start:stop]
        for path, head in self._heads.items():
            biases = [row.head[f"{path}.bias"] for row in rows] if f"{path}.bias" in rows[0].head else None
            head.bind([row.head[f"{path}.weight"] for row in rows], biases)
        return plan

    def _gathered(self, rows: Sequence[Row], names: tuple[str, ...]) -> Tensor:
        """The values of `names` of each row, of shape (rows, values); what a row does not change is the model's own."""
        if all(row.names is names or row.names == names for row in rows):
            return torch.stack([row.packed for row in rows])
        own = torch.cat([self.vectors[name] for name in names])
        result = own.repeat(len(rows), 1)
        spans = {name: slice(start, stop) for name, (_, _, start, stop) in zip(names, self._plan(names), strict=True)}
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(row.names, []).append(number)
        for some, numbers in groups.items():
            packed = torch.stack([rows[number].packed for number in numbers])
            where = torch.tensor(numbers, device=packed.device)
            for name, (_, _, start, stop) in zip(some, self._plan(some), strict=True):
                result[where, spans[name]] = packed[:, start:stop]
        return result

    def _free(self, plan: list[tuple[Site, str, int, int]]) -> None:
        for site, *_ in plan:
            site.values.clear()
        for head in self._heads.values():
            head.free()

    def _plan(self, names: tuple[str, ...]) -> list[tuple[Site, str, int, int]]:
        """For each of `names` its site, what it is called there, and where in the packed values it begins and ends."""
        if names not in self._plans:
            plan, start = [], 0
            for name in names:
                path, _, leaf = name.rpartition(".")
                stop = start + self.vectors[name].numel()
                plan.append((self._sites[path], leaf, start, stop))
                start = stop
            self._plans[names] = plan
        return self._plans[names]

    def _made_up(self, names: set[str], seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        parameters = dict(self._model.named_parameters())
        wanted = sorted({*names, *(place.parameter for place in self._layout.head)})
        return {
            name: parameters[name].detach().float().cpu()
            + 0.1 * torch.randn(parameters[name].shape, generator=generator)
            for name in wanted
        }

    def _split(self, values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        head = {place.parameter for place in self._layout.head}
        return (
            {name: value for name, value in values.items() if name not in head},
            {name: value for name, value in values.items() if name in head},
        )

    def _made_up_inputs(self) -> dict[str, Tensor]:
        """Two rows of which the second is shorter, so that rows of a batch that is not rectangular are noticed."""
        config, device = self._model.config.get_text_config(), next(self._model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        special = {config.pad_token_id, config.eos_token_id, config.bos_token_id}
        plain = [number for number in range(config.vocab_size) if number not in special]
        ids = torch.tensor(plain)[torch.randint(len(plain), (2, _TOKENS), generator=generator)]
        mask = torch.ones_like(ids)
        if isinstance(config.pad_token_id, int):
            ids[1, -1], mask[1, -1] = config.pad_token_id, 0
        if isinstance(config.eos_token_id, int):
            ids[0, -1] = ids[1, int(mask[1].sum()) - 1] = config.eos_token_id
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def _agrees(self, got: Tensor, values: Mapping[str, Tensor], inputs: Mapping[str, Tensor], row: int) -> bool:
        parameters = dict(self._model.named_parameters())
        own = {name: value.to(parameters[name]) for name, value in values.items()}
        tokens = int(inputs["attention_mask"][row].sum())
        alone = {name: value[row : row + 1, :tokens] for name, value in inputs.items()}
        with torch.inference_mode():
            want: Tensor = functional_call(self._model, own, (), alone).logits[0].float()
        near = 1e-4 if self._model.dtype == torch.float32 else 5e-2
        return bool(torch.allclose(got[: len(want)], want, rtol=near, atol=near))


#: Tokens of the longer of the two rows that are made up.
_TOKENS = 5
