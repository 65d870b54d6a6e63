"""Commands that are killed before a file operation: run again, they give the same, and leave nothing else."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

# Imported here, so that the forked processes need not.
from normtune.cli.app import main
from tests.report import made
from tests.soak.kinds import ROWS

_SMALL = "--protocol small,epochs=1,batch_size=16,max_length=32,max_train=32,max_dev=16 --threads 1"
_BASE = "--model model --device cpu"
_TRAIN = f"{_BASE} {_SMALL} --train animals.csv"
_MEASURE = f"--tasks rte --suite toy {_BASE} --threads 1 --examples 8"
#: Commands by name, run in a folder with a model, a table, a manifest, a delta, an adapter, records and a report.
COMMANDS = {
    "train": f"train {_TRAIN} --out out",
    "train a table": f"train {_TRAIN} --method head,layernorm --seed 0,1 --out out",
    "train a manifest": f"train {_BASE} {_SMALL} --train m.yaml --out out",
    "train over another": f"train {_TRAIN} --method head,layernorm --out delta --overwrite",
    "study": f"study figure5 --suite toy {_BASE} {_SMALL} --tasks rte --fisher-tasks rte --examples 8 --head-seeds 0"
    " --fractions 0.5 --masks individual --results out",
    "fisher": f"fisher {_MEASURE} --records out",
    "mask": f"mask {_MEASURE} --fraction 0.5 --records out --out out/mask.safetensors",
    "merge": "merge delta --model model --out out",
    "export": "export delta --model model --out out",
    "import": "import adapter --model model --out out",
    "report": "report results --out out",
    "report again": "report results --out report --force",
}
#: Fields in which two runs of one command may differ.
_OWN = {"seconds", "peak_memory", "machine", "versions", "hash"}


def run(folder: Path, command: str, at: int | None = None) -> tuple[int, int]:
    """Run a command in `folder`, in a process of its own: (exit status, file operations).

    Args:
        folder: Where it runs.
        command: The command.
        at: The process ends before this operation, without any clean-up, as if it were killed.
    """
    return wait(*start(folder, command, at))


def start(folder: Path, command: str, at: int | None = None) -> tuple[int, int]:
    """Fork the process of `run`: its id, and the pipe to which it writes the number of its operations."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # fork warns of threads; torch's are asleep
        child = os.fork()
    if not child:
        done = 0

        def watch(event: str, given: tuple[Any, ...]) -> None:
            nonlocal done
            if _changes(event, given, str(folder)):
                if done == at:
                    os._exit(137)
                done += 1

        status = 1
        try:
            os.chdir(folder)
            sys.addaudithook(watch)
            sys.argv = ["normtune", *command.split()]
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            os.write(theirs, str(done).encode())
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(theirs)
    return child, ours


def wait(child: int, ours: int) -> tuple[int, int]:
    """Wait for what `start` returned: (exit status, file operations)."""
    with os.fdopen(ours) as pipe:
        done = int(pipe.read() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), done


def _changes(event: str, given: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event changes files in `folder`, the process's working directory."""
    if event not in {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}:
        return False
    if event == "open" and not (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return False
    path = os.fsdecode(given[0]) if isinstance(given[0], str | bytes | os.PathLike) else "/"
    return path.startswith(folder) or not path.startswith("/")


def contents(folder: Path) -> dict[str, object]:
    """The content of a folder by path, without what two runs may differ in."""
    return {
        str(path.relative_to(folder)): "folder" if path.is_dir() else _content(path)
        for path in sorted(folder.rglob("*"))
    }


def _content(file: Path) -> object:
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as stored:
            metadata = {key: _plain(text) for key, text in (stored.metadata() or {}).items()}
            return metadata, {name: stored.get_tensor(name).tolist() for name in stored.keys()}  # noqa: SIM118
    return _plain(file.read_bytes())


def _plain(text: str | bytes) -> object:
    try:
        return _without(json.loads(text))
    except ValueError:
        return text


def _without(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without(value) for name, value in tree.items() if name not in _OWN}
    return [_without(value) for value in tree] if isinstance(tree, list) else tree


@pytest.fixture(scope="module")
def stage(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that the commands need."""
    folder = tmp_path_factory.mktemp("stage")
    shutil.copytree(tiny_folder, folder / "model")
    (folder / "animals.csv").write_text(
        "\n".join(["text,label", *(f"{text},{label}" for text, label, _ in ROWS)]) + "\n"
    )
    (folder / "m.yaml").write_text(
        "tasks:\n- {name: a, train: animals.csv}\n- {name: b, train: animals.csv, seed: 1}\n"
    )
    made.results(
        folder / "results", methods={"head": 0.0, "layernorm": 0.1}, tasks=["rte"], seeds=[0], measured=["rte"]
    )
    # Run in this process, so that its forks find all modules imported.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, out in (("train", "delta"), ("export", "adapter"), ("report", "report"), ("fisher", "entries")):
            patch.setattr(sys, "argv", ["normtune", *COMMANDS[name].replace(" out", f" {out}").split()])
            with pytest.raises(SystemExit, match="0"):
                main()
    shutil.rmtree(folder / "entries")
    gc.freeze()  # so that garbage collections in the forks skip what exists already
    yield folder
    gc.unfreeze()


@pytest.fixture
def staged(stage: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Gives copies of the stage."""
    return lambda name: shutil.copytree(stage, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_gives_the_same_when_it_is_run_again(
    name: str, staged: Callable[[str], Path], cases: int
) -> None:
    command, whole = COMMANDS[name], staged("whole")
    status, operations = run(whole, command)
    assert (status, operations > 2) == (0, True)
    wanted, faults = contents(whole), list[str]()
    count = min(operations, max(1, cases // 5))
    for at in (number * operations // count for number in range(count)):
        folder = staged(f"at-{at}")
        assert run(folder, command, at)[0] == 137
        status, _ = run(folder, command)
        found = contents(folder)
        # What was whole already is not written again, and some commands say so.
        if found != wanted:
            odd = [path for path in {**wanted, **found} if wanted.get(path) != found.get(path)]
            faults.append(f"killed before operation {at} of {operations}, then {status}: {', '.join(sorted(odd)[:8])}")
        shutil.rmtree(folder)
    assert not faults, "\n".join(faults)
    print(f"{name}: killed before {count} of {operations} operations")


@pytest.mark.slow
def test_two_studies_in_one_folder_at_once_give_what_one_gives(staged: Callable[[str], Path]) -> None:
    command = COMMANDS["study"].replace("--fractions 0.5", "--fractions 0.25,0.5,0.75")
    whole, both = staged("whole"), staged("both")
    assert run(whole, command)[0] == 0
    started = [start(both, command), start(both, command)]
    assert [wait(*each)[0] for each in started] == [0, 0]
    assert contents(both) == contents(whole)
