"""How runs are made (`Setup`) and what a study consists of (`StudyConfig`), as plain values."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field

from normtune.config import Memory, Protocol, Pruning, Strict
from normtune.data.kind import KindName
from normtune.errors import ConfigError
from normtune.importance.recipe import kind_of
from normtune.importance.scores import IMPORTANCES
from normtune.records.saved import Saved
from normtune.studies.manifest import OwnFiles

StudyPart = Literal["table1", "table2", "figure1", "figure2", "figure3", "figure4", "figure5"]

#: The paper's tables and figures that a study makes; table 3 comes from the server's reply to a submission.
PARTS: tuple[StudyPart, ...] = get_args(StudyPart)
#: The masks of figure 5.
MASKS = ("individual", "global", "leave-one-out")
#: The parts of each named study.
STUDIES: dict[str, tuple[StudyPart, ...]] = {
    "methods": ("table2",),
    "paper": PARTS,
    **{part: (part,) for part in PARTS},
}
#: Parts that train; the others only measure Fisher information.
TRAINED: tuple[StudyPart, ...] = ("table2", "figure1", "figure2", "figure5")
#: Parts that take any task; the others measure Fisher information and take only a suite's tasks.
OWN: tuple[StudyPart, ...] = ("table2", "figure1")

#: The paper's tasks: GLUE without WNLI, MNLI once.
TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
#: The methods of table 2, and the head alone.
METHODS = ("head", "full", "bitfit", "layernorm", "random")
FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)

FILE = "study.json"

_EXTENT = ("parts", "tasks", "methods", "seeds", "fractions", "masks", "sources")


class Setup(Strict):
    """The base model, and what all runs on it have in common.

    Attributes:
        model: Hub id, folder or packaged name.
        revision: Commit, tag or branch on the hub.
        dtype: Dtype of the frozen part.
        suite: The tasks' suite, unless they are in the user's own files.
        kind: Kind of the tasks, as far as the model's class in transformers depends on it.
        protocol: How every run is trained; it says how many rates of each method's grid a search tries.
        prune: When a search drops clearly lost rates early; None for never.
        head_seeds: Seeds of the heads that Fisher information is averaged over.
        examples: Examples that Fisher information is measured on; None takes all that training sees.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: Mixed precision: ``no`` or ``bf16``.
        threads: CPU threads of every run; part of each record's identity.
        memory: What is kept for the backward pass; it changes no number.
        plain: Whether every run is computed by plain torch, without the faster ways.
    """

    model: str = "minilm"
    revision: str | None = None
    dtype: str = "float32"
    suite: str = "glue"
    kind: KindName = "classification"
    protocol: Protocol
    prune: Pruning | None = None
    head_seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    examples: Annotated[int, Field(ge=1)] | None = None
    device: str = "auto"
    precision: str = "no"
    threads: Annotated[int, Field(ge=1)] = 1
    memory: Memory = "plain"
    plain: bool = False


class StudyConfig(Setup, Saved):
    """One study: which parts of the paper, on what, and how. It is kept in ``study.json`` beside its records.

    Attributes:
        parts: Tables and figures.
        tasks: Tasks that are trained on and measured.
        methods: Methods of table 2.
        files: Tasks in the user's own files; the others are the suite's.
        entries: A budget: methods that take a size get the one nearest to this many entries without going over
            (`normtune.methods.budget`).
        seeds: Seeds of every run, none where nothing trains; rates are searched on the first.
        fractions: Fractions of LayerNorm in figures 2 and 5.
        masks: Kinds of masks in figure 5 (`normtune.importance.recipe.kind_of`).
        sources: Tasks whose Fisher information goes into global and leave-one-out masks.
        search_masks: Whether masks get a rate search of their own, rather than LayerNorm's rate.
    """

    noun: ClassVar[str] = "study"

    parts: Annotated[tuple[StudyPart, ...], Field(min_length=1)] = PARTS
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = TASKS
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = METHODS
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    fractions: tuple[Annotated[float, Field(ge=0, le=1)], ...] = FRACTIONS
    masks: tuple[str, ...] = MASKS
    sources: tuple[str, ...] = TASKS
    search_masks: bool = False
    files: tuple[OwnFiles, ...] = ()
    entries: Annotated[int, Field(ge=1)] | None = None

    def model_post_init(self, _: object) -> None:
        """Check that no value is repeated, that files suit the parts, and that every mask can be made.

        Raises:
            UnknownNameError: If there is no such kind of mask.
            ConfigError: If a value is repeated, a mask needs runs, a leave-one-out mask has no other task, a training
                has no seed, or a part does not take the user's own files.
        """
        for name in _EXTENT:
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ConfigError(f"A study takes each of its {name} once; got {', '.join(map(str, values))}.")
        if {*self.parts} & {*TRAINED} and not self.seeds:
            raise ConfigError("A study that trains takes at least one seed.")
        if self.files and {*self.parts} - {*OWN}:
            raise ConfigError(f"Files of your own go with {' and '.join(OWN)} alone; a suite's tasks go with the rest.")
        kinds = [kind_of(kind) for kind in self.masks]
        for importance, _ in kinds:
            if IMPORTANCES[importance].needs == "runs":
                raise ConfigError(f"A study makes no masks by {importance!r}, read off runs; use normtune mask.")
        if "figure5" in self.parts and any(scope == "leave-one-out" for _, scope in kinds):
            alone = [task for task in self.tasks if not {*self.sources} - {task}]
            if alone:
                raise ConfigError(f"A leave-one-out mask for {alone[0]} needs Fisher information of another task.")

    def merged(self, other: Self) -> Self | None:
        """Both studies as one, or None if they differ in a field outside `_EXTENT`."""
        if self.model_dump(exclude={*_EXTENT}) != other.model_dump(exclude={*_EXTENT}):
            return None
        joint = {name: tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name)))) for name in _EXTENT}
        return self.model_copy(update=joint)
