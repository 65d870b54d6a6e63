"""What the bank is measured against: PEFT switching adapters, and one process a task."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bank_deltas import encoded_of, groups_of, windows
from harness import alternate, now, ratio, summary
from peft import LNTuningConfig, get_peft_model
from torch import Tensor, nn

from normtune.deltas.answers import Predictor
from normtune.deltas.bank import Bank, Prepared
from normtune.deltas.delta import Delta
from normtune.fast.linear import fast_linear
from normtune.models.base import Base, load_base

#: Processes that are alive at once when their memory is measured.
PROCESSES = 3

Figures = tuple[dict[str, Any], dict[str, float]]

#: Windows of ours in a row for one of PEFT's, so that both are timed over a similar span.
OURS = 8

#: The regular expression that makes PEFT tune the output LayerNorm of each layer and nothing else.
TARGET = r"bert\.encoder\.layer\.\d+\.output\.LayerNorm"


class Switching:
    """A PEFT model with LN-tuning adapters of many tasks: a window is answered group by group, each with its adapter.

    PEFT's `add_adapter` visits all adapters each time, so a thousand take minutes; they are put into its modules
    directly instead, which leaves the same state. Only answering is timed.

    Args:
        deltas: Deltas of the output LayerNorm, all with two labels, by name.
    """

    def __init__(self, deltas: Mapping[str, Delta]) -> None:
        config = LNTuningConfig(task_type="SEQ_CLS", target_modules=TARGET, modules_to_save=["classifier"])
        first = next(iter(deltas))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model = get_peft_model(load_base("minilm").model, config, adapter_name=first).eval()
        held: list[tuple[str, nn.ModuleDict, set[str]]] = [
            (path.removeprefix("base_model.model."), holder, getattr(module, "_adapters", set()))
            for path, module in self._model.named_modules()
            for holder in (getattr(module, "ln_tuning_layers", None), getattr(module, "modules_to_save", None))
            if isinstance(holder, nn.ModuleDict)
        ]
        self.norms = sum("LayerNorm" in path for path, *_ in held)
        for name, delta in deltas.items():
            self._model.peft_config[name] = config
            for path, holder, known in held:
                if name != first:
                    holder[name] = copy.deepcopy(holder[first])
                known.add(name)
                _fill(holder[name], path, {**delta.values, **delta.head})

    def answer(self, window: Sequence[Prepared], *, fast: bool = False) -> Tensor:
        """Logits of a window, of shape (rows, labels): its rows are sorted by task, and each group runs by itself.

        With `fast` its products go through our linear layers, which PEFT's own users do not have.
        """
        encoded, outputs = encoded_of(window), torch.empty(len(window), 2)
        with torch.inference_mode(), fast_linear() if fast else nullcontext():
            for name, rows in groups_of(window).items():
                self._model.set_adapter(name, inference_mode=True)
                outputs[rows] = self._model(**encoded.batch(rows)).logits
        return outputs

    def switch(self, names: Sequence[str]) -> float:
        """Seconds that one switch takes."""
        started = now()
        for name in names:
            self._model.set_adapter(name, inference_mode=True)
        return (now() - started) / len(names)


def _fill(module: nn.Module, path: str, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(values[f"{path}.{name}"].reshape(parameter.shape))


def against_peft(peft: Switching, bank: Bank, tokens: int, rounds: int) -> Figures:
    """Mixed windows against PEFT's, as its users run it and with our products, and how far the logits are apart."""
    first = next(windows(bank, tokens, seed=1, count=1))  # answered by both, untimed
    difference = float(np.abs(np.stack(bank.logits(first)) - peft.answer(first).numpy()).max())
    if difference > 1e-4:
        raise AssertionError(f"PEFT's logits differ from ours by {difference}: it has not switched as it should")
    ours, theirs, same = (windows(bank, tokens) for _ in range(3))

    def mixed() -> None:
        for _ in range(OURS):
            bank.logits(next(ours))

    def switched() -> None:
        peft.answer(next(theirs))

    def switched_fast() -> None:
        peft.answer(next(same), fast=True)

    runs = {"mixed": mixed, "peft": switched, "peft_same_products": switched_fast}
    seconds = alternate(runs, rounds, warmup=0)
    seconds["mixed"] = [each / OURS for each in seconds["mixed"]]
    case = {
        **{name: summary(values) for name, values in seconds.items()},
        "switch_seconds": peft.switch(list(bank.tasks)[:5]),
        "largest_difference": difference,
        "norms": peft.norms,
    }
    return case, {
        "": ratio(seconds["peft"], seconds["mixed"]),
        "_same_products": ratio(seconds["peft_same_products"], seconds["mixed"]),
    }


def one_process_a_task(base: Base, bank: Bank, delta: Delta, rounds: int) -> Figures:
    """The least that one process a task costs: each task's rows in a batch of their own, and no switch."""
    ours, theirs = windows(bank, seed=5), windows(bank, seed=5)

    def separate() -> None:
        window = next(theirs)
        encoded = encoded_of(window)
        with torch.inference_mode(), fast_linear():
            for rows in groups_of(window).values():
                base.model(**encoded.batch(rows))

    seconds = alternate({"mixed": lambda: bank.logits(next(ours)), "separate": separate}, rounds)
    with tempfile.TemporaryDirectory() as folder:
        sizes = processes([delta.save(Path(folder) / str(number)) for number in range(PROCESSES)])
    case = {**{name: summary(values) for name, values in seconds.items()}, "bytes_each": sizes}
    return {"one_process_a_task": case}, {"mixed_vs_one_process_a_task": ratio(seconds["separate"], seconds["mixed"])}


def processes(deltas: Sequence[Path]) -> list[int]:
    """Bytes that each of some processes takes, which answer for one task each and are all alive at once.

    It is the proportional set size: a page that several processes share (the mapped checkpoint, libraries) is divided
    among them.
    """
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for file in deltas
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return [_proportional(process.pid) for process in running]
    finally:
        for process in running:
            process.communicate()


def _proportional(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/smaps_rollup has no Pss")


def _serve_one(folder: str) -> None:
    torch.set_num_threads(1)
    with Predictor(load_base("minilm"), Delta.load(folder)) as predictor:
        predictor.predict(["one text"])
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve_one(sys.argv[1])
