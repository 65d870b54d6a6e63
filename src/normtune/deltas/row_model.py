"""A model whose vectors and head differ from row to row of a batch.

It is a twin of the model: a copy of its modules, with sites in place of forward passes, that reads the model's own
parameters. The model itself stays as it is. Where a family's head reads the first token alone, the last layer computes
no other.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from normtune.deltas.sites import HeadSite, LinearSite, Site, site_of
from normtune.errors import ModelError
from normtune.fast.first_token import can_shorten, first_token, last_of
from normtune.fast.modules import is_foreign
from normtune.models.layout import Layout

#: Height and width of a made-up picture for a model that takes any size.
_SIZE = 64
#: The name of the head among the names of what was proven.
_HEAD = "the head"


@dataclass(frozen=True, eq=False)
class BatchRow:
    """The values that are particular to a row of a batch.

    Attributes:
        names: The vectors that it changes, in the layout's order, those of the head's norms included.
        packed: Their values one after the other, float32.
        head: The values of the head's linear layers by parameter name, float32.
    """

    names: tuple[str, ...]
    packed: Tensor
    head: Mapping[str, Tensor]


class RowModel:
    """The twin of a model.

    Args:
        model: The model; the twin reads its parameters, so they may not change while it is used.
        layout: The model's parameters.
    """

    def __init__(self, model: PreTrainedModel, layout: Layout) -> None:
        self._model, self._layout = model, layout
        self._twin = self._copy({})
        #: By name of each vector that can differ from row to row, its site and its name in the site.
        self._sites: dict[str, tuple[Site, str]] = {}
        #: The model's own values of these vectors, float32.
        self._vectors: dict[str, Tensor] = {}
        self._heads: dict[str, HeadSite] = {}
        self._place_sites()
        around = (model, model.base_model, *model.base_model.children())
        if can_shorten(model) and not any(map(is_foreign, around)):
            last = last_of(self._twin)
            last.forward = partial(first_token, last)
        self._proven: set[str] = set()

    def _copy(self, values: Mapping[str, Tensor]) -> PreTrainedModel:
        """A copy of the model in evaluation mode, which has `values`, by parameter name, and shares the others."""
        tensors = (*self._model.named_parameters(), *self._model.named_buffers())
        shared = {id(tensor): tensor for name, tensor in tensors if name not in values}
        twin: PreTrainedModel = copy.deepcopy(self._model, shared).eval()
        with torch.no_grad():
            for name, value in values.items():
                twin.get_parameter(name).copy_(value)
        return twin

    def _place_sites(self) -> None:
        heads = {place.parameter.rpartition(".")[0] for place in self._layout.head}
        for path, module in self._twin.named_modules():
            linear = type(module) is nn.Linear
            if linear and path in heads:
                self._heads[path] = HeadSite(module)
                continue
            site: Site | None = LinearSite(module) if linear else None
            for name, value in module.named_parameters(recurse=False):
                kind = site_of(module, name) if value.ndim == 1 else None
                if kind is not None:
                    site = site or kind(module)
                    self._sites[f"{path}.{name}"] = site, name
                    # A copy, since the model's own values change while a delta runs apart.
                    self._vectors[f"{path}.{name}"] = value.detach().to(torch.float32, copy=True)

    def row(self, entries: Mapping[str, tuple[Tensor, Tensor]], head: Mapping[str, Tensor]) -> BatchRow:
        """A row's values, copied to the model's device, from those of `Spec.vectors` and the head's.

        Raises:
            ModelError: If anything but vectors is changed.
        """
        whole = dict(head)
        for name, (indices, values) in entries.items():
            if name not in self._vectors:
                raise ModelError(f"it changes {name}, and only vectors can differ from row to row.")
            whole[name] = self._vectors[name].to("cpu", copy=True)
            whole[name][indices] = values.float()
        return self._row(whole)

    def _row(self, values: Mapping[str, Tensor]) -> BatchRow:
        device = self._model.device
        names = tuple(name for name in self._vectors if name in values)
        parts = [values[name].detach().reshape(-1).float() for name in names]
        packed = torch.cat(parts) if parts else torch.empty(0)
        head = {name: value.to(device, torch.float32, copy=True) for name, value in values.items() if name not in names}
        return BatchRow(names, packed.to(device, copy=True), head)

    def logits(self, rows: Sequence[BatchRow], inputs: Mapping[str, Tensor]) -> Tensor:
        """The outputs of a batch, float32, of shape (rows, most outputs of a row); a row with fewer is padded."""
        with torch.inference_mode():
            try:
                self._bind(rows)
                outputs: Tensor = self._twin(**inputs).logits
            finally:
                for site, _ in self._sites.values():
                    site.values.clear()
                for head in self._heads.values():
                    head.bind(())
        return outputs.float()

    def _bind(self, rows: Sequence[BatchRow]) -> None:
        """Give each site the values of each row, or one for all rows where they are the same."""
        if all(row is rows[0] for row in rows):
            rows = rows[:1]
        names = rows[0].names
        if any(row.names != names for row in rows):
            every = {name for row in rows for name in row.names}
            names = tuple(name for name in self._vectors if name in every)
        filled = {row: self._filled(row, names) for row in dict.fromkeys(rows)}
        packed = filled[rows[0]] if len(rows) == 1 else torch.stack([filled[row] for row in rows])
        for name, values in self._split(packed, names).items():
            site, leaf = self._sites[name]
            site.values[leaf] = values
        for path, head in self._heads.items():
            head.bind([(row.head[f"{path}.weight"], row.head.get(f"{path}.bias")) for row in rows])

    def _filled(self, row: BatchRow, names: tuple[str, ...]) -> Tensor:
        """The row's values of `names`, with the model's own for those that it does not change."""
        if row.names == names:
            return row.packed
        own = {**self._vectors, **self._split(row.packed, row.names)}
        return torch.cat([own[name] for name in names])

    def _split(self, packed: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        sizes = [self._vectors[name].numel() for name in names]
        return dict(zip(names, packed.split(sizes, dim=-1), strict=True))

    def unproven(self, row: BatchRow) -> set[str]:
        """The names in a row that `prove` has not checked yet."""
        return {*row.names, _HEAD} - self._proven

    def prove(self, names: Collection[str]) -> None:
        """Check on a small made-up batch that rows with their own values of `names` get the same outputs as alone.

        The head differs too. No other batch may run meanwhile.

        Raises:
            ModelError: If they do not.
        """
        if not self._holds(names):
            culprit = next((name for name in sorted(names) if name != _HEAD and not self._holds({name})), _HEAD)
            raise ModelError(
                f"in a {self._layout.model_type!r} model {culprit} cannot differ from row to row of a batch."
            )
        self._proven.update(names)

    def _holds(self, names: Collection[str]) -> bool:
        inputs, made = self._made_up_inputs(), [self._made_up(names, seed) for seed in (0, 1)]
        try:
            got = self.logits([self._row(values) for values in made], inputs)
        except Exception:  # a family's code can raise anything, given values that it was not written for
            return False
        near = 1e-4 if self._model.dtype == torch.float32 else 5e-2
        for row, values in enumerate(made):
            tokens = int(inputs["attention_mask"][row].sum()) if "attention_mask" in inputs else None
            alone = {name: value[row : row + 1, :tokens] for name, value in inputs.items()}
            with torch.inference_mode():
                want: Tensor = self._copy(values)(**alone).logits[0].float()
            if not torch.allclose(got[row, : len(want)], want, rtol=near, atol=near):
                return False
        return True

    def _made_up(self, names: Collection[str], seed: int) -> dict[str, Tensor]:
        """Other values of `names` and the head, drawn from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        own = {name: self._model.get_parameter(name).detach().float().cpu() for name in sorted(names) if name != _HEAD}
        own |= {
            place.parameter: self._model.get_parameter(place.parameter).detach().cpu() for place in self._layout.head
        }
        return {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in own.items()}

    def _made_up_inputs(self) -> dict[str, Tensor]:
        """Two rows; of texts the second is shorter, if there is a padding token, so that the check covers padding.

        Pictures have one size.
        """
        config = self._model.config.get_text_config()
        generator = torch.Generator().manual_seed(0)
        if self._model.main_input_name == "pixel_values":
            size = getattr(config, "image_size", None) or _SIZE
            shape = (2, getattr(config, "num_channels", 3), *((size, size) if isinstance(size, int) else size))
            return {"pixel_values": torch.randn(shape, generator=generator).to(self._model.device)}
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        special = {config.pad_token_id, config.bos_token_id, *ends}
        plain = [number for number in range(config.vocab_size) if number not in special]
        ids = torch.tensor(plain)[torch.randint(len(plain), (2, 5), generator=generator)]
        mask = torch.ones_like(ids)
        if isinstance(config.pad_token_id, int):
            ids[1, -1], mask[1, -1] = config.pad_token_id, 0
        if isinstance(ends[0], int):
            ids[0, -1] = ids[1, int(mask[1].sum()) - 1] = ends[0]
        return {"input_ids": ids.to(self._model.device), "attention_mask": mask.to(self._model.device)}
