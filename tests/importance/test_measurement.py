"""Measurements in a folder: found again, distinct wherever a number would change, and safe against damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from normtune import files
from normtune.data.encode import Encoded
from normtune.data.task import Split, Task, TaskData
from normtune.errors import DataError, SelectionError
from normtune.importance import measurement
from normtune.importance.fisher import Fisher, Request, fisher
from normtune.importance.measurement import EntriesInfo, MeasuredFisher, Measurement, read, read_scores
from normtune.importance.scores import Scores
from normtune.importance.stability import until_stable
from normtune.methods.expression import select
from normtune.models.base import Base, load_base
from normtune.records.fisher import Estimator, FisherConfig, FisherRecord, Stability, Tolerance
from tests.training.test_session import NUMBER, TASK, data

#: Small and quick: the sums and entries of one component.
SMALL = FisherConfig(model="tiny", task="animals", within="layernorm", entries="layernorm")


@pytest.fixture
def animals() -> TaskData:
    return data()


@pytest.fixture
def no_computing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that makes any later encoding or computing fail."""

    def forbid(*_: object, **__: object) -> None:
        raise AssertionError("this was to be found, not measured")

    def begin() -> None:
        monkeypatch.setattr(Base, "encode", forbid)
        for name in ("fisher", "until_stable"):
            monkeypatch.setattr(measurement, name, forbid)

    return begin


def measure(folder: Path | None, base: Base, found: TaskData, config: FisherConfig = SMALL) -> MeasuredFisher:
    own = Measurement(base, found, found.labelled("train"), config, folder)
    return own.find() or own.measure()


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_scores(one: MeasuredFisher, other: MeasuredFisher) -> None:
    assert one.scores is not None
    assert other.scores is not None
    assert one.scores.within == other.scores.within
    for name, values in one.scores.values.items():
        np.testing.assert_array_equal(values, other.scores.values[name])


def test_it_is_what_fisher_gives(tiny_base: Base, animals: TaskData, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"within": "full", "head_seeds": (1, 3), "examples": 25})
    seen: list[int] = []
    found = Measurement(tiny_base, animals, animals.labelled("train"), config, tmp_path).measure(progress=seen.append)
    sample = animals.labelled("train").sample(25, 0)
    encoded = tiny_base.encode(sample, 128)
    layout = tiny_base.layout
    request = Request(select(layout, "full"), select(layout, "layernorm"), Estimator(), (1, 3))
    wanted: Fisher = fisher(tiny_base, TASK, encoded, request)
    record = found.record
    assert [row.by_seed for row in record.information] == [*zip(*[own.values() for own in wanted.by_seed], strict=True)]
    assert [row.total for row in record.information] == pytest.approx([*wanted.totals.values()])
    assert (record.examples, record.available, record.config, found.cached) == (25, 40, config, False)
    assert (record.base_identity, record.selection) == (tiny_base.identity, select(layout, "full").fingerprint)
    assert record.identity == sample.identity()[:16]
    assert record.stability is None
    assert wanted.scores is not None
    assert found.scores is not None
    for name, values in wanted.scores.values.items():
        np.testing.assert_array_equal(found.scores.values[name], values)
    assert sum(seen) == 50
    stem = f"animals-{record.id}"
    assert listed(tmp_path) == [f"{stem}.json", f"{stem}.safetensors"]
    assert FisherRecord.load(tmp_path / f"{stem}.json") == record
    kept = load_file(tmp_path / f"{stem}.safetensors")
    assert {name: values.shape for name, values in kept.items()} == dict.fromkeys(
        select(layout, "layernorm").chosen, (32,)
    )


def test_a_stable_one_is_what_until_stable_gives(tiny_base: Base, animals: TaskData, tmp_path: Path) -> None:
    asked = Tolerance(tolerance=0.5)
    config = SMALL.model_copy(update={"stable": asked})
    found = measure(tmp_path, tiny_base, animals, config)
    within = select(tiny_base.layout, "layernorm")
    encoded = tiny_base.encode(animals.labelled("train"), 128)
    wanted, stability = until_stable(tiny_base, TASK, encoded, Request(within, within), asked)
    assert found.record.stability == stability
    assert found.record.examples == stability.examples
    assert [row.total for row in found.record.information] == [*wanted.totals.values()]


def test_it_is_found_again(
    tiny_base: Base, tiny_folder: Path, animals: TaskData, tmp_path: Path, no_computing: Callable[[], None]
) -> None:
    configs = [
        SMALL,
        SMALL.model_copy(update={"entries": None}),
        SMALL.model_copy(update={"stable": Tolerance(of="mask", tolerance=0.9)}),
    ]
    first = [measure(tmp_path, tiny_base, animals, config) for config in configs]
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    no_computing()
    base = load_base(str(tiny_folder))  # as in a later process
    for config, own in zip(configs, first, strict=True):
        again = measure(tmp_path, base, data(), FisherConfig.model_validate_json(config.model_dump_json()))
        assert again.cached
        assert again.record == own.record
        if config.entries is None:
            assert again.scores is None
        else:
            assert_same_scores(again, own)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps


def test_without_a_folder_nothing_is_kept(tiny_base: Base, animals: TaskData, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    one, same = (measure(None, tiny_base, animals) for _ in range(2))
    assert not one.cached
    assert not same.cached
    assert one.record.id == same.record.id
    assert_same_scores(one, same)
    assert listed(tmp_path) == []


def test_a_study_finds_it_reads_it_by_its_id_and_makes_it_anew(
    tiny_base: Base, animals: TaskData, tmp_path: Path
) -> None:
    own = Measurement(tiny_base, animals, animals.labelled("train"), SMALL, tmp_path)
    candidates = select(tiny_base.layout, "layernorm")
    assert own.find() is None
    with pytest.raises(DataError, match="There is no Fisher information called animals-abc"):
        read(tmp_path, "animals", "abc", candidates)
    made = measure(tmp_path, tiny_base, animals)
    found = own.find()
    assert found is not None
    for same in (found, read(tmp_path, "animals", made.record.id, candidates)):
        assert same.record == made.record
        assert_same_scores(same, made)
    files = listed(tmp_path)
    again = own.measure()
    assert not again.cached
    assert again.record.information == made.record.information
    assert listed(tmp_path) == files


CHANGES: dict[str, dict[str, Any]] = {
    "examples": {"examples": 30},
    "sample_seed": {"examples": 30, "sample_seed": 1},
    "head seed": {"head_seeds": (1,)},
    "head seeds": {"head_seeds": (0, 1)},
    "estimator": {"estimator": Estimator(name="exact")},
    "monte-carlo": {"estimator": Estimator(name="monte-carlo")},
    "samples": {"estimator": Estimator(name="monte-carlo", samples=2)},
    "draws": {"estimator": Estimator(name="monte-carlo", seed=1)},
    "within": {"within": "layernorm + attention.output.LayerNorm"},
    "entries": {"entries": "layernorm & bitfit"},
    "no entries": {"entries": None},
    "length": {"max_length": 8},
    "dtype": {"dtype": "bfloat16"},
    "stable": {"stable": Tolerance(tolerance=0.5)},
    "what is stable": {"stable": Tolerance(of="mask", tolerance=0.5)},
    "how stable": {"stable": Tolerance(tolerance=0.6)},
    "order": {"stable": Tolerance(tolerance=0.5, seed=1)},
}


def stand_in(base: Base, task: Task, encoded: Encoded, request: Request, **_: object) -> Fisher:
    """A stand-in for `fisher` where any numbers will do."""
    single = {name: np.ones(request.single.count(name)) for name in request.single.chosen}
    kept = None if request.entries is None else Scores(request.single, single)
    by_seed = tuple(dict.fromkeys(request.within.chosen, 1.0) for _ in request.head_seeds)
    return Fisher(by_seed, kept, np.arange(len(encoded)), slow=())


def test_all_that_changes_a_number_changes_the_id(
    tiny_base: Base, make_model, make_folder, tmp_path: Path, monkeypatch, no_computing: Callable[[], None]
) -> None:
    monkeypatch.setattr(measurement, "fisher", stand_in)
    none = Stability(asked=Tolerance(), reached=True, examples=1, available=1, looks=())
    monkeypatch.setattr(measurement, "until_stable", lambda *own, **_: (stand_in(*own[:4]), none))
    train = data().labelled("train")
    assert train.labels is not None
    labels = train.labels.copy()
    labels[3] = 1 - labels[3]

    def having(split: Split, **task: Any) -> TaskData:
        return TaskData(replace(TASK, **task), {"train": split}, "memory")

    other = load_base(str(make_folder(make_model("bert", seed=1).base_model)))
    shuffled = train.take(np.roll(np.arange(40), 1))
    lengths = data(NUMBER).labelled("train")
    cases: list[tuple[Base, TaskData, FisherConfig]] = [
        (tiny_base, having(train), SMALL),
        *((tiny_base, having(train), SMALL.model_copy(update=change)) for change in CHANGES.values()),
        (other, having(train), SMALL),
        (tiny_base, having(replace(train, labels=labels)), SMALL),
        (tiny_base, having(replace(train, columns={"text": ("the cat", *train.texts[1:])})), SMALL),
        (tiny_base, having(shuffled), SMALL),
        (tiny_base, having(train.take(range(39))), SMALL),
        (tiny_base, having(train, labels=("no", "yes", "perhaps")), SMALL),
        (tiny_base, TaskData(NUMBER, {"train": lengths}, "memory"), SMALL),
        (tiny_base, TaskData(replace(NUMBER, scale=2.0), {"train": lengths}, "memory"), SMALL),
        (tiny_base, TaskData(replace(NUMBER, center=2.0), {"train": lengths}, "memory"), SMALL),
    ]
    made = [measure(tmp_path, *case) for case in cases]
    assert not any(found.cached for found in made)
    assert len({found.record.id for found in made}) == len(cases)
    no_computing()
    for case, found in zip(cases, made, strict=True):
        again = measure(tmp_path, *case)
        assert again.cached
        assert again.record == found.record


def test_what_changes_no_number_changes_no_id(
    tiny_base: Base, animals: TaskData, tmp_path: Path, no_computing: Callable[[], None]
) -> None:
    measure(tmp_path, tiny_base, animals)
    no_computing()
    plain = SMALL.model_dump()
    turned = FisherConfig.model_validate(dict(reversed(plain.items())))
    spelled = FisherConfig.model_validate({**plain, "sample_seed": 0, "head_seeds": [0], "estimator": {"samples": 1}})
    elsewhere = TaskData(replace(TASK, title="Beasts", about="?"), animals.splits, "another place")
    for found, config in ((animals, turned), (animals, spelled), (elsewhere, SMALL)):
        assert measure(tmp_path, tiny_base, found, config).cached


def test_the_tasks_own_name_tells_what_glues_tasks_ask(tiny_base: Base, animals: TaskData, monkeypatch) -> None:
    """GLUE records from before the id included what a task asks must still be found."""
    seen: list[dict[str, object]] = []
    real = measurement.fingerprint
    monkeypatch.setattr(measurement, "fingerprint", lambda value: (seen.append(value), real(value))[1])
    sst2 = replace(TASK, name="sst2")
    for task in (sst2, replace(sst2, labels=("a", "b", "c")), TASK):
        measure(None, tiny_base, replace(animals, task=task), SMALL.model_copy(update={"entries": None}))
    assert ["task" in value for value in seen] == [False, True, True]


def test_killed_before_the_record_it_is_measured_again(tiny_base: Base, animals: TaskData, tmp_path: Path) -> None:
    first = measure(tmp_path, tiny_base, animals)
    record, entries = (tmp_path / name for name in listed(tmp_path))
    for missing in (record, entries):
        kept = missing.read_bytes()
        missing.unlink()
        again = measure(tmp_path, tiny_base, animals)
        assert not again.cached
        assert again.record.id == first.record.id
        assert_same_scores(again, first)
        assert missing.is_file()
        if missing is entries:
            assert missing.read_bytes() == kept
        assert measure(tmp_path, tiny_base, animals).cached


def test_the_record_is_written_last(
    tiny_base: Base, animals: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: FisherRecord, path: Path) -> None:
        assert path.with_suffix(".safetensors").is_file()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FisherRecord, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            measure(tmp_path, tiny_base, animals)
    assert [Path(name).suffix for name in listed(tmp_path)] == [".safetensors"]
    assert not measure(tmp_path, tiny_base, animals).cached


def test_damaged_entries_are_refused_in_one_sentence(tiny_base: Base, animals: TaskData, tmp_path: Path) -> None:
    first = measure(tmp_path, tiny_base, animals)
    other = measure(tmp_path / "other", tiny_base, animals, SMALL.model_copy(update={"head_seeds": (1,)}))
    file = tmp_path / f"animals-{first.record.id}.safetensors"
    good, values = file.read_bytes(), load_file(file)
    foreign = tmp_path / "other" / f"animals-{other.record.id}.safetensors"
    name = next(iter(values))

    def saved(tensors: dict[str, np.ndarray]) -> bytes:
        info = files.sealed(EntriesInfo(id=first.record.id), {n: torch.from_numpy(v) for n, v in tensors.items()})
        return save(tensors, {"normtune": info})

    cases = {
        "truncated": (good[:-1], "truncated or corrupt"),
        "cut in its header": (good[:20], "truncated or corrupt"),
        "empty": (b"", "truncated or corrupt"),
        "garbage": (bytes(range(256)) * 8, "truncated or corrupt"),
        "another": (foreign.read_bytes(), "of another measurement"),
        "nameless": (save(values, {"format": "np"}), "is no normtune file of Fisher information"),
        "a lost block": (good[:-64] + bytes(64), "is damaged: its content does not match the hash"),
        "one too few": (saved({n: v for n, v in values.items() if n != name}), "is corrupt: .* has candidates but no"),
        "short": (saved({**values, name: values[name][:-1]}), "is corrupt: .* have the shape"),
        "not finite": (saved({**values, name: values[name] * np.float32("nan")}), "is corrupt: .* are not finite"),
    }
    for damage, (content, said) in cases.items():
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"^.*{first.record.id}\.safetensors .*{said}") as caught:
            measure(tmp_path, tiny_base, animals)
        assert "\n" not in str(caught.value), damage
        assert file.read_bytes() == content  # left for the user to look at
    file.write_bytes(good)
    assert measure(tmp_path, tiny_base, animals).cached
    entries = select(tiny_base.layout, "layernorm")
    with pytest.raises(DataError, match="There is no file of Fisher information"):
        read_scores(tmp_path / "none", first.record.id, entries)


def test_a_damaged_record_is_refused(tiny_base: Base, animals: TaskData, tmp_path: Path) -> None:
    found = measure(tmp_path, tiny_base, animals)
    file = tmp_path / f"animals-{found.record.id}.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(DataError, match="is damaged"):
        measure(tmp_path, tiny_base, animals)


def test_what_a_wider_measurement_kept_will_do(
    tiny_base: Base, animals: TaskData, tmp_path: Path, no_computing: Callable[[], None]
) -> None:
    alone = measure(tmp_path / "alone", tiny_base, animals)
    wide = measure(tmp_path, tiny_base, animals, SMALL.model_copy(update={"within": "full"}))
    files = listed(tmp_path)
    no_computing()
    found = measure(tmp_path, tiny_base, animals)
    assert found.cached
    assert_same_scores(found, wide)
    assert listed(tmp_path) == files
    # As if it had been measured by itself: no more components than were asked for.
    assert {row.component for row in found.record.information} == {"output.LayerNorm"}
    assert [row.model_dump(exclude={"total", "by_seed"}) for row in found.record.information] == [
        row.model_dump(exclude={"total", "by_seed"}) for row in alone.record.information
    ]
    totals = [[row.total for row in own.record.information] for own in (found, alone)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    assert (found.record.config, found.record.selection) == (SMALL, alone.record.selection)
    assert found.record.id == wide.record.id  # the record that holds it


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({"within": "full", "head_seeds": (1,)}, {}),
        ({"within": "full", "entries": None}, {}),
        ({"within": "full", "entries": "attention.output.LayerNorm"}, {}),
        ({"within": "layernorm + pooler.dense"}, {}),
        ({"within": "full"}, {"within": "attention.output.LayerNorm"}),
        ({"within": "full"}, {"examples": 30}),
        ({"within": "full", "entries": "random"}, {"within": "random", "entries": "random"}),
    ],
)
def test_another_one_will_not(tiny_base: Base, animals: TaskData, tmp_path: Path, wide, narrow) -> None:
    measure(tmp_path, tiny_base, animals, SMALL.model_copy(update=wide))
    assert not measure(tmp_path, tiny_base, animals, SMALL.model_copy(update=narrow)).cached


def test_entries_beyond_what_is_summed_over_are_summed_over_too(tiny_base: Base, animals: TaskData, tmp_path) -> None:
    config = SMALL.model_copy(update={"within": "pooler.dense"})
    found = measure(tmp_path, tiny_base, animals, config)
    assert {row.component for row in found.record.information} == {"pooler.dense", "output.LayerNorm"}
    both = select(tiny_base.layout, "layernorm + pooler.dense")
    assert found.record.selection == both.fingerprint
    assert measure(tmp_path, tiny_base, animals, config).cached


def test_bad_input_leaves_nothing(tiny_base: Base, animals: TaskData, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    empty = TaskData(TASK, {"train": Split.of_texts((), labels=np.empty(0, np.int64))}, "memory")
    unlabelled = TaskData(TASK, {"train": Split.of_texts(("the cat",))}, "memory")
    for found, config, error, said in (
        (animals, {"within": "nothing"}, Exception, "Unknown"),
        (animals, {"within": "head", "entries": "head"}, Exception, "empty set of entries"),
        (empty, {}, DataError, "There are no examples"),
        (unlabelled, {}, DataError, "needs labels"),
    ):
        with pytest.raises(error, match=said):
            Measurement(tiny_base, found, found.split("train"), SMALL.model_copy(update=config), folder).measure()
        assert not folder.exists()
    with pytest.raises(SelectionError):
        select(tiny_base.layout, "output.LayerNorm@7")


def test_records_are_plain_json(tiny_base: Base, animals: TaskData, tmp_path: Path) -> None:
    found = measure(tmp_path, tiny_base, replace(animals, source="/somewhere/private/glue/SST-2"))
    plain = json.loads((tmp_path / f"animals-{found.record.id}.json").read_text())
    assert plain["source"] == "SST-2"  # not the user's path
    assert plain["config"]["task"] == "animals"
    assert len(plain["information"]) == 6
