"""
Your network on your data
=========================

**The answer first.** Any ``torch.nn.Module`` is meta-trained as it is, on a table or on any source of tasks::

    trainer = MetaTrainer(net, tasks, il.Design(n_tasks=8, n_support=5, n_query=5), inner_lr=0.05)
    trainer.train(300)
    adapted = trainer.module_of(new_task)

``inner_lr`` may have any sign. Whether a negative one is worth anything is measured, not assumed.
"""

# %%
# Your data
# ---------
# A `TaskSet` holds rows, targets and the group of each row: here 80 machines, each with 20 readings of a curve whose
# height and place differ from machine to machine.

import tempfile

import matplotlib.pyplot as plt
import numpy as np
import torch

import innerloop as il
from innerloop.neural import MetaTrainer, TaskBatch, load_module, sweep

rng = np.random.default_rng(0)
machine = np.repeat(np.arange(80), 20)
load = rng.uniform(-2, 2, len(machine))
height, place = rng.uniform(0.5, 2.0, 80), rng.normal(0, 0.5, 80)
output = height[machine] * np.tanh(2 * (load - place[machine])) + rng.normal(0, 0.1, len(machine))
tasks = il.TaskSet.from_arrays(load[:, None], output, machine)

# %%
# Your network
# ------------
# A function that makes it, so that a sweep can make it anew. Nothing in it knows of tasks.


def make_network():
    return torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))


torch.manual_seed(0)
design = il.Design(n_tasks=8, n_support=5, n_query=10, n_adapt=5)
trainer = MetaTrainer(make_network(), tasks, design, inner_lr=0.1, adapt_lr=0.1)

# %%
# A fifth of the machines is kept for validation, a fifth for test. Train, and watch the error of the latter, after one
# gradient step on five rows of each.

iterations, losses = [0], [float(trainer.evaluate(16).mean())]
for n in range(40, 401, 40):
    trainer.train(n)  # up to iteration n
    iterations.append(n)
    losses.append(float(trainer.evaluate(16).mean()))
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.plot(iterations, losses, "o-", color="#0072B2")
ax.set(xlabel="iterations", ylabel="loss after one step (half MSE)", yscale="log")
plt.show()

# %%
# Which rate?
# -----------
# ``sweep`` trains at all rates together, from the same weights on the same tasks, and tests each with the adaptation
# rate that is best for it on validation machines. Differences to ``inner_lr`` = 0, no inner loop, are paired over
# seeds.

rates, adapt_rates = [-0.1, 0.0, 0.1, 0.3], [0.05, 0.1, 0.3]
result = sweep(make_network, tasks, design, rates, adapt_rates, n_seeds=3, n_iterations=150, n_validation=16, n_test=16)
print(result[["difference", "difference_stderr", "adapt_lr"]].to_dataframe().round(4))
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
il.plot_sweep(result, ax, difference=True)
plt.show()

# %%
# A difference within two standard errors of 0 decides nothing, and so it is with most rates here: what pays on these
# data is adaptation, not the inner loop in training. :doc:`Does a negative rate help a network? </networks>` has a
# problem where it does, and two where only positive rates do.
#
# A rate may also be a mapping from layers to numbers, a list with one entry per step, and learned across zero with
# ``learn_inner_lr=True``: :doc:`how to </howto>`.

# %%
# A new machine
# -------------
# Five readings are known. ``module_of`` returns an ordinary module, adapted to them; further steps help.

readings = np.array([[-1.5], [-0.5], [0.2], [0.8], [1.6]])
known = 1.5 * np.tanh(2 * (readings[:, 0] - 0.4))
grid = np.linspace(-2, 2, 81)[:, None]
batch = TaskBatch.from_episodes(il.Episodes([(readings, known, grid, np.zeros(81))])).to(dtype=torch.float32)
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.plot(grid[:, 0], 1.5 * np.tanh(2 * (grid[:, 0] - 0.4)), color="#666666", lw=1, label="the machine")
for n_steps, colour, line in ((0, "#E69F00", ":"), (1, "#56B4E9", "--"), (10, "#0072B2", "-")):
    network = trainer.module_of(batch, n_steps=n_steps)
    with torch.no_grad():
        curve = network(torch.tensor(grid, dtype=torch.float32))[:, 0]
    ax.plot(grid[:, 0], curve.numpy(), line, color=colour, label=f"after {n_steps} steps")
ax.plot(readings[:, 0], known, "o", color="#D55E00", label="its five readings")
ax.set(xlabel="load", ylabel="output")
ax.legend(frameon=False)
plt.show()

# %%
# Keep it
# -------
# A checkpoint has no pickle. ``load_module`` fills a network with the start that was learned, and training goes on from
# the folder with the same bits.

folder = tempfile.mkdtemp()
trainer.save(folder)
again = load_module(folder, make_network())
print(type(again).__name__, sum(p.numel() for p in again.parameters()), "parameters")

# %%
# Is it worth it at all? On a table, compare with what needs no network: ``il.study(tasks)`` scores ridges, curves and
# pooled models on the same kind of new group.
#
# Next: :doc:`PyTorch networks </pytorch>`: images, classes, algorithms, batch normalisation, long runs.
