"""Pictures from folders, tables and IDX files, and the pixels that a model reads of them."""

from __future__ import annotations

import gzip
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from normtune.data.digits import DIGITS, load_digits
from normtune.data.files import load_files, read_split
from normtune.data.images import Picture, Pixels, Reader, read_pictures
from normtune.data.task import PICTURE, TaskData
from normtune.errors import DataError

pillow = pytest.importorskip("PIL.Image", reason="needs pillow")

NAMES = {"text": "text", "label": "label"}


def grey(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of three pictures."""
    for number, name in enumerate(("cat/a.png", "cat/b.PNG", "cat/old/c.png", "dog/a.bmp", "dog/b.jpg", "dog/c.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(grey(6, 7, 3, seed=number)).save(file)
    return tmp_path / "photos"


def idx(numbers: np.ndarray) -> bytes:
    """Numbers as an IDX file."""
    return bytes([0, 0, 8, numbers.ndim]) + np.array(numbers.shape, ">u4").tobytes() + numbers.tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """Twenty pictures of two classes, in MNIST's format."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(grey(20, 4, 5)))
    labels = gzip.compress(idx(np.arange(20, dtype=np.uint8) % 2 + 7))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path / "train-images-idx3-ubyte"


def test_a_folder_for_each_class(photos: Path) -> None:
    (photos / "cat" / "notes.txt").write_text("none")
    (photos / ".hidden.png").write_text("none")
    shutil.copytree(photos / "cat", photos / ".ipynb_checkpoints")
    data = load_files(photos, photos, **NAMES)
    assert (data.task.inputs, data.task.labels, data.task.name) == (PICTURE, ("cat", "dog"), "photos")
    train = data.split("train")
    assert [Path(str(own)).name for own in train.columns["picture"]] == [
        *("a.png", "b.PNG", "c.png"),
        *("a.bmp", "b.jpg", "c.png"),
    ]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert any("1 files are no pictures by their endings, such as notes.txt" in note for note in data.notes)


def test_alike_pictures_stay_on_one_side(photos: Path) -> None:
    for number in range(4):
        (photos / "cat" / f"copy{number}.png").write_bytes((photos / "cat" / "a.png").read_bytes())
    data = load_files(photos, None, **NAMES)
    sides = [{bytes(own) for own in data.split(name).columns["picture"]} for name in ("train", "dev")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 6


def test_a_table_of_paths(photos: Path) -> None:
    rows = ["image,label", "photos/cat/a.png,0.5", "photos/dog/a.bmp,1.5", "photos/dog/b.jpg,-1"]
    table = photos.parent / "table.csv"
    table.write_text("\n".join(rows))
    data = load_files(table, table, kind="regression", **NAMES)
    split = data.split("train")
    assert str(split.columns["picture"][1]) == str(photos / "dog" / "a.bmp")
    assert split.labels is not None
    assert split.labels.tolist() == [0.5, 1.5, -1]
    again, _ = read_split(table, text="image", pair=None, label="label", names=(), kind="regression")
    assert again.identity() == split.identity()
    with pytest.raises(DataError, match="holds pictures, which have no pairs"):
        load_files(table, None, pair="other", **NAMES)
    table.write_text("\n".join([*rows, "photos/none.png,1"]))
    with pytest.raises(DataError, match=r"table.csv, line 5: there is no picture 'photos/none.png'"):
        load_files(table, None, **NAMES)


def test_idx_files(fashion: Path) -> None:
    data = load_files(fashion, fashion, **NAMES)
    split = data.split("train")
    assert (data.task.labels, len(split)) == (("7", "8"), 20)
    picture = split.columns["picture"][3]
    assert str(picture) == "train-images-idx3-ubyte#4"
    assert np.array_equal(np.asarray(picture.open("L")), grey(20, 4, 5)[3])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images, labels: labels.unlink(), "there is no such file"),
        (lambda images, labels: labels.write_bytes(gzip.compress(idx(grey(3)))), "has 3 labels for 20 pictures"),
        (lambda images, labels: images.write_bytes(images.read_bytes()[:-1]), "is no IDX file of bytes"),
        (lambda images, labels: images.write_bytes(b""), "is no IDX file of bytes"),
        (lambda images, labels: images.write_bytes(idx(grey(20))), "is no IDX file of bytes"),
    ],
)
def test_bad_idx_files(fashion: Path, change: Callable[[Path, Path], object], said: str) -> None:
    change(fashion, fashion.with_name("train-labels-idx1-ubyte.gz"))
    with pytest.raises(DataError, match=said):
        load_files(fashion, None, **NAMES)


def test_folders_that_are_no_task(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.png is in no class: put the pictures of each class into a folder"):
        load_files(photos / "cat", None, **NAMES)
    for name in ("a.png", "b.PNG"):
        (photos / "cat" / name).unlink()
    with pytest.raises(DataError, match="has only one label, 'old'"):
        load_files(photos / "cat", None, **NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="There are no pictures in"):
        load_files(tmp_path / "empty", None, **NAMES)


class Halves:
    """An image processor that only doubles the pixels."""

    def __call__(self, array: np.ndarray, **_: object) -> dict[str, torch.Tensor]:
        return {"pixel_values": 2 * torch.from_numpy(array.copy()).float()[None]}


def reader(channels: int = 1) -> Reader:
    return Reader(Halves(), channels)  # type: ignore[arg-type]


def test_pixels_beyond_the_budget_are_made_again() -> None:
    pictures = [Picture(str(seed), grey(2, 3, seed=seed)) for seed in range(4)]
    pixels = Pixels(pictures, reader(), budget=2 * 24)
    assert len(pixels._kept) == 2
    for number, own in enumerate(pixels):
        assert torch.equal(own, 2 * torch.from_numpy(grey(2, 3, seed=number)).float()[None])


def test_grey_and_coloured(tmp_path: Path) -> None:
    colour = Picture("colour", grey(2, 3, 3))
    assert reader(3)(colour).shape == (3, 2, 3)
    assert torch.equal(reader(3)(colour), 2 * torch.from_numpy(grey(2, 3, 3)).float().permute(2, 0, 1))
    assert reader(1)(colour).shape == (1, 2, 3)
    lone = reader(3)(Picture("grey", grey(2, 3)))
    assert torch.equal(lone[0], lone[2])
    turned = pillow.fromarray(grey(2, 3))
    exif = turned.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    assert reader()(Picture(tmp_path / "turned.png")).shape == (1, 3, 2)


#: A PNG of one coloured pixel of 16 bits a channel, which Pillow can read but not write.
DEEP = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(7))),
        (b"IEND", b""),
    )
)


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    for name, content in {"text.png": b"no picture", "none.png": b"", "cut.png": b""}.items():
        (tmp_path / name).write_bytes(content)
    pillow.fromarray(grey(40, 40)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    for name in ("text.png", "none.png", "cut.png", "absent.png"):
        with pytest.raises(DataError, match=rf"{name} is not a readable picture file"):
            reader()(Picture(tmp_path / name))
    pillow.fromarray(grey(2, 3).astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        reader()(Picture(tmp_path / "deep.png"))
    for name, content in {"colour.png": DEEP, "deep.ppm": b"P6 1 1 65535\n" + bytes(6)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="more than 8 bits a channel"):
            reader(3)(Picture(tmp_path / name))
    (tmp_path / "shallow.ppm").write_bytes(b"P6 1 1 255\n" + bytes(3))
    assert reader(3)(Picture(tmp_path / "shallow.ppm")).shape == (3, 1, 1)
    sizes = [Picture("one", grey(2, 3)), Picture("two", grey(3, 3))]
    with pytest.raises(DataError, match="two is read as 3 x 3 pixels and one as 2 x 3"):
        Pixels(sizes, reader())


def test_pictures_without_labels(photos: Path) -> None:
    assert len(read_pictures(photos, labelled=False)) == 6
    assert len(read_pictures(photos / "cat" / "a.png", labelled=False)) == 1


@pytest.mark.parametrize("name", DIGITS)
def test_the_suite_of_digits(name: str) -> None:
    data: TaskData = load_digits(name)
    train, dev = data.labelled("train"), data.labelled("dev")
    assert (len(train), len(dev)) == (1437, 360)
    assert train.labels is not None
    assert {*train.labels.tolist()} == {*range(len(data.task.labels))}
    assert not {*map(bytes, train.columns["picture"])} & {*map(bytes, dev.columns["picture"])}
    if name == "turned":
        upright = load_digits("digits").split("dev").columns["picture"][5].open("L")
        assert np.array_equal(np.asarray(dev.columns["picture"][5].open("L")), np.rot90(np.asarray(upright)))


def test_a_class_may_be_a_link_to_a_folder(photos: Path) -> None:
    (photos / "dog").rename(photos.parent / "dog")
    (photos / "dog").symlink_to(photos.parent / "dog")
    (photos / "cat" / "up").symlink_to(photos)  # one that leads back is not followed
    assert [*read_pictures(photos, labelled=True).columns["label"]] == ["cat"] * 3 + ["dog"] * 3
    assert load_files(photos, photos, **NAMES).task.labels == ("cat", "dog")
