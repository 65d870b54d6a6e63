"""A language model on plain text: trained, evaluated, asked, ablated, against plain transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from normtune.data.task import Split
from normtune.deltas.delta import Delta
from normtune.importance.gradients import PerExample
from normtune.importance.tally import Tally
from normtune.methods.expression import tune
from normtune.models.base import load_base, wrap
from normtune.models.head import HeadSpec
from normtune.models.language import language_model_of
from normtune.models.sources import quiet
from tests.conftest import _IDS, FAMILIES, VOCABULARY, FolderFactory

Run = Callable[..., tuple[int, str, str]]
LINES = [f"the {one} sees a {other} and the {other} is {end}" for one in ("cat", "dog") for other in ("bird", "child")
         for end in ("good", "bad", "old")]  # fmt: skip


def saved(family: str, make_folder: FolderFactory) -> Path:
    """A tiny language model with random values, and the tiny tokenizer, in a folder."""
    options = {**_IDS, **FAMILIES[family], "num_hidden_layers": 2, "vocab_size": len(VOCABULARY)}
    options["pad_token_id"] = None if family == "llama" else 0
    config = AutoConfig.for_model(family, **options)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = language_model_of(config).from_config(config)
    return make_folder(model)


@pytest.fixture(scope="module")
def causal(make_folder: FolderFactory) -> Path:
    """A tiny Llama whose configuration and tokenizer have no pad token."""
    folder = saved("llama", make_folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A plain text of a few lines, one of them blank."""
    path = tmp_path / "book.txt"
    path.write_text("\n".join([*LINES[:6], "", *LINES[6:]]) + "\n")
    return path


def by_blocks(folder: Path, text: str, size: int) -> float:
    """The mean log-likelihood per token of a text in blocks of `size` tokens, by transformers' own loss."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).double()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    total, tokens = 0.0, 0
    for start in range(0, len(ids), size - 2):
        block = torch.tensor([[2, *ids[start : start + size - 2], 3]])
        total -= model(input_ids=block, labels=block).loss.item() * (block.shape[1] - 1)
        tokens += block.shape[1] - 1
    return total / tokens


def test_a_model_as_it_is(cli: Run, causal: Path, text: Path) -> None:
    status, out, _ = cli("evaluate", causal, "--file", text, "--json")
    scores = json.loads(out)["scores"]
    assert (status, [*scores]) == (0, ["log_likelihood", "perplexity"])
    assert scores["log_likelihood"] == pytest.approx(by_blocks(causal, text.read_text(), 64), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(-scores["log_likelihood"]))
    rows = [json.loads(line) for line in cli("predict", causal, "--file", text, "--json")[1].splitlines()]
    assert len(rows) == len(LINES)  # a text per line; blank lines are skipped
    own = by_blocks(causal, LINES[0], 64)
    assert rows[0] == {
        "text": LINES[0],
        "log_likelihood": pytest.approx(own, rel=1e-5),
        "perplexity": pytest.approx(math.exp(-own), rel=1e-4),
    }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT warns of every norm that it wraps
def test_trained_on_text_it_is_more_likely(cli: Run, causal: Path, text: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        status, out, err = cli(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    options = (
        "--threads",
        1,
        "--model",
        causal,
        "--protocol",
        "own,epochs=2,batch_size=2,max_length=16",
        "--lr",
        "0.03",
    )
    [record] = run("train", "--train", text, "--method", "all-layernorm", *options, "--out", tmp_path / "out")
    assert record["primary"] == "log_likelihood"
    assert record["counts"]["head"] == 0
    assert record["counts"]["trained"] == 5 * 32  # two norms a layer and the last one, without biases
    assert record["data"]["train"] + record["data"]["dev"] == len(LINES) + 1
    before, after = (run("evaluate", place, "--file", text) for place in (causal, tmp_path / "out"))
    assert after["scores"]["log_likelihood"] > before["scores"]["log_likelihood"]
    card = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(card.replace("PATH_TO_THIS_FOLDER", str(tmp_path / "out")), {})
    status, out, err = cli("export", tmp_path / "out", "--out", tmp_path / "adapter")
    assert status == 0, err
    loaded = eval(out.partition("Load it with ")[2], {"peft": peft})
    assert type(loaded).__name__ == "PeftModelForCausalLM"
    assert cli("merge", tmp_path / "out", "--out", tmp_path / "merged")[0] == 0
    asked = [run("predict", tmp_path / place, "--text", LINES[0])["log_likelihood"] for place in ("out", "merged")]
    assert asked == pytest.approx([by_blocks(tmp_path / "merged", LINES[0], 64)] * 2, rel=1e-5)
    part = ("layernorm@0", "--file", text, "--draws", 1, "--out", tmp_path / "record.json")
    ablation = run("ablate", tmp_path / "out", *part)
    assert ablation["dense"] == pytest.approx(after["scores"])
    assert ablation["points"][0]["entries"] == 32


def test_a_masked_model_is_scored_and_not_trained(cli: Run, make_folder: FolderFactory, text: Path) -> None:
    folder = saved("bert", make_folder)
    answer = json.loads(cli("predict", folder, "--text", LINES[0], "--json")[1])
    assert answer["perplexity"] == pytest.approx(math.exp(-answer["log_likelihood"]), rel=1e-4)
    status, _, err = cli("train", "--train", text, "--model", folder)
    assert (status, "is a masked language model" in err) == (1, True)


def test_what_is_refused_in_a_sentence(cli: Run, causal: Path, tiny_folder: Path, text: Path, tmp_path: Path) -> None:
    blank, short = tmp_path / "blank.txt", tmp_path / "short.txt"
    blank.write_text("\n \n")
    short.write_text("one line")
    table = tmp_path / "table.csv"
    table.write_text("text,label\na,b\n")
    for arguments, said in (
        (("train", "--train", text, "--model", tiny_folder), "is no language model's: it lacks"),
        (("train", "--train", blank, "--model", causal), "is empty"),
        (("train", "--train", short, "--model", causal), "too few lines"),
        (("train", "--train", text, "--dev", table, "--model", causal), "must be a .txt file too"),
        (("train", "--train", text, "--label", "x", "--model", causal), "Plain text has no columns: leave out --label"),
        (("train", "--train", text, "--method", "head", "--model", causal), "has no head of its own"),
        (("evaluate", causal, "--file", table), "is no .txt file"),
        (("evaluate", causal, "--file", text, "--text", "x"), "Plain text has no columns: leave out --text"),
        (("evaluate", tiny_folder, "--file", text), "holds no delta, and is no language model"),
        (("ablate", causal), "no task of a suite; name a file"),
    ):
        status, _, err = cli(*arguments)
        assert (status, said in " ".join(err.split())) == (1, True), (arguments, err)


def test_fisher_information_of_texts_is_that_of_a_slow_loop(causal: Path) -> None:
    """The information of a text is the squared gradient of its log-likelihood, by plain transformers in float64."""
    base = load_base(str(causal), HeadSpec("language"))
    encoded = base.encode(Split.of_texts(LINES[:3]), 16)
    names = [place.parameter for place in base.layout.body]
    found = PerExample(base, names, encoded)
    tally = Tally(found.parameters)
    found.add(np.arange(3), lambda outputs, _: iter([outputs[:, 0]]), tally)
    model = AutoModelForCausalLM.from_pretrained(causal).double()
    expected = dict.fromkeys(names, 0.0)
    for ids in encoded.fields["input_ids"]:
        own = model(input_ids=ids[None]).logits[0, :-1].log_softmax(1).gather(1, ids[1:, None]).sum()
        for name, grad in zip(names, torch.autograd.grad(own, [*map(model.get_parameter, names)]), strict=True):
            expected[name] += grad.square().sum().item()
    assert tally.totals() == pytest.approx(expected, rel=1e-4)


def test_a_model_in_a_loop_of_ones_own(causal: Path) -> None:
    """Its forward pass stays transformers' own, nothing but the norms trains, and the delta is a language model's."""
    model = AutoModelForCausalLM.from_pretrained(causal)
    tuning = tune(base := wrap(model), "all-layernorm")
    ids = torch.tensor([[2, 10, 11, 12, 3]])
    loss = model(input_ids=ids, labels=ids).loss
    assert sum(leaf.numel() for leaf in tuning.parameters()) == 5 * 32
    torch.autograd.grad(loss, [*tuning.parameters()])
    with torch.no_grad():
        for leaf in tuning.parameters():
            leaf.add_(0.3)
    after = model(input_ids=ids).logits
    delta = Delta.capture(tuning, method="all-layernorm")
    assert delta.info.kind == "language"
    loaded = load_base(str(causal), delta.info.head)
    assert loaded.identity == base.identity
    with delta.apply(loaded):
        total = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0]
    assert total == pytest.approx(after[0, :-1].log_softmax(1).gather(1, ids[0, 1:, None]).sum().item(), rel=1e-5)
