"""Language models as bases without a head, whose output for a text is its log-likelihood.

A causal model scores each token of a text but the first, given those before it, as its own loss in transformers does. A
masked model scores each token of the text given all the others, with that token masked: the pseudo-log-likelihood of
Salazar et al. 2020 (arXiv 1910.14659, equation 1). It needs one pass for each token of a text, and draws nothing.

Logits over the vocabulary are never kept: they are computed for a few tokens at a time and, in training, again in the
backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions, SequenceClassifierOutput

from normtune.errors import ModelError

#: Logits over the vocabulary that are computed at a time.
_PIECE = 1 << 24


def language_model_of(config: PreTrainedConfig) -> Any:
    """The auto class of transformers for language models of this configuration, masked or causal; None if none."""
    if getattr(config, "is_encoder_decoder", False):
        return None
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return AutoModelForMaskedLM
    return AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else None


def is_language_model(model: PreTrainedModel) -> bool:
    """Whether a model is of the class that `language_model_of` has for its configuration."""
    maker = language_model_of(model.config)
    return maker is not None and type(model) is maker._model_mapping[type(model.config)]


@dataclass
class Likelihood:
    """A language model's forward pass as a base: for each text its log-likelihood and the number of scored tokens.

    Attributes:
        model: The model, whose own forward pass gives logits over the vocabulary.
        mask: The id of its mask token, or None for a causal model.
        special: Ids of the tokens that a masked model does not score.
        again: Whether the backward pass computes the logits again rather than keeping them.
    """

    model: PreTrainedModel
    mask: int | None = None
    special: tuple[int, ...] = ()
    again: bool = True

    @classmethod
    def put(cls, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Likelihood:
        """Replace the forward pass of `model`, which messages call `name`, by a `Likelihood`, and return that.

        Raises:
            ModelError: If a causal model looks ahead, or a masked one has no mask token.
        """
        if language_model_of(model.config) is AutoModelForMaskedLM:
            if tokenizer.mask_token_id is None:
                raise ModelError(f"{name!r} is a masked language model, and its tokenizer has no mask token.")
            around = ("bos", "cls", "sep", "eos", "pad")
            numbers = (getattr(tokenizer, f"{each}_token_id") for each in around)
            own = cls(model, int(tokenizer.mask_token_id), tuple(n for n in numbers if n is not None))
        else:
            own = cls(model)
            own._refuse_looking_ahead(name)
        model.forward = own
        return own

    @property
    def causal(self) -> bool:
        """Whether it is a causal model."""
        return self.mask is None

    @contextmanager
    def once(self) -> Iterator[None]:
        """Within this context the backward pass computes nothing again, so that hooks on modules run once."""
        self.again = False
        try:
            yield
        finally:
            self.again = True

    def scored(self, input_ids: Tensor) -> int:
        """How many tokens of a text have a log-likelihood."""
        return len(input_ids) - 1 if self.causal else int((~self._special(input_ids)).sum())

    def _special(self, input_ids: Tensor) -> Tensor:
        return torch.isin(input_ids, torch.tensor(self.special, device=input_ids.device))

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
        """The outputs of a batch, of shape (texts, 2), float32 or better: log-likelihood and number of tokens."""
        real = attention_mask.bool()
        if self.causal:
            scored = real[:, 1:] & real[:, :-1]
            hidden = self._body(input_ids=input_ids, attention_mask=attention_mask, **inputs)[:, -scored.shape[1] - 1 :]
            found = self._log_likelihoods(hidden[:, :-1][scored], input_ids[:, 1:][scored])
            at = [*scored.nonzero(as_tuple=True)]
        else:
            scored = real & ~self._special(input_ids)
            found, *at = self._one_by_one(scored, input_ids=input_ids, attention_mask=attention_mask, **inputs)
        sums = found.new_zeros(scored.shape).index_put(tuple(at), found).sum(1)  # same order on every device
        return SequenceClassifierOutput(logits=torch.stack((sums, scored.sum(1).to(sums.dtype)), 1))

    def _one_by_one(self, scored: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log-likelihood of each `scored` token when it is masked, and each token's row and position."""
        found, rows, places = [], [], []
        for place in scored.any(0).nonzero()[:, 0]:
            own = scored[:, place].nonzero()[:, 0]
            batch = {name: values[own] for name, values in inputs.items()}
            true = batch["input_ids"][:, place]
            batch["input_ids"] = batch["input_ids"].index_fill(1, place, self.mask or 0)
            found.append(self._log_likelihoods(self._body(**batch)[:, place], true))
            rows.append(own)
            places.append(place.expand_as(own))
        return torch.cat(found), torch.cat(rows), torch.cat(places)

    def _body(self, **inputs: Tensor) -> Tensor:
        """The hidden states below the output layer, of shape (texts, tokens, width)."""
        more = {"use_cache": False} if self.causal else {}
        hidden: Tensor = self.model.base_model(**inputs, **more).last_hidden_state
        return hidden

    def _log_likelihoods(self, hidden: Tensor, true: Tensor) -> Tensor:
        """The log-likelihood of the true token for each hidden state, piece by piece."""
        tokens = max(1, _PIECE // int(self.model.config.get_text_config().vocab_size))
        pieces = list(zip(hidden.split(tokens), true.split(tokens), strict=True))
        if self.again and torch.is_grad_enabled() and hidden.requires_grad:
            return torch.cat([checkpoint(self._piece, *each, use_reentrant=False) for each in pieces])
        return torch.cat([self._piece(*each) for each in pieces])

    def _piece(self, hidden: Tensor, true: Tensor) -> Tensor:
        with _given(self.model, hidden):
            logits: Tensor = type(self.model).forward(self.model, input_ids=true[None]).logits[0]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -torch.nn.functional.cross_entropy(wide, true, reduction="none")

    @torch.no_grad()
    def _refuse_looking_ahead(self, name: str) -> None:
        """Check on made-up tokens that a later token does not change the hidden states of earlier ones."""
        last = int(self.model.config.get_text_config().vocab_size) - 1
        ids = torch.tensor([[1, 2, 3], [1, 2, last]], device=self.model.device)
        one, other = self._body(input_ids=ids, attention_mask=torch.ones_like(ids))[:, :2]
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
            raise ModelError(
                f"{name!r} reads texts in both directions, so what it gives for the next token is no likelihood; take a"
                " causal language model, or a masked one."
            )


class _Output(BaseModelOutputWithPastAndCrossAttentions):
    """Hidden states; whatever else a family reads from the outputs is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Given:
    """Replaces a model's body, or its decoder, and returns hidden states that are known already."""

    def __init__(self, body: Any, hidden: Tensor) -> None:
        self._body, self._output = body, _Output(last_hidden_state=hidden[None])

    @property
    def decoder(self) -> _Given:
        return self

    def __call__(self, *_: object, **__: object) -> _Output:
        return self._output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


@contextmanager
def _given(model: PreTrainedModel, hidden: Tensor) -> Iterator[None]:
    """Within this context a model skips its body and uses hidden states of shape (tokens, width) instead."""
    path = model.base_model_prefix
    vars(model)[path] = _Given(model.base_model, hidden)  # an attribute, which hides the module of that name
    try:
        yield
    finally:
        del vars(model)[path]
