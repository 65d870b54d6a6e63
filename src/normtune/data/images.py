"""Pictures: where they are stored, and the pixels that a model reads from them."""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normtune.data.content import library_errors, read_bytes
from normtune.data.table import Rows
from normtune.errors import DataError, refusing

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor
    from transformers import BaseImageProcessor

#: The column of a table whose cells are paths of pictures.
COLUMN = "image"
#: Endings of files that are taken for pictures.
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: Pillow's modes of pixels that it would silently cut down to 8 bits.
_DEEP = re.compile(r"I(;.*)?|F")
#: The same in colour, by Pillow's `tile`: 16 bits a channel (but BGR;16 has 16 a pixel), or a PPM maximum above 255.
_CUT = re.compile(r"(?<!BGR);16|'ppm\w*'.*, (?:25[6-9]|2[6-9]\d|[3-9]\d\d|\d{4,})\)")
_IDX = re.compile(r"(.*)idx[34]-ubyte(\..*)?")


class Picture:
    """A picture, read when it is needed; two are equal if their contents are.

    Args:
        source: Its path, or what messages and answers call it.
        pixels: Its pixels, uint8, of shape (height, width) or (height, width, 3); without them `source` is read.
    """

    def __init__(self, source: str | Path, pixels: np.ndarray | None = None) -> None:
        self.source, self._pixels = str(source), pixels

    def __str__(self) -> str:
        return self.source

    def __repr__(self) -> str:
        return f"Picture({self.source!r})"

    @cached_property
    def _digest(self) -> bytes:
        own = self._pixels
        content = read_bytes(Path(self.source)) if own is None else repr(own.shape).encode() + own.tobytes()
        return hashlib.sha256(content).digest()

    def __bytes__(self) -> bytes:
        """A hash of its content, which goes into the identity of a split."""
        return self._digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def open(self, mode: str) -> Image.Image:
        """The picture upright, as ``L`` (grey) or ``RGB``; for an animation, its first frame.

        Raises:
            DataError: If it is no picture, or has more than 8 bits a channel.
        """
        with library_errors(self.source, "picture", "pillow"):
            from PIL import Image, ImageOps

            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(self.source) if self._pixels is None else Image.fromarray(self._pixels)
            with image:
                if _DEEP.fullmatch(image.mode) or _CUT.search(str(getattr(image, "tile", ""))):
                    raise DataError(f"{self.source} has more than 8 bits a channel; save it as a picture of 8 bits.")
                return ImageOps.exif_transpose(image).convert(mode)


class Reader:
    """Turns pictures into a model's inputs, with its image processor and its number of channels.

    Args:
        processor: The image processor.
        channels: 1 for grey pictures, 3 for coloured ones.
        dtype: The dtype of the pixels; by default the image processor's.
    """

    def __init__(self, processor: BaseImageProcessor, channels: int, dtype: torch.dtype | None = None) -> None:
        self.processor, self._mode, self._dtype = processor, "L" if channels == 1 else "RGB", dtype

    def __call__(self, picture: Picture) -> Tensor:
        """The pixels that the model reads, of shape (channels, height, width).

        Raises:
            DataError: If it is no picture, or the image processor does not take it.
        """
        array = np.asarray(picture.open(self._mode))
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        with refusing(DataError, f"The model's image processor does not take {picture}"):
            made: Any = self.processor(array, return_tensors="pt", input_data_format="channels_first")
            pixels: Tensor = made["pixel_values"][0]
        return pixels if self._dtype is None else pixels.to(self._dtype)


#: Bytes of pixels that are cached for one set of examples; further pictures are read again on each access.
BUDGET = 1 << 30


class Pixels(Sequence[Any]):
    """The pixels of pictures; all are read once at first, and those that fit into a budget of bytes are cached.

    Raises:
        DataError: If one is no picture, or they come out in different sizes.
    """

    def __init__(self, pictures: Sequence[Picture], reader: Reader, budget: int = BUDGET) -> None:
        self._pictures, self._reader = pictures, reader
        self._kept: list[Tensor] = []
        shape: Sequence[int] = ()
        for picture in pictures:
            pixels = reader(picture)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                sizes = [" x ".join(map(str, own[1:])) for own in (pixels.shape, shape)]
                raise DataError(
                    f"{picture} is read as {sizes[0]} pixels and {pictures[0]} as {sizes[1]}: the model's image"
                    " processor must bring all pictures to one size (size and crop_size in preprocessor_config.json)."
                )
            if (len(self._kept) + 1) * pixels.nbytes <= budget:
                self._kept.append(pixels)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, at: Any) -> Any:
        """The pixels of a picture, by its number."""
        return self._kept[at] if at < len(self._kept) else self._reader(self._pictures[at])


def holds_pictures(path: Path) -> bool:
    """Whether a path is a folder, a picture or an IDX file, rather than a table."""
    return path.is_dir() or path.suffix.lower() in ENDINGS or _IDX.fullmatch(path.name) is not None


def read_pictures(path: Path, *, labelled: bool) -> Rows:
    """The pictures at a path, as a table with the column ``image`` and, if `labelled`, ``label``.

    The path is a folder, which holds a folder for each class if `labelled`; a single picture; or an IDX file such as
    MNIST's, whose labels are in the file beside it (``train-labels-idx1-ubyte``). Rows are sorted by path; those of an
    IDX file keep its order.

    Raises:
        DataError: If there are none, or no labels where they are wanted.
    """
    notes, columns = tuple[str, ...](), dict[str, list[object]]()
    if _IDX.fullmatch(path.name):
        grid = _read_idx(path, (3, 4))
        columns[COLUMN] = [Picture(f"{path.name}#{number}", pixels) for number, pixels in enumerate(grid, 1)]
        if labelled:
            columns["label"] = [*map(str, _labels_beside(path, len(grid)))]
    elif not path.is_dir():
        columns[COLUMN] = [Picture(path)]
    else:
        files = sorted(
            file
            for file in _files(path)
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        found = [file for file in files if file.suffix.lower() in ENDINGS]
        if others := [file for file in files if file.suffix.lower() not in ENDINGS]:
            notes = (f"{path}: {len(others):,} files are no pictures by their endings, such as {others[0].name}.",)
        columns[COLUMN] = [*map(Picture, found)]
        if labelled:
            if bare := [file for file in found if file.parent == path]:
                raise DataError(f"{bare[0]} is in no class: put the pictures of each class into a folder of its own.")
            columns["label"] = [file.relative_to(path).parts[0] for file in found]
    rows = Rows(str(path), columns, range(1, len(columns[COLUMN]) + 1), "picture", notes)
    if not len(rows):
        raise DataError(f"There are no pictures in {path} (files that end in {', '.join(ENDINGS)}).")
    return rows


def _files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """What is below a folder. A class may be a link to a folder elsewhere, but not to one that it is in."""
    real = os.path.realpath(folder)
    for inside in folder.iterdir() if real not in above else ():
        if inside.is_dir():
            yield from _files(inside, above | {real})
        else:
            yield inside


def pictures_of(rows: Rows) -> tuple[Picture, ...]:
    """The pictures in the column ``image`` of a table, with paths relative to the table's folder.

    Raises:
        DataError: If there is no such column, or no such file.
    """
    found = tuple(cell for cell in rows.columns.get(COLUMN, ()) if isinstance(cell, Picture))
    if found:
        return found
    folder, cells = Path(rows.source).parent, [cell.strip() for cell in rows.column(COLUMN)]
    for index, cell in enumerate(cells):
        if not (folder / cell).is_file():
            raise DataError(f"{rows.place(index)}: there is no picture {cell!r} in {folder}.")
    return tuple(Picture(folder / cell) for cell in cells)


def _labels_beside(images: Path, count: int) -> np.ndarray:
    """The labels of an IDX file of pictures."""
    wanted = re.sub("idx[34]", "idx1", images.name.replace("images", "labels"))
    # One of them may be compressed and the other not.
    names = (wanted, wanted.removesuffix(".gz"), f"{wanted}.gz")
    file = next((images.with_name(name) for name in names if images.with_name(name).is_file()), None)
    if file is None or wanted == images.name:
        raise DataError(f"The labels of {images} are looked for beside it, in {wanted}; there is no such file.")
    labels = _read_idx(file, (1,))
    if len(labels) != count:
        raise DataError(f"{file} has {len(labels):,} labels for {count:,} pictures.")
    return labels


def _read_idx(path: Path, dimensions: Sequence[int]) -> np.ndarray:
    """The numbers in an IDX file: two zeros, 8 for bytes, the dimensions, their sizes in 32 bits each, the bytes."""
    raw = read_bytes(path)
    count = raw[3] if len(raw) > 3 else 0
    sizes = np.frombuffer(raw[4 : 4 + 4 * count].ljust(4 * count, b"\0"), ">u4").tolist()
    if raw[:3] != b"\0\0\x08" or count not in dimensions or len(raw) != 4 + 4 * count + math.prod(sizes):
        raise DataError(f"{path} is no IDX file of bytes, or it is truncated.")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * count).reshape(sizes)
