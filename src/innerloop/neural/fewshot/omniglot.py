"""Handwritten characters as few-shot tasks: the Omniglot archives of Lake, Salakhutdinov and Tenenbaum (2015)."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import final

import numpy as np
import torch

from innerloop._base.checks import as_count
from innerloop._base.seeds import stream
from innerloop.neural.batch import TaskBatch
from innerloop.neural.sources import TEST, TRAINING, VALIDATION, Stage

SIDE = 28
_LAYOUT = "images_background/Alphabet/character01/0001_01.png"


@final
@dataclass(frozen=True)
class Character:
    """All drawings of one character.

    Parameters
    ----------
    alphabet, name
        Its alphabet, and its name there.
    drawings : (n_drawings, 28, 28) of bytes
        0 is paper, 255 is ink.
    """

    alphabet: str
    name: str
    drawings: torch.Tensor


def read_omniglot(*archives: str | Path) -> list[Character]:
    """Read archives as their authors publish them, without unpacking: images_background_small1.zip and its like.

    Drawings are scaled down from 105 x 105 to 28 x 28 pixels.

    Parameters
    ----------
    archives
        One zip file or several.

    Returns
    -------
    list of Character
        Sorted by alphabet and name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is no zip archive, is damaged or of another layout, or if two hold the same character.
    """
    characters: dict[tuple[str, str], Character] = {}
    for archive in archives:
        for key, drawings in _read(Path(archive)).items():
            if key in characters:
                raise ValueError(f"{archive} holds {'/'.join(key)}, which another archive holds too; leave one out.")
            characters[key] = Character(*key, torch.from_numpy(np.stack(drawings)))
    return [characters[key] for key in sorted(characters)]


def _read(path: Path) -> dict[tuple[str, str], list[np.ndarray]]:
    """Return the drawings of each (alphabet, character)."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no archive {path}; Omniglot's zip files are at github.com/brendenlake/omniglot."
        )
    drawings: dict[tuple[str, str], list[np.ndarray]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            for name in names:
                parts = PurePosixPath(name).parts
                if len(parts) >= 3 and parts[0] != "__MACOSX" and parts[-1].endswith(".png"):
                    drawings.setdefault((parts[-3], parts[-2]), []).append(_drawing(archive.read(name), name))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no zip archive or a damaged one ({error}); download it again.") from error
    if not drawings:
        first = f"its first entry is {names[0]}" if names else "it is empty"
        raise ValueError(f"{path} is no Omniglot archive: drawings lie in it like {_LAYOUT}, and {first}.")
    return drawings


def _drawing(content: bytes, name: str) -> np.ndarray:
    """Return a picture with ink as 255: (28, 28) of bytes."""
    from PIL import Image

    try:
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError) as error:
        raise zipfile.BadZipFile(f"{name} is no picture: {error}") from error
    return 255 - np.asarray(small)


def split_alphabets(
    characters: Sequence[Character],
    validation: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[Stage, list[Character]]:
    """Return the characters of training, validation and test, which have no alphabet in common.

    Parameters
    ----------
    characters
        From `read_omniglot`.
    validation, test
        Names of alphabets; None: a fifth of all, at least one, drawn with the seed.
    seed
        Any whole number from 0.

    Returns
    -------
    dict
        By stage: `TRAINING`, `VALIDATION`, `TEST`.
    """
    alphabets = sorted({character.alphabet for character in characters})
    given = {VALIDATION: validation, TEST: test}
    for name, names in given.items():
        unknown = set(names or ()) - set(alphabets)
        if unknown:
            raise ValueError(f"`{name}` names {min(unknown)!r}, which is none of the alphabets {', '.join(alphabets)}.")
    both = set(validation or ()) & set(test or ())
    if both:
        raise ValueError(f"`validation` and `test` both name {min(both)!r}; an alphabet belongs to one of them.")
    free = [name for name in alphabets if name not in {*(validation or ()), *(test or ())}]
    order = [free[i] for i in stream(seed).permutation(len(free))]
    fifth = max(1, len(alphabets) // 5)
    chosen: dict[Stage, Sequence[str]] = {}
    for stage in (TEST, VALIDATION):
        names = given[stage]
        chosen[stage] = [order.pop() for _ in range(min(fifth, len(order)))] if names is None else names
    by_stage = {TRAINING: order, VALIDATION: chosen[VALIDATION], TEST: chosen[TEST]}
    if not all(by_stage.values()):
        counts = ", ".join(f"{len(names)} for {stage}" for stage, names in by_stage.items())
        raise ValueError(
            f"training, validation and test need an alphabet each, and {len(alphabets)} alphabets give {counts}."
        )
    return {
        stage: [character for character in characters if character.alphabet in names]
        for stage, names in by_stage.items()
    }


@final
class CharacterTasks:
    """Few-shot classification of characters: a source of tasks for `MetaTrainer`.

    A task is `n_ways` classes, drawn without replacement and numbered in the order of the draw, with as many support
    rows each and as many query rows each. The first number of its index chooses the characters: those of training,
    validation or test.

    Parameters
    ----------
    split
        From `split_alphabets`.
    n_ways
        Classes of a task.
    seed
        Any whole number from 0.
    rotations
        Count a character rotated by 90, 180 and 270 degrees as three further classes.
    flat
        Give an image as a row of 784 pixels rather than as (1, 28, 28).
    """

    def __init__(
        self,
        split: Mapping[Stage, list[Character]],
        n_ways: int = 5,
        seed: int = 0,
        rotations: bool = True,
        flat: bool = False,
    ) -> None:
        self.split, self.n_ways, self.seed = split, as_count(n_ways, "n_ways", 2), as_count(seed, "seed", 0)
        self.n_rotations, self.flat = 4 if rotations else 1, flat
        for stage, characters in split.items():
            n_classes = self.n_rotations * len(characters)
            if n_classes < n_ways:
                raise ValueError(
                    f"`n_ways` must be at most the number of {stage} classes ({n_classes}), got {n_ways}; "
                    "ask for fewer ways or give more alphabets."
                )

    def __repr__(self) -> str:
        """Return a text that identifies this source, its drawings included."""
        digest = hashlib.sha256()
        for stage in sorted(self.split):
            for character in self.split[stage]:
                digest.update(
                    f"{stage}/{character.alphabet}/{character.name}".encode() + character.drawings.numpy().tobytes()
                )
        return (
            f"CharacterTasks(n_ways={self.n_ways}, seed={self.seed}, n_rotations={self.n_rotations}, flat={self.flat}, "
            f"drawings={digest.hexdigest()[:12]})"
        )

    def sample(self, n_tasks: int, n_support: int, n_query: int, index: tuple[int, ...]) -> TaskBatch:
        """Draw the tasks number `index`: pixels from 0 (paper) to 1 (ink), and numbers of classes."""
        n_shots, n_scored = (self._each(n, name) for n, name in ((n_support, "n_support"), (n_query, "n_query")))
        characters = self._characters(Stage(index[0]), n_shots + n_scored)
        rng = stream(self.seed, *index)
        chosen = np.stack([self._classes(rng, len(characters)) for _ in range(n_tasks)])
        rows = [_some(rng, characters[i % len(characters)], n_shots + n_scored) for i in chosen.ravel()]
        X = torch.stack(rows)
        for rotation in range(1, self.n_rotations):
            rotated = torch.from_numpy(chosen.ravel() // len(characters) == rotation)
            X[rotated] = X[rotated].rot90(rotation, (-2, -1))
        shape = (SIDE * SIDE,) if self.flat else (1, SIDE, SIDE)
        X = (X.float() / 255).view(n_tasks, self.n_ways, n_shots + n_scored, *shape)
        y = torch.arange(self.n_ways).view(1, -1, 1)
        y_support, y_query = (y.expand(n_tasks, -1, n).flatten(1) for n in (n_shots, n_scored))
        return TaskBatch(X[:, :, :n_shots].flatten(1, 2), y_support, X[:, :, n_shots:].flatten(1, 2), y_query)

    def _classes(self, rng: np.random.Generator, n_characters: int) -> np.ndarray:
        return rng.choice(self.n_rotations * n_characters, self.n_ways, replace=False)

    def _each(self, n_rows: int, name: str) -> int:
        """Return the rows of each class."""
        if as_count(n_rows, name) % self.n_ways:
            raise ValueError(f"`{name}` must be a multiple of the ways ({self.n_ways}), got {n_rows}.")
        return n_rows // self.n_ways

    def _characters(self, stage: Stage, n_rows: int) -> list[Character]:
        """Return the characters of a stage, all of which have so many drawings."""
        if stage not in self.split:
            raise ValueError(f"`split` has no {stage} characters; give some alphabets to that stage.")
        characters = self.split[stage]
        fewest = min(characters, key=lambda character: len(character.drawings))
        if len(fewest.drawings) < n_rows:
            raise ValueError(
                f"{fewest.alphabet}/{fewest.name} has {len(fewest.drawings)} drawing(s), too few for {n_rows} support "
                "and query rows of a class; ask for fewer shots or queries."
            )
        return characters


def _some(rng: np.random.Generator, character: Character, n_rows: int) -> torch.Tensor:
    """Return some of the drawings, none of them twice."""
    return character.drawings[torch.from_numpy(rng.permutation(len(character.drawings))[:n_rows])]
