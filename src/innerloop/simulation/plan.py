"""What a simulation computes: frozen, and written as JSON, so that a store can tell one plan from another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, final

import numpy as np

from innerloop._checks import FloatArray
from innerloop.distributions import Design, MixedLinearRegression, TaskDistribution
from innerloop.simulation.conditional import ConditionalRuns
from innerloop.simulation.sampled import SampledRuns

Scoring = Literal["exact", "sampled"]

# Changes whenever the same plan would give other numbers.
_ENGINE = 1
# A block takes about this many floating-point operations, some tenths of a second: often enough to show progress and
# to lose little, seldom enough for files and processes.
_OPERATIONS_PER_BLOCK = 3e9
_MOST_RUNS_PER_BLOCK = 1024


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that the losses of run number i depend on.

    Parameters
    ----------
    dist, design
        The tasks, and the sizes.
    inner_lrs, adapt_lrs : (n_inner,), (n_adapt,)
        Rates; all share each run's draws.
    init : (n_features,)
        Where meta-training starts.
    seed
        Run i draws from stream i of it.
    scoring
        "exact": expectations given the features; "sampled": everything is drawn.
    n_test_tasks, n_test_rows
        With "sampled": new tasks of a run, and rows that score each.
    """

    dist: TaskDistribution
    design: Design
    inner_lrs: FloatArray
    adapt_lrs: FloatArray
    init: FloatArray
    seed: int
    scoring: Scoring
    n_test_tasks: int
    n_test_rows: int

    def runs(self) -> ConditionalRuns | SampledRuns:
        """Return what computes the runs."""
        rates = self.inner_lrs, self.adapt_lrs
        if self.scoring == "exact":
            assert isinstance(self.dist, MixedLinearRegression)
            return ConditionalRuns(self.dist, self.design, *rates, self.init)
        return SampledRuns(self.dist, self.design, *rates, self.init, self.n_test_tasks, self.n_test_rows)

    def block_size(self, n_runs: int) -> int:
        """Return a good number of runs per block."""
        size = int(_OPERATIONS_PER_BLOCK / self.runs().cost())
        return int(np.clip(size, 1, min(_MOST_RUNS_PER_BLOCK, n_runs)))

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; large arrays and tables by their SHA-256."""
        plan = {field.name: describe(getattr(self, field.name)) for field in fields(self)}
        if self.scoring == "exact":
            del plan["n_test_tasks"], plan["n_test_rows"]
        return {"engine": _ENGINE, **plan}


def describe(value: Any) -> Any:
    """Return a value as JSON values from which another one can be told.

    Raises
    ------
    TypeError
        If it has no description: an object that is no dataclass.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        if value.size <= 1000:
            return value.tolist()
        content = np.ascontiguousarray(value).tobytes()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": hashlib.sha256(content).hexdigest()}
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: describe(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    raise TypeError(
        f"a store needs distributions that can be told from each other, got {type(value).__name__}; make it a frozen "
        "dataclass of numbers, arrays and text, or leave out `store`."
    )
