"""A base model: pre-trained weights from a hub, a folder or a package, with a fresh head on top."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from normtune.data.encode import Encoded, encode
from normtune.data.images import Reader
from normtune.data.task import Split
from normtune.errors import DataError, ModelError, known, refusing
from normtune.models import identity as identities, sources
from normtune.models.head import HeadSpec, HeadSwap, head_roots, meta_head, read_spec
from normtune.models.language import Likelihood, is_language_model
from normtune.models.layout import Layout, layout
from normtune.modes import kept_modes

#: Attributes that mark an encoder, which several heads may share, as being tuned, and as carrying a delta.
TUNED, APPLIED = "_normtune_tuned", "_normtune_applied"
#: The error of a function that was given something other than a base.
NO_BASE = "{} takes a base, not {}: make one with normtune.load_base(NAME), or of a model with normtune.wrap(MODEL)."


@dataclass
class Base:
    """A base model, ready to be trained or to carry a delta.

    Attributes:
        model: The classifier or language model, which training and deltas change in place.
        tokenizer: Its tokenizer, or None where the folder holds none.
        name: What the user called it: a hub id, a folder or a packaged name.
        revision: The hub's commit or the package's version, where there is one.
        identity: Content hash of the encoder (see `normtune.models.identity`).
        layout: Every parameter and its component, head included.
        roots: Paths of the head's modules.
        reader: Reads pictures for the model; None for a text model, or if the folder holds no image processor.
        language: Scores texts for a language model, which has no head; None for a classifier.
        begin: Checkpoint values that a fresh head starts from: those between encoder and output layer, such as
            ModernBERT's ``head`` or PoolFormer's last norm.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    revision: str | None
    identity: str
    layout: Layout
    roots: tuple[str, ...]
    reader: Reader | None = None
    language: Likelihood | None = None
    begin: Mapping[str, Tensor] = field(default_factory=dict)
    _heads: dict[int, Mapping[str, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Copy the head out of the checkpoint's buffer, where bad alignment would change the order of sums."""
        for place in self.layout.head:
            parameter = self.model.get_parameter(place.parameter)
            parameter.data = parameter.data.clone()

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return next(self.model.parameters()).device

    @property
    def head(self) -> HeadSpec:
        """What the current head answers; of kind ``language`` for a language model, which has no head."""
        return HeadSpec("language") if self.language or not self.roots else read_spec(self.model)

    def put_head(self, spec: HeadSpec, seed: int = 0, tensors: Mapping[str, Tensor] | None = None) -> HeadSwap:
        """Put a head on the model; `HeadSwap.undo` takes it off again.

        Its values are `tensors`, by parameter name, or else `begin` with the rest drawn from `seed`.

        Raises:
            DeltaError: If `tensors` do not fit the head.
            ModelError: If the model is being tuned.
        """
        if hasattr(self.model.base_model, TUNED):
            raise ModelError("This model is being tuned, and its head with it; undo that first.")
        return HeadSwap(self.model, self.roots, spec, self.refresh, seed=seed, begin=self.begin, tensors=tensors)

    def refresh(self) -> None:
        """Read the layout again after the head's shape has changed."""
        self.layout = layout(self.model, [place.parameter for place in self.layout.head])

    def need_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            ModelError: If there is none.
        """
        if self.tokenizer is None:
            raise ModelError(
                f"The model {self.name!r} has no tokenizer that can be read here: add tokenizer.json to its folder, or"
                " install what reads its *.model file (pip install sentencepiece tiktoken protobuf); for a"
                " wrapped model, give wrap its tokenizer."
            )
        return self.tokenizer

    def need_answers(self) -> None:
        """Check that the model's outputs answer a task.

        Raises:
            ModelError: If it is a wrapped language model, whose outputs are transformers' own.
        """
        if self.language is None and self.head.kind == "language":
            raise ModelError(
                f"{self.name!r} was wrapped as a language model, whose outputs stay its own; to score texts, load it:"
                " load_base(NAME, HeadSpec('language'))."
            )

    @property
    def reads(self) -> str:
        """The kind of input that it takes: ``text``, or ``picture``."""
        return "picture" if self.model.main_input_name == "pixel_values" else "text"

    @property
    def unpinned(self) -> dict[str, object]:
        """What neither the weights nor a revision tell, as fields of an identity.

        For pictures that is the image processor; without a revision, configuration and tokenizer too.
        """
        own: dict[str, object] = {"processor": self.computes[1]} if self.reads == "picture" else {}
        return own if self.revision else {**own, "computes": self.computes}

    @cached_property
    def computes(self) -> tuple[str, str]:
        """Hashes of what the configuration computes, and of the tokenizer or image processor (empty without one)."""
        config = identities.config_identity(self.model.config)
        if self.reader is not None:
            return config, identities.processor_identity(self.reader.processor)
        return config, "" if self.tokenizer is None else identities.tokenizer_identity(self.tokenizer)

    def meta_head(self, outputs: int) -> Mapping[str, Tensor]:
        """The parameters, on the meta device, of a head with `outputs` outputs on this model."""
        if outputs not in self._heads:
            self._heads[outputs] = meta_head(self.model, self.roots, outputs)
        return self._heads[outputs]

    @cached_property
    def positions(self) -> int | None:
        """The most tokens that the model has positions for, or None where it has no such limit."""
        found: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if found is None or found < 1:
            return None
        for name, module in self.model.named_modules():
            # RoBERTa and its kin have a row for padding in this table, and count from the one after it.
            padding: int | None = getattr(module, "padding_idx", None)
            if name.endswith(".position_embeddings") and padding is not None:
                return found - padding - 1
        return found

    def limit(self, asked: int, taken: int = 0) -> int:
        """The most tokens a text may have: the smallest of `asked`, the tokenizer's limit and the model's.

        For pictures it is `asked`. `taken` of the model's positions are not available to the text.

        Raises:
            ModelError: If there is no tokenizer, or too few positions are left for a pair of texts and special tokens.
        """
        if self.reads == "picture":
            return asked
        left = asked if self.positions is None else self.positions - taken
        if taken and left < 5:
            raise ModelError(
                f"{self.name!r} has {self.positions} positions; {taken} of them for prompts leave too few for a text."
            )
        return min(asked, self.need_tokenizer().model_max_length, left)

    @cached_property
    def _strange(self) -> dict[int, str]:
        """The tokens of the tokenizer that the model has no embedding for, by id."""
        try:
            rows = len(self.model.get_input_embeddings().get_parameter("weight"))
        except NotImplementedError:  # CANINE hashes characters and has no table
            return {}
        return {number: token for token, number in self.need_tokenizer().get_vocab().items() if number >= rows}

    @torch.no_grad()
    def encode(self, split: Split, max_length: int) -> Encoded:
        """Encode examples for this model; texts are cut to ``self.limit(max_length)`` tokens.

        Raises:
            ModelError: If there is no tokenizer, or no image processor.
            DataError: If there are no examples, the model reads another kind of input, or an example cannot be encoded,
                such as for a token without an embedding.
        """
        if (split.kind == "picture") != (self.reads == "picture"):
            raise DataError(
                f"The model {self.name!r} reads {self.reads}s, not {split.kind}s; name another with --model."
            )
        if split.kind == "lines" and not self.language:
            raise DataError(f"The model {self.name!r} was loaded as a classifier, which does not read running text.")
        if split.kind == "picture":
            if self.reader is None:
                raise ModelError(
                    f"The model {self.name!r} has no image processor that can be read here: add"
                    " preprocessor_config.json to its folder; for most of them Pillow must be installed too"
                    " (pip install 'normtune[images]')."
                )
            encoded = encode(split, self.reader, max_length)
            wrong = f"{self.name!r} does not take what its own image processor makes of a picture"
            with kept_modes(self.model), refusing(DataError, wrong):
                self.model.eval()(**encoded.batch([0], self.device))
            return encoded
        encoded = encode(split, self.need_tokenizer(), self.limit(max_length))
        for place, numbers in enumerate(encoded.fields.get("input_ids", ()) if self._strange else ()):
            for number in numbers.tolist():
                if number in self._strange:
                    raise DataError(
                        f"{split.place(place)} has the token {self._strange[number]!r}, which the tokenizer"
                        f" of {self.name!r} knows and its embeddings do not; call resize_token_embeddings on the model"
                        " and save it, or take the token out of the tokenizer."
                    )
        if self.language:
            for place, numbers in enumerate(encoded.fields["input_ids"]):
                if not self.language.scored(numbers):
                    raise DataError(f"{split.place(place)} has too few tokens: none of them has a likelihood.")
        return encoded


def load_base(
    name: str,
    head: HeadSpec | int = 2,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    head_seed: int = 0,
    keep_head: bool = False,
) -> Base:
    """Load a pre-trained model with a head for a task.

    Args:
        name: A hub id, also with ``@REVISION``, a local folder, or a packaged name (``minilm``).
        head: What the head answers, or a number of labels. For the kind ``language``, the model is a language model
            without a head, which gives the log-likelihood of texts (`normtune.models.language`).
        revision: Commit, tag or branch on the hub; what it resolves to is kept in `Base.revision`.
        dtype: Of the frozen part: ``float32``, ``bfloat16`` or ``float16``; or ``int8`` or ``nf4`` for its matrices,
            with the rest in bfloat16. Trained values are always float32.
        head_seed: Seeds the head's values.
        keep_head: Keep the classifier that the checkpoint brings. By default it is reset (but see `Base.begin`).

    Returns:
        The base model, in evaluation mode, on the CPU.

    Raises:
        UnknownNameError: If there is no such dtype.
        ModelError: If there is no such model, it cannot be read, transformers has no class for it with such a head, or
            its checkpoint does not hold the encoder.
    """
    spec = HeadSpec.numbered(head) if isinstance(head, int) else head
    known("dtype", dtype, sources.DTYPES)
    name, revision = sources.at_revision(name, revision)
    path, packaged_revision = sources.locate(name)
    config, language = sources.read_config(name, path, revision, spec.kind), spec.kind == "language"
    commit = sources.commit_of(path, revision)
    revision = commit or revision  # one for all files, also if the branch moves meanwhile
    files = sources.weight_files(path, revision)
    outputs = None if keep_head or language else spec.outputs
    model, missing = sources.load_weights(name, path, config, outputs, revision, dtype, files, spec.kind)
    model.eval()
    model.requires_grad_(False)
    model.config.return_dict = True  # outputs are read by name
    if language and missing:
        raise ModelError(f"The checkpoint of {name!r} is no language model's: it lacks {', '.join(missing)}.")
    head_names = [] if language else sorted({*missing, *_outside(model)})
    roots = head_roots(model, head_names)
    if keep_head and missing:
        raise ModelError(f"The checkpoint of {name!r} holds no head of this shape to keep: {', '.join(missing)}.")
    places = layout(model, head_names)
    kept = identities.encoder_tensors(model, places, device="meta")
    texts = model.main_input_name != "pixel_values"
    base = Base(
        model=model,
        tokenizer=sources.read_tokenizer(path, revision, model) if texts else None,
        reader=None if texts else sources.read_processor(path, revision, model),
        name=name,
        revision=packaged_revision or commit,
        identity=identities.checkpoint_identity(files, model.base_model_prefix, kept),
        layout=places,
        roots=roots,
    )
    if language:
        base.language = Likelihood.put(name, model, base.need_tokenizer())
    elif not keep_head:
        base.begin = _between(base, missing)
        base.put_head(spec, head_seed)
    return base


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    processor: BaseImageProcessor | None = None,
) -> Base:
    """Make a base of a model that the caller loaded; a classifier keeps its head, a language model has none.

    Args:
        model: The model. Its identity is taken from its values as they are now, so wrap it before training it.
        tokenizer: Its tokenizer, needed only to read texts. It is copied, and the copy's padding is set for the model;
            a configuration without a padding token gets the copy's.
        processor: Its image processor, needed only to read pictures.

    Returns:
        The base model around `model` itself, not a copy.

    Raises:
        ModelError: If `model` is no transformers model, has no head, is being tuned, is offloaded, carries a delta or
            adapters of PEFT's, answers in tuples, or needs a padding token that its tokenizer lacks.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"wrap takes a transformers model, not {type(model).__name__}: give it the model inside (for PEFT, the"
            " result of merge_and_unload()), and compile afterwards."
        )
    if hasattr(model.base_model, TUNED) or hasattr(model.base_model, APPLIED):
        raise ModelError("This model is being tuned or carries a delta; undo or remove that before wrapping it.")
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise ModelError(
            "This model carries adapters of PEFT's, whose scale its weights do not tell: wrap the result of"
            " merge_and_unload(), or the model without them."
        )
    if not model.config.return_dict:
        raise ModelError("This model answers in tuples; set return_dict to True in its configuration.")
    if any(value.is_meta for value in (*model.parameters(), *model.buffers())):
        raise ModelError(
            "Parts of this model are offloaded or hold no values yet; load it whole, without a device_map."
        )
    if model.base_model is model and "For" not in type(model).__name__:
        raise ModelError(
            f"{type(model).__name__} has no head; load it with AutoModelForSequenceClassification (for pictures"
            " AutoModelForImageClassification), or with load_base."
        )
    head_names = [] if is_language_model(model) else _outside(model)
    places = layout(model, head_names)
    return Base(
        model=model,
        tokenizer=None if tokenizer is None else sources.ready(copy.deepcopy(tokenizer), model),
        reader=None if processor is None else sources.reader_of(processor, model),
        name=str(model.config._name_or_path or type(model).__name__),
        revision=getattr(model.config, "_commit_hash", None),
        identity=identities.tensors_identity(identities.encoder_tensors(model, places)),
        layout=places,
        roots=head_roots(model, head_names),
    )


def skeleton(name: str, labels: int = 2, *, revision: str | None = None) -> Layout:
    """The layout of a model from its configuration alone: no weights are read, and none are needed.

    Args:
        name: A hub id, a folder that holds at least ``config.json``, or a packaged name.
        labels: Width of the head.
        revision: Commit, tag or branch on the hub.

    Returns:
        The layout of its classifier.

    Raises:
        ModelError: If there is no such configuration, or it describes no model that classifies.
    """
    name, revision = sources.at_revision(name, revision)
    path, _ = sources.locate(name)
    config = sources.read_config(name, path, revision)
    unusable = f"The configuration of {name!r} cannot be used"
    with refusing(ModelError, unusable), torch.device("meta"), sources.quiet(), sources.bounded():
        config.num_labels = labels
        model = sources.loader_of(config).from_config(config, trust_remote_code=False)
    return layout(model, _outside(model))


def _between(base: Base, missing: list[str]) -> dict[str, Tensor]:
    """The checkpoint's values of head modules that it holds whole and whose shapes no number of outputs changes."""
    inside = {
        root: [place.parameter for place in base.layout.head if place.parameter.startswith(f"{root}.")]
        for root in base.roots
    }
    held = [names for names in inside.values() if not {*names} & {*missing}]
    if not held:
        return {}
    two, three = base.meta_head(2), base.meta_head(3)
    kept = [name for names in held if all(two[name].shape == three[name].shape for name in names) for name in names]
    return {name: base.model.get_parameter(name).detach().clone() for name in kept}


def _outside(model: PreTrainedModel) -> list[str]:
    """Names of the parameters outside the encoder, which must be a module of its own."""
    if not hasattr(model, model.base_model_prefix):
        kind, prefix = model.config.model_type, model.base_model_prefix
        raise ModelError(f"This {kind!r} model cannot be trained: its encoder is no module called {prefix!r}.")
    return [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]
