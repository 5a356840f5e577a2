"""The encoding of the feature columns of a dataset, learned from a sample of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from innerloop._base.checks import FloatArray, IntArray
from innerloop.data.columns import ColumnMap, Columns
from innerloop.data.drawing import Draw, DrawnRows
from innerloop.data.fragments import Fragment, Table, batches, features_frame, ids_and_words


def learn_encoding(fragments: Sequence[Fragment], table: Table, draw: Draw, tick: Callable[[], None]) -> ColumnMap:
    """Return how the columns become numbers, given the rows of the tasks that are drawn: medians, levels and kinds.

    Which features are constant or repeat others is for all rows to say; here none is left out for that.

    Raises
    ------
    ValueError
        If a column cannot be used; the message names it.
    """
    if (sampled := _Sampled.of(fragments, table, draw, tick)) is None:
        return ColumnMap(())
    is_csv = any(fragment.row_groups is None for fragment in fragments)
    frame = features_frame(sampled.cells, table, is_csv)
    frame = frame.apply(_as_numbers) if is_csv else frame

    def place(row: int) -> str:
        number, row = sampled.origin[row]
        return f"row {row} (counted from 0) of {fragments[number].path}"

    columns = Columns.read(frame, sampled.task, list(table.features), (), "the dataset", place)
    return ColumnMap.fit(columns, sampled.task, is_sample=True)


class _Sampled(NamedTuple):
    """Rows of the tasks that are drawn.

    Parameters
    ----------
    cells
        Their features, an Arrow table.
    origin : (n_rows, 2)
        Of each the number of its fragment, and of its row in the file.
    task : (n_rows,)
        Position of the task of each.
    """

    cells: Any
    origin: IntArray
    task: IntArray

    @classmethod
    def of(cls, fragments: Sequence[Fragment], table: Table, draw: Draw, tick: Callable[[], None]) -> _Sampled | None:
        """Pass over all files; None where they hold no rows."""
        import pyarrow as pa

        cells: Any = None
        rows: DrawnRows | None = None  # whose values say which rows of the cells they are
        origin, is_text = np.empty((0, 2), dtype=np.intp), False
        for number, fragment in enumerate(fragments):
            first_row = fragment.first_row
            for batch in batches(fragment, table, as_text=True):
                ids, words = ids_and_words(batch.column(table.group), table.group, fragment.path, first_row)
                is_text |= ids.dtype.kind == "U"
                place = np.arange(len(batch))
                new = draw.rows(words, ids, _numbered(len(origin) + place, table))
                of_batch = pa.Table.from_batches([batch.select(list(table.features))])
                rows, cells = (
                    (new, of_batch) if rows is None else (rows.joined(new), pa.concat_tables([cells, of_batch]))
                )
                origin = np.concatenate((origin, np.column_stack((np.full(len(batch), number), first_row + place))))
                first_row += len(batch)
                rows = draw.lowest(rows)
                if len(rows.ids) < len(origin):
                    kept = rows.values[:, 0].astype(np.intp)
                    cells, origin = cells.unify_dictionaries().take(kept), origin[kept]
                    rows = rows._replace(values=_numbered(np.arange(len(kept)), table))
            tick()
        if rows is None:
            return None
        _, task, chosen, _ = draw.chosen(rows, is_text)
        inside = np.isin(task, chosen)
        task = np.unique(task[inside], return_inverse=True)[1]
        return cls(cells.unify_dictionaries().filter(pa.array(inside)), origin[inside], task)


def _numbered(rows: IntArray, table: Table) -> FloatArray:
    """Return the numbers of rows, as often as each row holds numbers, by which the size of the sample is counted."""
    return np.repeat(rows[:, None].astype(float), table.width, axis=1)


def _as_numbers(texts: Any) -> Any:
    """Return a column of text as numbers, where each cell is one or missing."""
    import pandas as pd

    try:
        return pd.to_numeric(texts)
    except (TypeError, ValueError):
        return texts
