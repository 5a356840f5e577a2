"""Characters from the archive: read whole, split by alphabets, dealt into tasks that depend on the index alone."""

import io
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from innerloop.neural import TEST, TRAINING, VALIDATION
from innerloop.neural.fewshot.omniglot import CharacterTasks, read_omniglot, split_alphabets
from omniglot_archive import ALPHABETS, FULL, write_archive

STAGES = [TRAINING, VALIDATION, TEST]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "small.zip")


@pytest.fixture(scope="module")
def characters(archive):
    return read_omniglot(archive)


@pytest.fixture(scope="module")
def split(characters):
    return split_alphabets(characters)


def alphabets(characters):
    return {character.alphabet for character in characters}


def found_in(image, characters, turns=(0, 1, 2, 3)):
    """Return (character, turn) of each drawing that is this image."""
    pixels = (255 * image.reshape(28, 28)).round().to(torch.uint8)
    return [
        (i, turn)
        for i, character in enumerate(characters)
        for drawing in character.drawings
        for turn in turns
        if torch.equal(drawing.rot90(turn, (0, 1)), pixels)
    ]


def test_all_drawings_are_read_with_ink_bright(archive, characters):
    assert [(c.alphabet, c.name) for c in characters] == [
        (alphabet, f"character{i:02}") for alphabet in ALPHABETS for i in (1, 2, 3)
    ]
    assert all(c.drawings.shape == (6, 28, 28) and c.drawings.dtype == torch.uint8 for c in characters)
    with zipfile.ZipFile(archive) as file:
        picture = Image.open(io.BytesIO(file.read("images_background_small1/Greek/character02/0002_03.png")))
        black = 1 - np.asarray(picture, dtype=float)
    drawing = characters[ALPHABETS.index("Greek") * 3 + 1].drawings[2].numpy() / 255
    assert drawing.mean() == pytest.approx(black.mean(), rel=0.15)  # Lanczos rings, and paper cannot be below zero
    rows, columns = (np.average(np.arange(28), weights=drawing.sum(axis=axis)) for axis in (1, 0))
    own_rows, own_columns = (np.average(np.arange(105), weights=black.sum(axis=axis)) for axis in (1, 0))
    assert (rows + 0.5, columns + 0.5) == pytest.approx(((own_rows + 0.5) / 3.75, (own_columns + 0.5) / 3.75), abs=0.1)


@pytest.mark.parametrize("root", ["images_background/", "images_evaluation/", "", "omniglot/python/images_background/"])
def test_any_folder_above_the_alphabets_will_do(tmp_path, characters, root):
    found = read_omniglot(write_archive(tmp_path / "a.zip", root=root))
    assert all(torch.equal(a.drawings, b.drawings) for a, b in zip(found, characters, strict=True))


def test_archives_are_joined(tmp_path):
    first = write_archive(tmp_path / "a.zip", 2, 2, ["Latin"])
    second = write_archive(tmp_path / "b.zip", 2, 2, ["Greek"])
    assert [c.alphabet for c in read_omniglot(first, second)] == ["Greek", "Greek", "Latin", "Latin"]
    with pytest.raises(ValueError, match=r"b.zip holds Greek/character01, which another archive holds too; leave one"):
        read_omniglot(second, second)


@pytest.mark.parametrize("seed", range(3))
def test_stages_share_no_alphabet(characters, seed):
    split = split_alphabets(characters, seed=seed)
    assert [len(alphabets(split[stage])) for stage in STAGES] == [3, 1, 1]
    assert sum(len(split[stage]) for stage in STAGES) == len(characters)
    assert set().union(*(alphabets(split[stage]) for stage in STAGES)) == set(ALPHABETS)
    again = split_alphabets(characters[::-1], seed=seed)
    assert [alphabets(again[stage]) for stage in STAGES] == [alphabets(split[stage]) for stage in STAGES]


def test_alphabets_can_be_named(characters):
    split = split_alphabets(characters, validation=["Greek"], test=["Latin", "Korean"])
    assert alphabets(split[VALIDATION]) == {"Greek"}
    assert alphabets(split[TEST]) == {"Latin", "Korean"}
    assert alphabets(split[TRAINING]) == {"Balinese", "Early_Aramaic"}


def test_a_task_has_as_many_rows_of_each_class(split):
    batch = CharacterTasks(split, n_ways=3).sample(4, 6, 9, (TRAINING, 0))
    assert batch.X_support.shape == (4, 6, 1, 28, 28)
    assert batch.y_support.tolist() == [[0, 0, 1, 1, 2, 2]] * 4
    assert batch.y_query.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 4
    assert batch.X_support.dtype == torch.float32
    assert batch.X_support.min() == 0
    assert batch.X_support.max() == 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("rotations", [True, False])
def test_rows_of_a_class_are_different_drawings_of_one_character(split, stage, rotations):
    batch = CharacterTasks(split, n_ways=3, rotations=rotations).sample(2, 6, 6, (stage, 0))
    for X, y in (
        (torch.cat([a, b]), torch.cat([c, d]))
        for a, b, c, d in zip(*(batch.tensors[i] for i in (0, 2, 1, 3)), strict=True)
    ):
        classes = [{found_in(image, split[stage])[0] for image in X[y == label]} for label in range(3)]
        assert all(len(members) == 1 for members in classes)
        assert len(set.union(*classes)) == 3
        assert all(len({image.numpy().tobytes() for image in X[y == label]}) == 4 for label in range(3))
        if not rotations:
            assert all(turn == 0 for members in classes for _, turn in members)


def test_turned_characters_are_classes_of_their_own(split):
    batch = CharacterTasks(split, n_ways=12).sample(1, 12, 12, (TEST, 0))
    assert {found_in(image, split[TEST])[0] for image in batch.X_support[0]} == {
        (i, t) for i in range(3) for t in range(4)
    }


def test_tasks_depend_on_the_index_alone(split):
    source = CharacterTasks(split, n_ways=3, seed=5)
    first = source.sample(3, 3, 3, (TRAINING, 7))
    source.sample(2, 3, 6, (TRAINING, 0))
    again = CharacterTasks(split, n_ways=3, seed=5).sample(3, 3, 3, (TRAINING, 7))
    other = source.sample(3, 3, 3, (TRAINING, 8))
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, again.tensors, strict=True))
    assert not torch.equal(first.X_support, other.X_support)


def test_flat_rows_are_the_same_pixels(split):
    images, rows = (CharacterTasks(split, 3, flat=flat).sample(2, 3, 3, (TEST, 0)) for flat in (False, True))
    assert torch.equal(images.X_query.flatten(2), rows.X_query)


def test_a_source_is_told_from_others_by_what_it_draws(split, characters):
    same, other = CharacterTasks(split_alphabets(characters), 3), CharacterTasks(split_alphabets(characters, seed=1), 3)
    assert repr(CharacterTasks(split, 3)) == repr(same)
    assert repr(same) != repr(other)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a zip", "small.zip is no zip archive or a damaged one .*; download it again"),
        (b"", "small.zip is no zip archive or a damaged one"),
        ("half", "small.zip is no zip archive or a damaged one"),
        ("flipped", "small.zip is no zip archive or a damaged one"),
        (
            {"a.txt": b"x"},
            "no Omniglot archive: drawings lie in it like images_background/Alphabet/.*first entry is a.txt",
        ),
        ({}, "no Omniglot archive.* it is empty"),
        ({"Greek/character01/0001_01.png": b"x"}, "Greek/character01/0001_01.png is no picture"),
        ({"Greek/character01/0001_01.png": b"\x89PNG\r\n\x1a\n" + b"x" * 99}, "0001_01.png is no picture"),
    ],
)
def test_what_is_no_archive_is_refused(archive, tmp_path, content, words):
    path, good = tmp_path / "small.zip", archive.read_bytes()
    if isinstance(content, dict):
        with zipfile.ZipFile(path, "w") as file:
            for name, data in content.items():
                file.writestr(name, data)
    else:
        damaged = {"half": good[: len(good) // 2], "flipped": good[:5000] + bytes(300) + good[5300:]}
        path.write_bytes(damaged[content] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=words):
        read_omniglot(path)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no archive .*none.zip"):
        read_omniglot(tmp_path / "none.zip")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"test": ["Klingon"]},
            "`test` names 'Klingon', which is none of the alphabets Balinese, Early_Aramaic, Greek",
        ),
        ({"test": ["Greek"], "validation": ["Greek"]}, "`validation` and `test` both name 'Greek'"),
        (
            {"test": ALPHABETS[:2], "validation": ALPHABETS[2:]},
            "5 alphabets give 0 for training, 3 for validation, 2 for test",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(characters, arguments, words):
    with pytest.raises(ValueError, match=words):
        split_alphabets(characters, **arguments)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((13, 13, 13), r"`n_ways` must be at most the number of validation classes \(12\), got 13"),
        ((3, 4, 3), r"`n_support` must be a multiple of the ways \(3\), got 4"),
        ((3, 9, 12), r"character01 has 6 drawing\(s\), too few for 7 support and query rows of a class"),
    ],
)
def test_tasks_that_cannot_be_drawn_are_refused(split, sizes, words):
    n_ways, n_support, n_query = sizes
    with pytest.raises(ValueError, match=words):
        CharacterTasks(split, n_ways).sample(1, n_support, n_query, (TEST, 0))


def test_a_stage_without_characters_is_refused(split):
    source = CharacterTasks({TRAINING: split[TRAINING]}, 3)
    source.sample(1, 3, 3, (TRAINING, 0))
    with pytest.raises(ValueError, match="`split` has no test characters"):
        source.sample(1, 3, 3, (TEST, 0))


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="the archive is not there")
def test_the_published_archive():
    characters = read_omniglot(FULL)
    assert len(characters) == 136
    assert {len(c.drawings) for c in characters} == {20}
    assert alphabets(characters) == set(ALPHABETS)
