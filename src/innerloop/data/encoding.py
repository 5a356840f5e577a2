"""The encoding of the feature columns of a dataset, learned from a sample of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from innerloop.data.columns import ColumnMap, Columns, NumberCode
from innerloop.data.drawing import Draw, DrawnRows
from innerloop.data.fragments import Fragment, Table, batches, features_frame, ids_and_words


def learn_encoding(fragments: Sequence[Fragment], table: Table, draw: Draw, tick: Callable[[], None]) -> ColumnMap:
    """Return how the columns become numbers, given the rows of the tasks that are drawn: medians, levels and kinds.

    Which features are constant is for all rows to say; here none is left out for that.

    Raises
    ------
    ValueError
        If a column cannot be used; the message names it.
    """
    import pyarrow as pa

    cells: Any
    rows: DrawnRows | None = None
    cells, origin = None, np.empty((0, 2), dtype=np.intp)
    is_text = False
    for number, fragment in enumerate(fragments):
        first_row = fragment.first_row
        for batch in batches(fragment, table, as_text=True):
            ids, words = ids_and_words(batch.column(table.group), table.group, fragment.path, first_row)
            is_text |= ids.dtype.kind == "U"
            position = len(origin) + np.arange(len(batch))
            new = draw.rows(words, ids, np.repeat(position[:, None], table.width, axis=1))
            own = pa.Table.from_batches([batch.select(list(table.features))])
            rows, cells = (new, own) if rows is None else (rows.joined(new), pa.concat_tables([cells, own]))
            of_batch = np.column_stack((np.full(len(batch), number), first_row + np.arange(len(batch))))
            origin = np.concatenate((origin, of_batch))
            first_row += len(batch)
            rows = draw.lowest(rows)
            if len(rows.ids) < len(origin):
                kept = rows.values[:, 0].astype(np.intp)
                cells, origin = cells.unify_dictionaries().take(kept), origin[kept]
                rows = rows._replace(values=np.repeat(np.arange(len(kept))[:, None], table.width, axis=1))
        tick()
    if rows is None:
        return ColumnMap(())
    _, task, chosen, _ = draw.chosen(rows, is_text)
    inside = np.isin(task, chosen)
    is_csv = any(fragment.row_groups is None for fragment in fragments)
    frame = features_frame(cells.unify_dictionaries().filter(pa.array(inside)), table, is_csv)
    frame, origin = frame.apply(_as_numbers) if is_csv else frame, origin[inside]

    def place(row: int) -> str:
        return f"row {origin[row, 1]} (counted from 0) of {fragments[origin[row, 0]].path}"

    task = np.unique(task[inside], return_inverse=True)[1]
    found = ColumnMap.fit(Columns.read(frame, task, list(table.features), (), "the dataset", place), task)
    codes = tuple(replace(code, varies=True) if isinstance(code, NumberCode) else code for code in found.codes)
    constant = {f"{code.name!r} is constant: left out" for code in found.codes if not code.names}
    return replace(found, codes=codes, notes=tuple(note for note in found.notes if note not in constant))


def _as_numbers(texts: Any) -> Any:
    """Return a column of text as numbers, where each cell is one or missing."""
    import pandas as pd

    try:
        return pd.to_numeric(texts)
    except (TypeError, ValueError):
        return texts
