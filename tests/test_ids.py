"""Task ids: equal as the rule of `innerloop.data.ids` says, exact or refused, in every container."""

from __future__ import annotations

import datetime
import decimal
import tracemalloc
import uuid
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import innerloop as il
from innerloop.data.ids import LONGEST, distinct_ids, id_text, places

DAY = datetime.date(2024, 5, 1)
NOON = datetime.datetime(2024, 5, 1, 12)


def key(value):
    """The rule, said otherwise: a number for whole numbers, else a text; None where it must be refused."""
    if isinstance(value, str):
        return key_of_text(value.strip())
    if isinstance(value, float | np.floating):
        exact = {2: 2**11, 4: 2**24}.get(np.dtype(type(value)).itemsize, 2**53)
        if not np.isfinite(value) or abs(float(value)) >= exact:
            return None
        return Fraction(float(value)) if float(value).is_integer() else repr(float(value))
    numeric = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return Fraction(int(value)) if numeric else str(value)


def key_of_text(text):
    digits = text.removeprefix("-").removesuffix(".0")
    if digits.isascii() and digits.isdigit() and (digits == "0" or digits[0] != "0") and not text.startswith("-0"):
        return Fraction(digits) * (-1 if text.startswith("-") else 1)
    return text if text and "\0" not in text and len(text) <= LONGEST else None


WHOLE = st.one_of(st.integers(-20, 20), st.integers(2**53 - 2, 2**53 + 2), st.integers(2**63 - 2, 2**64 + 2))
TEXTS = st.one_of(
    WHOLE.map(str),
    st.integers(-20, 20).map(lambda i: f"{i}.0"),
    st.sampled_from(
        ["a", "a ", " a", "A", "a\0", "007", "-0", "+1", "1e0", "0.5", "0.50", "True", "nan", "NA", "\t", ""]
    ),
    st.text(max_size=4),
)
FLOATS = st.one_of(st.integers(-20, 20).map(float), st.floats(), WHOLE.map(float))
VALUES = st.one_of(
    WHOLE,
    TEXTS,
    FLOATS,
    st.booleans(),
    FLOATS.filter(lambda x: abs(x) < 3e38).map(np.float32),
    st.integers(0, 255).map(np.uint8),
    st.just(DAY),
    st.just(NOON),
)


def distinct_or_none(values):
    """Return the ids and positions of values, or None where they are refused."""
    try:
        return distinct_ids(values, "ids", len(values))
    except (TypeError, ValueError):
        return None


def two_forms(values):
    """Whether two texts are one whole number among ids that are not all whole."""
    texts = {v.strip() for v in values if isinstance(v, str)}
    whole = [key(v) for v in values if isinstance(key(v), Fraction)]
    as_numbers = len(whole) == len(values) and all(-(2**63) <= number < 2**63 for number in whole)
    return not as_numbers and any(t + ".0" in texts for t in texts)


@pytest.mark.slow
@given(st.lists(VALUES, max_size=8), st.lists(VALUES, max_size=8))
def test_ids_are_equal_as_the_rule_says_or_refused(left, right):
    found = [distinct_or_none(values) for values in (left, right)]
    for values, result in zip((left, right), found, strict=True):
        refusable = any(key(v) is None for v in values)
        assert (result is None) >= refusable
        assert (result is None) <= (refusable or two_forms(values))
        if result is not None:
            ids, position = result
            for i, a in enumerate(values):
                for j, b in enumerate(values):
                    assert (position[i] == position[j]) == (key(a) == key(b))
            assert ids.tolist() == sorted(set(ids.tolist()))
    if None not in found:
        (ids, position), (known, of_right) = found
        place = places(ids, known)[position]
        for i, a in enumerate(left):
            same = [of_right[j] for j, b in enumerate(right) if key(a) == key(b)]
            assert place[i] == (same[0] if same else -1)


ROWS = st.lists(st.sampled_from([3, 10, -7, 0]), min_size=1, max_size=6)
FORMS = {
    "int64": lambda v: np.array(v, dtype=np.int64),
    "int8": lambda v: np.array(v, dtype=np.int8),
    "float64": lambda v: np.array(v, dtype=float),
    "float32": lambda v: np.array(v, dtype=np.float32),
    "float16": lambda v: np.array(v, dtype=np.float16),
    "text": lambda v: np.array(v).astype(str),
    "text of floats": lambda v: np.array(v, dtype=float).astype(str),
    "StringDType": lambda v: np.array(v).astype(np.dtypes.StringDType()),
    "list": list,
    "list of text": lambda v: [f" {i} " for i in v],
    "objects": lambda v: np.array(v, dtype=object),
    "Decimal": lambda v: [decimal.Decimal(i) for i in v],
    "masked": lambda v: np.ma.array(v, mask=False),
    "pandas": pd.Series,
    "pandas Int64": lambda v: pd.Series(v, dtype="Int64"),
    "pandas str": lambda v: pd.Series(v).astype("string"),
    "pandas category": lambda v: pd.Series(v).astype("category"),
    "pandas Index": pd.Index,
    "polars": pl.Series,
    "polars Float64": lambda v: pl.Series(v, dtype=pl.Float64),
    "polars Categorical": lambda v: pl.Series([str(i) for i in v], dtype=pl.Categorical),
    "pyarrow": pa.array,
    "pyarrow dictionary": lambda v: pa.array([str(i) for i in v]).dictionary_encode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(rows=ROWS)
def test_whole_numbers_are_the_same_ids_in_every_form(form, rows):
    ids, position = distinct_ids(form(rows), "ids", len(rows))
    assert ids.dtype == np.int64
    assert ids.tolist() == sorted(set(rows))
    assert ids[position].tolist() == rows


OTHERS = {
    "numbers": ([0.5, 2.0, -1.25], ["-1.25", "0.5", "2"]),
    "float32": (np.array([0.1, 0.1], dtype=np.float32), ["0.10000000149011612"]),
    "truth values": ([True, False, 1], ["1", "False", "True"]),
    "truth array": (np.array([True, False]), ["False", "True"]),
    "beyond int64": ([2**64 + 1, 2**64, 1], ["1", str(2**64), str(2**64 + 1)]),
    "uint64": (np.array([2**63 + 1, 2**63], dtype=np.uint64), [str(2**63), str(2**63 + 1)]),
    "days": ([DAY, pd.Timestamp("2024-05-01"), "2024-05-01"], ["2024-05-01"]),
    "datetime64[D]": (np.array(["2024-05-01"], dtype="M8[D]"), ["2024-05-01"]),
    "datetime64[ns]": (pd.date_range("2024-05-01", periods=2, freq="12h"), ["2024-05-01", "2024-05-01 12:00:00"]),
    "zones": (pd.date_range("2024-05-01", periods=1, tz="UTC"), ["2024-05-01 00:00:00+00:00"]),
    "UUID": ([uuid.UUID(int=5)], ["00000000-0000-0000-0000-000000000005"]),
    "spaces": (["a ", "a", "\u00a0a", "a b"], ["a", "a b"]),
    "letters": (["é", "e\u0301", "A", "a"], ["A", "a", "e\u0301", "é"]),
    "not whole": (["007", "7", "+1", "-0", "1e0"], ["+1", "-0", "007", "1e0", "7"]),
}


@pytest.mark.parametrize(("values", "expected"), OTHERS.values(), ids=OTHERS)
def test_other_ids_are_text(values, expected):
    ids, position = distinct_ids(values, "ids", len(values))
    assert ids.tolist() == expected
    assert position.shape == (len(values),)


@pytest.mark.parametrize("values", [x for x, _ in OTHERS.values()], ids=OTHERS)
def test_ids_come_back_from_csv_and_parquet_as_the_same(values, tmp_path):
    from innerloop.data.table_files import read_table

    frame = pd.DataFrame({"id": pd.Series(list(values)).map(id_text), "x": 1.0})
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    ids, position = distinct_ids(values, "ids", len(values))
    for name in ("t.csv", "t.parquet"):
        again, its_position = distinct_ids(read_table(tmp_path / name, "id").frame["id"], "ids", len(values))
        assert again.tolist() == ids.tolist()
        assert its_position.tolist() == position.tolist()


MASKED = np.ma.masked_equal(np.arange(4), 2)
REFUSED = {
    "None": (["a", None], ValueError, "missing task id at row 1"),
    "NaN": ([1.0, np.nan], ValueError, "missing task id at row 1"),
    "NaT": (np.array(["2024", "NaT"], dtype="M8[D]"), ValueError, "missing task id at row 1"),
    "NA": (pd.array([1, None], dtype="Int64"), ValueError, "missing task id at row 1"),
    "masked": (MASKED, ValueError, "missing task id at row 2"),
    "empty": (["a", " "], ValueError, "at row 1 that is empty"),
    "infinite": ([1.0, np.inf], ValueError, "at row 1 that is inf"),
    "2**53": ([1.0, 2.0**53], ValueError, "at row 1 that is the float 9007199254740992.0"),
    "2**60": (np.array([0, 2**60], dtype=float), ValueError, "at row 1 .* pass ids as whole numbers or as text"),
    "float32": (np.array([0, 2**24], dtype=np.float32), ValueError, "at row 1 that is the float 16777216.0"),
    "NUL": (["a", "a\0"], ValueError, "at row 1 that holds a NUL"),
    "long": (["a", "Z" * 20_000], ValueError, "at row 1 that has 20,000 characters"),
    "two forms": (["1", "1.0", "a"], ValueError, "'1' and '1.0' beside ids that are no numbers"),
    "tuples": ([("a", 1), ("a", 2)], TypeError, r"at row 0 that is the tuple \('a', 1\); join its parts"),
    "MultiIndex": (pd.MultiIndex.from_arrays([[1], [2]]), TypeError, "that is the tuple"),
    "lists": ([[1], [2]], TypeError, "got a list"),
    "bytes": (np.array([b"a"]), TypeError, "got dtype |S1"),
    "complex": (np.array([1j]), TypeError, "got dtype complex128"),
    "durations": (np.array([1], dtype="m8[s]"), TypeError, "got dtype timedelta64"),
    "mixed": (["a", {1}], TypeError, "got a set"),
    "objects": (["a", object()], TypeError, "at row 1 that is a object"),
    "matrix": (np.ones((2, 2)), ValueError, r"one task id per row \(2\), got shape \(2, 2\)"),
}


@pytest.mark.parametrize(("values", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_exact_is_refused_by_row(values, error, message):
    with pytest.raises(error, match=message):
        distinct_ids(values, "ids", len(values))


def model_of(ids):
    """Return a model of tasks whose levels differ, and features."""
    groups = np.repeat(np.arange(len(ids)), 4)
    X = np.random.default_rng(0).standard_normal((len(groups), 1))
    y = X[:, 0] + 10.0 * groups
    per_row = [ids[i] for i in groups]
    return il.MetaRegressor(adaptation="gradient", inner_lr=0.1, adapt_lr=0.4, l2=0.0).fit(X, y, groups=per_row), X


ASKED = st.one_of(WHOLE, TEXTS, st.integers(-20, 20).map(float), WHOLE.map(float), st.booleans())


@pytest.mark.slow
@given(st.lists(ASKED, min_size=2, max_size=5, unique_by=key), st.lists(ASKED, min_size=1, max_size=5))
def test_a_group_is_never_predicted_with_the_coefficients_of_another(tmp_path_factory, known, asked):
    if distinct_or_none(known) is None or distinct_or_none(asked) is None:
        return
    fitted, X = model_of(known)
    folder = tmp_path_factory.mktemp("model")
    il.save_model(fitted, folder / "m")
    for model in (fitted, il.load_model(folder / "m")):
        x = X[: len(asked)]
        found = model.predict(x, groups=asked)
        alone = [model.predict(x[[i]], groups=[known[k]])[0] for i, a in enumerate(asked) for k in _same(a, known)]
        expected = iter(alone)
        for i, a in enumerate(asked):
            right = next(expected) if _same(a, known) else model.predict(x[[i]])[0]
            assert found[i] == pytest.approx(right, rel=1e-12)


def _same(a, known):
    return [k for k, b in enumerate(known) if key(a) == key(b)]


def test_large_whole_numbers_are_the_same_ids_in_every_exact_type():
    ids = np.arange(5, dtype=np.int64) * 7 + 2**60
    model, X = model_of(ids.tolist())
    groups, x = np.repeat(ids, 4), X
    expected = model.predict(x, groups=groups)
    for same in (
        groups.astype(np.uint64),
        groups.astype(str),
        groups.astype(object),
        pl.Series(groups.astype("uint64")),
    ):
        np.testing.assert_array_equal(model.predict(x, groups=same), expected)
    with pytest.raises(ValueError, match="no longer told apart"):
        model.predict(x, groups=groups.astype(float))
    adapted = model.adapt(x[:4], x[:4, 0], groups=np.full(4, 5, np.uint64))
    assert adapted.groups_.tolist() == [5, *ids.tolist()]
    assert adapted.groups_.dtype == np.int64


@given(st.lists(st.integers(-3, 9)), st.lists(st.integers(0, 9), min_size=1, unique=True), st.booleans())
def test_places_are_those_of_equal_ids_and_none_of_others(asked, known, as_text):
    dtype = np.str_ if as_text else np.int64
    found = places(np.array(asked, dtype=np.int64).astype(dtype), np.array(known))
    assert found.tolist() == [known.index(i) if i in known else -1 for i in asked]


def test_one_long_id_does_not_take_memory_for_every_row():
    ids = np.array([f"t{i // 10}" for i in range(100_000)] + ["Z" * 900], dtype=object)
    tracemalloc.start()
    distinct_ids(ids, "ids", len(ids))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000 * 900  # as text of equal width: 4 bytes a character
