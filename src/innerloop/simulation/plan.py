"""What a simulation computes: frozen, and written as JSON, so that a store can tell one plan from another."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, final

import numpy as np

from innerloop._base.checks import FloatArray
from innerloop._blocks.fingerprint import fingerprint
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
        plan = {field.name: fingerprint(getattr(self, field.name), field.name) for field in fields(self)}
        if self.scoring == "exact":
            del plan["n_test_tasks"], plan["n_test_rows"]
        return {"engine": _ENGINE, **plan}
