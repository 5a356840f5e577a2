"""From `innerloop train --out` back to a module and to predictions."""

import shutil

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import neural_reference  # noqa: F401  one torch thread
from command_line import COLUMNS, innerloop, save, small_table, tree
from innerloop.data.columns import ColumnMap
from innerloop.neural import TaskBatch, adapt, load_module, load_network, predict
from test_cli_predict import ADAPTED, META, NEW, SEEN, half_empty, read, refused

SIZES = ["--n-tasks", 3, "--width", 6, "--n-test", 10, "--n-validation", 4]


@pytest.fixture(scope="module", params=["meta-sgd", "anil"])
def network(tmp_path_factory, request):
    """The folder of a network that `innerloop train` trained on the table."""
    folder = tmp_path_factory.mktemp("train")
    command = ["train", "--data", save(small_table(), folder / "t.csv"), *COLUMNS, "--shots", 4, "--queries", 4, *SIZES]
    ran = innerloop(*command, "--algorithm", request.param, "--n-steps", 2, "--iterations", 4, "--out", folder / "o")
    assert ran.code == 0, ran.err
    return folder / "o"


def test_rows_without_a_target_are_predicted_in_the_units_of_the_table(network, tmp_path):
    frame = half_empty()
    ran = innerloop("predict", network, save(frame, tmp_path / "t.csv"))
    assert (ran.code, ran.err) == (0, "")
    found = read(ran.out)
    assert found["row"].tolist() == (np.flatnonzero(frame["y"].isna()) + 1).tolist()
    bases = found.groupby("group")["based_on"].agg(set).to_dict()
    assert bases == {**{g: {"adapted"} for g in (*ADAPTED, *NEW)}, **{g: {"meta"} for g in (*SEEN, *META)}}
    trained = load_network(network)
    units, columns = trained.units, ColumnMap.from_state(trained.details["columns"])
    for group in (*NEW, *META):
        rows = frame[frame["task"] == group].reset_index(drop=True)
        known = rows["y"].notna().to_numpy(copy=True)
        X = torch.from_numpy((columns.transform(columns.read(rows)) - units.x_mean) / units.x_scale).float()[None]
        params = dict(trained.module.named_parameters())
        if known.any():
            y = torch.from_numpy((rows["y"].to_numpy() - units.y_mean) / units.y_scale).float()[None, :, None]
            task = TaskBatch(X[:, known], y[:, known], X[:, known], y[:, known])
            params = adapt(trained.module, params, task, trained.adapt_lr, 2, adapted=trained.adapted)
        outputs = predict(trained.module, params, X[:, ~known]).detach().numpy()[0, :, 0]
        predicted = found.loc[found["group"] == group, "prediction"]
        np.testing.assert_allclose(predicted, units.y_mean + units.y_scale * outputs, rtol=1e-4, atol=1e-5)


def test_out_holds_what_would_be_printed(network, tmp_path):
    table = save(half_empty(), tmp_path / "t.csv")
    printed = innerloop("predict", network, table)
    ran = innerloop("predict", network, table, "--out", tmp_path / "p.csv")
    assert (ran.code, ran.out) == (0, "")
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == printed.out


def test_bad_input_writes_nothing(network, tmp_path):
    table = save(half_empty(), tmp_path / "t.csv")
    out = ["--out", tmp_path / "p.csv"]
    assert "a network, which has no intervals" in refused(tmp_path, network, table, "--level", 0.9, *out)
    other = save(half_empty().drop(columns="b"), tmp_path / "u.csv")
    assert "u.csv has no column 'b'" in refused(tmp_path, network, other, *out)
    assert "there is no row to predict" in refused(tmp_path, network, save(small_table(), tmp_path / "f.csv"), *out)
    shutil.copytree(network, tmp_path / "o")
    (weights,) = (tmp_path / "o" / "network").glob("tensors-*")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "cannot be read" in refused(tmp_path, tmp_path / "o", table, *out)
    shutil.rmtree(tmp_path / "o" / "network")
    assert "`innerloop train --out`, when it has ended, makes one" in refused(tmp_path, tmp_path / "o", table, *out)


def test_the_module_comes_back_from_the_folder_and_from_its_checkpoint(network):
    module = load_module(network)
    again = load_module(network / "checkpoint", type(module)(**module.settings))
    assert module.state_dict().keys() == again.state_dict().keys()
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    with pytest.raises(ValueError, match="which holds parameters and no code; give `module`"):
        load_module(network / "checkpoint")
    with pytest.raises(ValueError, match=r"of another module: its parameter 'bias' has none, this one"):
        load_module(network / "checkpoint", torch.nn.Linear(3, 1))
    with pytest.raises(FileNotFoundError, match="there is no network in"):
        load_module(network / "nothing")


@pytest.mark.slow
def test_a_network_of_images_comes_back_adapts_and_is_no_predictor_of_tables(tmp_path):
    for i in range(10):
        (tmp_path / "images" / f"class {i}").mkdir(parents=True)
        for k in range(3):
            Image.new("L", (8, 8), 20 * i + k).save(tmp_path / "images" / f"class {i}" / f"{k}.png")
    command = ["train", "--data", tmp_path / "images", "--ways", 2, "--queries", 2, *SIZES, "--no-baselines"]
    ran = innerloop(*command, "--iterations", 1, "--out", tmp_path / "o")
    assert ran.code == 0, ran.err
    trained = load_network(tmp_path / "o")
    X, y = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 0, 1])
    adapted = trained.module_of(X, y)
    assert adapted(X).shape == (4, 2)
    assert torch.equal(trained.module(X), load_module(tmp_path / "o")(X))
    with pytest.raises(ValueError, match="was not trained on a table"):
        trained.predict(np.zeros((1, 2)))
    table = save(pd.DataFrame({"g": [1], "y": [None]}), tmp_path / "t.csv")
    assert "was not trained on a table" in refused(tmp_path, tmp_path / "o", table)
    before = tree(tmp_path / "o")
    assert innerloop(*command, "--iterations", 1, "--out", tmp_path / "o").code == 0
    assert tree(tmp_path / "o") == before
