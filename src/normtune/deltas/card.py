"""A model card for a delta: what it does, how well, and how to load it."""

from __future__ import annotations

import json

from huggingface_hub import EvalResult, ModelCardData

from normtune.data.kinds import KINDS
from normtune.data.metrics import in_print
from normtune.deltas.delta import DeltaInfo
from normtune.records.run import Record


def model_card(info: DeltaInfo, record: Record) -> str:
    """The card of a delta and its run's record, as Markdown with metadata for the hub."""
    config, counts, data = record.config, record.counts, record.data
    read = "image" if info.picture else "token" if KINDS[info.kind].words else "text"
    results = [
        EvalResult(
            task_type="text-generation" if info.kind == "language" else f"{read}-classification",
            dataset_type=config.task,
            dataset_name=config.task,
            metric_type=name,
            metric_value=float(in_print(value)),
        )
        for name, value in record.scores["dev"].items()
    ]
    card_data = ModelCardData(
        library_name="normtune",
        tags=["normtune", "parameter-efficient", config.method.split("@")[0].split(":")[0]],
        metrics=list(record.scores["dev"]),
        model_name=f"{config.task} {config.method}",
        eval_results=results,
    )
    picked = f"{data.held_out:,} held-out training examples" if data.held_out else "dev"
    example = 'nt.Picture("a.png")' if info.picture else '("a text", "its pair")' if info.pair else '"a text"'
    scores = "\n".join(f"| {name} | {in_print(value)} |" for name, value in record.scores["dev"].items())
    share = f"({counts.share:.4%} of it), selected by `{config.method}`"
    own = f"{counts.selected:,} entries of `{info.base}`\n{share}"
    if info.added is not None:
        own = (
            f"{counts.selected:,} numbers that `{config.method}` adds to `{info.base}`\n({counts.share:.4%} of its own)"
        )
    return f"""---
{card_data.to_yaml()}
---

# {config.task} by {config.method}

A [normtune](https://pypi.org/project/normtune/) delta: {own}, and a head of {counts.head:,}.
{KINDS[info.kind].said([_code(label) for label in info.labels])}

| | dev |
| --- | --- |
{scores}

Trained under the protocol `{config.protocol.name}` on {data.train:,} of {data.train_of:,} examples (rate
{config.rate:g}, seed {config.seed}, best epoch {record.best_epoch} of {config.protocol.epochs}, picked on {picked}).
`record.json` holds everything about the run.

## How to load it

```python
import normtune as nt

delta = nt.Delta.load("PATH_TO_THIS_FOLDER")
base = nt.load_base({json.dumps(info.base, ensure_ascii=False)}, delta.info.head)
predictor = nt.Predictor(base, delta)
print(predictor.predict([{example}]))
```
"""


def _code(label: str) -> str:
    """A label as code in Markdown, on one line, whatever is in it."""
    shown = "".join(sign if sign >= " " else " " for sign in label).replace("`", "'")
    return f"`{' '.join(shown.split())}`"
