"""
A table of groups: from a CSV file to a new group
=================================================

**The answer first.** Three lines take a CSV file to a model that predicts a new group from its first few rows, with
intervals, and that says whether a simpler way does as well::

    tasks = il.TaskSet.from_table(pd.read_csv("patients.csv"), group="patient", target="pressure")
    study = il.study(tasks, il.MetaRegressor(group="patient"))
    new = study.model.adapt(first_rows, their_targets)

This page goes through them one by one.
"""

# %%
# The table
# ---------
# One row per observation, a column that names the group, a numeric target. The other columns may be of any kind. So
# that this page needs no download it writes its own file: 40 patients, each measured 10 times. Put your file in its
# place.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import innerloop as il

rng = np.random.default_rng(0)
n_patients, n_visits = 40, 10
patient = np.repeat(np.arange(n_patients), n_visits)
dose = rng.uniform(0, 10, len(patient)).round(1)
weight = np.repeat(rng.normal(75, 12, n_patients), n_visits).round(0)
clinic = np.repeat(rng.choice(["north", "south"], n_patients), n_visits)
level, slope = rng.normal(150, 8, n_patients), rng.normal(-2.0, 0.8, n_patients)
pressure = level[patient] + slope[patient] * dose + 0.2 * (weight - 75) + rng.normal(0, 4, len(patient))

folder = Path(tempfile.mkdtemp())
columns = {"patient": patient, "dose": dose, "weight": weight, "clinic": clinic, "pressure": pressure.round(1)}
written = pd.DataFrame(columns)
written.loc[::50, "weight"] = np.nan  # some cells are empty, as in most files
written["patient"] = "p" + written["patient"].astype(str)
written.to_csv(folder / "patients.csv", index=False)

frame = pd.read_csv(folder / "patients.csv")
print(frame.head())

# %%
# Read it
# -------
# A group is also called a *task*. The column ``clinic`` becomes numbers, an empty cell becomes the median with a column
# that says where; ``notes`` says what was done.

tasks = il.TaskSet.from_table(frame, group="patient", target="pressure")
print(tasks.n_tasks, "patients,", tasks.n_rows, "rows, features", tasks.feature_names)
print(*tasks.column_map.notes, sep="\n")

# %%
# Is it worth it?
# ---------------
# ``il.study`` hides whole patients, lets each adapt on a few of its rows, and scores the others. It does so for the
# model and for simpler ways. The verdict names the best, and by how much. The model is told the column of the groups,
# so that it finds them in further tables.

study = il.study(tasks, il.MetaRegressor(group="patient"))
print(study.verdict)
print(study.methods[["method", "mse", "mse_se"]].round(1).to_string(index=False))

# %%
# The more rows a new patient has, the smaller the error. The picture is of patients that had no part in training.

fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
il.plot_learning_curves(study, ax)
plt.show()

# %%
# A new patient
# -------------
# Three visits are known. ``adapt`` returns a model that knows the patient; it changes neither the data nor the old
# model. Without rows, the patient would be predicted as the population.

model = study.model
first = pd.DataFrame({"patient": "new", "dose": [1.0, 4.0, 7.0], "weight": 80.0, "clinic": "north"})
measured = [163.0, 158.0, 160.0]
new = model.adapt(first, measured)

ahead = pd.DataFrame({"patient": "new", "dose": np.linspace(0, 10, 41), "weight": 80.0, "clinic": "north"})
predicted = new.predict(ahead)
low, high = new.predict_interval(ahead, level=0.9)
population = model.predict(ahead)
print(f"at dose 10: {predicted[-1]:.0f}, 90 % interval {low[-1]:.0f} to {high[-1]:.0f}")

# %%
# The dashed line is what the population says; the three visits bend it.

fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.fill_between(ahead["dose"], low, high, color="#0072B2", alpha=0.2, lw=0, label="90 % interval")
ax.plot(ahead["dose"], predicted, color="#0072B2", label="the new patient")
ax.plot(ahead["dose"], population, "--", color="#666666", label="the population")
ax.plot(first["dose"], measured, "o", color="#D55E00", label="its three visits")
ax.set(xlabel="dose", ylabel="pressure")
ax.legend(frameon=False)
plt.show()

# %%
# Do the intervals hold?
# ----------------------
# They are calibrated on patients that were held out. The picture shows the share of held-out rows inside intervals of
# each level: on the diagonal they hold.

fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
il.plot_coverage(study.coverage(), ax)
plt.show()

# %%
# Keep it
# -------
# The folder holds plain JSON and arrays, with checksums. ``forget_groups=True`` leaves out what is known of single
# patients.

il.save_model(model, folder / "model", forget_groups=True)
print(il.load_model(folder / "model").predict(ahead[:2]))

# %%
# The same by two commands::
#
#     innerloop fit patients.csv --group patient --target pressure --out model/ --report report.html
#     innerloop predict model/ new.csv --level 0.9 > predictions.csv
#
# Next: :doc:`all about tables </tables>`, :doc:`when not to use this </when_not>`, and :doc:`how to </howto>` do one
# thing at a time.
