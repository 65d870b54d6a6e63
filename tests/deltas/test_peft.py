"""PEFT's LN-tuning adapters, written for the real PEFT and read back from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from peft import LNTuningConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.ln_tuning.layer import LNTuningLayer
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    PreTrainedModel,
)

from normtune.deltas.answers import Predictor
from normtune.deltas.delta import Delta
from normtune.deltas.peft import CONFIG, WEIGHTS, export_peft, import_peft
from normtune.errors import DeltaError, OutputError, SelectionError
from normtune.models.base import Base, load_base, wrap
from normtune.models.head import HeadSpec
from normtune.models.sources import locate, quiet
from tests.deltas.moved import NUMBER, THREE, answers, applied, assert_untouched, inputs, moved, state

# PEFT's own warnings: every norm that it wraps, and a name that transformers has changed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]

Models = Callable[..., PreTrainedModel]
Bases = Callable[..., Base]
Folders = Callable[..., Path]

SELECTIONS = [
    ("bert", "attention-layernorm@1-2"),
    ("bert", "all-layernorm"),
    ("roberta", "layernorm@2 + attention-layernorm@0"),
    ("distilbert", "layernorm@0,2"),
    ("modernbert", "layernorm@1-"),
    ("qwen2", "all-layernorm"),
    ("gpt2", "attention-layernorm"),
    ("t5", "all-layernorm"),
    ("bart", "layernorm"),
]


def fresh(source: str | Path, outputs: int) -> PreTrainedModel:
    with quiet():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=outputs, ignore_mismatched_sizes=True
        )
    return model


def wrapped(model: torch.nn.Module) -> set[str]:
    prefix = "base_model.model."
    return {name.removeprefix(prefix) for name, module in model.named_modules() if isinstance(module, LNTuningLayer)}


def owners(delta: Delta) -> set[str]:
    return {name.rpartition(".")[0] for name in delta.values}


@pytest.mark.parametrize(("family", "method"), SELECTIONS)
def test_peft_gives_the_same_logits_and_wraps_exactly_the_selected_norms(
    make_model: Models, make_folder: Folders, tmp_path: Path, family: str, method: str
) -> None:
    source = make_folder(make_model(family))
    base = load_base(str(source))
    delta = moved(base, method)
    expected, before, config = applied(base, delta), state(base), base.model.config.to_json_string()
    export_peft(delta, base, tmp_path / "out")
    assert_untouched(base, before, config)
    loaded = PeftModel.from_pretrained(fresh(source, 3), tmp_path / "out")
    assert torch.equal(answers(loaded, inputs(base.model)), expected)
    assert wrapped(loaded) == owners(delta)


@pytest.mark.parametrize("method", ["layernorm", "layernorm@3-"])
def test_minilm_in_peft_answers_to_the_bit(minilm: Base, tmp_path: Path, method: str) -> None:
    delta = moved(minilm, method)
    export_peft(delta, minilm, tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (config["peft_type"], config["task_type"], config["revision"]) == ("LN_TUNING", "SEQ_CLS", None)
    assert config["base_model_name_or_path"] == locate("minilm")[0]
    loaded = PeftModel.from_pretrained(fresh(locate("minilm")[0], 3), tmp_path / "out")
    assert torch.equal(answers(loaded, inputs(minilm.model)), applied(minilm, delta))
    first = 0 if method == "layernorm" else 3
    assert config["target_modules"] == [f"bert.encoder.layer.{i}.output.LayerNorm" for i in range(first, 6)]
    assert wrapped(loaded) == set(config["target_modules"])
    trainable = {name for name, value in loaded.named_parameters() if value.requires_grad}
    assert not trainable  # loaded to answer, not to train


def test_a_pooler_that_the_checkpoint_lacks_goes_along(
    make_folder: Folders, make_model: Models, tmp_path: Path
) -> None:
    from transformers import BertModel

    bare = BertModel(make_model("bert").config, add_pooling_layer=False)
    source = make_folder(bare)
    base = load_base(str(source))
    assert base.roots == ("bert.pooler", "classifier")
    delta = moved(base, "layernorm")
    export_peft(delta, base, tmp_path / "out")
    loaded = PeftModel.from_pretrained(fresh(source, 3), tmp_path / "out")
    assert torch.equal(answers(loaded, inputs(base.model)), applied(base, delta))


def test_a_model_of_the_caller_that_has_no_name_can_be_exported(make_base: Bases, tmp_path: Path) -> None:
    base, other = make_base("bert"), make_base("bert", num_labels=3)
    delta = moved(base, "layernorm")
    export_peft(delta, base, tmp_path / "out")
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["base_model_name_or_path"] is None
    other.model.base_model.load_state_dict(base.model.base_model.state_dict())
    loaded = PeftModel.from_pretrained(other.model, tmp_path / "out")
    assert torch.equal(answers(loaded, inputs(base.model)), applied(base, delta))


def test_the_base_can_be_found_by_peft_alone(tiny_base: Base, tmp_path: Path) -> None:
    delta = moved(tiny_base, "layernorm")
    export_peft(delta, tiny_base, tmp_path / "out")
    with quiet():
        loaded = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "out", num_labels=3)
    assert torch.equal(answers(loaded, inputs(tiny_base.model)), applied(tiny_base, delta))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("random", "is not one, or is not selected whole"),
        ("bitfit", "is not one, or is not selected whole"),
        ("full", "is not one, or is not selected whole"),
        ("layernorm + pooler.dense", "'bert.pooler.dense.bias' is not one"),
        ("output.LayerNorm.bias", "'bert.encoder.layer.0.output.LayerNorm.weight' is not one"),
        ("head", "at least one; here is none"),
    ],
)
def test_what_peft_cannot_express_is_refused(tiny_base: Base, tmp_path: Path, method: str, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        export_peft(moved(tiny_base, method), tiny_base, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_some_entries_of_a_norm_are_refused(tiny_base: Base, tmp_path: Path) -> None:
    whole = moved(tiny_base, "layernorm")
    name = next(iter(whole.values))
    part = Delta(
        whole.info,
        {**whole.indices, name: np.arange(5)},
        {**whole.values, name: whole.values[name][:5]},
        whole.head,
    )
    with pytest.raises(SelectionError, match="is not selected whole"):
        export_peft(part, tiny_base, tmp_path / "out")


def test_a_scaled_regression_is_refused_and_a_plain_one_comes_back(tiny_base: Base, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="center and scale"):
        export_peft(moved(tiny_base, "layernorm", NUMBER, scale=2.0), tiny_base, tmp_path / "out")
    delta = moved(tiny_base, "layernorm", NUMBER)
    export_peft(delta, tiny_base, tmp_path / "out")
    back = import_peft(tmp_path / "out", tiny_base)
    assert back.info.head == NUMBER
    assert torch.equal(applied(tiny_base, back), applied(tiny_base, delta))


def test_a_head_that_peft_would_mix_up_with_the_body_is_refused(make_base: Bases, tmp_path: Path) -> None:
    base = make_base("bert")
    base.meta_head(3)  # caches the head before a root is added that does not exist
    base.roots = ("output", *base.roots)
    delta = moved(make_base("bert"), "layernorm")
    with pytest.raises(SelectionError, match=r"head from its 'bert\.encoder\.layer\.0\.attention\.output'"):
        export_peft(delta, base, tmp_path / "out")


def test_a_used_folder_and_another_base_are_refused(tiny_base: Base, make_base: Bases, tmp_path: Path) -> None:
    delta = moved(tiny_base, "layernorm")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="in use"):
        export_peft(delta, tiny_base, tmp_path)
    with pytest.raises(DeltaError, match="belongs to the base model"):
        export_peft(delta, make_base("roberta"), tmp_path / "out")


def test_exported_and_imported_it_is_the_same_delta(tiny_base: Base, tmp_path: Path) -> None:
    delta = moved(tiny_base, "layernorm@1")
    export_peft(delta, tiny_base, tmp_path / "out")
    base = load_base(str(tiny_base.name))  # with a head of two labels
    back = import_peft(tmp_path / "out", base, task="mine", labels=THREE.labels)
    assert (back.info.head, back.info.method) == (THREE, "peft-ln-tuning")
    assert back.selection(tiny_base) == delta.selection(tiny_base)
    for ours, theirs in ((delta.values, back.values), (delta.head, back.head)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_was_exported_says_itself_what_it_answers(tiny_base: Base, tmp_path: Path) -> None:
    kept = {"task": "tickets", "kind": "multilabel", "max_length": 32, "pair": True, "columns": ("a", "b", "c")}
    delta = moved(tiny_base, "layernorm")
    delta = replace(delta, info=delta.info.model_copy(update=kept))
    export_peft(delta, tiny_base, tmp_path / "out")
    back = import_peft(tmp_path / "out", tiny_base).info
    assert {name: getattr(back, name) for name in kept} == kept
    assert back.labels == delta.info.labels
    assert import_peft(tmp_path / "out", tiny_base, kind="classification").info.kind == "classification"
    for damaged in ("{", "[]", '{"kind": 3}'):
        (tmp_path / "out" / "normtune.json").write_text(damaged)
        with pytest.raises(DeltaError, match=r"normtune\.json is damaged"):
            import_peft(tmp_path / "out", tiny_base)


PEFT_TARGETS: list[tuple[str, str | list[str]]] = [
    ("bert", ["LayerNorm"]),
    ("bert", ["output.LayerNorm"]),
    ("bert", r"bert\.encoder\.layer\.\d+\.output\.LayerNorm"),
    ("roberta", ["LayerNorm"]),
    ("roberta", r"roberta\.encoder\.layer\.[12]\.output\.LayerNorm"),
    ("distilbert", ["sa_layer_norm", "output_layer_norm"]),
    ("distilbert", r".*output_layer_norm"),
    ("llama", ["input_layernorm", "post_attention_layernorm", "norm"]),
    ("qwen2", r".*layers\.2\.input_layernorm"),
    ("bert", ["LayerNorm", "pooler.dense"]),  # PEFT wraps modules that are no norms, too
]


def by_peft(source: Path, targets: str | list[str], outputs: int, folder: Path, **options: object) -> torch.Tensor:
    """Train two steps with PEFT, save, and return the logits of the saved adapter, loaded by PEFT."""
    torch.manual_seed(0)
    config = LNTuningConfig(task_type="SEQ_CLS", target_modules=targets, **options)
    model = get_peft_model(fresh(source, outputs), config)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    for _ in range(2):
        model(**inputs(model)).logits.square().sum().backward()
        optimizer.step()
    with quiet():
        model.save_pretrained(folder)
        return answers(PeftModel.from_pretrained(fresh(source, outputs), folder), inputs(model))


@pytest.mark.parametrize(("family", "targets"), PEFT_TARGETS)
def test_an_adapter_that_peft_trained_gives_the_same_logits_as_a_delta(
    make_model: Models, make_folder: Folders, tmp_path: Path, family: str, targets: str | list[str]
) -> None:
    source = make_folder(make_model(family))
    expected = by_peft(source, targets, 4, tmp_path / "adapter")
    base = load_base(str(source))
    delta = import_peft(tmp_path / "adapter", base)
    assert torch.equal(applied(base, delta), expected)
    assert delta.info.labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
    loaded = Delta.load(delta.save(tmp_path / "delta"))
    assert torch.equal(applied(load_base(str(source), 4), loaded), expected)


def test_a_module_that_peft_saved_beside_the_norms_is_part_of_the_delta(tiny_folder: Path, tmp_path: Path) -> None:
    expected = by_peft(tiny_folder, ["output.LayerNorm"], 2, tmp_path / "adapter", modules_to_save=["pooler"])
    base = load_base(str(tiny_folder))
    delta = import_peft(tmp_path / "adapter", base)
    assert "bert.pooler.dense.weight" in delta.values
    assert torch.equal(applied(base, delta), expected)


@pytest.mark.parametrize("targets", [["output.LayerNorm"], r"bert\.encoder\.layer\.[345]\.output\.LayerNorm"])
def test_an_adapter_of_minilm_comes_in(minilm: Base, tmp_path: Path, targets: str | list[str]) -> None:
    expected = by_peft(Path(locate("minilm")[0]), targets, 2, tmp_path / "adapter")
    delta = import_peft(tmp_path / "adapter", minilm, task="mood", labels=("bad", "good"), max_length=64)
    assert torch.equal(applied(minilm, delta), expected)
    assert len(delta.values) == (24 if isinstance(targets, list) else 6)
    with Predictor(minilm, delta) as predictor:
        [answer] = predictor.predict(["A fine film."])
    assert set(answer.probabilities or {}) == {"bad", "good"}


def test_labels_that_do_not_fit_are_refused(tiny_base: Base, tmp_path: Path) -> None:
    export_peft(moved(tiny_base, "layernorm"), tiny_base, tmp_path / "out")
    with pytest.raises(DeltaError, match="3 outputs, but 2 labels"):
        import_peft(tmp_path / "out", tiny_base, labels=("a", "b"))


def test_adapters_without_a_head_and_of_other_kinds_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_folder))
    headless = get_peft_model(fresh(tiny_folder, 2), LNTuningConfig(target_modules=["LayerNorm"]))
    headless.save_pretrained(tmp_path / "headless")
    with pytest.raises(DeltaError, match=r"no 'classifier\.weight' of the head.*modules_to_save=\['classifier'\]"):
        import_peft(tmp_path / "headless", base)
    lora = get_peft_model(fresh(tiny_folder, 2), LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    lora.save_pretrained(tmp_path / "lora")
    with pytest.raises(DeltaError, match="holds a LORA adapter"):
        import_peft(tmp_path / "lora", base)


@pytest.mark.parametrize("kind", ["classification", "tokens", "picture"])
def test_the_line_that_is_printed_loads_the_adapter(
    cli: Callable[..., tuple[int, str, str]],
    tiny_folder: Path,
    image_folders: dict[str, Path],
    tmp_path: Path,
    kind: str,
) -> None:
    spec = HeadSpec.numbered(3, "tokens" if kind == "tokens" else "classification")
    base = load_base(str(image_folders["vit"] if kind == "picture" else tiny_folder), spec)
    delta = moved(base, "layernorm", spec, picture=kind == "picture")
    delta.save(tmp_path / "delta")
    status, text, error = cli("export", tmp_path / "delta", "--out", tmp_path / "out")
    assert status == 0, error
    known = {"peft": peft, "AutoModelForImageClassification": AutoModelForImageClassification}
    with quiet():
        loaded = eval(text.partition("Load it with ")[2], known)
    fields = inputs(base.model)
    if kind == "picture":
        fields = {"pixel_values": torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
    with delta.apply(base):
        assert torch.equal(answers(loaded, fields), answers(base.model, fields))


def test_an_adapter_of_another_task_type_is_refused(tiny_base: Base, tmp_path: Path) -> None:
    export_peft(moved(tiny_base, "layernorm"), tiny_base, tmp_path / "out")
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    for task, fits in ((None, True), ("TOKEN_CLS", False), ("CAUSAL_LM", False)):
        (tmp_path / "out" / CONFIG).write_text(json.dumps({**config, "task_type": task}))
        if fits:
            import_peft(tmp_path / "out", tiny_base)
        else:
            with pytest.raises(DeltaError, match=f"has the task_type {task}; normtune imports SEQ_CLS only"):
                import_peft(tmp_path / "out", tiny_base)


def test_tags_that_were_exported_come_back(
    cli: Callable[..., tuple[int, str, str]], tiny_folder: Path, tmp_path: Path
) -> None:
    spec = HeadSpec.numbered(3, "tokens")
    base = load_base(str(tiny_folder), spec)
    delta = moved(base, "layernorm", spec)
    export_peft(delta, base, tmp_path / "out")
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["task_type"] == "TOKEN_CLS"
    status, _, error = cli("import", tmp_path / "out", "--model", tiny_folder, "--out", tmp_path / "back")
    assert status == 0, error
    back = Delta.load(tmp_path / "back")
    assert (back.info.kind, back.info.labels) == ("tokens", spec.labels)
    assert torch.equal(applied(base, back), applied(base, delta))


def test_a_language_model_takes_no_adapter(
    tiny_base: Base, make_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    export_peft(moved(tiny_base, "layernorm"), tiny_base, tmp_path / "out")
    model = BertForMaskedLM(tiny_base.model.config)
    with pytest.raises(DeltaError, match="is a language model; normtune imports adapters of classifiers"):
        import_peft(tmp_path / "out", wrap(model))


def test_an_adapter_of_another_model_is_refused(
    tiny_base: Base, make_base: Bases, minilm: Base, tmp_path: Path
) -> None:
    export_peft(moved(tiny_base, "layernorm"), tiny_base, tmp_path / "bare")
    (tmp_path / "bare" / "normtune.json").unlink()
    import_peft(tmp_path / "bare", make_base("bert", seed=5))  # PEFT's format has no hash of the model
    with pytest.raises(DeltaError, match=r"does not fit.*no parameter|has shape \(32,\), the model's \(384,\)"):
        import_peft(tmp_path / "bare", minilm)
    with pytest.raises(DeltaError, match=r"no parameter 'bert\.encoder"):
        import_peft(tmp_path / "bare", make_base("roberta"))
    with pytest.raises(DeltaError, match=r"the model's|instead of"):
        import_peft(tmp_path / "bare", make_base("bert", hidden_size=16))


def test_heads_whose_shapes_do_not_fit_are_refused(make_base: Bases, tmp_path: Path) -> None:
    base = make_base("roberta")
    export_peft(moved(base, "layernorm"), base, tmp_path / "out")
    file = tmp_path / "out" / WEIGHTS
    good = load_file(file)
    bias = "base_model.model.classifier.out_proj.bias"
    save_file({**good, bias: torch.zeros(4)}, file)
    with pytest.raises(DeltaError, match=r"has the shape|but 3 labels are named"):
        import_peft(tmp_path / "out", base)
    save_file({**good, bias: torch.zeros(2)}, file)  # as many as the base's present head has
    with pytest.raises(DeltaError, match=r"has the shape|but 3 labels are named"):
        import_peft(tmp_path / "out", base)
    dense = "base_model.model.classifier.dense.weight"
    save_file({**good, dense: torch.zeros(16, 32)}, file)
    with pytest.raises(DeltaError, match=r"the shape \(16, 32\) instead of"):
        import_peft(tmp_path / "out", base)


def test_damaged_and_missing_files_are_told_by_name(tiny_base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(DeltaError, match=f"holds no {CONFIG}"):
        import_peft(folder, tiny_base)
    export_peft(moved(tiny_base, "layernorm"), tiny_base, folder)
    config, weights = ((folder / name).read_bytes() for name in (CONFIG, WEIGHTS))
    for name, damaged, message in (
        (CONFIG, config[:40], "has no peft_type"),
        (CONFIG, b"[1]", "has no peft_type"),
        (WEIGHTS, weights[:100], "truncated or corrupt"),
        (WEIGHTS, b"", "truncated or corrupt"),
    ):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(damaged)
        with pytest.raises(DeltaError, match=message):
            import_peft(folder, tiny_base)
        (folder / name).write_bytes(whole)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(DeltaError, match="no pickled adapters"):
        import_peft(folder, tiny_base)


def test_a_lower_precision_base_exports_its_float32_values(tiny_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_folder), dtype="bfloat16")
    delta = moved(base, "layernorm")
    export_peft(delta, base, tmp_path / "out")
    stored = load_file(tmp_path / "out" / WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.float32}
    full = load_base(str(tiny_folder))
    loaded = PeftModel.from_pretrained(fresh(tiny_folder, 3), tmp_path / "out")
    assert torch.equal(answers(loaded, inputs(full.model)), applied(full, delta))


def test_an_adapter_in_bfloat16_comes_in_as_float32(tiny_base: Base, tmp_path: Path) -> None:
    export_peft(moved(tiny_base, "layernorm", HeadSpec.numbered(3)), tiny_base, tmp_path / "out")
    file = tmp_path / "out" / WEIGHTS
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
    delta = import_peft(tmp_path / "out", tiny_base)
    assert {value.dtype for value in [*delta.values.values(), *delta.head.values()]} == {torch.float32}


def test_what_was_exported_from_another_base_is_refused(make_base: Bases, tmp_path: Path) -> None:
    export_peft(moved(first := make_base("bert"), "layernorm"), first, tmp_path / "out")
    with pytest.raises(DeltaError, match="This delta belongs to the base model"):
        import_peft(tmp_path / "out", make_base("bert", seed=1))
