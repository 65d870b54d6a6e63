"""Every family of the table, as a tiny random model: from its parameters to a merged model in another process."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.ln_tuning.layer import LNTuningLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from normtune.config import protocol
from normtune.data.digits import load_digits
from normtune.data.task import Split
from normtune.data.toy import load_toy
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.deltas.merge import merge
from normtune.deltas.peft import export_peft, import_peft
from normtune.errors import SelectionError
from normtune.importance.fisher import Request, fisher
from normtune.methods.expression import select, specify
from normtune.methods.selection import everything
from normtune.methods.trainable import Trainable
from normtune.models import layout as layouts
from normtune.models.base import Base, load_base, skeleton, wrap
from normtune.models.sources import quiet
from normtune.records.fisher import ESTIMATORS, Estimator
from normtune.training.session import Session
from tests.conftest import FAMILIES, PICTURES, FolderFactory, ModelFactory
from tests.deltas.banked import FIVE, assert_as_alone, changed
from tests.deltas.moved import answers, assert_untouched, state
from tests.families.table import ROWS
from tests.importance.reference import LENGTHS, TASKS, assert_same, by_loop, in_float64, stay_in_float64, texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:normtune does not list the family:normtune.errors.GuessWarning"),
    # PEFT's own warnings.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]


@dataclass(frozen=True)
class Trained:
    """A tiny model of a family, and a delta that was trained on it.

    Attributes:
        session: The model.
        before: The model's values before the training.
        config: Its configuration before the training.
        delta: The delta.
        dev: Examples.
        expected: The answers of base and delta to them.
    """

    session: Session
    before: dict[str, Tensor]
    config: str
    delta: Delta
    dev: Split
    expected: Tensor

    @property
    def base(self) -> Base:
        """The model, as a base."""
        return self.session.base


def fields(base: Base, dev: Split) -> dict[str, Tensor]:
    """The model's inputs for the examples, in one batch."""
    return base.encode(dev, 64).batch(range(len(dev)))


@pytest.fixture(scope="module")
def folder(
    make_model: ModelFactory, make_folder: FolderFactory, make_image_folder: FolderFactory
) -> Callable[[str], Path]:
    """The folder of a family's tiny model, made once."""
    made: dict[str, Path] = {}

    def find(family: str) -> Path:
        if family not in made:
            made[family] = make_image_folder(family) if family in PICTURES else make_folder(make_model(family))
        return made[family]

    return find


@pytest.fixture(scope="module")
def trained(folder: Callable[[str], Path]) -> Callable[[str], Trained]:
    """A family's tiny model after two steps of its norm method, made once."""
    made: dict[str, Trained] = {}

    def make(family: str) -> Trained:
        gc.freeze()  # each training ends with a garbage collection, which can skip the earlier models
        session = Session(str(folder(family)))
        base, before, config = session.base, state(session.base), session.base.model.config.to_json_string()
        data = load_digits("odd") if family in PICTURES else load_toy("sst2", None)
        train, dev = data.split("train").take(range(16)), data.split("dev").take(range(4))
        rules = protocol("small", epochs=1, batch_size=8, weight_decay=0.1)
        short = replace(data, splits={"train": train, "dev": dev})
        _, delta = session.run(session.prepare(short, ROWS[family].method, 1e-2, 0, rules))
        with delta.apply(base):
            expected = answers(base.model, fields(base, dev))
        return Trained(session, before, config, delta, dev, expected)

    def find(family: str) -> Trained:
        if family not in made:
            made[family] = make(family)
        return made[family]

    return find


each = pytest.mark.parametrize("family", ROWS)


def classifier(family: str) -> Any:
    """The transformers class for a plain model of a family."""
    return AutoModelForImageClassification if family in PICTURES else AutoModelForSequenceClassification


@pytest.mark.parametrize("family", {**FAMILIES, **PICTURES})
def test_every_parameter_is_in_one_component(
    family: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(folder(family))
    base = load_base(path)
    model, places = base.model, base.layout
    assert [(p.parameter, p.shape) for p in places] == [(n, tuple(p.shape)) for n, p in model.named_parameters()]
    # A tensor with several names counts once.
    stored = {value.data_ptr(): value.numel() for _, value in model.named_parameters(remove_duplicate=False)}
    assert places.size + places.head_size == sum(stored.values())
    assert sum(component.entries for component in places.components) == sum(stored.values())
    # A component has one parameter a layer and sub-component: nothing else hides under its name.
    assert max(Counter((p.component, p.layer, p.sub) for p in places).values()) == 1
    for place in places:
        numbers = re.findall(r"\.(\d+)(?=\.)", place.parameter)
        assert place.head or (place.layer is None) == (not numbers), place
        if family not in STAGED and not place.head:
            assert place.layer == (int(numbers[0]) if numbers else None)
        # Every norm class has 'norm' in its name, which `is_norm` does not read.
        owner = type(model.get_submodule(place.parameter.rpartition(".")[0])).__name__
        assert place.norm == bool(re.search(r"norm(\dd)?$", owner, re.IGNORECASE)), place
        assert place.batch == ("BatchNorm" in owner)
    # The same for a model without weights, where each norm class is tried again, and for one that the caller loaded.
    monkeypatch.setattr(layouts, "_TRIED", {})
    assert skeleton(path) == places
    with quiet():
        wrapped = wrap(classifier(family).from_pretrained(path, num_labels=2, ignore_mismatched_sizes=True))
    assert (wrapped.identity, wrapped.computes[0]) == (base.identity, base.computes[0])


STAGED = {"resnet", "convnext"}


@each
def test_a_published_model_has_the_entries_that_are_published(family: str, tmp_path: Path) -> None:
    row = ROWS[family]
    AutoConfig.for_model(family, **row.config).save_pretrained(tmp_path)
    places = skeleton(str(tmp_path))
    found = (places.size, len(select(places, "all-layernorm")), len(select(places, "layernorm")))
    assert found == (row.body, row.norms, row.closing)
    assert row.method != "batchnorm" or len(select(places, "batchnorm")) == row.norms


@each
def test_fisher_is_that_of_a_loop(family: str, folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Equation 2 of the paper for every entry of every parameter; each estimator and kind of task in turn."""
    number = [*ROWS].index(family)
    base = load_base(str(folder(family)))
    stay_in_float64(monkeypatch)
    task, estimator = TASKS[[*TASKS][number % 4]], Estimator(name=ESTIMATORS[number % 3], samples=2, seed=3)
    encoded = texts(task, LENGTHS[:4], types=family in {"bert", "albert"})
    if family in PICTURES:
        pixels = base.encode(load_digits("digits").split("train").take(range(4)), 64).fields["pixel_values"]
        encoded = replace(encoded, fields={"pixel_values": tuple(own.double() for own in pixels)})
    base = in_float64(base)
    base.model.config._experts_implementation = "eager"  # torch's grouped matrix product takes no float64
    whole = everything(base.layout)
    found = fisher(base, task, encoded, Request(whole, whole, estimator, (5,), tokens=30))
    assert found.scores is not None
    wanted = by_loop(base, task, encoded, estimator, seed=5)
    assert found.scores.values.keys() == found.totals.keys() == whole.chosen.keys()
    rtol = 1e-5 if family.startswith("gemma") else 1e-6  # its norms compute in float32
    assert_same(dict(found.scores.values), wanted, rtol=rtol, zero=1e-9)
    assert_same(found.totals, wanted, rtol=rtol, zero=1e-9)
    parts = ROWS[family].slow
    if parts is None:
        assert len(found.slow) > len(whole.chosen) / 2
    else:
        assert all(any(part in name for part in parts) for name in found.slow), found.slow
        assert all(any(part in name for name in found.slow) for part in parts), found.slow


@each
def test_training_changes_the_selection_alone(family: str, trained: Callable[[str], Trained]) -> None:
    own, base = trained(family), trained(family).base
    assert_untouched(base, own.before, own.config)
    chosen = select(base.layout, ROWS[family].method)
    assert {*own.delta.values} == {*chosen.chosen}
    head = {place.parameter for place in base.layout.head}
    with own.delta.apply(base):
        now = {name: value for name, value in state(base).items() if name not in head}
    assert {name for name, value in now.items() if not torch.equal(value, own.before[name])} == {*chosen.chosen}
    moved = sum(int((now[name] != own.before[name]).sum()) for name in chosen.chosen)
    assert moved == len(chosen) or (family == "resnet" and 2 * moved > len(chosen))  # a ReLU may be off in all examples
    assert_untouched(base, own.before, own.config)


@each
def test_a_delta_comes_back_and_shares_a_bank(family: str, trained: Callable[[str], Trained], tmp_path: Path) -> None:
    own, base = trained(family), trained(family).base
    loaded = Delta.load(own.delta.save(tmp_path / "delta"))
    with loaded.apply(base):
        assert torch.equal(answers(base.model, fields(base, own.dev)), own.expected)
    norms, apart, picture = ROWS[family].method, ROWS[family].apart, family in PICTURES
    biases = any(place.sub == "bias" for place in base.layout.body)
    methods = (norms, "bitfit" if biases else "all-layernorm")
    deltas = [loaded, changed(base, methods[1], FIVE, 1, picture=picture)]
    bank, examples = Bank(base), own.dev.columns[own.dev.kind][:2]
    for name, delta, method in zip("ab", deltas, methods, strict=True):
        bank.add(name, delta, apart=method in apart)
    assert [task.apart for task in bank.tasks.values()] == [method in apart for method in methods]
    assert_as_alone(base, deltas, bank.logits(bank.prepare_many(examples, list("ab"))), examples)
    assert_untouched(base, own.before, own.config)


@each
def test_peft_gives_the_same_answers(
    family: str, trained: Callable[[str], Trained], folder: Callable[[str], Path], tmp_path: Path
) -> None:
    own, base, out = trained(family), trained(family).base, tmp_path / "out"
    if ROWS[family].method == "batchnorm":
        with pytest.raises(SelectionError, match="does not keep BatchNorm's running statistics"):
            export_peft(own.delta, base, out)
        return
    export_peft(own.delta, base, out)
    with quiet():
        plain = classifier(family).from_pretrained(folder(family), num_labels=2, ignore_mismatched_sizes=True)
    loaded = peft.PeftModel.from_pretrained(plain, out)
    assert torch.equal(answers(loaded, fields(base, own.dev)), own.expected)
    wrapped = {name for name, module in loaded.base_model.model.named_modules() if isinstance(module, LNTuningLayer)}
    assert wrapped == {name.rpartition(".")[0] for name in own.delta.values}
    back = import_peft(out, base)
    for ours, theirs in ((own.delta.values, back.values), (own.delta.head, back.head)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


PLAIN = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification
torch.set_num_threads(1)
for folder in Path(sys.argv[1]).iterdir():
    inputs = load_file(folder / "inputs.safetensors")
    kind = AutoModelForImageClassification if "pixel_values" in inputs else AutoModelForSequenceClassification
    with torch.no_grad():
        logits = kind.from_pretrained(folder).eval()(**inputs).logits
    save_file({"logits": logits}, folder / "outputs.safetensors")
assert "normtune" not in sys.modules
"""


@each
def test_a_merged_model_is_a_plain_one(family: str, trained: Callable[[str], Trained], tmp_path: Path) -> None:
    own = trained(family)
    merge(own.delta, own.base, tmp_path / "out")
    assert_untouched(own.base, own.before, own.config)
    with quiet():
        plain = classifier(family).from_pretrained(tmp_path / "out")
    assert torch.equal(answers(plain, fields(own.base, own.dev)), own.expected)


@pytest.mark.slow
def test_merged_models_answer_the_same_without_normtune(trained: Callable[[str], Trained], tmp_path: Path) -> None:
    """One new process runs them all."""
    for family in ROWS:
        own = trained(family)
        merge(own.delta, own.base, tmp_path / family)
        save_file(fields(own.base, own.dev), tmp_path / family / "inputs.safetensors")
    run = subprocess.run([sys.executable, "-c", PLAIN, tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for family in ROWS:
        found = load_file(tmp_path / family / "outputs.safetensors")["logits"]
        assert torch.equal(found, trained(family).expected), family


REFUSED = [
    *(("vit", method, "where the blocks of a 'vit' model end") for method in ("red", "adapter", "hyper-adapter")),
    *(("vit", method, "this is a 'vit'") for method in ("prompt-tuning", "residual-prompt-tuning", "prefix-tuning")),
    ("mixtral", "ia3", "stacked"),
    ("resnet", "lora", "lora finds no queries and values"),
    ("resnet", "lora-all", "The layers of this 'resnet' model have no matrices"),
    ("mixtral", "adapter", "where the blocks of a 'mixtral' model end"),
]


@pytest.mark.parametrize(("family", "method", "message"), REFUSED)
def test_what_a_family_does_not_take_is_refused(
    family: str, method: str, message: str, trained: Callable[[str], Trained]
) -> None:
    own, base = trained(family), trained(family).base
    with pytest.raises(SelectionError, match=message):
        Trainable(base, specify(base.layout, method))
    assert_untouched(base, own.before, own.config)
