"""The benchmark of a GPU, tried out where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_way_is_timed_at_every_length(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    done = run("--shape", "tiny", "--device", "cpu", "--rounds", "1", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    peers = {"peft_layernorm", "lora", "full"}
    assert {*found["cases"]["full"]} == {"ours", *peers}
    assert {*found["cases"]["glue"]} == {"ours", "peft_layernorm_grouped", *peers}
    for ways in found["cases"].values():
        for way in ways.values():
            assert way["tokens_a_second"] > 0
            assert 0 < way["share_of_peak"] < 1
    assert found["ratios"]["glue_vs_ours"] == 1.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path: Path) -> None:
    done = run("--results", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "No GPU is here; --device cpu --shape tiny tries the benchmark out."
    assert not list(tmp_path.iterdir())
