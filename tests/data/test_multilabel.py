"""Several labels per text: in files, by hand, and from training to answers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from normtune.data.files import load_files, read_split
from normtune.data.reading import Reading
from normtune.data.task import Task
from normtune.deltas.answers import Prediction, Predictor
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.deltas.merge import merge
from normtune.errors import ConfigError, DataError
from normtune.evaluation import decide, score_outputs
from normtune.importance.estimators import passes
from normtune.models.base import Base
from normtune.records.fisher import Estimator

Run = Callable[..., tuple[int, str, str]]
TASK = Task("topics", "Topics", "multilabel", ("art", "law", "war"), ("micro_f1", "macro_f1", "accuracy"))
OUTPUTS = np.array([[2.0, -1.0, 0.5], [-2.0, -1.0, -0.5], [1.0, 3.0, -4.0]], dtype=np.float32)
LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_label_applies_above_one_half():
    assert decide(OUTPUTS, TASK).tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 0]]
    # Three hits, one label too many, one too few. By label: art 1, law 2/3, war 0. One example of three is right.
    assert score_outputs(OUTPUTS, LABELS, TASK) == pytest.approx({
        "micro_f1": 2 * 3 / (2 * 3 + 1 + 1),
        "macro_f1": (1 + 2 / 3 + 0) / 3,
        "accuracy": 1 / 3,
    })
    answer = Prediction.of(OUTPUTS[0], TASK)
    assert (answer.labels, answer.label, answer.value) == (["art", "war"], None, None)
    assert answer.probabilities == pytest.approx({"art": 1 / (1 + np.exp(-2)), "law": 0.2689414, "war": 0.6224593})
    assert [own.f1 for own in TASK.asks.classes(decide(OUTPUTS, TASK), LABELS, TASK.labels)] == [1, 2 / 3, 0]
    assert "labels" not in Prediction(label="a").model_dump()


def shares():
    return 1 / (1 + np.exp(-OUTPUTS.astype(np.float64)))


def test_the_loss_and_log_likelihood_are_of_independent_labels():
    each = LABELS * np.log(shares()) + (1 - LABELS) * np.log(1 - shares())
    outputs, labels = torch.from_numpy(OUTPUTS).double(), torch.from_numpy(LABELS)
    assert float(TASK.asks.loss(TASK)(outputs, labels)) == pytest.approx(-each.mean())
    assert TASK.asks.log_prob(outputs, labels, TASK).numpy() == pytest.approx(each.sum(axis=1))


def test_fisher_is_the_expectation_over_all_sets_of_labels():
    jacobian = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def squares(estimator: Estimator, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Each example's squared gradients with respect to four weights that all outputs depend on."""
        outputs = torch.from_numpy(OUTPUTS).double().requires_grad_()
        found = [*passes(estimator, outputs, TASK, labels, [0, 1, 2])]
        grads = [torch.autograd.grad(own.sum(), outputs, retain_graph=True)[0] for own in found]
        return sum(((grad @ jacobian) ** 2 for grad in grads), torch.zeros(3, 4, dtype=torch.float64))

    p = torch.from_numpy(shares())
    at_true = ((torch.from_numpy(LABELS) - p) @ jacobian) ** 2
    torch.testing.assert_close(squares(Estimator(), torch.from_numpy(LABELS)), at_true)
    exact = torch.zeros(3, 4, dtype=torch.float64)
    for chosen in itertools.product((0, 1), repeat=3):
        y = torch.tensor(chosen, dtype=torch.float64)
        chance = (y * p + (1 - y) * (1 - p)).prod(dim=1, keepdim=True)
        exact += chance * ((y - p) @ jacobian) ** 2
    torch.testing.assert_close(squares(Estimator(name="exact"), None), exact)
    drawn = squares(Estimator(name="monte-carlo", samples=500))
    assert float(((drawn - exact) / exact).abs().max()) < 0.2


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        (('{"text": "a", "label": ["x", "y"]}', '{"text": "b", "label": []}', '{"text": "c", "label": [7]}'), ""),
        (("text,label", 'a,"[""x"", \'y\']"', "b,[]", "c,[7]"), ""),
        (("text,label", "a,x| y", "b,", "c,7"), "the labels in 'label' are separated by '|'."),
        (("text,label", 'a,"[""x"", ""\\u0079""]"', "b,[]", "c,[7]"), ""),
        (('{"text": "a", "label": ["x", "y"]}', '{"text": "b", "label": null}', '{"text": "c", "label": [7]}'), ""),
        (('{"text": "a", "label": ["x", "y"]}', '{"text": "b"}', '{"text": "c", "label": [7]}'), ""),
        (("text,label", 'a,"[""x"", ""y""]"', "b,", "c,[7]"), ""),
    ],
    ids=["a list", "a list in a table of texts", "a separator", "a list of JSON", "null", "no key", "an empty cell"],
)
def test_cells_with_several_labels(tmp_path, lines, note):
    path = written(tmp_path / ("t.jsonl" if lines[0].startswith("{") else "t.csv"), *lines)
    found = load_files(path, path, text="text", label="label", kind="multilabel")
    assert found.task.labels == ("7", "x", "y")
    assert found.split("dev").labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert found.task.metrics[0] == "micro_f1"
    assert found.labels_count == {"7": 1, "x": 1, "y": 1}
    assert note in " ".join(found.notes)
    split, _ = read_split(path, text="text", pair=None, label="label", names=("x", "7", "y"), kind="multilabel")
    assert split.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_a_named_separator_counts_whatever_a_label_begins_with(tmp_path):
    path = written(tmp_path / "t.csv", "text,label", "a b,[urgent]|billing", "c d,billing")
    found = load_files(path, path, text="text", label="label", kind="multilabel", reading=Reading.of("labels=bar"))
    assert found.task.labels == ("[urgent]", "billing")


def test_labels_as_json_writes_them(tmp_path):
    cells = [json.dumps(labels).replace('"', '""') for labels in (["😀", "a/b"], ["sad"])]
    path = written(tmp_path / "t.csv", "text,label", *(f'a,"{cell}"' for cell in cells))
    assert load_files(path, path, text="text", label="label", kind="multilabel").task.labels == ("a/b", "sad", "😀")


def test_what_cannot_be_read_is_named_by_line(tmp_path):
    def load(path: Path, kind: str = "multilabel", read: str = "") -> None:
        load_files(path, path, text="text", label="label", kind=kind, reading=Reading.of(read))

    none = written(tmp_path / "n.csv", "text,label", "a,[NaN]", "b,[true]")
    with pytest.raises(DataError, match="line 2: the labels are \\[None\\], not a list of labels"):
        load(none)
    rows = ['{"text": "a", "label": ["x", "y"]}', '{"text": "b", "label": "x"}', '{"text": "c", "label": [null]}']
    path = written(tmp_path / "t.jsonl", *rows)
    with pytest.raises(DataError, match=r"line 2: the labels are 'x', not a list of labels.*2 bad rows in all: lines"):
        load(path)
    load(path, read="skip-bad-rows")
    mixed = written(tmp_path / "m.csv", "text,label", 'a,"x;y"', 'b,"x,y"')
    with pytest.raises(ConfigError, match=r"have , and ; in them; say which .* --read labels=semicolon"):
        load(mixed)
    load(mixed, read="labels=semicolon")
    with pytest.raises(ConfigError, match="leave labels out of --read"):
        load(mixed, "classification", "labels=semicolon")
    with pytest.raises(DataError, match=r"line 2: the labels are \"\['x'\""):
        load(written(tmp_path / "b.csv", "text,label", "a,['x'", 'b,"[1, 2]"'))
    with pytest.raises(DataError, match="has no labels, so there is nothing to tell apart"):
        load(written(tmp_path / "n.jsonl", '{"text": "a", "label": []}', '{"text": "b", "label": []}'))
    with pytest.raises(ConfigError, match="Class weights need one class an example"):
        load_files(path, None, text="text", label="label", kind="multilabel", class_weights=True)


def test_a_file_is_divided_by_each_texts_rarest_label(tmp_path):
    rows = [{"text": f"text {i}", "label": ["x"] + ["y"] * (i % 5 == 0) + ["z"] * (i % 10 == 0)} for i in range(100)]
    path = written(tmp_path / "t.jsonl", *map(json.dumps, rows))
    found = load_files(path, None, text="text", label="label", kind="multilabel")
    assert found.split("dev").labels.sum(axis=0).tolist() == [10, 2, 1]


def test_from_training_to_answers(cli: Run, tiny_folder: Path, tiny_base: Base, tmp_path: Path) -> None:
    words = {"cat": ["animal"], "dog": ["animal"], "film": ["art"], "book": ["art"], "river": []}
    rows = [(f"a {a} and a {b}", [*{*words[a], *words[b]}]) for a in words for b in words]
    file = written(tmp_path / "t.jsonl", *(json.dumps({"text": text, "topics": own}) for text, own in rows))
    options = ["--label", "topics", "--labels", "several", "--model", tiny_folder, "--lr", "1e-2"]
    rules = ["--protocol", "own,epochs=1", "--device", "cpu", "--out", tmp_path / "out"]
    status, _, error = cli("train", "--train", file, "--dev", file, *options, *rules)
    assert status == 0, error
    status, text, _ = cli("evaluate", tmp_path / "out", "--file", file, "--json")
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert json.loads(text)["scores"] == pytest.approx(record["scores"]["dev"])
    assert {row["name"] for row in json.loads(text)["classes"]} == {"animal", "art"}
    delta = Delta.load(tmp_path / "out")
    with Predictor(tiny_base, delta) as predictor:
        wanted = predictor.predict([text for text, _ in rows[:3]])
    status, text, _ = cli("predict", tmp_path / "out", "--file", file)
    assert status == 0
    answers = written(tmp_path / "a.csv", *text.splitlines())
    again, _ = read_split(answers, text="text", pair=None, label="labels", names=("animal", "art"), kind="multilabel")
    applies = [[name in (own.labels or ()) for name in ("animal", "art")] for own in wanted]
    assert again.labels[:3].tolist() == applies
    bank = Bank(tiny_base)
    bank.add("topics", delta)
    for one, other in zip(bank.predict([text for text, _ in rows[:3]], "topics"), wanted, strict=True):
        assert one.labels == other.labels
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    merge(delta, tiny_base, tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert model.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        logits = model(**tiny_base.need_tokenizer()([rows[0][0]], return_tensors="pt")).logits[0]
    assert [*(wanted[0].probabilities or {}).values()] == pytest.approx(logits.double().sigmoid().tolist(), abs=1e-6)
