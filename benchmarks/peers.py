"""The peers, as their users run them: ``transformers.Trainer`` with PEFT's LN tuning, LoRA, or the whole model.

The base is ours, read once a case with the same seeded head, so that all start from the same values. Dropout is on, as
the model's configuration says.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from harness import now
from peft import LNTuningConfig, LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from normtune.data.encode import Encoded
from normtune.models.base import Base

#: Exactly ``output.LayerNorm``: a list of names would match ``attention.output.LayerNorm`` too.
OUTPUT_NORMS = r".*\.layer\.\d+\.output\.LayerNorm"

Item = dict[str, Any]


def peer_model(base: Base, method: str) -> nn.Module:
    """The base's model, changed in place as a peer does it.

    Args:
        base: The base, whose model is changed for good.
        method: ``full``, ``layernorm`` (PEFT LN tuning) or ``lora`` (PEFT LoRA, rank 8, on query and value).

    Returns:
        The model that the Trainer is given.
    """
    base.model.requires_grad_(True)
    if method == "full":
        return base.model
    config = (
        LNTuningConfig(task_type=TaskType.SEQ_CLS, target_modules=OUTPUT_NORMS)
        if method == "layernorm"
        else LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT calls every LayerNorm an unsupported type of layer
        model: nn.Module = get_peft_model(base.model, config)
    return model


def items(encoded: Encoded, numbers: Sequence[int] | np.ndarray, *, regression: bool, padded: int | None) -> list[Item]:
    """Examples as ``run_glue.py`` keeps them: lists of numbers, padded to `padded` tokens if it is given."""
    found = []
    for number in numbers:
        item: Item = {name: values[number].tolist() for name, values in encoded.fields.items()}
        if padded is not None:
            item = {name: value + [encoded.pad[name]] * (padded - len(value)) for name, value in item.items()}
        if encoded.labels is not None:
            label = encoded.labels[number]
            item["labels"] = float(label) if regression else int(label)
        found.append(item)
    return found


def grouped_batches(lengths: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """One epoch of the Trainer's batches under ``train_sampling_strategy="group_by_length"``."""
    generator = torch.Generator().manual_seed(seed)
    order = np.array(list(LengthGroupedSampler(size, lengths=[int(n) for n in lengths], generator=generator)))
    return [order[start : start + size] for start in range(0, len(order), size)]


def trainer(
    model: nn.Module,
    train: list[Item],
    tokenizer: Any,
    *,
    rate: float,
    epochs: int = 1,
    batch_size: int = 32,
    padded: bool,
    strategy: str = "random",
    seed: int = 0,
    dev: list[Item] | None = None,
    bf16: bool = False,
    use_cpu: bool = False,
    **more: Any,
) -> Trainer:
    """A ``transformers.Trainer`` with its defaults, save for what is given.

    Args:
        model: What is trained.
        train: The examples.
        tokenizer: Pads the batches, where they are not padded already.
        rate: Learning rate.
        epochs: Passes over the data.
        batch_size: Examples a step.
        padded: Whether the examples are padded already.
        strategy: How batches are drawn.
        seed: Of order and dropout.
        dev: Examples to predict after each epoch.
        bf16: Whether products are bfloat16 under mixed precision.
        use_cpu: Whether to ignore an accelerator.
        more: Further arguments of `Trainer`.

    Returns:
        The trainer.
    """
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="peer-"),
        learning_rate=rate,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=64,
        train_sampling_strategy=strategy,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        eval_strategy="no" if dev is None else "epoch",
        logging_strategy="no",
        bf16=bf16,
        use_cpu=use_cpu,
    )
    if "data_collator" not in more:
        more["data_collator"] = default_data_collator if padded else DataCollatorWithPadding(tokenizer)
    made = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        processing_class=tokenizer,
        **more,
    )
    made.remove_callback(PrinterCallback)
    return made


class Clock(TrainerCallback):
    """When the training of the epoch began and when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.times.append(now())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(now())


def predictions(peer: Trainer, dev: Any) -> np.ndarray:
    """The outputs for `dev`, float32, of shape (examples, outputs)."""
    return np.asarray(peer.predict(dev).predictions)
