"""The masks of a study, made of Fisher information in its folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from normtune.config import fingerprint
from normtune.importance.archive import read_scores
from normtune.importance.combined import combined, random_scores
from normtune.importance.masks import Mask
from normtune.importance.scores import Scores
from normtune.methods.expression import select
from normtune.methods.selection import Selection
from normtune.models.base import Base
from normtune.records.fisher import FisherRecord
from normtune.studies.jobs import MaskJob, Results
from normtune.studies.plan import CANDIDATES


def mask_file(folder: Path, job: MaskJob, needs: Results, base: Base) -> Path:
    """A mask's file, named after all that it is made of."""
    made_of = {
        "base": base.identity,
        "mask": job.model_dump(mode="json", exclude={"fishers"}),
        "fisher": [needs[key].id for key in job.fishers],
    }
    seed = None if job.seed is None else f"seed-{job.seed}"
    label = "-".join(filter(None, (job.task, job.mask, f"{job.fraction}", seed, fingerprint(made_of))))
    return folder / f"{label}.safetensors"


def make_mask(file: Path, fishers: Path, job: MaskJob, needs: Results, base: Base) -> None:
    """Make a mask, over what was there.

    Args:
        file: Where it goes.
        fishers: Folder of the measurements of Fisher information.
        job: What kind of mask.
        needs: What became of the measurements that it needs.
        base: The base model.
    """
    candidates = select(base.layout, CANDIDATES)
    if job.mask == "random":
        scores = random_scores(candidates, job.seed or 0)
        facts: dict[str, Any] = {"importance": "random", "seed": job.seed}
    else:
        scores, facts = _informed(fishers, job, needs, candidates)
    file.unlink(missing_ok=True)
    Mask.make(base, scores, fraction=job.fraction, within=CANDIDATES, **facts).save(file)


def _informed(folder: Path, job: MaskJob, needs: Results, candidates: Selection) -> tuple[Scores, dict[str, Any]]:
    """The scores of a mask made of Fisher information, and what it says of itself."""
    stems = {task: folder / f"{task}-{needs[key].id}" for task, key in zip(job.tasks, job.fishers, strict=True)}
    records = {task: FisherRecord.load(stem.with_suffix(".json")) for task, stem in stems.items()}
    sources = {
        task: partial(read_scores, stem.with_suffix(".safetensors"), records[task].id, candidates)
        for task, stem in stems.items()
    }
    alone = job.mask in {"individual", "least-fisher"}
    # What leave-one-out leaves out is not among the job's tasks.
    scores = combined(sources, "individual" if alone else "global", job.task if alone else None)
    first = next(iter(records.values())).config
    facts: dict[str, Any] = {
        "importance": "least-fisher" if job.mask == "least-fisher" else "fisher",
        "scope": "individual" if alone else job.mask,
        "tasks": job.tasks,
        "target": job.task,
        "examples": {task: record.examples for task, record in records.items()},
        "estimator": first.estimator.name,
        "head_seeds": first.head_seeds,
    }
    return (-scores if job.mask == "least-fisher" else scores), facts
