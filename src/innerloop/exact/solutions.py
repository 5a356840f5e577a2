"""What exact meta-training returns: minimisers of the meta-training loss, with their rank, condition and status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, final

from numpy.typing import NDArray

from innerloop._base.checks import FloatArray, IntArray

Status = Literal["unique", "nearest", "deficient"]

# Above this condition number fewer than about 6 of 16 digits are correct, and the user is told.
POOR_CONDITION = 1e10


@final
@dataclass(frozen=True, eq=False)
class MetaSolution:
    """The exact minimiser of the meta-training loss at one inner rate.

    Parameters
    ----------
    inner_lr
        The inner learning rate during meta-training.
    l2
        The penalty.
    coef : (n_features,) or (n_features, n_targets)
        Meta-parameters.
    loss
        Meta-training loss there: half the mean squared query error, without the penalty; 0 where the error is no more
        than what rounding leaves of an exact fit.
    rank
        Rank of B at this rate, with columns scaled to unit length; n_features where l2 > 0.
    condition
        Condition number (1-norm estimate) of that scaled matrix, ridge rows included. Where `solve_path` solves many
        rates of many features together and query rows are fewer: of ``[B sqrt(N l2)]`` with its rows scaled instead.
    status
        "unique": B has full column rank, or l2 > 0. "nearest": it has not (fewer query rows than features, say), all
        query rows are fitted exactly, and of all such solutions this one is nearest to `init`. "deficient":
        columns of B depend on each other; of all minimisers this one is nearest to `init`.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(5).sample_tasks(n_tasks=20, n_rows=8, seed=0)
    >>> solution = il.solve(il.MetaObjective.from_tasks(tasks, n_support=4), inner_lr=-0.1)
    >>> solution.rank, solution.status
    (5, 'unique')
    """

    inner_lr: float
    l2: float
    coef: FloatArray
    loss: float
    rank: int
    condition: float
    status: Status


@final
@dataclass(frozen=True, eq=False)
class MetaPath:
    """The exact minimisers at many inner rates: `MetaSolution` field by field, one entry per rate.

    Every field but `coef` has the shape of ``inner_lr`` broadcast with ``l2``; `coef` has the shape of one
    solution's coefficients after it: (n_rates, n_features) for a list of rates and one target.

    Examples
    --------
    >>> import innerloop as il
    >>> tasks = il.MixedLinearRegression(5).sample_tasks(n_tasks=20, n_rows=8, seed=0)
    >>> path = il.solve_path(il.MetaObjective.from_tasks(tasks, n_support=4), [-0.1, 0.0, 0.1])
    >>> path.coef.shape
    (3, 5)
    >>> path[1].inner_lr, path[1].status
    (0.0, 'unique')
    """

    inner_lr: FloatArray
    l2: FloatArray
    coef: FloatArray = field(repr=False)
    loss: FloatArray
    rank: IntArray
    condition: FloatArray
    status: NDArray[Any]

    def __len__(self) -> int:
        return len(self.loss)

    def __getitem__(self, index: int | tuple[int, ...]) -> MetaSolution:
        """Return the solution at one place of the path."""
        if self.loss[index].ndim:
            raise IndexError(f"`index` must name one solution of a path of shape {self.loss.shape}.")
        return MetaSolution(
            float(self.inner_lr[index]),
            float(self.l2[index]),
            self.coef[index],
            float(self.loss[index]),
            int(self.rank[index]),
            float(self.condition[index]),
            self.status[index],
        )

    def poorly_determined(self) -> str | None:
        """Return a sentence on the first rate whose coefficients are arbitrary or have few correct digits, or None."""
        deficient = self.status == "deficient"
        poor = ~deficient & (self.condition > POOR_CONDITION)
        if deficient.any():
            rate, rank = self.inner_lr[deficient][0], self.rank[deficient][0]
            n_features = self.coef.shape[self.inner_lr.ndim]
            return (
                f"at inner_lr={rate:g} the columns of the meta-training problem depend on each other (rank {rank} of "
                f"{n_features}): usually a constant or repeated feature, or dummies that sum to a constant. Of all "
                "minimisers the one nearest to `init` is returned; drop a column or set `l2` > 0."
            )
        if poor.any():
            rate, condition = self.inner_lr[poor][0], self.condition[poor][0]
            return (
                f"at inner_lr={rate:g} the meta-training problem has condition number {condition:.1e}: coefficients "
                "have few correct digits. Usually features that are nearly a sum of others; drop one or set "
                "`l2` > 0."
            )
        return None
