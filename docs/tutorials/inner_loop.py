"""
The inner loop: when is a negative rate best?
=============================================

**The answer first.** A negative inner rate in training helps where support rows are not scored, noise is large beside
the differences between tasks, and features are not strongly correlated. On this page it gains 4 to 10 %. Score every
row and the best rate is positive; add a penalty and the sign depends. On a single training set it may lose even so.

Losses on this page are half mean squared errors of new tasks, label noise included.
"""

# %%
# The paper's finding
# -------------------
# MAML takes a gradient step inside each training task. `Bernacchia (2021) <https://arxiv.org/abs/2102.00940>`_ found
# that in linear models the best rate of that step can be negative. Here are tasks like the paper's: 60 features,
# three training tasks of 30 support rows, which the step sees, and 2 query rows, which score it. A new task adapts on
# 20 rows.

from functools import partial

import matplotlib.pyplot as plt
import numpy as np

import innerloop as il
from innerloop.theory import turning_noise

dist = il.MixedLinearRegression(n_features=60, noise_std=1.0, task_std=0.5)
design = il.Design(n_tasks=3, n_support=30, n_query=2, n_adapt=20)
best = il.optimal_rates(dist, design)
print(f"best rates before any training: inner_lr {best.inner_lr:.2f}, adapt_lr {best.adapt_lr:.3f}")
print(f"expected loss {best.loss:.4f}, without an inner loop in training {best.loss_no_inner:.4f}")

# %%
# Dots are simulated trainings, each the exact minimiser of its meta-training loss; the line is theory. All rates share
# the draws of a run, so that differences between rates are known far better than the error bars say.

result = il.estimate_loss(dist, design, np.linspace(-2, 1, 13), best.adapt_lr, n_runs=200)
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
il.plot_simulation(result, ax, theory=partial(il.expected_loss, dist, design))
plt.show()

# %%
# Why it helps: what is scored
# ----------------------------
# A negative rate puts the support rows, which this protocol does not score, back into the objective. So let every row
# score its task: ``"deal"`` after adaptation on other rows, ``"train"`` after adaptation on all rows, itself included.
# The protocols have their minima on different sides of zero.

small = il.MixedLinearRegression(n_features=20, noise_std=1.0, task_std=0.5)
rates = np.linspace(-0.5, 0.3, 21)
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
styles = {"split": ("#0072B2", "-"), "deal": ("#E69F00", "--"), "train": ("#009E73", ":")}
for protocol, (colour, line) in styles.items():
    sizes = il.Design(n_tasks=15, n_support=10, n_query=10, protocol=protocol)
    loss = il.expected_loss(small, sizes, rates, 0.1)
    at = loss.argmin()
    ax.plot(rates, loss, line, color=colour, label=f"{protocol}: best near {rates[at]:.2f}")
    ax.plot(rates[at], loss[at], "o", color=colour)
ax.axvline(0, color="#666666", lw=0.6)
ax.set(xlabel="inner_lr", ylabel="expected loss of new tasks (half MSE)")
ax.legend(frameon=False)
plt.show()

# %%
# When the sign turns
# -------------------
# In the paper's protocol too it is no law. Where features are correlated, and what differs between tasks lies in the
# directions that vary most, the best rate near zero is positive below a certain noise. ``turning_noise`` is exact: 0
# means that a slightly negative rate helps at any noise.

eigenvalues = 1 / np.arange(1, 11)
eigenvalues *= 10 / eigenvalues.sum()
sizes = il.Design(n_tasks=20, n_support=10, n_query=5)
for name, covariance in (("unrelated features", np.ones(10)), ("correlated features", eigenvalues)):
    for spread in (0.5, 1.0, 2.0):
        tasks = np.full(10, spread / np.sqrt(10))
        turn = turning_noise(il.MixedLinearRegression(10, task_std=tasks, covariance=covariance), sizes)
        print(f"{name}, tasks that differ by {spread}: positive below a noise of {turn:.2f}")

# %%
# A penalty on the meta-parameters takes a part of the gain here.

centre = il.MixedLinearRegression(60, noise_std=1.0, task_std=0.5, mean=np.full(60, 0.25))
inner_lrs, adapt_lrs, lowest = np.linspace(-1.4, 0.4, 10), np.linspace(0.05, 0.25, 21), []
penalties = [0.0, 0.05, 0.1, 0.2, 0.4]
for l2 in penalties:
    sizes = il.Design(60, n_support=30, n_query=4, n_adapt=20, l2=l2)
    lowest.append(il.expected_loss(centre, sizes, inner_lrs[:, None], adapt_lrs).min(axis=1))
for count, title in ((1, "no penalty"), (len(penalties), "the best of five penalties for each rate")):
    loss = np.min(lowest[:count], axis=0)
    at, none = loss.argmin(), np.abs(inner_lrs).argmin()
    print(f"{title}: best inner_lr {inner_lrs[at]:.1f}, {1 - loss[at] / loss[none]:.1%} below no inner loop")

# %%
# Will it help on *your* training set?
# ------------------------------------
# The expected loss is a mean over training sets. On one training set the rate that is best on average may lose. The
# chance that it wins grows with the number of tasks.

for n_tasks in (1, 8):
    sizes = il.Design(n_tasks, n_support=30, n_query=2, n_adapt=20)
    chance = il.chance_of_improvement(dist, sizes, best.inner_lr)
    print(f"{n_tasks} training tasks: inner_lr {best.inner_lr:.2f} beats 0 on {chance:.0%} of training sets")

# %%
# Measure it
# ----------
# On a table, cross-validation decides. Rates of both signs are tried, whole groups are held out, and differences to
# ``inner_lr`` = 0 are paired. This table has 60 groups of 34 rows. The paper's protocol scores four rows of each,
# ``"deal"`` all of them: there the negative rate has nothing to gain, and the error is lower.

table = centre.sample_tasks(n_tasks=60, n_rows=34, seed=0)
fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for ax, (protocol, more) in zip(axes, {"split": {"n_query": 4}, "deal": {}}.items(), strict=True):
    model = il.MetaRegressor(adaptation="gradient", n_support=30, protocol=protocol, l2=0.0, **more)
    model.fit(table.X, table.y, groups=table.task_of_row)
    found = {name: values[model.cv_results_["mse"].argmin()] for name, values in model.cv_results_.items()}
    print(f"{protocol}: lowest at inner_lr {found['inner_lr']:.2f} ± {model.inner_lr_se_:.2f}, mse {found['mse']:.3f},")
    print(f"    {found['difference']:+.3f} ± {found['difference_se']:.3f} against inner_lr 0")
    il.plot_held_out(model, ax, against="inner_lr")
    ax.set_title(protocol)
plt.show()

# %%
# Selection remains in these differences, as the rate was chosen on the groups that score it. ``innerloop fit`` and
# ``il.study`` choose on other groups. :doc:`A census of real tables </census>` does so for every grouped table of two
# packages.
#
# Next: :doc:`research, in more depth </research>`, :doc:`does a negative rate help a network? </networks>`,
# :doc:`the derivations </theory>`.
