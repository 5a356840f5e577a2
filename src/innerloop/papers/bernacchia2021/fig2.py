"""Figure 2: fewer query rows than features (N = 6, p = 60)."""

from innerloop.distributions import Design, MixedLinearRegression
from innerloop.papers.bernacchia2021.linear import LinearFigure, Panel

FIGURE = LinearFigure(
    MixedLinearRegression(n_features=60, noise_std=1.0, task_std=0.5),
    Design(n_tasks=3, n_support=30, n_query=2, n_adapt=20),
    {
        "a": Panel("adapt_lr", -0.1, 0.5, n_dots=13, fixed=0.2, n_runs=100),
        "b": Panel("inner_lr", -2.0, 2.0, n_dots=21, fixed=0.2, n_runs=1000),
    },
    "Figure 2 of Bernacchia (2021): 3 tasks of 30 + 2 rows, 60 features, noise 1, task spread 0.5, 20 rows to adapt "
    "on. A run is scored on 100 new tasks of 50 rows, at all rates, so that neighbouring dots err together.",
)
compute, draw = FIGURE.compute, FIGURE.draw
