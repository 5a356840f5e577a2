"""N-way K-shot tasks from any labelled rows: arrays, a folder of images, a dataset of torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from innerloop._base.checks import as_count
from innerloop._base.seeds import stream
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
    def from_dataset(cls, dataset: Any, **options: Any) -> ClassTasks:
        """Read a dataset of torch, whose items are pairs of a tensor and a label, all of one shape."""
        rows, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
        X = torch.stack([torch.as_tensor(np.asarray(row)) for row in rows])
        return cls(X, [label.item() if isinstance(label, Tensor) else label for label in labels], **options)

    @classmethod
    def from_folder(cls, root: str | Path, side: int = 84, channels: int = 3, **options: Any) -> ClassTasks:
        """Read images from ``root/class/*.png``, or from ``root/train``, ``root/val`` and ``root/test`` of classes.

        Parameters
        ----------
        root
            The folder.
        side
            Height and width to which images are scaled.
        channels
            3 for colours, 1 for grey.
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
        parts = {
            stage: next((root / n for n in names if (root / n).is_dir()), None) for stage, names in _STAGES.items()
        }
        if all(parts.values()):
            divided = {stage: _images(part) for stage, part in parts.items() if part is not None}
            options |= {str(stage): list(divided[stage]) for stage in (VALIDATION, TEST)}
            twice = [name for name in divided[TRAINING] if name in divided[VALIDATION] or name in divided[TEST]]
            if twice:
                raise ValueError(f"{root} has class {twice[0]!r} in two of its parts; a class belongs to one.")
            files: dict[str, list[Path]] = {name: f for part in divided.values() for name, f in part.items()}
        else:
            files = _images(root)
        if not files:
            raise ValueError(f"{root} must hold a folder of images for each class, such as {root}/cat/1.png.")
        images = [(_image(path, side, channels), name) for name, paths in files.items() for path in paths]
        return cls(torch.stack([image for image, _ in images]), [name for _, name in images], **options)

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


def _images(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class, in the order of their names."""
    found = {
        part.name: sorted(path for path in part.iterdir() if path.suffix.lower() in _SUFFIXES)
        for part in sorted(folder.iterdir())
        if part.is_dir()
    }
    return {name: paths for name, paths in found.items() if paths}


def _image(path: Path, side: int, channels: int) -> Tensor:
    """Return an image as bytes: (channels, side, side)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("L" if channels == 1 else "RGB").resize((side, side), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no image that can be read ({error}); leave it out.") from error
    return torch.from_numpy(np.array(small)).view(side, side, -1).permute(2, 0, 1).contiguous()
