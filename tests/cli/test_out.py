"""``normtune merge``, ``export``, ``import`` and ``push``, as their users call them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LNTuningConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from normtune.deltas.delta import FILE, Delta
from normtune.errors import OutputError
from normtune.files import fresh_folder
from normtune.models.base import Base, load_base
from normtune.models.sources import quiet
from tests.deltas.moved import THREE, answers, applied, inputs, moved

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_base: Base, tmp_path: Path) -> Path:
    """The folder of a delta of the tiny model."""
    return moved(tiny_base, "layernorm@1-").save(tmp_path / "run").parent


def test_merge(cli: Run, run: Path, tiny_base: Base, tmp_path: Path) -> None:
    status, out, _ = cli("merge", run, "--out", tmp_path / "model")
    assert status == 0
    assert "from_pretrained" in out
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert torch.equal(answers(model, inputs(model)), applied(tiny_base, Delta.load(run)))
    assert model.config.id2label == dict(enumerate(THREE.labels))
    status, _, err = cli("merge", run, "--out", tmp_path / "model")
    assert (status, "is in use" in err) == (1, True)


def test_merge_through_a_link_and_past_a_mount(cli: Run, run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert cli("merge", run, "--out", tmp_path / "link")[0] == 0
    assert (tmp_path / "elsewhere" / "model.safetensors").is_file()
    assert (tmp_path / "link").is_symlink()


def test_an_empty_mount_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "volume")  # mounting needs privileges
    told = r"A file system is mounted at .*volume; choose a folder inside it"
    with pytest.raises(OutputError, match=told), fresh_folder(tmp_path / "volume"):
        pytest.fail("It was begun.")
    assert not (tmp_path / "volume").exists()


def test_merge_says_where_texts_were_cut(cli: Run, tiny_base: Base, tmp_path: Path) -> None:
    short = moved(tiny_base, "layernorm", max_length=16).save(tmp_path / "short").parent
    status, out, _ = cli("merge", short, "--out", tmp_path / "model")
    assert (status, "give the tokenizer truncation=True, max_length=16 for the same answers" in out) == (0, True)


def test_merge_rounds_the_base_as_asked_and_nothing_else(cli: Run, run: Path, tiny_base: Base, tmp_path: Path) -> None:
    assert cli("merge", run, "--out", tmp_path / "model", "--dtype", "bfloat16")[0] == 0
    stored, delta = load_file(tmp_path / "model" / "model.safetensors"), Delta.load(run)
    for name, value in tiny_base.model.bert.named_parameters():  # type: ignore[union-attr]
        own = delta.values.get(f"bert.{name}")
        wanted = value.detach().bfloat16().float() if own is None else own.reshape(value.shape)
        assert torch.equal(stored[f"bert.{name}"], wanted), name
    assert len(delta.values) == 4


def test_merge_with_the_base_elsewhere(cli: Run, run: Path, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    moved_base = make_folder()
    assert cli("merge", run, "--model", moved_base, "--out", tmp_path / "model")[0] == 0
    status, _, err = cli("merge", run, "--model", tmp_path / "nowhere", "--out", tmp_path / "other")
    assert (status, "no model folder" in err) == (1, True)
    assert not (tmp_path / "other").exists()


def test_export_then_import(cli: Run, run: Path, tiny_base: Base, tmp_path: Path) -> None:
    status, out, _ = cli("export", run, "--format", "peft", "--out", tmp_path / "peft")
    assert status == 0
    assert "num_labels=" in out
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(tiny_base.name, num_labels=3)
    delta = Delta.load(run)
    model = PeftModel.from_pretrained(base, tmp_path / "peft")
    assert torch.equal(answers(model, inputs(tiny_base.model)), applied(tiny_base, delta))

    arguments = (
        "--model",
        tiny_base.name,
        "--out",
        tmp_path / "back",
        "--task",
        "moods",
        "--labels",
        ",".join(THREE.labels),
    )
    status, out, _ = cli("import", tmp_path / "peft", *arguments)
    assert status == 0
    assert "3 outputs" in out
    back = Delta.load(tmp_path / "back")
    assert torch.equal(applied(tiny_base, back), applied(tiny_base, delta))
    assert (back.info.task, back.info.labels) == ("moods", THREE.labels)
    status, out, err = cli("predict", tmp_path / "back", "--text", "a good film", "--device", "cpu")
    assert (status, err) == (0, "")
    assert set(re.findall(r"0\.\d{4}  (.*)", out)) == set(THREE.labels)
    status, _, err = cli("import", tmp_path / "peft", *arguments)
    assert (status, "is in use" in err) == (1, True)


def test_an_adapter_of_peft_becomes_a_delta_of_a_glue_task(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(tiny_folder, num_labels=3)
        get_peft_model(base, LNTuningConfig(task_type="SEQ_CLS", target_modules=["LayerNorm"])).save_pretrained(
            tmp_path / "adapter"
        )
    told = ("--model", tiny_folder, "--max-length", "20")
    for task in ("mnli", "MNLI"):
        assert cli("import", tmp_path / "adapter", *told, "--out", tmp_path / task, "--task", task)[0] == 0
        info = Delta.load(tmp_path / task).info
        assert (info.task, info.pair, info.max_length) == ("mnli", True, 20)
        assert info.labels == ("entailment", "neutral", "contradiction")
    status, _, err = cli("import", tmp_path / "adapter", *told, "--out", tmp_path / "other", "--labels", "bad,good")
    assert (status, "3 outputs, but 2 labels" in err) == (1, True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "RUN", "--format", "adapters", "--out", "OUT"], "Unknown format 'adapters'. Known: peft."),
        (["export", "NOWHERE", "--out", "OUT"], "There is no delta at"),
        (["merge", "me/nothing", "--out", "OUT"], "in the hub cache"),
        (["import", "RUN", "--model", "MODEL", "--out", "OUT"], "There is no PEFT adapter"),
        (["push", "NOWHERE", "me/run"], "There is no folder"),
        (["push", "RUN", "me/run"], "Cannot push to 'me/run'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    cli: Run, run: Path, tiny_folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"RUN": run, "NOWHERE": tmp_path / "nowhere", "MODEL": tiny_folder, "OUT": tmp_path / "out"}
    status, out, err = cli(*(places.get(argument, argument) for argument in arguments))
    assert (status, out) == (1, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_push_lists_what_it_would_upload(cli: Run, run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    status, out, _ = cli("push", run, "me/run", "--dry-run")
    assert status == 0
    assert [Path(line.split()[0]).name for line in out.splitlines()] == [FILE]


def test_help_shows_an_example(cli: Run) -> None:
    for command in ("merge", "export", "import", "push"):
        status, out, _ = cli(command, "--help")
        assert (status, f"normtune {command} " in out) == (0, True)


def test_the_command_line_of_a_merged_model_is_a_base(cli: Run, run: Path, tmp_path: Path) -> None:
    cli("merge", run, "--out", tmp_path / "model")
    assert load_base(str(tmp_path / "model"), THREE, keep_head=True).head == THREE


def test_a_name_that_would_be_taken_for_a_file_is_refused_before_anything_trains(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\n" + "a,x\nb,y\n" * 20)
    (tmp_path / "m.yaml").write_text("tasks: [{name: d.safetensors, train: t.csv, text: text, label: label}]\n")
    for call in (("t.csv", "--out", tmp_path / "z.safetensors"), ("m.yaml", "--out", tmp_path / "out")):
        status, _, error = cli("train", "--train", tmp_path / call[0], *call[1:])
        assert status == 1
        assert ".safetensors" in error
        assert "choose another name" in error or "cannot end in" in error
    assert {file.name for file in tmp_path.iterdir()} == {"t.csv", "m.yaml"}
