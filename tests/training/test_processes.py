"""Training in several processes gives what one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normtune.data.holdout import labels_of
from normtune.data.toy import generate
from normtune.records.run import Record
from tests.conftest import FolderFactory, ModelFactory

CODE = "from normtune.cli.app import main; main()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"),
    [("bert", "layernorm"), ("bert", "fish-mask"), ("xlnet", "full")],  # XLNet's mask_emb takes no part
)
def test_two_processes_give_what_one_gives(
    family: str, method: str, make_model: ModelFactory, make_folder: FolderFactory, tmp_path: Path
) -> None:
    data = generate("rte", train=37, dev=16, seed=0)
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    for name, split in data.splits.items():
        rows = zip(split.texts, split.pairs or (), labels_of(split), strict=True)
        lines = [f"{one}\t{two}\t{data.task.labels[label]}\n" for one, two, label in rows]
        (tmp_path / "glue" / "RTE" / f"{name}.tsv").write_text("sentence1\tsentence2\tlabel\n" + "".join(lines))
    (tmp_path / "run.py").write_text(CODE)
    curves = []
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)),
                *(str(tmp_path / "run.py"), "train", "--task", "rte", "--data", str(tmp_path / "glue")),
                *(
                    "--model",
                    str(make_folder(make_model(family))),
                    "--method",
                    method,
                    "--protocol",
                    "small,batch_size=9",
                    "--out",
                    str(out),
                ),
                *("--threads", "1", "--device", "cpu"),
            ],
            check=True,
            capture_output=True,
            timeout=300,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        )
        curves.append([point.loss for point in Record.load(out / "record.json").curve])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
