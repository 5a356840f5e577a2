"""Predictions of a dataset: a file for each file, rows in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._base.files import replacing
from innerloop._base.progress import progress
from innerloop.data.columns import ColumnMap
from innerloop.data.dataset import check_files, list_files, need_pyarrow
from innerloop.data.fragments import Fragment, Table, batches, is_parquet, read_features, read_ids

# From features and ids of rows to predictions.
Predict = Callable[[FloatArray, Any], FloatArray]


def predict_dataset(
    path: str | Path | Sequence[str | Path],
    out: Path,
    group: str,
    encoding: ColumnMap,
    predict: Predict,
    shown: bool,
) -> list[Path]:
    """Write the predictions of all rows of some files; see `MetaRegressor.predict_dataset`."""
    need_pyarrow()
    files = list_files(path)
    table = Table(group, (), encoding.inputs, True, encoding=encoding)
    all_fragments, _ = check_files(files, table, every=False)
    root = Path(path) if isinstance(path, str | Path) and Path(path).is_dir() else None
    targets = [out / (file.relative_to(root) if root is not None else file.name) for file in files]
    if len(set(targets)) < len(targets):
        raise ValueError("two files have one name, and their predictions would too; name the folder that holds them.")
    for file, target in zip(files, targets, strict=True):
        if target.exists() and target.samefile(file):
            raise ValueError(f"`out` would replace {file} by its predictions; name another folder.")
    n_rows = sum(fragment.n_rows for fragment in all_fragments)
    with progress("Predicting", len(all_fragments), shown, rows=n_rows) as tick:
        target_of = dict(zip(map(str, files), targets, strict=True))
        for file, fragments in groupby(all_fragments, key=attrgetter("path")):
            _write(target_of[file], _predictions(list(fragments), table, predict, tick))
    return targets


def _predictions(
    fragments: Sequence[Fragment], table: Table, predict: Predict, tick: Callable[[], None]
) -> Iterator[Any]:
    """Yield the ids and predictions of a file, batch by batch."""
    import pyarrow as pa

    for fragment in fragments:
        first = fragment.first_row
        for batch in batches(fragment, table):
            column = batch.column(table.group)
            X = read_features(batch, table, fragment.path, first)
            prediction = predict(X, read_ids(column, table.group, fragment.path, first)) if len(batch) else np.empty(0)
            first += len(batch)
            columns = {table.group: column}
            if prediction.ndim == 1:
                columns["prediction"] = pa.array(prediction)
            else:
                columns |= {f"prediction_{k}": pa.array(values) for k, values in enumerate(prediction.T)}
            yield pa.record_batch(columns)
        tick()


def _write(target: Path, parts: Iterator[Any]) -> None:
    """Write record batches to a Parquet or CSV file, by its name; without any there is no file."""
    import pyarrow.parquet as pq
    from pyarrow import csv

    first = next(parts, None)
    if first is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as file:
        if is_parquet(target):  # a dictionary of predictions would save nothing
            writer = pq.ParquetWriter(file, first.schema, use_dictionary=first.schema.names[:1])
        else:
            writer = csv.CSVWriter(file, first.schema)
        with writer:
            for part in chain([first], parts):
                writer.write_batch(part)
