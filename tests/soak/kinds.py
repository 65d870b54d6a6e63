"""The kinds of files that normtune reads: how a good one is made, and how it is read."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from normtune.config import protocol
from normtune.data.files import load_files
from normtune.data.rows import read_rows
from normtune.data.task import Split, Task, TaskData
from normtune.deltas.answers import Predictor
from normtune.deltas.delta import Delta
from normtune.deltas.peft import CONFIG, WEIGHTS, export_peft, import_peft
from normtune.errors import TrainingError
from normtune.importance.masks import Mask
from normtune.importance.measurement import Measurement, read
from normtune.importance.scores import Scores
from normtune.methods.expression import select, tune
from normtune.models.base import Base, load_base, skeleton
from normtune.records.fisher import FisherConfig
from normtune.records.run import Record
from normtune.studies.config import StudyConfig
from normtune.studies.manifest import read_manifest
from normtune.training.state import Progress, State

TEXTS = ("the cat sees a bird", "No dog likes every book!")
TASK = Task("animals", "Animals", "classification", ("no", "yes"), ("accuracy",))
ROWS = [(f"{text} {i}", "yes" if i % 2 else "no", i) for i in range(12) for text in TEXTS]
_RECORDS = Path(__file__).parents[2] / "results" / "runs"


@dataclass(frozen=True)
class World:
    """What files are made from and read with: a folder of its own with a tiny model, and that model."""

    folder: Path
    base: Base

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.folder / "model"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        form: What a file is damaged as (`tests.soak.damage`).
        make: Writes a good one.
        read: Reads it, and returns all that was read, for comparison.
        told: Whether a file that reads differently must be refused. Files that people write may say what they like.
    """

    form: str
    make: Callable[[World], Path]
    read: Callable[[World, Path], Any]
    told: bool = True


def plain(value: Any) -> Any:
    """`value` made comparable: tensors and arrays by type, shape and bytes."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [*map(plain, value)] if isinstance(value, list) else value


def _delta(world: World, method: str = "layernorm", name: str = "delta") -> Path:
    trainable = tune(world.base, method, seed=3)
    try:
        with torch.no_grad():
            for parameter in trainable.parameters():
                parameter.add_(0.25)
        return Delta.capture(trainable, task="x", method=method, max_length=32).save(world.folder / name)
    finally:
        trainable.undo()


def _read_delta(world: World, file: Path) -> Any:
    delta = Delta.load(file)
    with delta.apply(world.base):
        return plain([delta.info.model_dump(), *map(dict, (delta.indices, delta.values, delta.head))])


def _mask(world: World) -> Path:
    within = select(world.base.layout, "layernorm + attention.self.query")
    drawn = {name: np.random.default_rng(5).random(within.count(name)) for name in within.chosen}
    made = Mask.make(world.base, Scores(within, drawn), fraction=0.3, importance="fisher", within="full")
    return made.save(world.folder / "mask.safetensors")


def _read_mask(world: World, file: Path) -> Any:
    mask = Mask.load(file, world.base)
    return mask.info.model_dump(), mask.selection.fingerprint


def _measured(world: World, ending: str) -> Path:
    labels = np.array([0, 1], dtype=np.int64)
    data = TaskData(TASK, {"train": Split.of_texts(TEXTS, labels=labels)}, "memory")
    config = FisherConfig(model="tiny", task=TASK.name, within="layernorm", entries="layernorm", head_seeds=(0,))
    folder = world.folder / "fisher"
    Measurement(world.base, data, data.splits["train"], config, folder).measure()
    return next(folder.glob(f"*{ending}"))


def _read_measured(world: World, file: Path) -> Any:
    task, identity = file.stem.split("-")
    found = read(file.parent, task, identity, select(world.base.layout, "layernorm"))
    assert found.scores is not None
    return plain([found.record.model_dump(), dict(found.scores.values)])


def _record(world: World) -> Path:
    Record.load(min(_RECORDS.glob("*.json"))).save(world.folder / "record.json")
    return world.folder / "record.json"


def _study(world: World) -> Path:
    StudyConfig(protocol=protocol("small"), tasks=("rte", "sst2")).save(world.folder / "study.json")
    return world.folder / "study.json"


def _checkpoint(world: World) -> Path:
    file = world.folder / "checkpoint.safetensors"
    _resumed(world, file, step=True)
    return file


def _resumed(world: World, file: Path, *, step: bool = False) -> Any:
    """The state that a training resumes from; one that starts over has refused its checkpoint."""
    trainable = tune(world.base, "layernorm")
    try:
        state = State(trainable, protocol("small"), Accelerator(cpu=True), rate=0.01, steps=9, run="r", file=file)
        if step:
            for parameter in trainable.parameters():
                parameter.grad = torch.full_like(parameter, 0.5)
            state.step(1)
            state.best = state.present()
            state.progress = Progress(run="r", epoch=1, batch=2, loss_sum=0.5, seen=3)
            state.save()
        else:
            state.resume()
            if state.progress == Progress(run="r"):
                raise TrainingError("The training starts over.")
        return plain([state.progress.model_dump(exclude={"seconds"}), state.present(), state.best])
    finally:
        trainable.undo()


def _manifest(world: World) -> Path:
    file = world.folder / "m.yaml"
    tasks = (
        "- {name: a, train: a.csv, text: body, class_weights: true}\n- {name: b, train: b.csv, dev: c.csv, seed: 3}\n"
    )
    file.write_text(f"model: minilm\nmethod: layernorm\nprotocol: small\nepochs: 2\nlr: 0.01\nseed: 1\ntasks:\n{tasks}")
    return file


def _table(ending: str, world: World) -> Path:
    import pandas

    file, frame = world.folder / f"table{ending}", pandas.DataFrame(ROWS, columns=["text", "label", "n"])
    if ending == ".parquet":
        frame.to_parquet(file)
    elif ending == ".xlsx":
        frame.to_excel(file, index=False)
    elif ending == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    elif ending == ".txt":
        file.write_text("\n".join(frame["text"]))
    else:
        content = frame.to_csv(index=False, sep="\t" if ending == ".tsv" else ",").encode()
        file.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    return file


def _read_table(_: World, file: Path) -> Any:
    if file.suffix == ".txt":
        return read_rows(file).column("text")
    return load_files(file, None, text="text", label="label").source


def _of_model(name: str, world: World) -> Path:
    return world.model / name


def _answers(world: World, file: Path) -> Any:
    """What a delta answers on a model with this file."""
    if file.name == "config.json":
        skeleton(str(file.parent))
    base = load_base(str(file.parent))
    return [answer.model_dump() for answer in Predictor(base, Delta.load(world.folder / "delta")).predict(TEXTS)]


def _adapter(name: str, world: World) -> Path:
    shutil.rmtree(world.folder / "adapter", ignore_errors=True)
    export_peft(Delta.load(world.folder / "delta"), world.base, world.folder / "adapter")
    return world.folder / "adapter" / name


def _read_adapter(world: World, file: Path) -> Any:
    return import_peft(file.parent, world.base).info.task


KINDS = {
    "delta": Kind("tensors", lambda world: world.folder / "delta" / "delta.safetensors", _read_delta),
    "delta of lora": Kind("tensors", partial(_delta, method="lora@2", name="lora"), _read_delta),
    "mask": Kind("tensors", _mask, _read_mask),
    "Fisher entries": Kind("tensors", partial(_measured, ending=".safetensors"), _read_measured),
    "Fisher record": Kind("json", partial(_measured, ending=".json"), _read_measured),
    "record": Kind("json", _record, lambda _, file: Record.load(file).model_dump()),
    "study": Kind("json", _study, lambda _, file: StudyConfig.load(file).model_dump()),
    "checkpoint": Kind("tensors", _checkpoint, _resumed),
    "manifest": Kind("yaml", _manifest, lambda _, file: len(read_manifest(file, {}, {}).tasks), told=False),
    **{
        f"table {ending}": Kind("bytes", partial(_table, ending), _read_table, told=False)
        for ending in (".csv", ".tsv", ".jsonl", ".txt", ".csv.gz", ".xlsx", ".parquet")
    },
    "model's configuration": Kind("json", partial(_of_model, "config.json"), _answers),
    "model's weights": Kind("tensors", partial(_of_model, "model.safetensors"), _answers),
    "tokenizer": Kind("json", partial(_of_model, "tokenizer.json"), _answers),
    "tokenizer's configuration": Kind("json", partial(_of_model, "tokenizer_config.json"), _answers),
    "adapter of PEFT": Kind("tensors", partial(_adapter, WEIGHTS), _read_adapter, told=False),
    "adapter's configuration": Kind("json", partial(_adapter, CONFIG), _read_adapter, told=False),
}


def world(folder: Path, model: Path) -> World:
    """A world in `folder`, with a copy of `model` and a delta on it."""
    shutil.copytree(model, folder / "model")
    made = World(folder, load_base(str(folder / "model")))
    _delta(made)
    return made
