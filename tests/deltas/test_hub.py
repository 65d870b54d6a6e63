"""The hub: what is uploaded, and errors of one sentence. Nothing here connects to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi, RepoUrl, errors

from normtune.deltas import hub
from normtune.deltas.card import model_card
from normtune.deltas.delta import FILE, Delta
from normtune.deltas.hub import fetch, named_places, prepare_push, push
from normtune.errors import ConfigError, DeltaError, OutputError
from normtune.models.base import Base
from tests.deltas.moved import moved
from tests.records.test_aggregate import record


@pytest.fixture
def folder(tiny_base: Base, tmp_path: Path) -> Path:
    """A delta as `train` leaves it, beside files that must stay private."""
    folder = tmp_path / "run"
    moved(tiny_base, "layernorm").save(folder)
    for name in ("record.json", "README.md", "notes.txt", "secret.csv", ".env"):
        (folder / name).write_text(name)
    for inner in (".unfinished", "seed-1"):
        (folder / inner).mkdir()
        (folder / inner / "record.json").write_text("inner")
        (folder / inner / FILE).write_text("inner")
    return folder


def test_two_deltas_of_one_name_in_a_folder_are_told(tiny_base: Base, tmp_path: Path) -> None:
    for place in ("a", "a.safetensors"):
        moved(tiny_base, "layernorm").save(tmp_path / place)
    with pytest.raises(ConfigError, match="Two deltas are called 'a'"):
        named_places([str(tmp_path)])


def test_a_delta_is_called_by_its_own_folder_also_where_that_is_a_link(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").symlink_to(folder)
    assert [*named_places([str(tmp_path / "mine")])] == ["mine"]
    monkeypatch.chdir(folder)
    assert [*named_places(["."])] == [*named_places([FILE])] == ["run"]


def test_only_the_delta_and_its_papers_are_uploaded(folder: Path) -> None:
    assert [file.name for file in prepare_push(folder)] == [FILE, "record.json", "README.md"]
    (folder / "record.json").unlink()
    assert [file.name for file in prepare_push(folder)] == [FILE, "README.md"]


def test_a_folder_without_a_whole_delta_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match="no folder"):
        prepare_push(tmp_path / "nowhere")
    with pytest.raises(DeltaError, match="takes the folder"):
        prepare_push(folder / FILE)
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:50])
    with pytest.raises(DeltaError, match="truncated or corrupt"):
        prepare_push(folder)
    (folder / FILE).unlink()
    with pytest.raises(DeltaError, match="no delta"):
        prepare_push(folder)


def test_what_the_hub_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def create(_: HfApi, repo: str, **options: Any) -> RepoUrl:
        calls.append((repo, options))
        return RepoUrl(f"https://huggingface.co/{repo}")

    def upload(_: HfApi, **options: Any) -> None:
        kept = huggingface_hub.utils.filter_repo_objects(
            [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()],
            allow_patterns=options["allow_patterns"],
        )
        calls.append((options["repo_id"], {"kept": sorted(kept)}))

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert push(folder, "me/run", private=True) == "https://huggingface.co/me/run"
    assert calls == [
        ("me/run", {"private": True, "exist_ok": True}),
        ("me/run", {"kept": sorted([FILE, "record.json", "README.md"])}),
    ]


def test_offline_and_odd_names_give_one_sentence(folder: Path) -> None:
    with pytest.raises(OutputError, match=r"Cannot push to 'me/run': .*HF_HUB_OFFLINE") as caught:
        push(folder, "me/run", token="hf_none")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="USER/NAME"):
        push(folder, "me/run/deep", token="hf_none")


def _refused(status: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, f"{status} Client Error\nRequest ID: 1\n\nmore")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.LocalTokenNotFoundError("a long\nstory"), "without a token"),
        (_refused(401), "hf auth login"),
        (_refused(403), "hf auth login"),
        (_refused(401, errors.RepositoryNotFoundError), "not there, or hidden from you"),
        (_refused(500), "500 Client Error"),
        (errors.HTTPError("[Errno -2] Name or service not known"), "Name or service not known"),  # type: ignore[attr-defined]
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_refusal_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(OutputError, match=message) as caught:
        push(folder, "me/run")
    assert "\n" not in str(caught.value)


def test_what_lies_here_is_taken_as_it_is(folder: Path) -> None:
    assert fetch(folder) == folder
    assert fetch(str(folder / FILE)) == folder / FILE
    assert Delta.load(fetch(str(folder))).info.task == "mine"


def test_a_hub_id_is_downloaded_with_its_papers_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert fetch("me/run", "v1") == folder
    assert asked == {"repo": "me/run", "revision": "v1", "allow_patterns": list(hub.FILES)}


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "/no/where", "a/b/c", "runs/x.safetensors"])
def test_what_can_be_no_hub_id_is_looked_for_here_only(name: str) -> None:
    with pytest.raises(DeltaError, match=f"^There is no delta at {name}.$"):
        fetch(name)


@pytest.mark.parametrize("name", ["me/run", "me/.."])
def test_a_hub_id_that_is_nowhere_says_where_it_was_looked_for(name: str) -> None:
    with pytest.raises(DeltaError, match="looked for a folder or file of that name, and in the hub cache") as caught:
        fetch(name)
    assert "\n" not in str(caught.value)


def test_a_truncated_snapshot_is_no_delta(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / FILE).unlink()
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(folder))
    with pytest.raises(DeltaError, match="no delta"):
        Delta.load(fetch("me/run"))


def test_a_card_shows_labels_as_they_are_on_one_line(tiny_base: Base) -> None:
    info = moved(tiny_base, "layernorm").info.model_copy(update={"labels": ("x\n\n# Big", "<b>`y`")})
    card = model_card(info, record("layernorm", "rte", 0, 1e-2, 0.5))
    assert "one of: `x # Big`, `<b>'y'`." in card
