"""A model card for a delta: what it does, how well, and how to load it."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from normtune.data.kinds import KINDS
from normtune.deltas.delta import DeltaInfo
from normtune.records.run import Record

_BODY = """---
{data}
---

# {title}

A [normtune](https://pypi.org/project/normtune/) delta: {selected:,} entries of `{base}` ({share:.4%} of it),
selected by `{method}`, and a head of {head:,}. {labels}

| | dev |
| --- | --- |
{scores}

Trained under the protocol `{protocol}` on {train:,} of {train_of:,} examples (rate {rate:g}, seed {seed},
best epoch {best} of {epochs}, picked on {picked}). `record.json` holds everything about the run.

## How to load it

```python
import normtune as nt

base = nt.load_base("{base}")
predictor = nt.Predictor(base, nt.Delta.load("PATH_TO_THIS_FOLDER"))
print(predictor.predict([{example}]))
```
"""


def model_card(info: DeltaInfo, record: Record) -> str:
    """The card of a delta and its run's record, as Markdown with metadata for the hub."""
    config, counts, data = record.config, record.counts, record.data
    results = [
        EvalResult(
            task_type=f"{'image' if info.picture else 'token' if KINDS[info.kind].words else 'text'}-classification",
            dataset_type=config.task,
            dataset_name=config.task,
            metric_type=name,
            metric_value=round(value, 4),
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
    text = _BODY.format(
        data=card_data.to_yaml(),
        title=f"{config.task} by {config.method}",
        selected=counts.selected,
        base=info.base,
        share=counts.share,
        method=config.method,
        head=counts.head,
        labels=KINDS[info.kind].said(info.labels),
        scores="\n".join(f"| {name} | {value:.4f} |" for name, value in record.scores["dev"].items()),
        protocol=config.protocol.name,
        train=data.train,
        train_of=data.train_of,
        rate=config.rate,
        seed=config.seed,
        best=record.best_epoch,
        epochs=config.protocol.epochs,
        picked=f"{data.held_out:,} held-out training examples" if data.held_out else "dev",
        example='nt.Picture("a.png")' if info.picture else '("a text", "its pair")' if info.pair else '"a text"',
    )
    return str(ModelCard(text, ignore_metadata_errors=True))
