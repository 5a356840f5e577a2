"""Few-shot tasks from one's own labelled rows."""

import sys

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import innerloop as il
import neural_reference  # noqa: F401  one torch thread
from innerloop.neural import TEST, TRAINING, VALIDATION, ClassTasks, MetaTrainer, Stage, Training, accuracy

NAMES = [f"class {i}" for i in range(12)]


def rows():
    """Return rows that hold their class and their number."""
    labels = np.repeat(NAMES, 6)
    return np.column_stack((np.repeat(np.arange(12), 6), np.arange(72))).astype(float), labels


def folder_of(root, classes, n=3):
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for k in range(n):
            Image.new("RGB", (8, 6), (10 * i, 0, k)).save(root / name / f"{k}.png")
    return root


def numbers(batch):
    return torch.cat([batch.X_support, batch.X_query], dim=1)


def test_a_task_is_classes_with_as_many_rows_each():
    source = ClassTasks(*rows(), n_ways=2)
    batch = source.sample(5, 4, 6, (TRAINING, 3))
    assert batch.X_support.shape == (5, 4, 2)
    for X, y in ((batch.X_support, batch.y_support), (batch.X_query, batch.y_query)):
        for task, labels in zip(X, y, strict=True):
            classes = [task[labels == way, 0].unique() for way in (0, 1)]
            assert [len(found) for found in classes] == [1, 1]
            assert classes[0] != classes[1]
    assert all(len(task[:, 1].unique()) == 10 for task in numbers(batch))
    assert torch.equal(source.sample(5, 4, 6, (TRAINING, 3)).X_query, batch.X_query)


@pytest.mark.parametrize(("validation", "test"), [(0.2, 0.3), (NAMES[:2], 0.2), (NAMES[:3], NAMES[3:5])])
def test_no_class_serves_two_stages(validation, test):
    source = ClassTasks(*rows(), n_ways=2, validation=validation, test=test)
    seen = {stage: set(numbers(source.sample(50, 2, 2, (stage, 0)))[..., 0].flatten().tolist()) for stage in Stage}
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 12
    if isinstance(validation, list):
        assert seen[VALIDATION] == set(range(len(validation)))


def test_a_folder_of_images_and_one_that_is_divided(tmp_path):
    whole = ClassTasks.from_folder(folder_of(tmp_path / "whole", NAMES), side=4, n_ways=2)
    batch = whole.sample(3, 2, 4, (TEST, 0))
    assert batch.X_support.shape == (3, 2, 3, 4, 4)
    assert batch.X_support.max() <= 1
    for part, names in (("train", NAMES[:8]), ("val", NAMES[8:10]), ("test", NAMES[10:])):
        folder_of(tmp_path / "divided" / part, names)
    divided = ClassTasks.from_folder(tmp_path / "divided", side=4, channels=1, n_ways=2)
    assert {stage: list(classes) for stage, classes in divided.by_stage.items()}[TEST] == NAMES[10:]
    assert divided.sample(1, 2, 4, (VALIDATION, 0)).X_query.shape == (1, 4, 1, 4, 4)


def test_the_lists_of_miniimagenet_divide_classes(tmp_path):
    (tmp_path / "images").mkdir()
    for part, names in (("train", NAMES[:4]), ("val", NAMES[4:6]), ("test", NAMES[6:9])):
        lines = ["filename,label"]
        for name in names:
            for k in range(2):
                lines.append(f"{name} {k}.jpg,{name}")
                Image.new("RGB", (8, 6), (10, 0, k)).save(tmp_path / "images" / f"{name} {k}.jpg")
        (tmp_path / f"{part}.csv").write_text("\n".join(lines) + "\n")
    source = ClassTasks.from_folder(tmp_path, side=4, n_ways=2)
    assert [sorted(classes) for classes in source.by_stage.values()] == [NAMES[:4], NAMES[4:6], NAMES[6:9]]
    (tmp_path / "val.csv").write_text(f"filename,label\n{NAMES[0]} 0.jpg,{NAMES[0]}\n")
    with pytest.raises(ValueError, match="has class 'class 0' in two of its parts"):
        ClassTasks.from_folder(tmp_path, side=4, n_ways=2)


@pytest.mark.slow
def test_workers_load_the_same_images(tmp_path):
    folder_of(tmp_path, NAMES)
    alone, shared = (ClassTasks.from_folder(tmp_path, side=4, n_ways=2, workers=n) for n in (0, 2))
    assert torch.equal(alone.X, shared.X)
    assert repr(alone) == repr(shared)


@pytest.mark.parametrize("kind", ["file", "frame"])
def test_a_table_of_classes(tmp_path, kind):
    (numbered, labels), X = rows(), np.random.default_rng(0).standard_normal((72, 2)).round(3)
    table = pd.DataFrame({"a": X[:, 0], "kind": labels, "b": X[:, 1], "c": np.where(X[:, 1] > 0, "odd", "even")})
    table.insert(0, "number", numbered[:, 1].astype(int))
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.warns(UserWarning, match="'number' .* left out"):
        source = ClassTasks.from_table(table if kind == "frame" else tmp_path / "t.csv", "kind", n_ways=2)
    np.testing.assert_array_equal(source.X[:, :2].numpy(), X)
    assert {*source.by_stage[TRAINING], *source.by_stage[VALIDATION], *source.by_stage[TEST]} == set(NAMES)
    assert source.sample(2, 2, 4, (TEST, 0)).X_support.shape == (2, 2, source.X.shape[1])


def test_a_table_of_images(tmp_path):
    folder_of(tmp_path, NAMES)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    table = pd.DataFrame({"file": files, "class": [name.split("/")[0] for name in files]})
    table.to_csv(tmp_path / "t.csv", index=False)
    source = ClassTasks.from_table(tmp_path / "t.csv", "class", "file", tmp_path, side=4, n_ways=2)
    whole = ClassTasks.from_folder(tmp_path, side=4, n_ways=2)
    batch, expected = (of.sample(2, 2, 4, (TEST, 0)) for of in (source, whole))
    assert torch.equal(batch.X_query, expected.X_query)
    with pytest.raises(ValueError, match="has no column 'kind'"):
        ClassTasks.from_table(table, "kind")


def test_images_without_pillow_are_refused_in_words(tmp_path, monkeypatch):
    folder_of(tmp_path, NAMES)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match="reading images needs Pillow"):
        ClassTasks.from_folder(tmp_path)


def test_images_of_a_dataset_have_their_channels_first():
    images = [(Image.new("RGB", (4, 6), (i, 0, 0)), i % 12) for i in range(36)]
    assert ClassTasks.from_dataset(images, n_ways=2).X.shape == (36, 3, 6, 4)
    with pytest.raises(ValueError, match=r"all rows of `dataset` must have one shape, got \(3, 6, 4\) and, of row 36"):
        ClassTasks.from_dataset([*images, (Image.new("RGB", (5, 6)), 0)])


def test_a_dataset_of_torch_trains():
    X, labels = rows()
    codes = torch.arange(12).repeat_interleave(6)
    source = ClassTasks.from_dataset(torch.utils.data.TensorDataset(torch.from_numpy(X), codes), n_ways=2)
    training = Training(loss=torch.nn.functional.cross_entropy)
    trainer = MetaTrainer(torch.nn.Linear(2, 2).double(), source, il.Design(2, 4, 4), 1e-4, training=training)
    trainer.train(2)
    assert 0 <= trainer.evaluate(4, metric=accuracy).mean() <= 1
    assert repr(source) != repr(ClassTasks(X + 1, labels, n_ways=2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassTasks(*rows(), n_ways=3), r"`n_ways` must be at most the number of validation classes \(2\)"),
        (lambda: ClassTasks(rows()[0], [1, 2]), r"`y` must have one class for each of the 72 rows of `X`"),
        (lambda: ClassTasks(*rows(), 2, test=["cat"]), "must name classes of `y`, got 'cat'"),
        (lambda: ClassTasks(*rows(), 2, 0, NAMES[:2], NAMES[1:3]), "name 'class 1' twice"),
        (lambda: ClassTasks(*rows(), 2).sample(1, 3, 2, (0, 0)), "`n_support` must be a multiple of the ways"),
        (lambda: ClassTasks(*rows(), 2).sample(1, 10, 4, (0, 0)), r"class 'class \d+' has 6 row\(s\), too few"),
    ],
)
def test_what_makes_no_tasks_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        ClassTasks.from_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="must hold a folder of images for each class"):
        ClassTasks.from_folder(tmp_path)
    folder_of(tmp_path, ["cat"])
    (tmp_path / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0.png is no image that can be read"):
        ClassTasks.from_folder(tmp_path)
