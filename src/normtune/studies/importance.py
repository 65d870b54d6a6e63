"""A study's measurements of Fisher information, and the masks made from them in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from normtune.config import fingerprint
from normtune.data.task import Split, TaskData
from normtune.importance.measurement import Measurement, read
from normtune.importance.recipe import TEXTS, MaskRecipe, Sources, kind_of, make_mask as make
from normtune.importance.scores import IMPORTANCES
from normtune.methods.expression import select
from normtune.models.base import Base
from normtune.records.fisher import Estimator, FisherConfig
from normtune.studies.config import Setup
from normtune.studies.jobs import MaskJob, Outcomes
from normtune.training.splits import parts_of

#: The candidates of a study's masks.
CANDIDATES = "layernorm"


def measurement(
    setup: Setup, base: Base, data: TaskData, folder: Path | None = None, config: FisherConfig | None = None
) -> Measurement:
    """The measurement of a task, by default the one that a study's masks need; `folder` is where it is kept."""
    wanted = config or asked(setup, Estimator())
    facts = {"model": base.name, "revision": base.revision, "dtype": setup.dtype, "task": data.task.name}
    made = wanted.model_copy(update={**facts, "max_length": setup.protocol.max_length})
    return Measurement(base, data, parts_of(data, setup.protocol).train, made, folder)


def asked(setup: Setup, estimator: Estimator) -> FisherConfig:
    """The measurement of a task that a study's masks need."""
    return FisherConfig(
        model=setup.model,
        task="",
        entries=CANDIDATES,
        estimator=estimator,
        head_seeds=setup.head_seeds,
        examples=setup.examples,
    )


#: From a task's name to its data.
TaskLoader = Callable[[str], TaskData]


def _texts(setup: Setup, data: TaskData) -> Split:
    """The training texts of a task for a mask that needs some."""
    return parts_of(data, setup.protocol).train.sample(setup.examples or TEXTS, 0)


def mask_file(folder: Path, job: MaskJob, needs: Outcomes, base: Base, setup: Setup, data: TaskLoader) -> Path:
    """A mask's file, named after all that it is made of."""
    texts: dict[str, object] = {}
    if IMPORTANCES[kind_of(job.mask)[0]].needs == "texts":
        own = [_texts(setup, data(task)).identity() for task in job.tasks]
        texts = {"texts": own, "max_length": setup.protocol.max_length}
    made_of = {
        **texts,
        "base": base.identity,
        "mask": job.model_dump(mode="json", exclude={"fishers"}),
        "fisher": [needs[key].id for key in job.fishers],
    }
    seed = None if job.seed is None else f"seed-{job.seed}"
    label = "-".join(filter(None, (job.task, job.mask, f"{job.fraction}", seed, fingerprint(made_of))))
    return folder / f"{label}.safetensors"


def make_mask(
    file: Path, fishers: Path, job: MaskJob, needs: Outcomes, base: Base, setup: Setup, data: TaskLoader
) -> None:
    """Make a mask from measurements in the folder `fishers` or from texts, and write it over an existing `file`."""
    candidates = select(base.layout, CANDIDATES)
    measured = dict(zip(job.tasks, (needs[key].id for key in job.fishers), strict=bool(job.fishers)))
    # The recipe also names the task that leave-one-out leaves out, which is not among the measurements.
    tasks = tuple(sorted({*job.tasks, *([job.task] if job.task else [])}))
    recipe = MaskRecipe.of(
        job.mask, tasks=tasks, target=job.task, within=CANDIDATES, fraction=job.fraction, seed=job.seed or 0
    )
    sources = Sources(
        fisher=lambda task: read(fishers, task, measured[task], candidates),
        texts=lambda task: base.encode(_texts(setup, data(task)), setup.protocol.max_length),
    )
    mask = make(base, recipe, sources)
    mask.save(file, over=True)  # another study may read or make it at this moment
