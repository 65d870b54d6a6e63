"""A tag for each word: spans by hand, files, alignment with the tokenizer's pieces, and from training to answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

from normtune.data.files import load_files
from normtune.data.task import SENTENCE, Split, Task
from normtune.data.tokens import NONE, spans
from normtune.deltas.answers import Prediction, Predictor
from normtune.deltas.bank import Bank
from normtune.deltas.delta import Delta
from normtune.errors import ConfigError, DataError, DeltaError
from normtune.evaluation import logits, score_outputs
from normtune.fast.ways import Ways, choose
from normtune.importance.estimators import passes
from normtune.importance.fisher import Request, fisher
from normtune.methods.expression import select
from normtune.models.base import load_base
from normtune.models.head import HeadSpec
from normtune.records.fisher import Estimator

Run = Callable[..., tuple[int, str, str]]
TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
METRICS = ("span_f1", "span_precision", "span_recall", "accuracy")
TASK = Task("names", "Names", "tokens", TAGS, METRICS, SENTENCE)


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("O O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),  # of another type: a span of its own
        ("O I-PER I-PER", [("PER", 1, 3)]),  # conlleval begins one here
        ("I-PER I-LOC I-LOC O", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("B-A-B I-A-B", [("A-B", 0, 2)]),
    ],
)
def test_the_spans_of_tags(tags, wanted):
    assert spans(tags.split()) == wanted


def outputs_of(*texts: str) -> np.ndarray:
    """Outputs whose argmax gives these tags."""
    rows = [[TAGS.index(tag) for tag in text.split()] for text in texts]
    found = np.zeros((len(rows), max(map(len, rows)), len(TAGS)), dtype=np.float32)
    for number, row in enumerate(rows):
        found[number, range(len(row)), row] = 5.0
    return found


def test_spans_are_scored_whole_and_only_where_there_are_words():
    labels = TASK.asks.pack([[TAGS.index(t) for t in ["B-PER", "I-PER", "O", "B-LOC"]], [4, 1]], len(TAGS))
    assert labels.tolist() == [[1, 3, 4, 0], [4, 1, NONE, NONE]]
    outputs = outputs_of("B-PER O O B-LOC", "B-PER B-PER B-PER")  # the last tag has no word
    # Of three spans two are found (LOC, and the second PER), beside two that are none; four tags of six are right.
    assert score_outputs(outputs, labels, TASK) == pytest.approx({
        "span_f1": 2 * 2 / (4 + 3),
        "span_precision": 2 / 4,
        "span_recall": 2 / 3,
        "accuracy": 4 / 6,
    })
    by_type = TASK.asks.classes(outputs.argmax(-1), labels, TAGS)
    assert [(own.name, own.support, own.recall) for own in by_type] == [("LOC", 1, 1.0), ("PER", 2, 0.5)]
    answer = Prediction.of(outputs_of("B-PER I-PER O B-LOC")[0], TASK, "Anna Smith in  Rome")
    assert [(own.type, own.text, own.start, own.end) for own in answer.spans or ()] == [
        ("PER", "Anna Smith", 0, 2),
        ("LOC", "Rome", 3, 4),
    ]


def test_likelihood_loss_and_expectation_count_each_word():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    outputs[1, 2] = 0  # no word
    labels = torch.tensor([[1, 3, 4, 0], [4, 1, NONE, NONE]])  # the last word of the first text is cut off
    log_p = outputs.log_softmax(-1)
    each = [[log_p[0, 0, 1], log_p[0, 1, 3], log_p[0, 2, 4]], [log_p[1, 0, 4], log_p[1, 1, 1]]]
    sums = torch.stack([torch.stack(own).sum() for own in each])
    torch.testing.assert_close(TASK.asks.log_prob(outputs, labels, TASK), sums)
    torch.testing.assert_close(TASK.asks.loss(TASK)(outputs, labels), -sums.sum() / 5)
    weights = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)  # of four parameters for all outputs
    leaf = outputs.clone().requires_grad_()
    seen = torch.tensor([[[1.0]] * 3, [[1.0], [1.0], [0.0]]], dtype=torch.float64)

    def squares(estimator: Estimator) -> torch.Tensor:
        found = [*passes(estimator, leaf, TASK, None, [0, 1])]
        grads = [torch.autograd.grad(own.sum(), leaf, retain_graph=True)[0] * seen for own in found]
        return sum((torch.einsum("bwk,wkp->bp", grad, weights) ** 2 for grad in grads), torch.zeros(2, 4).double())

    # One word's exact Fisher is the expectation over its tags; words add up.
    p, eye = log_p.exp(), torch.eye(5, dtype=torch.float64)
    away = torch.einsum("bwyk,wkp->bwyp", (eye - p[:, :, None]) * seen[..., None], weights)
    torch.testing.assert_close(squares(Estimator(name="exact")), (p[..., None] * away**2).sum((1, 2)))
    drawn = squares(Estimator(name="monte-carlo", samples=300))
    assert float((drawn / squares(Estimator(name="exact")) - 1).abs().max()) < 0.35


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


CONLL = ("-DOCSTART- -X- O", "", "Anna NNP B-PER", "Smith NNP I-PER", "sleeps VB O", "", "", "Rome NNP B-LOC", "")


def test_the_same_from_every_kind_of_file(tmp_path):
    rows = [(["Anna", "Smith", "sleeps"], ["B-PER", "I-PER", "O"]), (["Rome"], ["B-LOC"])]
    files = [
        written(tmp_path / "a.conll", *CONLL),
        written(tmp_path / "a.jsonl", *(json.dumps({"text": text, "label": own}) for text, own in rows)),
        written(tmp_path / "a.csv", "text,label", *(f"{' '.join(text)},{' '.join(own)}" for text, own in rows)),
        written(tmp_path / "b.csv", "text;label", *(f"{text};{own}" for text, own in rows)),
    ]
    for path in files:
        found = load_files(path, path, text="text", label="label", kind="tokens")
        assert found.task.labels == ("B-LOC", "B-PER", "I-PER", "O")
        assert (found.task.inputs, found.task.metrics) == (SENTENCE, METRICS)
        assert found.split("dev").columns == {"sentence": ("Anna Smith sleeps", "Rome")}
        assert found.split("dev").labels.tolist() == [[1, 2, 3], [0, NONE, NONE]]
        assert found.labels_count == {"B-LOC": 1, "B-PER": 1, "I-PER": 1, "O": 1}


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("a.conll", (*CONLL, "Paris B-LOC"), r"a\.conll, line 10: the line has 2 of 3 columns"),
        ("a.conll", (*CONLL, "Paris NNP LOC"), r"a\.conll, line 10: the tag 'LOC' is none of O, B-TYPE and I-TYPE"),
        ("a.csv", ("text,label", "a b,O O", "a b c,B-X O"), r"a\.csv, line 3: 3 words have 2 tags"),
        ("a.jsonl", ('{"text": ["a b"], "label": ["O"]}',), r"line 1: the word 'a b' is empty or has a blank in it"),
        (
            "a.jsonl",
            ('{"text": ["a"], "label": [["O"]]}',),
            r"line 1: the column 'label' holds \[\['O'\]\], not a list",
        ),
    ],
)
def test_what_cannot_be_read_is_named_by_line(tmp_path, name, lines, said):
    path = written(tmp_path / name, *lines)
    with pytest.raises(DataError, match=said):
        load_files(path, path, text="text", label="label", kind="tokens")


def test_an_unknown_tag_of_dev_is_named(tmp_path):
    train = written(tmp_path / "a.conll", *CONLL)
    dev = written(tmp_path / "b.conll", "Anna B-PER", "", "ESA B-ORG")
    with pytest.raises(DataError, match=r"b\.conll, line 3: the label 'B-ORG' does not occur in"):
        load_files(train, dev, text="text", label="label", kind="tokens")


def test_a_word_is_answered_at_its_first_piece(tiny_folder):
    base = load_base(str(tiny_folder), HeadSpec("tokens", TAGS))
    assert base.head == HeadSpec("tokens", TAGS)
    labels = TASK.asks.pack([[1, 4, 0], [4], [4, 4, 4, 4, 4]], len(TAGS))
    texts = ("cats see rivers", "cat", "cat dog cat dog cats")
    encoded = base.encode(Split({"sentence": texts}, labels), 8)
    with torch.no_grad():
        plain = base.model(**encoded.batch([0])).logits[0].numpy()
    pieces = base.need_tokenizer().convert_ids_to_tokens(encoded.fields["input_ids"][0].tolist())
    places = [i for i, piece in enumerate(pieces) if not piece.startswith(("[", "##"))]
    assert (len(places), len(pieces) > 5) == (3, True)
    found = logits(base, encoded, ways=Ways(base))
    assert found.shape == (3, 5, 5)
    np.testing.assert_allclose(found[0, :3], plain[places], atol=1e-6)
    assert not found[0, 3:].any()
    fast = choose(base)
    with fast.context():
        np.testing.assert_allclose(logits(base, encoded, ways=fast), found, atol=1e-5)
    assert "first token" not in fast.names
    # The last text has eight tokens or more; words that are cut off have no label.
    assert encoded.truncated >= 1
    assert encoded.labels[2].tolist().count(NONE) == 5 - len(encoded.firsts[2])


def test_fisher_is_a_loop_over_texts(tiny_folder):
    base = load_base(str(tiny_folder), HeadSpec("tokens", TAGS))
    labels = TASK.asks.pack([[1, 4], [4], [0, 2, 4]], len(TAGS))
    encoded = base.encode(Split({"sentence": ("cats sleep", "dog", "the river is")}, labels), 32)
    within = select(base.layout, "layernorm")
    found = fisher(base, TASK, encoded, Request(within, within, Estimator(), (0,)))
    assert not found.slow
    swap = base.put_head(HeadSpec("tokens", TAGS), 0)
    own = {name: base.model.get_parameter(name).requires_grad_() for name in within.chosen}
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in own.items()}
    for number in range(3):
        output = encoded.answered(base.model(**encoded.batch([number])).logits, [number])[0]
        log_p = sum(output.log_softmax(-1)[i, tag] for i, tag in enumerate(encoded.labels[number].tolist()) if tag >= 0)
        for name, grad in zip(own, torch.autograd.grad(log_p, [*own.values()]), strict=True):
            sums[name] += grad.double() ** 2 / 3
    swap.undo()
    for name, total in sums.items():
        assert found.by_seed[0][name] == pytest.approx(float(total.sum()), rel=1e-4)


def test_from_training_to_answers(cli: Run, tiny_folder: Path, tmp_path: Path) -> None:
    tag = {"cat": "B-ANIMAL", "dog": "B-ANIMAL", "river": "B-PLACE"}
    texts = [f"the {a} sees a {b} ." for a in (*tag, "book") for b in (*tag, "film")]
    lines = [line for text in texts for line in (*(f"{w}\t{tag.get(w, 'O')}" for w in text.split()), "")]
    file = written(tmp_path / "t.conll", *lines)
    options = ["--labels", "tags", "--model", tiny_folder, "--lr", "1e-2", "--protocol", "own,epochs=3"]
    status, _, error = cli(
        "train", "--train", file, "--dev", file, *options, "--device", "cpu", "--out", tmp_path / "out"
    )
    assert status == 0, error
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["primary"] == "span_f1"
    status, text, _ = cli("evaluate", tmp_path / "out", "--file", file, "--json")
    assert json.loads(text)["scores"] == pytest.approx(record["scores"]["dev"])
    assert [row["name"] for row in json.loads(text)["classes"]] == ["ANIMAL", "PLACE"]
    delta = Delta.load(tmp_path / "out")
    base = load_base(str(tiny_folder), delta.info.head)
    with Predictor(base, delta) as predictor:
        wanted = predictor.predict(texts)
    assert any(answer.spans for answer in wanted)
    bank = Bank(base)
    bank.add("names", delta)
    assert bank.predict(texts, "names") == wanted
    status, text, _ = cli("predict", tmp_path / "out", "--file", file)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [json.loads(row["spans"]) for row in rows] == [[own.model_dump() for own in a.spans or ()] for a in wanted]
    status, text, _ = cli("merge", tmp_path / "out", "--out", tmp_path / "merged")
    assert "AutoModelForTokenClassification.from_pretrained" in text
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged").eval()
    assert model.config.id2label[0] == "B-ANIMAL"
    pieces = base.need_tokenizer()(texts[:1], return_tensors="pt")
    with torch.no_grad(), delta.apply(base):
        assert torch.equal(model(**pieces).logits, base.model(**pieces).logits)
    with pytest.raises(DeltaError, match="loaded for another head"):
        delta.apply(load_base(str(tiny_folder)))
    manifest = written(
        tmp_path / "m.yaml", "tasks:", f"- {{name: a, train: {file}, kind: tokens}}", f"- {{name: b, train: {file}}}"
    )
    status, _, error = cli("train", "--train", manifest, "--model", tiny_folder, "--out", tmp_path / "more")
    assert (status, "train them apart" in error) == (1, True)


def test_class_weights_are_refused(tmp_path):
    path = written(tmp_path / "a.conll", *CONLL)
    with pytest.raises(ConfigError, match="Class weights need one class an example"):
        load_files(path, None, text="text", label="label", kind="tokens", class_weights=True)
