"""``normtune merge``: a plain transformers model with a delta in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normtune.cli import options
from normtune.cli.options import BaseAt, Dtype


def merge(
    delta: Annotated[str, typer.Argument(help="Folder, file or hub id of a delta.")],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    model: BaseAt = None,
    dtype: Dtype = "float32",
) -> None:
    """Write a plain transformers model with a delta merged in, which runs without normtune.

    The model is in float32, even if --dtype rounds the base first, as --precision did in training. A merged
    regression model answers on the scale of its training targets.

    Examples:
    `normtune merge runs/rte-layernorm --out rte-model`

    `normtune merge me/rte-delta --model ./bert-large-cased --out rte-model`
    """
    from normtune.data.kinds import KINDS
    from normtune.deltas.delta import LONGEST
    from normtune.deltas.merge import merge as write

    loaded = options.open_delta(delta)
    base = options.base_of(loaded, model, dtype=dtype)
    write(loaded, base, out)
    made = KINDS[loaded.info.kind].models[1 if loaded.info.picture else 0]
    print(f'Saved to {out}: {made}.from_pretrained("{out}")')
    if base.reads == "text" and loaded.info.max_length < min(base.need_tokenizer().model_max_length, LONGEST):
        cut = f"truncation=True, max_length={loaded.info.max_length}"
        print(f"Its texts were cut at {loaded.info.max_length} tokens: give the tokenizer {cut} for the same answers")
