from __future__ import annotations

from pathlib import Path

import pytest

from normtune.config import RunConfig, protocol
from normtune.errors import ConfigError, DataError, DeltaError
from normtune.models.base import Base
from normtune.records.run import Counts, DataFacts, Record
from normtune.submission.answers import best_runs, named
from tests.submission.suite import make_delta, texts


def save_run(base: Base, folder: Path, *, task: str = "rte", method: str = "layernorm", **facts: object) -> Path:
    """A run with this `seed` and `score`: its record, and a delta that it did not train."""
    fields = {"seed": 0, "score": 0.5, "status": "done", "base_identity": base.identity, **facts}
    seed = int(str(fields.pop("seed")))
    make_delta(base, task, texts({"rte": "RTE", "cola": "CoLA"}[task]), method=method).save(folder)
    record = Record(
        id=folder.name,
        config=RunConfig(model="m", task=task, method=method, rate=1e-3, seed=seed, protocol=protocol("small")),
        trains="s",
        counts=Counts(selected=10, head=2, trained=12, total=100, share=0.1),
        data=DataFacts(
            source="x", train=1, train_of=1, dev=1, dev_of=1, held_out=0, identity={}, truncated={}, dropped={}
        ),
        primary="accuracy",
        machine={},
        versions={},
        **fields,
    )
    record.save(folder / "record.json")
    return folder


def save_delta(base: Base, folder: Path, name: str, title: str, /, **info: object) -> Path:
    return make_delta(base, name, texts(title), **info).save(folder).parent


def test_named_by_their_tasks(tiny_base: Base, tmp_path: Path) -> None:
    rte = save_delta(tiny_base, tmp_path / "a=b", "rte", "RTE", note="mine")
    cola = save_delta(tiny_base, tmp_path / "c", "cola", "CoLA")
    sources = named([str(rte), str(cola / "delta.safetensors")])
    assert [*sources] == ["rte", "cola"]
    source = sources["rte"]
    assert (source.note, source.method, source.base_identity) == ("mine", "layernorm", tiny_base.identity)
    assert (source.run, source.dev) == (None, None)
    assert len(source.content) == 64


def test_a_record_beside_a_delta_is_read(tiny_base: Base, tmp_path: Path) -> None:
    run = save_run(tiny_base, tmp_path / "run", seed=3, score=0.75)
    for name in (run, run / "delta.safetensors"):
        source = named([str(name)])["rte"]
        assert (source.run, source.seed, source.metric, source.dev) == ("run", 3, "accuracy", 0.75)


def test_deltas_that_do_not_answer_a_task(tiny_base: Base, tmp_path: Path) -> None:
    rte = save_delta(tiny_base, tmp_path / "rte", "rte", "RTE")
    single = save_delta(tiny_base, tmp_path / "single", "cola", "CoLA", task="rte")
    with pytest.raises(DeltaError, match="reads single texts and answers unacceptable, acceptable: that is not RTE"):
        named([str(single)])
    unlike = save_delta(tiny_base, tmp_path / "unlike", "rte", "RTE", labels=("not_entailment", "entailment"))
    with pytest.raises(DeltaError, match="answers not_entailment, entailment: that is not RTE"):
        named([str(unlike)])
    with pytest.raises(ConfigError, match="are both deltas of RTE"):
        named([str(rte), str(rte / "delta.safetensors")])
    with pytest.raises(DeltaError, match="There is no delta at"):
        named([str(tmp_path / "nowhere")])
    toy = save_delta(tiny_base, tmp_path / "toy", "rte", "RTE", suite="toy")
    with pytest.raises(DeltaError, match="is of 'rte' of the suite 'toy'; those that answer"):
        named([str(toy)])


@pytest.mark.parametrize("task", ["intents", "", "ax", "wnli"])
def test_tasks_that_take_no_delta(tiny_base: Base, tmp_path: Path, task: str) -> None:
    other = save_delta(tiny_base, tmp_path / "rte", "rte", "RTE", task=task)
    with pytest.raises(DeltaError, match=f"is of '{task}'; those that answer are of cola, .* WNLI by its majority"):
        named([str(other)])


def test_the_best_run_of_each_task_and_of_equals_the_first_seed(tiny_base: Base, tmp_path: Path) -> None:
    for seed, score in ((0, 0.6), (10, 0.8), (2, 0.8), (3, 0.7)):
        save_run(tiny_base, tmp_path / f"rte/{seed}", seed=seed, score=score)
    save_run(tiny_base, tmp_path / "cola/0", task="cola", score=-0.1)
    save_run(tiny_base, tmp_path / "rte/9", seed=9, score=None, status="failed")
    sources = best_runs(tmp_path)
    assert {task: source.seed for task, source in sources.items()} == {"rte": 2, "cola": 0}
    assert sources["rte"].path == str(tmp_path / "rte/2")


def test_several_methods(tiny_base: Base, tmp_path: Path) -> None:
    save_run(tiny_base, tmp_path / "a", score=0.9, method="bitfit")
    save_run(tiny_base, tmp_path / "b", score=0.8)
    with pytest.raises(ConfigError, match="bitfit on m, layernorm on m; choose one with --method"):
        best_runs(tmp_path)
    assert best_runs(tmp_path, "layernorm")["rte"].path == str(tmp_path / "b")
    with pytest.raises(DataError, match="no runs of 'full'"):
        best_runs(tmp_path, "full")


def test_runs_that_cannot_be_compared_or_are_not_there(tiny_base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no runs on GLUE's tasks"):
        best_runs(tmp_path / "nowhere")
    save_run(tiny_base, tmp_path / "a")
    save_run(tiny_base, tmp_path / "b", base_identity="another")
    with pytest.raises(ConfigError, match="several methods or base models"):
        best_runs(tmp_path)
