"""N-way K-shot tasks from any labelled rows: arrays, a table, a folder of images, a dataset of torch."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader

from innerloop._base.checks import as_count
from innerloop._base.seeds import stream
from innerloop.data.columns import ColumnMap, Columns
from innerloop.data.frames import as_frame, column_names, row_name
from innerloop.data.table_files import read_table
from innerloop.data.task_table import read_ids
from innerloop.neural.batch import TaskBatch
from innerloop.neural.sources import TEST, TRAINING, VALIDATION, Stage, as_share

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
# Names of a folder that is divided already, as those of miniImageNet are.
_STAGES = {TRAINING: ("train",), VALIDATION: ("val", "valid", "validation"), TEST: ("test",)}

Classes = Sequence[Any] | float


@final
class ClassTasks:
    """Few-shot classification: a task is some classes, with as many support and as many query rows of each.

    Classes are drawn without replacement and numbered in the order of the draw. No class serves two stages.

    Parameters
    ----------
    X : (n_rows, ...)
        Rows, such as images; bytes are divided by 255.
    y : (n_rows,)
        Their classes: numbers or text.
    n_ways
        Classes of a task.
    seed
        Draws tasks, and the classes of validation and test where these are fractions. Any whole number from 0.
    validation, test
        Classes of these stages: their names, or a fraction of all.

    Raises
    ------
    ValueError
        If a stage would have fewer classes than a task.

    Examples
    --------
    >>> import torch
    >>> from innerloop.neural import TRAINING, ClassTasks
    >>> X, y = torch.randn(100, 3), [f"class {i % 20}" for i in range(100)]
    >>> source = ClassTasks(X, y, n_ways=3)
    >>> source.sample(4, 6, 3, (TRAINING, 0)).X_support.shape  # 4 tasks of 2 rows of each of 3 classes
    torch.Size([4, 6, 3])
    """

    def __init__(
        self,
        X: ArrayLike | Tensor,
        y: ArrayLike,
        n_ways: int = 5,
        seed: int = 0,
        validation: Classes = 0.2,
        test: Classes = 0.2,
    ) -> None:
        self.X = X if isinstance(X, Tensor) else torch.from_numpy(np.ascontiguousarray(X))
        labels = np.asarray(y)
        if labels.ndim != 1 or len(labels) != len(self.X):
            raise ValueError(
                f"`y` must have one class for each of the {len(self.X)} rows of `X`, got shape {labels.shape}."
            )
        self.n_ways, self.seed = as_count(n_ways, "n_ways", 2), as_count(seed, "seed", 0)
        names, codes = np.unique(labels, return_inverse=True)
        rows = {name: np.flatnonzero(codes == code) for code, name in enumerate(names.tolist())}
        self.by_stage = {
            stage: {name: rows[name] for name in chosen}
            for stage, chosen in _split(list(rows), validation, test, self.seed).items()
        }
        for stage, classes in self.by_stage.items():
            if len(classes) < self.n_ways:
                raise ValueError(
                    f"`n_ways` must be at most the number of {stage} classes ({len(classes)}), got {n_ways}; ask for "
                    f"fewer ways, or give more classes to that stage."
                )

    @classmethod
    def from_dataset(cls, dataset: Any, workers: int = 0, **options: Any) -> ClassTasks:
        """Read a dataset of torch, whose items are pairs of a row and a label.

        Rows are tensors, arrays or images, all of one shape; they are kept in memory.

        Parameters
        ----------
        dataset
            Any object with a length and items.
        workers
            Processes that load the items; 0: this one.
        options
            As of the class.
        """
        loader = DataLoader(dataset, batch_size=64, num_workers=as_count(workers, "workers", 0), collate_fn=list)
        rows, labels = [], []
        for row, label in (item for items in loader for item in items):
            rows.append(_as_row(row))
            labels.append(label.item() if isinstance(label, Tensor) else label)
            if rows[-1].shape != rows[0].shape:
                shapes = [tuple(rows[i].shape) for i in (0, -1)]
                raise ValueError(
                    f"all rows of `dataset` must have one shape, got {shapes[0]} and, of row {len(rows) - 1}, "
                    f"{shapes[1]}; scale images to one size."
                )
        if not rows:
            raise ValueError("`dataset` must have items, got none.")
        return cls(torch.stack(rows), labels, **options)

    @classmethod
    def from_table(
        cls,
        table: Any,
        label: str,
        images: str | None = None,
        root: str | Path = ".",
        side: int = 84,
        channels: int = 3,
        workers: int = 0,
        **options: Any,
    ) -> ClassTasks:
        """Read a table with a column of classes, and features or names of image files in the others.

        Parameters
        ----------
        table
            A CSV, Excel or Parquet file, or a data frame.
        label
            The column of classes.
        images
            The column of names of image files; None: all other columns are features, encoded as in
            `TaskSet.from_table`.
        root
            The folder in which images lie.
        side, channels, workers
            As in `from_folder`.
        options
            As of the class.
        """
        if isinstance(table, str | Path):
            file = read_table(Path(table), label)
            frame, name, place = as_frame(file.frame, file.name), file.name, file.place
        else:
            frame, name, place = as_frame(table, "`table`"), "`table`", row_name
        column_names(frame, [label] if images is None else [label, images], name)
        ids, codes = read_ids(frame, label, name, place)
        if images is not None:
            files = [Path(root) / str(file) for file in frame.get_column(images).to_list()]
            return cls.from_dataset(_ImageFiles(files, ids[codes].tolist(), side, channels), workers, **options)
        columns = Columns.read(frame.drop(label), codes, None, (), name, place)
        if columns.notes:
            warnings.warn(f"{'; '.join(columns.notes)}.", UserWarning, stacklevel=2)
        return cls(ColumnMap.fit(columns, codes).transform(columns), ids[codes], **options)

    @classmethod
    def from_folder(
        cls, root: str | Path, side: int = 84, channels: int = 3, workers: int = 0, **options: Any
    ) -> ClassTasks:
        """Read images from ``root/class/*.png``, or from ``root/train``, ``root/val`` and ``root/test`` of classes.

        A folder of ``images`` beside ``train.csv``, ``val.csv`` and ``test.csv``, whose columns are the name of a file
        and its class, is read too: miniImageNet as its authors divided it.

        Parameters
        ----------
        root
            The folder.
        side
            Height and width to which images are scaled.
        channels
            3 for colours, 1 for grey.
        workers
            Processes that read images; 0: this one.
        options
            As of the class.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If it holds no images in folders of classes, or one that cannot be read.
        """
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}.")
        parts = _parts(root)
        if parts is None:
            files = _images(root)
        else:
            options |= {str(stage): list(parts[stage]) for stage in (VALIDATION, TEST)}
            names = [name for classes in parts.values() for name in classes]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"{root} has class {twice[0]!r} in two of its parts; a class belongs to one.")
            files = {name: paths for classes in parts.values() for name, paths in classes.items()}
        if not files:
            raise ValueError(f"{root} must hold a folder of images for each class, such as {root}/cat/1.png.")
        labels = [name for name, paths in files.items() for _ in paths]
        paths = [path for paths in files.values() for path in paths]
        return cls.from_dataset(_ImageFiles(paths, labels, side, channels), workers, **options)

    def __repr__(self) -> str:
        """Return a text that identifies this source, its rows included."""
        digest = hashlib.sha256(self.X.contiguous().numpy().tobytes())
        for stage, classes in sorted(self.by_stage.items()):
            digest.update(f"{stage}:{[(name, rows.tolist()) for name, rows in classes.items()]}".encode())
        return f"ClassTasks(n_ways={self.n_ways}, seed={self.seed}, rows={digest.hexdigest()[:12]})"

    def sample(self, n_tasks: int, n_support: int, n_query: int, index: tuple[int, ...]) -> TaskBatch:
        """Draw the tasks number `index`; `n_support` and `n_query` are multiples of the ways."""
        n_shots, n_scored = (self._each(n, name) for n, name in ((n_support, "n_support"), (n_query, "n_query")))
        stage, rng = Stage(index[0]), stream(self.seed, *index)
        classes = self.by_stage[stage]
        small = [name for name, rows in classes.items() if len(rows) < n_shots + n_scored]
        if small:
            raise ValueError(
                f"class {small[0]!r} has {len(classes[small[0]])} row(s), too few for {n_shots} support and {n_scored} "
                "query rows of a class; ask for fewer, or leave out small classes."
            )
        groups = list(classes.values())

        def some() -> list[Any]:
            ways = rng.permutation(len(groups))[: self.n_ways]
            return [rng.permutation(groups[i])[: n_shots + n_scored] for i in ways]

        drawn = [some() for _ in range(n_tasks)]
        X = self.X[torch.from_numpy(np.stack(drawn))]
        X = X.float() / 255 if X.dtype == torch.uint8 else X
        y = torch.arange(self.n_ways).view(1, -1, 1)
        y_support, y_query = (y.expand(n_tasks, -1, n).flatten(1) for n in (n_shots, n_scored))
        return TaskBatch(X[:, :, :n_shots].flatten(1, 2), y_support, X[:, :, n_shots:].flatten(1, 2), y_query)

    def _each(self, n_rows: int, name: str) -> int:
        if as_count(n_rows, name) % self.n_ways:
            raise ValueError(f"`{name}` must be a multiple of the ways ({self.n_ways}), got {n_rows}.")
        return n_rows // self.n_ways


def _split(names: list[Any], validation: Classes, test: Classes, seed: int) -> Mapping[Stage, list[Any]]:
    """Return the classes of each stage."""
    given = {VALIDATION: validation, TEST: test}
    for stage, value in given.items():
        if isinstance(value, str | int):
            raise TypeError(f"`{stage}` must be a fraction between 0 and 1 or a list of classes, got {value!r}.")
    named = [name for value in given.values() if not isinstance(value, float) for name in value]
    unknown = [name for name in named if name not in names]
    if unknown:
        raise ValueError(f"`validation` and `test` must name classes of `y`, got {unknown[0]!r}.")
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise ValueError(f"`validation` and `test` name {twice[0]!r} twice; a class belongs to one stage.")
    free = [name for name in names if name not in named]
    order = [free[i] for i in stream(seed).permutation(len(free))]
    chosen: dict[Stage, list[Any]] = {}
    for stage, value in given.items():
        if isinstance(value, float):
            n = max(1, round(as_share(value, str(stage)) * len(names)))
            chosen[stage], order = order[:n], order[n:]
        else:
            chosen[stage] = list(value)
    return {TRAINING: order, **chosen}


def _parts(root: Path) -> dict[Stage, dict[str, list[Path]]] | None:
    """Return the images of each class of a folder that is divided into stages; None for one that is not."""
    folders = {stage: next((root / n for n in names if (root / n).is_dir()), None) for stage, names in _STAGES.items()}
    if all(folders.values()):
        return {stage: _images(folder) for stage, folder in folders.items() if folder is not None}
    lists = {
        stage: next((f for n in names if (f := root / f"{n}.csv").is_file()), None) for stage, names in _STAGES.items()
    }
    if (root / "images").is_dir() and all(lists.values()):
        return {stage: _listed(path, root / "images") for stage, path in lists.items() if path is not None}
    return None


def _listed(path: Path, folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class of a list of file names and classes."""
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    if len(header) != 2 or any(len(row) != 2 for row in rows):
        raise ValueError(f"{path} must have two columns, the name of a file and its class.")
    files: dict[str, list[Path]] = {}
    for name, label in rows:
        files.setdefault(label, []).append(folder / name)
    return files


def _images(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class, in the order of their names."""
    images = {
        part.name: sorted(path for path in part.iterdir() if path.suffix.lower() in _SUFFIXES)
        for part in sorted(folder.iterdir())
        if part.is_dir()
    }
    return {name: paths for name, paths in images.items() if paths}


@final
@dataclass(frozen=True)
class _ImageFiles:
    """Images and their classes, as a dataset of torch."""

    paths: Sequence[Path]
    labels: Sequence[Any]
    side: int
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        return _image(self.paths[i], self.side, self.channels), self.labels[i]


def _as_row(row: Any) -> Tensor:
    """Return a row as a tensor, an image of PIL with its channels first."""
    if isinstance(row, Tensor):
        return row
    array = torch.from_numpy(np.array(row))
    if hasattr(row, "getbands"):
        return array.view(*array.shape[:2], -1).permute(2, 0, 1).contiguous()
    return array


def _image(path: Path, side: int, channels: int) -> Tensor:
    """Return an image as bytes: (channels, side, side)."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError("reading images needs Pillow: pip install 'innerloop[neural]'.") from None

    try:
        with Image.open(path) as image:
            small = image.convert("L" if channels == 1 else "RGB").resize((side, side), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no image that can be read ({error}); leave it out.") from error
    return torch.from_numpy(np.array(small)).view(side, side, -1).permute(2, 0, 1).contiguous()
