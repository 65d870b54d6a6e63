"""Image classifiers, from training to a bank, on tiny random models; and BatchNorm's running statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageClassification

from normtune.config import Protocol, protocol
from normtune.data.digits import load_digits
from normtune.data.task import Split, TaskData
from normtune.deltas.answers import Predictor
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.deltas.merge import merge
from normtune.errors import ConfigError, DataError, DeltaError, ModelError
from normtune.evaluation import logits
from normtune.importance.measurement import Measurement
from normtune.importance.recipe import MaskRecipe, make_mask
from normtune.methods.expression import select, tune
from normtune.methods.trainable import Trainable
from normtune.models.base import Base, load_base, wrap
from normtune.models.sources import quiet
from normtune.records.fisher import FisherConfig
from normtune.records.run import Record
from normtune.training.session import Session
from tests.conftest import FolderFactory

Run = Callable[..., tuple[int, str, str]]
#: The norm method that each family is known for.
NORMS = {"vit": "layernorm", "resnet": "batchnorm"}


def short(name: str, size: int = 34) -> TaskData:
    """A few pictures of a task."""
    data = load_digits(name)
    return replace(
        data, splits={"train": data.split("train").take(range(size)), "dev": data.split("dev").take([*range(9)])}
    )


def rules(**changes: object) -> Protocol:
    return protocol("small", **{"epochs": 1, "batch_size": 16, **changes})


def state(base: Base) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in base.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return [*one] == [*other] and all(torch.equal(one[name], other[name]) for name in one)


def trained(session: Session, method: str, task: str = "odd", **changes: object) -> tuple[Record, Delta]:
    return session.run(session.prepare(short(task), method, 1e-2, 0, rules(**changes)))


@pytest.fixture(scope="module")
def sessions(image_folders: dict[str, Path]) -> dict[str, Session]:
    return {family: Session(str(image_folders[family])) for family in NORMS}


def test_a_delta_of_a_model_of_ones_own_reads_pictures(image_folders: dict[str, Path]) -> None:
    loaded = load_base(str(image_folders["vit"]))
    base = wrap(loaded.model, processor=loaded.reader.processor if loaded.reader else None)
    tuning = Trainable(base, select(base.layout, "layernorm"))
    delta = Delta.capture(tuning, task="odd")
    tuning.undo()
    with Predictor(base, delta) as predictor:
        (answer,) = predictor.predict([load_digits("odd").split("dev").columns["picture"][0]])
    assert answer.label in delta.info.labels


@pytest.mark.parametrize("family", NORMS)
def test_from_training_to_a_bank(family: str, sessions: dict[str, Session], tmp_path: Path) -> None:
    session, method = sessions[family], NORMS[family]
    base, dev = session.base, load_digits("odd").split("dev").take(range(20))
    before = state(base)
    assert {place.parameter for place in base.layout} == {name for name, _ in base.model.named_parameters()}
    record, delta = trained(session, method)
    assert same(before, state(base))
    assert (
        record.counts.selected == len(select(base.layout, method)) == sum(own.numel() for own in delta.values.values())
    )
    assert {change.component for change in record.changes if change.mean > 0}

    delta.save(tmp_path / "delta")
    loaded = Delta.load(tmp_path / "delta")
    with loaded.apply(base):
        found = logits(base, base.encode(dev, 128))
        moved = {name for name, value in state(base).items() if name in before and not torch.equal(value, before[name])}
    assert moved - {place.parameter for place in base.layout.head} <= {*select(base.layout, method).chosen}
    assert same(before, state(base))
    assert loaded.info.as_task.inputs == ("picture",)

    merge(loaded, base, tmp_path / "merged")
    with quiet():
        plain = AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        merged = plain(**base.encode(dev, 128).batch(range(len(dev)))).logits
    np.testing.assert_allclose(merged, found, rtol=1e-5, atol=1e-5)
    assert load_base(str(tmp_path / "merged"), keep_head=True).reader is not None

    other = trained(session, "bitfit", "digits")[1] if family == "vit" else loaded
    bank = Bank(base)
    for name, own in (("odd", loaded), ("digits", other)):
        bank.add(name, own, apart=True)
    assert bank.tasks["odd"].apart is (family != "vit")
    pictures = dev.columns["picture"]
    mixed = bank.predict([*pictures, *pictures], ["odd"] * 20 + ["digits"] * 20)
    for own, answers in ((loaded, mixed[:20]), (other, mixed[20:])):
        with Predictor(base, own) as predictor:
            for one, answer in zip(predictor.predict(pictures), answers, strict=True):
                assert one.probabilities == pytest.approx(answer.probabilities, abs=1e-4)


def test_a_mask_of_pictures(sessions: dict[str, Session]) -> None:
    base = sessions["resnet"].base
    encoded = base.encode(short("odd").split("train").take(range(8)), 128)
    for importance in ("wanda", "magnitude", "random"):
        given = {"tasks": ("odd",)} if importance == "wanda" else {}
        recipe = MaskRecipe(importance=importance, within="full", entries=50, **given)
        assert len(make_mask(base, recipe, {"texts": lambda _: encoded}).selection) == 50


# Running statistics


def test_batchnorm_is_every_batchnorm(sessions: dict[str, Session]) -> None:
    base = sessions["resnet"].base
    own = {
        f"{path}.{leaf}"
        for path, module in base.model.named_modules()
        for leaf in ("weight", "bias")
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    assert {*select(base.layout, "batchnorm").chosen} == own


def test_statistics_stay_unless_they_are_to_follow(sessions: dict[str, Session], tmp_path: Path) -> None:
    session = sessions["resnet"]
    base, before = session.base, state(session.base)
    kept, followed = (trained(session, "batchnorm", statistics=how) for how in ("keep", "update"))
    assert kept[0].id != followed[0].id
    assert not kept[1].statistics
    assert same(before, state(base))
    followed[1].save(tmp_path / "delta")
    delta = Delta.load(tmp_path / "delta")
    assert {name.rpartition(".")[2] for name in delta.statistics} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    with delta.apply(base):
        moved = {name for name, value in base.model.named_buffers() if not torch.equal(value, before[name])}
        assert moved == {*delta.statistics}
        encoded = base.encode(short("odd").split("dev"), 128)
        score = (logits(base, encoded).argmax(1) == np.asarray(encoded.labels)).mean()
    assert score == followed[0].score
    assert same(before, state(base))
    with pytest.raises(DeltaError, match="it has running statistics of its own"):
        Bank(base).add("odd", delta)
    damaged = replace(delta, statistics={"resnet.nothing": torch.zeros(3)})
    with pytest.raises(DeltaError, match=r"resnet\.nothing is no running statistic of"):
        damaged.apply(base)


def test_statistics_that_an_own_loop_moves_are_captured(image_folders: dict[str, Path]) -> None:
    base = load_base(str(image_folders["resnet"]))
    before, inputs = state(base), base.encode(short("odd").split("train").take(range(16)), 128).batch(range(16))
    for training in (False, True):
        tuning = tune(base, "batchnorm")
        base.model.train(training)(**inputs)
        base.model.eval()
        delta = Delta.capture(tuning)
        expected = base.model(**inputs).logits
        tuning.undo()
        assert same(before, state(base))
        assert bool(delta.statistics) is training
        with delta.apply(base):
            assert torch.equal(base.model(**inputs).logits, expected)
            base.model.train(training)(**inputs)
        base.model.eval()
        assert same(before, state(base))


def test_statistics_that_are_not_finite_are_not_captured(image_folders: dict[str, Path]) -> None:
    base = load_base(str(image_folders["resnet"]))
    tuning = tune(base, "batchnorm")
    next(value for name, value in base.model.named_buffers() if name.endswith("running_var")).fill_(float("inf"))
    with pytest.raises(DeltaError, match="running_var is not finite, so no delta is made"):
        Delta.capture(tuning)


def test_statistics_follow_as_torch_lets_them(image_folders: dict[str, Path]) -> None:
    """After one step, the first BatchNorm's are 0.9 of the old and 0.1 of the batch's, by hand in float64."""
    base = load_base(str(image_folders["resnet"]))
    norm = base.model.get_submodule("resnet.embedder.embedder.normalization")
    convolution = base.model.get_submodule("resnet.embedder.embedder.convolution")
    means, variances = norm.running_mean.double(), norm.running_var.double()
    pixels = base.encode(short("odd").split("train").take(range(16)), 128).batch(range(16))["pixel_values"]
    session = Session(str(image_folders["resnet"]))
    data = replace(
        short("odd"), splits={"train": short("odd").split("train").take(range(16)), "dev": short("odd").split("dev")}
    )
    run = session.prepare(data, "head", 1e-2, 0, protocol("small", epochs=1, batch_size=16, statistics="update"))
    delta = session.run(run)[1]
    seen = convolution(pixels).detach().double().transpose(0, 1).flatten(1)
    name = "resnet.embedder.embedder.normalization"
    torch.testing.assert_close(
        delta.statistics[f"{name}.running_mean"].double(), 0.9 * means + 0.1 * seen.mean(1), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        delta.statistics[f"{name}.running_var"].double(), 0.9 * variances + 0.1 * seen.var(1), rtol=1e-5, atol=1e-6
    )
    assert int(delta.statistics[f"{name}.num_batches_tracked"]) == 1


def test_a_resumed_training_has_the_same_statistics(sessions: dict[str, Session], tmp_path: Path) -> None:
    session = sessions["resnet"]
    run = session.prepare(short("odd"), "batchnorm", 1e-2, 0, rules(statistics="update", epochs=2))
    whole = session.run(run)[1]

    class StopError(Exception):
        pass

    def stop(curve: object, steps: int) -> bool:
        raise StopError

    with pytest.raises(StopError):
        session.run(run, checkpoint=tmp_path / "state", judge=stop)
    resumed = session.run(run, checkpoint=tmp_path / "state")[1]
    for own in ("values", "head", "statistics"):
        assert same(dict(getattr(whole, own)), dict(getattr(resumed, own)))


def test_a_low_precision_base_trains_norms_and_statistics_in_float32(image_folders: dict[str, Path]) -> None:
    session = Session(str(image_folders["resnet"]), dtype="bfloat16")
    base, before = session.base, state(session.base)
    _, delta = trained(session, "batchnorm", statistics="update")
    assert same(before, state(base))
    own = [*delta.values.values(), *(value for name, value in delta.statistics.items() if "running" in name)]
    assert {value.dtype for value in own} == {torch.float32}
    # bfloat16 could not hold these values.
    assert all(not torch.equal(value, value.bfloat16().float()) for value in own)
    with delta.apply(base):
        assert np.isfinite(logits(base, base.encode(short("odd").split("dev"), 128))).all()
    assert same(before, state(base))


def test_what_cannot_be_updated_is_said_before_training(
    sessions: dict[str, Session], image_folders: dict[str, Path]
) -> None:
    def prepare(session: Session, **changes: object) -> None:
        session.prepare(short("odd", 33), "head", 1e-2, 0, rules(statistics="update", **changes))

    with pytest.raises(ConfigError, match="statistics=update is for models with BatchNorm"):
        prepare(sessions["vit"])
    with pytest.raises(ConfigError, match="Batches of 16 leave one of 33 examples alone"):
        prepare(sessions["resnet"])
    with pytest.raises(ConfigError, match="--memory low computes layers twice"):
        prepare(Session(str(image_folders["resnet"]), memory="low"))


# What does not fit


def test_models_and_examples_that_do_not_fit_are_told(
    image_folders: dict[str, Path], make_image_folder: FolderFactory, tiny_base: Base
) -> None:
    pictures = short("odd").split("dev")
    with pytest.raises(DataError, match="reads texts, not pictures; name another with --model"):
        tiny_base.encode(pictures, 16)
    base = load_base(str(image_folders["vit"]))
    with pytest.raises(DataError, match="reads pictures, not texts; name another with --model"):
        base.encode(Split.of_texts(["the cat"]), 16)
    folder = make_image_folder("vit", image_size=16)
    with pytest.raises(DataError, match=r"does not take what its own image processor makes .*8\*8"):
        load_base(str(folder)).encode(pictures, 16)
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"preprocessor_config\.json cannot be read"):
        load_base(str(folder))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(
        ModelError, match=r"has no image processor that can be read here: add preprocessor_config\.json"
    ):
        load_base(str(folder)).encode(pictures, 16)
    assert wrap(base.model, processor=base.reader.processor).encode(pictures, 16).lengths.tolist() == [1] * 9


def test_another_image_processor_is_another_base(image_folders: dict[str, Path], sessions: dict[str, Session]) -> None:
    _, delta = trained(sessions["vit"], "head")
    base = load_base(str(image_folders["vit"]))
    assert base.reader is not None
    data, config = short("odd"), FisherConfig(model=base.name, task="odd")
    measured = {Measurement(own, data, data.split("train"), config).identity for own in (base, sessions["vit"].base)}
    assert len(measured) == 1
    base = load_base(str(image_folders["vit"]))
    assert base.reader is not None
    base.reader.processor.image_mean = [0.25]
    assert Measurement(base, data, data.split("train"), config).identity not in measured
    with pytest.raises(DeltaError, match=r"was trained on .* with another image processor"):
        delta.apply(base)


def test_the_commands(
    image_folders: dict[str, Path], cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user runs them: a folder per class in, answers out."""
    monkeypatch.chdir(tmp_path)
    for number, (picture, label) in enumerate(
        zip(short("odd").split("train").columns["picture"], "eo" * 17, strict=True)
    ):
        file = tmp_path / "photos" / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.open("L").save(file)
    rules = "own,epochs=1,statistics=update"
    model = image_folders["resnet"]
    status, out, error = cli(
        "train", "--train", "photos", "--model", model, "--method", "batchnorm", "--protocol", rules, "--out", "runs/a"
    )
    assert (status, "texts" in out) == (0, False), error
    card = Path("runs/a/README.md").read_text(encoding="utf-8")
    assert all(said in card for said in ("image-classification", 'predictor.predict([nt.Picture("a.png")])'))
    status, out, _ = cli("evaluate", "runs/a", "--file", "photos", "--json")
    assert (status, '"examples": 34' in out) == (0, True)
    status, out, _ = cli("predict", "runs/a", "--file", "photos/e")
    assert out.splitlines()[0] == '"image","label","p(e)","p(o)"'
    assert len(out.splitlines()) == 18
    Path("t.csv").write_text("image,id\nphotos/e/0.png,1\n,2\nphotos/e/2.png,3\n")
    status, out, error = cli("predict", "runs/a", "--file", "t.csv", "--read", "skip-bad-rows")
    assert (status, [line.split(",")[1] for line in out.splitlines()]) == (0, ['"id"', '"1"', '"3"']), error
    assert cli("predict", "runs/a", "--text", "photos/e/0.png")[2].startswith("Error: The task 'photos' reads pictures")
    assert "AutoModelForImageClassification" in cli("merge", "runs/a", "--out", "merged")[1]
    Path("bad").mkdir()
    (Path("photos/e") / "bad.png").write_text("none")
    status, _, error = cli("train", "--train", "photos", "--model", model, "--method", "head", "--out", "runs/b")
    assert status == 1
    assert "bad.png is not a readable picture file" in error
