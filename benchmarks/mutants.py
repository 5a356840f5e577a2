"""Change the code in small ways and see whether tests notice: python benchmarks/mutants.py [N] [--out FILE].

Each change replaces a text that occurs once in a file, and names the tests that should fail; only these are run, in a
copy of the project, first without a change. N of the changes are tried, drawn with seed 0; all unless given.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Loaded once, before any change is tried.
_PACKAGES = (
    *("numpy", "scipy.optimize", "scipy.stats", "scipy.linalg", "sklearn.preprocessing", "sklearn.linear_model"),
    *("sklearn.base", "sklearn.model_selection", "pandas", "xarray", "narwhals", "pyarrow.parquet"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "torch", "joblib", "filelock", "rich", "cyclopts"),
)


class Mutant(NamedTuple):
    """A change: a file of src/innerloop, a text in it, what replaces it, and the tests that should notice."""

    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        "data/frames.py", "if differ.any():", "if differ.all():", "test_meta_regressor_sklearn.py -k refused_everywhere"
    ),
    Mutant("data/shuffle.py", "np.sign(product) * rank)", "rank)", "test_invariance.py -k signs"),
    Mutant(
        "data/shuffle.py",
        "return hashed.sum(axis=1, keepdims=True, where=real), place",
        "return 0 * place[:, :1], place",
        "test_tasks.py",
    ),
    Mutant(
        "data/row_blocks.py",
        'np.linalg.qr(_padded(tasks, members), mode="r"))[place]',
        "_padded(tasks, members))[place]",
        "test_storage.py -k rows_in_a_folder",
    ),
    Mutant(
        "tabular/training.py", "scaling.tasks(tasks).nameless()", "scaling.tasks(tasks)", "test_invariance.py -k names"
    ),
    Mutant("tabular/training.py", "replace(self.rows, ids=training.ids)", "self.rows", "test_invariance.py -k names"),
    Mutant(
        "tabular/fitted_table.py",
        "replace(self, known=KnownGroups.none(*self.predictor.unseen.shape), counted=None)",
        "self",
        "test_storage.py -k forgets",
    ),
    Mutant("_base/sealed_folder.py", "if keep_previous:\n", "if True:\n", "test_storage.py -k forgets"),
    Mutant(
        "_base/sealed_folder.py",
        "kept = {MANIFEST, *_names(manifest)}",
        "kept = {MANIFEST}",
        "test_storage.py -k details",
    ),
    Mutant("_base/sealed_folder.py", '!= entry["sha256"]:', "== name:", "test_storage.py -k flipped"),
    Mutant("_base/files.py", "file.flush()", "pass", "test_storage.py -k synchronised"),
    Mutant("_base/files.py", "os.chmod(temporary, stat", "oct(stat", "test_storage.py -k permissions"),
    Mutant("cli/predict.py", "and not _NUMBER.fullmatch(group)", "", "test_cli_predict.py -k formula"),
    Mutant("cli/predict.py", "[=+\\-@", "[=+@", "test_cli_predict.py -k formula"),
    Mutant("cli/__init__.py", "143 if isinstance(stop, _Terminated) else 130", "130", "test_cli_ends.py -k go_on"),
    Mutant("cli/fit.py", "forget_groups=forget_groups)", "forget_groups=False)", "test_cli_predict.py -k forgot"),
    Mutant("plots/style.py", "parse_math=False", "parse_math=True", "test_plotting.py -k any_name"),
    Mutant("report/pictures.py", """, 'href="#'):""", "):", "test_report.py -k links_within"),
    Mutant("report/page.html", "default-src 'none'", "default-src *", "test_report.py -k policy"),
    Mutant(
        "adaptation/predictor.py",
        "np.log1p(n_rows), np.log1p(self.n_rows)",
        "n_rows, self.n_rows",
        "test_adapting.py -k logarithm",
    ),
    Mutant("tabular/stacking.py", "_PRIOR_TASKS = 3", "_PRIOR_TASKS = 300", "test_stacking.py"),
    Mutant(
        "tabular/intervals.py",
        "within = np.minimum(LEVELS, n / (n + 1))",
        "within = np.minimum(LEVELS, n / (n + 2))",
        "test_intervals.py -m 'not slow'",
    ),
    Mutant("tabular/folds.py", "return float(np.median(", "return float(np.mean(", "test_choice.py -k natural_rate"),
    Mutant(
        "evaluation/_nested.py",
        "_errors(scored, chosen, rest, unseen",
        "_errors(scored, chosen, unseen, unseen",
        "test_evaluation.py",
    ),
    Mutant(
        "evaluation/rate_slices.py",
        "2 * standard_errors(self.per_task)",
        "9 * standard_errors(self.per_task)",
        "test_report.py -k two_standard_errors",
    ),
    Mutant(
        "cli/_tables.py",
        "tasks.select(tasks.sizes >= min_rows)",
        "tasks.select(tasks.sizes > min_rows)",
        "test_cli.py -k min_rows",
    ),
    Mutant(
        "data/tasks.py", "n_folds = np.maximum(np.rint(sizes", "n_folds = np.maximum(np.floor(sizes", "test_tasks.py"
    ),
    Mutant(
        "_blocks/pool.py",
        "if (arrays := store.read(block)) is None:\n            return True",
        "if True:\n            return True",
        "test_simulation_store.py -k between_the_looks",
    ),
    Mutant(
        "_blocks/pool.py",
        "sorted(done, key=_has_failed)",
        "sorted(done, key=_has_failed, reverse=True)",
        "test_simulation_store.py -k died_is_kept",
    ),
    Mutant(
        "_blocks/store.py",
        "lock = self._locks.pop(block)\n",
        "lock = self._locks.pop(block)\n            lock.release()\n",
        "test_simulation_store.py -k given_up",
    ),
    Mutant(
        "_blocks/store.py",
        'with FileLock(self._folder / _LOCKS / "plan.lock"):',
        "if FileLock:",
        "test_simulation_store.py -k lock_is_held",
    ),
    Mutant(
        "simulation/sampled.py",
        "int(self.design.adapt_steps))",
        "int(self.design.n_steps))",
        "test_simulation.py -k of_its_stream",
    ),
    Mutant(
        "simulation/run.py",
        "_QUANTILES = (0.05, 0.95)",
        "_QUANTILES = (0.025, 0.975)",
        "test_simulation.py -k of_its_stream",
    ),
    Mutant(
        "theory/deterministic.py",
        "field.group.n_query - p - finite",
        "field.group.n_query - p",
        "test_theory_small.py -k one_task",
    ),
    Mutant(
        "theory/anchors.py",
        "(n_rows * n_features - 2)",
        "(n_rows * n_features)",
        "test_theory_small.py -k pooled_regression",
    ),
    Mutant(
        "theory/anchors.py",
        "(p - n_query - 1) / (p - n_rows - 1)",
        "(p - n_query) / (p - n_rows)",
        "test_theory_expected.py -k task_parts",
    ),
    Mutant(
        "theory/anchors.py", "product += 2 / n_rows", "product += 0 / n_rows", "test_theory_small.py -k pooled_ridge"
    ),
    Mutant(
        "theory/adapting.py",
        "GAUSSIAN_FOURTH_MOMENT) * s**3\n    if",
        "GAUSSIAN_FOURTH_MOMENT) * s**2\n    if",
        "test_theory_small.py -k any_fourth",
    ),
    Mutant(
        "theory/adapting.py", "self.noise * (1 + passed)", "self.noise * passed", "test_theory_reference.py -k figure"
    ),
    Mutant(
        "theory/covariance.py",
        "sizes = replace(design, l2=design.l2 / scale)",
        "sizes = design",
        "test_theory_small.py -k units",
    ),
    Mutant("theory/leading.py", "dist.fourth_moment - 2", "1", "test_theory_small.py -k leading"),
    Mutant(
        "theory/optimum.py",
        "self._loss(np.array(rate), self.error(rate, l2))",
        "self._loss(np.array(rate), self.error(0.0, l2))",
        "test_theory_small.py -k best_rates",
    ),
    Mutant(
        "theory/sign.py",
        "float(steps * every.mean() *",
        "float(0.5 * every.mean() *",
        "test_theory_expected.py -k slope_at_zero",
    ),
    Mutant("theory/covariance.py", "if size > contraction * last:", "if False:", "test_theory_limits.py -k way_to_it"),
    Mutant(
        "theory/sign.py", "return float(brentq(slope,", "return float(upper + 0 * brentq(slope,", "test_theory_sign.py"
    ),
    Mutant("theory/bounds.py", "p * g / shrunk**2", "p * g / shrunk", "test_theory_bounds.py"),
    Mutant(
        "theory/sign.py",
        "float(np.sqrt(max(from_tasks, 0.0) / from_noise))",
        "float(max(from_tasks, 0.0) / from_noise)",
        "test_theory_sign.py -k slope_turns",
    ),
    Mutant(
        "theory/expected.py",
        "if choice.accuracy > _WARNED_ERROR and",
        "if choice.accuracy > 1 and",
        "test_theory_expected.py -k says_so",
    ),
    Mutant(
        "theory/protocols.py",
        "float(log_scale[0]) + 2 * np.log(abs(factor))",
        "float(log_scale[0])",
        "test_theory_protocols.py -k leave",
    ),
    Mutant("theory/wishart.py", "total += 2 * other *", "total += other *", "test_theory_wishart.py"),
    Mutant(
        "theory/row_law.py",
        "self._dist.noise_std**2 * noise + tasks",
        "noise + tasks",
        "test_theory_small.py -k target",
    ),
    Mutant(
        "exact/objective.py", "_EXACT_FIT = 1e-10", "_EXACT_FIT = 1e-2", "test_exact_rationals.py -k repeated_column"
    ),
    Mutant("exact/_least_squares.py", "ROUNDING = 8 *", "ROUNDING = 8e4 *", "test_exact_rationals.py -k nearly"),
    Mutant("exact/kernel.py", "c[j] * scale * P[j - 1]", "c[j] * P[j - 1]", "test_exact_rationals.py -k one_step"),
    Mutant(
        "exact/kernel.py",
        "np.square(scale * np.tensordot",
        "np.square(np.tensordot",
        "test_exact_rationals.py -k one_step",
    ),
    Mutant(
        "exact/_factor.py", "_LARGEST_QUOTIENT = 1e4", "_LARGEST_QUOTIENT = 1e9", "test_exact_rationals.py -k early"
    ),
    Mutant(
        "exact/objective.py",
        "(-rate / larger) ** j",
        "(rate / larger) ** j",
        "test_exact_rationals.py -k exact_minimiser",
    ),
    Mutant("exact/objective.py", "np.sqrt(w) * self.factor", "w * self.factor", "test_objective.py -m 'not slow'"),
    Mutant(
        "exact/objective.py",
        "/ (2 * self.weight * self.n_targets)",
        "/ (2 * self.weight)",
        "test_objective.py -m 'not slow'",
    ),
    Mutant("exact/query_loss.py", "(1 + (i < j)) *", "", "test_choice.py -k loop"),
    Mutant(
        "exact/solve.py", "ridge = np.sqrt(objective.weight * l2s)", "ridge = np.sqrt(l2s)", "test_choice.py -k loop"
    ),
    Mutant("exact/meta_sgd.py", "system[p, p] = weight.sum()", "system[p, p] = p", "test_meta_sgd.py -k best_rates"),
    Mutant(
        "data/tasks.py",
        "self.starts[:-1] + support, query)], query",
        "self.starts[:-1], query)], query",
        "test_tasks.py -m 'not slow'",
    ),
    Mutant(
        "data/tasks.py",
        "ragged_ranges(first + n_support, n_query)",
        "ragged_ranges(first, n_query)",
        "test_curves.py -k in_order",
    ),
    Mutant(
        "data/tasks.py",
        "offset = ragged_ranges(end, support[task])",
        "offset = ragged_ranges(first, support[task])",
        "test_tasks.py -m 'not slow'",
    ),
    Mutant("data/ids.py", "np.where(known[near] == ids, near, -1)", "near", "test_ids.py -k places"),
    Mutant("data/ids.py", "bool(labels.max() <= _INT64.max)", "True", "test_ids.py -m 'not slow'"),
    Mutant(
        "data/scaling.py",
        "theta = theta / self.y_rate",
        "theta = theta * self.y_rate",
        "test_meta_regressor.py -m 'not slow'",
    ),
    Mutant("data/curves.py", 'extrapolation="linear"', 'extrapolation="constant"', "test_curves.py -k beyond"),
    Mutant(
        "data/table_files.py",
        "page_checksum_verification=True",
        "page_checksum_verification=False",
        "test_tables.py -k page_with_a_checksum",
    ),
    Mutant(
        "distributions/design.py",
        'group.n_query if self.protocol == "split" else group.n_support + group.n_query',
        "group.n_query",
        "test_theory_protocols.py -m 'not slow'",
    ),
    Mutant(
        "distributions/mixed_linear.py",
        "np.full(self.n_features, spread**2 / self.n_features)",
        "np.full(self.n_features, spread**2)",
        "test_distributions.py -k spread",
    ),
    Mutant(
        "distributions/mixed_linear.py",
        "np.sqrt((self.row_dof - 2) /",
        "np.sqrt(self.row_dof /",
        "test_theory_rows.py -k second_moments",
    ),
    Mutant(
        "distributions/resampled.py", "np.delete(free, fits[0])", "free", "test_distributions_nonlinear.py -k resampled"
    ),
    Mutant(
        "distributions/resampled.py",
        "uniform_of_ids(self.tasks.ids, seed)",
        "uniform_of_ids(np.arange(len(self.tasks)), seed)",
        "test_neural_sources.py -m 'not slow'",
    ),
    Mutant(
        "simulation/run.py",
        '"difference_stderr": standard_errors(differences)',
        '"difference_stderr": standard_errors(losses)',
        "test_simulation.py -k pair",
    ),
    Mutant(
        "simulation/run.py",
        "(_relative_errors(losses) <= rel_error).all()",
        "(_relative_errors(losses) <= rel_error).any()",
        "test_simulation.py -k precision_is_reached",
    ),
    Mutant(
        "simulation/sampled.py",
        "stream(seed, run)) for run in runs",
        "stream(seed, runs[0])) for run in runs",
        "test_simulation_store.py -k block",
    ),
    Mutant("simulation/conditional.py", 'float(design.protocol == "split")', "0.0", "test_simulation.py -m 'not slow'"),
    Mutant(
        "simulation/plan.py",
        "for field in fields(self)}",
        'for field in fields(self) if field.name != "seed"}',
        "test_simulation_store.py -m 'not slow'",
    ),
    Mutant(
        "adaptation/predictor.py",
        "np.square(f - mean)",
        "0 * np.square(f - mean)",
        "test_adapting.py -k disagree",
    ),
    Mutant(
        "adaptation/random_effects.py",
        "chosen[stream(seed, Stream.VARIANCE_SAMPLE).permutation(len(chosen))]",
        "chosen",
        "test_random_effects.py -k very_many",
    ),
    Mutant("adaptation/rules.py", "W = W + step - step @ (X @ W)", "W = W + step", "test_random_effects.py -k gains"),
    Mutant(
        "adaptation/scale_mixture.py",
        "n_rows[:, None, None] * np.log(_ALPHA)",
        "np.log(_ALPHA)",
        "test_scale_mixture.py -m 'not slow'",
    ),
    Mutant(
        "tabular/kinds.py",
        "RateObjective.of(episodes, coef)(rates)",
        "RateObjective.of(part.gradient[0], coef)(rates)",
        "test_meta_sgd.py -k shrunk_to_one",
    ),
    Mutant(
        "tabular/population_sums.py",
        "totals = self.totals - parts[0] + parts[1]",
        "totals = self.totals + parts[1]",
        "test_population_update.py -k take_the_place",
    ),
    Mutant(
        "tabular/fitted_table.py",
        "known=table.known.readapted(table.predictor.adapt)",
        "known=table.known",
        "test_population_update.py -k same_choices",
    ),
    Mutant(
        "tabular/joining.py",
        "totals -= flat_sums(self.covariances, before)",
        "totals -= 0",
        "test_dataset_update.py -k that_in_memory",
    ),
    Mutant(
        "tabular/known_groups.py",
        "replace(rows, ids=ids).select(order)",
        "replace(rows, ids=ids[order])",
        "test_adapting.py -k which_others",
    ),
    Mutant(
        "tabular/adaptation_choice.py",
        "effects.new_task_cov for effects in models",
        "effects.task_cov for effects in models",
        "test_adapting.py -k how_well",
    ),
    Mutant("tabular/rate_choice.py", "return gain <= error", "return gain <= 3 * error", "test_choice.py -k richer"),
    Mutant(
        "tabular/rate_choice.py",
        "mean_and_error(other.mse - self.mse)",
        "float((other.mse - self.mse).mean()), mean_and_error(other.mse)[1]",
        "test_choice.py -k paired_over_tasks",
    ),
    Mutant("tabular/folds.py", "if other is not held_out]", "if other is not None]", "test_no_leak.py -k each_fold"),
    Mutant(
        "tabular/folds.py",
        "self.episodes.select(self.fold != f) if",
        "self.episodes if",
        "test_no_leak.py -k candidates",
    ),
    Mutant("tabular/comparison.py", "fold != f if fold.any() else None", "None", "test_no_leak.py -k candidates"),
    Mutant(
        "tabular/comparison.py", "tasks.shuffled(seed + split)", "tasks.shuffled(seed)", "test_no_leak.py -k candidates"
    ),
    Mutant(
        "tabular/intervals.py",
        "weight = 1 / np.bincount(task)[task]",
        "weight = np.ones(len(task))",
        "test_intervals.py -k count_alike",
    ),
    Mutant("tabular/effects.py", "unit**2 * B @ cov", "unit * B @ cov", "test_effects.py -k units_of_the_data"),
    Mutant(
        "estimators/meta_regressor.py",
        "self._table.places(ids)[task]",
        "self._table.places(ids)[task * 0]",
        "test_meta_regressor.py -m 'not slow'",
    ),
    Mutant(
        "evaluation/_nested.py",
        "episodes_by_size(scaled, sizes[1:]",
        "episodes_by_size(scaled_unseen, sizes[1:]",
        "test_no_leak.py -k methods_choose",
    ),
    Mutant(
        "evaluation/_nested.py",
        "shares_inside(model, unseen, sizes)",
        "shares_inside(trained, unseen, sizes)",
        "test_no_leak.py -k prepared_without",
    ),
    Mutant(
        "evaluation/other_packages.py",
        "*mean_and_error(gap)",
        "float(gap.mean()), mean_and_error(errors)[1]",
        "test_comparison.py -k paired",
    ),
    Mutant(
        "evaluation/other_packages.py",
        "tasks.select(np.sort(order[:n_train])).fit_columns()",
        "tasks.fit_columns()",
        "test_comparison.py -m 'not slow'",
    ),
    Mutant(
        "evaluation/calibrated_model.py",
        "narrowed = float(np.sqrt(n_drawn / len(tasks)))",
        "narrowed = 1.0",
        "test_calibration.py -k as_narrow",
    ),
    Mutant(
        "evaluation/calibrated_model.py", "_HALF_WIDTH = 1.645", "_HALF_WIDTH = 1.96", "test_calibration.py -k normal"
    ),
    Mutant("evaluation/advice.py", "tasks=0.5, rows=2)", "tasks=2, rows=0.5)", "test_advising.py -k words"),
    Mutant(
        "evaluation/_verdict.py",
        "alone.excess < -2 * alone.excess_se",
        "alone.excess < -alone.excess_se",
        "test_evaluation.py -k verdict",
    ),
    Mutant(
        "evaluation/_verdict.py",
        "score.excess < -2 * score.excess_se",
        "score.excess < -score.excess_se",
        "test_evaluation.py -k verdict",
    ),
    Mutant(
        "evaluation/_verdict.py",
        "by_method[POOLED].excess <= by_method[POOLED].excess_se",
        "by_method[POOLED].excess <= 2 * by_method[POOLED].excess_se",
        "test_evaluation.py -k verdict",
    ),
    Mutant(
        "evaluation/scores.py",
        "*mean_and_error(mse - first)",
        "float((mse - first).mean()), mean_and_error(mse)[1]",
        "test_evaluation.py -k methods_summarise",
    ),
    Mutant("evaluation/summary.py", "float(np.sqrt(errors[i]))", "float(errors[i])", "test_numbers_shown.py -k worst"),
    Mutant("report/page.html", "first.mse ** 0.5", "first.mse", "test_report.py -k root"),
    Mutant("report/page.py", "order[::-1][:n]", "order[:n]", "test_numbers_shown.py -k worst"),
    Mutant(
        "plots/held_out.py",
        'cubes["mse"].argmin(axis=1, keepdims=True)',
        '0 * cubes["mse"].argmin(axis=1, keepdims=True)',
        "test_plotting.py -k over_the_penalties",
    ),
    Mutant(
        "plots/simulation.py",
        'series["stderr"].values,',
        '1.96 * series["stderr"].values,',
        "test_plotting.py -k dots_are",
    ),
    Mutant(
        "plots/sweep.py",
        'if difference else (score, f"{prefix}stderr")',
        'if difference else (score, f"{prefix}difference_stderr")',
        "test_numbers_shown.py -k sweep",
    ),
    Mutant(
        "plots/table.py",
        "losses.mse, losses.difference_se",
        "losses.mse, 2 * losses.difference_se",
        "test_numbers_shown.py -k slice",
    ),
    Mutant(
        "plots/theory.py",
        "100 * (result.loss / best.loss - 1)",
        "100 * (result.loss / best.loss_no_inner - 1)",
        "test_numbers_shown.py -k percent",
    ),
    Mutant(
        "cli/simulate.py",
        "'below' if gap < 0 else 'above'",
        "'above' if gap < 0 else 'below'",
        "test_cli_simulate.py -k estimate_beside",
    ),
    Mutant(
        "cli/simulate.py",
        "init=init,\n        scoring",
        "init=None,\n        scoring",
        "test_cli_simulate.py -k start_of_training",
    ),
    Mutant(
        "cli/predict.py",
        'columns["lower"], columns["upper"] = interval',
        'columns["upper"], columns["lower"] = interval',
        "test_cli_predict.py -k interval",
    ),
    Mutant("cli/predict.py", "np.flatnonzero(rows) + 1", "np.flatnonzero(rows)", "test_cli_predict.py -k interval"),
    Mutant(
        "cli/theory.py",
        "100 * (loss / best.loss - 1)",
        "100 * (1 - best.loss / loss)",
        "test_numbers_shown.py -k table_of_a_design",
    ),
    Mutant("cli/fit.py", "random_state=seed,", "random_state=0,", "test_cli.py -k options_reach"),
    Mutant(
        "neural/sweep.py",
        'arrays["validation"].mean(axis=0)',
        'arrays["test"].mean(axis=0)',
        "test_neural_sweep.py -k validation_losses",
    ),
    Mutant(
        "neural/sweep.py", "standard_errors(difference))", "standard_errors(values))", "test_neural_sweep.py -k paired"
    ),
    Mutant(
        "neural/fewshot/problems.py",
        "adapt_lr=rate, stage=VALIDATION)",
        "adapt_lr=rate, stage=TEST)",
        "test_fewshot.py -k adaptation_rate",
    ),
    Mutant(
        "neural/sources.py",
        "stream(self.seed, *index)",
        "stream(self.seed, *index[:2])",
        "test_neural_sources.py -k every_number",
    ),
    Mutant(
        "neural/sources.py",
        "stage == TRAINING else self.design.n_adapt",
        "stage == TRAINING else self.design.groups[-1].n_support",
        "test_neural_sweep.py -k each_stage",
    ),
    Mutant("neural/rates.py", "max(keys, key=len)", "keys[-1]", "test_neural_gradients.py -k longest_name"),
    Mutant(
        "neural/trainer.py",
        "if not torch.equal(tensor, state",
        "if False and not torch.equal(tensor, state",
        "test_neural_trainer.py -k inner_rate_alone",
    ),
    Mutant(
        "neural/scores.py",
        "mean, half = self.mean(), 1.96",
        "mean, half = self.mean(), 1.645",
        "test_neural_trainer.py -k mean_and_an_interval",
    ),
    Mutant(
        "papers/bernacchia2021/fig5.py",
        "predictions[len(losses) :]",
        "predictions[: len(losses)]",
        "test_reproduce_networks.py -k other_seeds",
    ),
    Mutant(
        "papers/bernacchia2021/linear.py",
        '100 * (arrays["theory"] / arrays["theory"][-1] - 1)',
        '100 * (arrays["theory"] / arrays["theory"][0] - 1)',
        "test_numbers_shown.py -k headlines",
    ),
    Mutant(
        "papers/bernacchia2021/signs.py",
        "s @ dist.task_variances / noise**2",
        "s @ dist.task_variances / noise",
        "test_numbers_shown.py -k boundary",
    ),
    Mutant(
        "papers/bernacchia2021/ratemap.py",
        "100 * (1 - best.loss / best.loss_no_inner)",
        "100 * (best.loss_no_inner / best.loss - 1)",
        "test_numbers_shown.py -k gains",
    ),
    Mutant(
        "_blocks/store.py",
        "if seal != _seal(archive):",
        "if len(seal) != _SEAL:",
        "test_simulation_store.py -k damaged",
    ),
    Mutant(
        "_blocks/store.py",
        'if stored["plan"] != plan:',
        'if stored["plan"].keys() != plan.keys():',
        "test_simulation_store.py -k plan",
    ),
    Mutant(
        "_blocks/fingerprint.py",
        '{"class": value.__qualname__, "bases"',
        '{"bases"',
        "test_fingerprint.py -m 'not slow'",
    ),
    Mutant(
        "_blocks/fingerprint.py",
        "(function.__defaults__, function.__kwdefaults__)",
        "(function.__defaults__,)",
        "test_fingerprint.py -m 'not slow'",
    ),
    Mutant(
        "estimators/meta_regressor.py",
        "remember=knows_groups",
        "remember=True",
        "test_storage.py -k knows_no_groups",
    ),
    Mutant(
        "estimators/meta_regressor.py",
        "prediction - half, prediction + half",
        "prediction - half / 2, prediction + half / 2",
        "test_adapting.py -k how_wide",
    ),
    Mutant("explorer/server.py", "not in [[host] for host in self.server.hosts]", "is None", "test_explorer_server.py"),
    Mutant("explorer/server.py", "HttpOnly; SameSite=Strict", "HttpOnly", "test_explorer_server.py"),
    Mutant("explorer/server.py", "if self.used or not", "if not", "test_explorer_server.py"),
    Mutant(
        "explorer/table_tab.py",
        "n_left_out = max(0, len(effects) - _MOST_GROUPS)",
        "n_left_out = 0",
        "test_explorer.py -k caterpillar",
    ),
    Mutant("tabular/state_check.py", "!= size", "> size", "test_storage.py -k hostile"),
    Mutant("tabular/state_check.py", "(np.diff(starts) >= 0).all()", "True", "test_storage.py -k disorder"),
]


def apply(root: Path, mutant: Mutant) -> None:
    """Make the change in a copy of the project; refuse a text that does not occur exactly once."""
    path = root / "src" / "innerloop" / mutant.file
    text = path.read_text(encoding="utf-8")
    if (n := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.file} has {mutant.old!r} {n} times; a change must name a text that is there once.")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def serve() -> None:
    """Run tests as lines of standard input ask, and print their exit codes; each run is a fork with packages loaded."""
    import importlib

    for name in (*_PACKAGES, "pytest"):
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        folder, arguments = json.loads(line)
        if (child := os.fork()) == 0:
            os.chdir(folder)
            sys.path.insert(0, f"{folder}/src")
            os.environ["PYTHONPATH"] = f"{folder}/src"
            with open(f"{folder}/out.txt", "w") as out:
                for stream in (1, 2):
                    os.dup2(out.fileno(), stream)
                import pytest

                code = int(pytest.main(arguments))
                sys.stdout.flush()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Runner:
    """Runs tests in copies of a project."""

    def __init__(self) -> None:
        self._passed = set[str]()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._server = subprocess.Popen([sys.executable, __file__, "--serve"], **pipes, text=True, env=environment)

    def is_noticed(self, root: Path, mutant: Mutant) -> bool:
        """Return whether the tests that a change names pass without it and fail with it.

        Raises
        ------
        RuntimeError
            If they fail without it.
        """
        if mutant.tests not in self._passed:
            if self._fails(root, None, mutant.tests):
                raise RuntimeError(f"{mutant.tests} fails without a change.")
            self._passed.add(mutant.tests)
        return self._fails(root, mutant, mutant.tests)

    def _fails(self, root: Path, mutant: Mutant | None, tests: str) -> bool:
        with tempfile.TemporaryDirectory() as copy:
            for part in (
                part for part in ("src", "tests", "benchmarks", "docs", "pyproject.toml") if (root / part).exists()
            ):
                copied = shutil.copytree if (root / part).is_dir() else shutil.copy
                copied(root / part, Path(copy) / part)
            if mutant is not None:
                apply(Path(copy), mutant)
            file, *options = shlex.split(tests)
            arguments = ["-q", "-x", "-p", "no:cacheprovider", f"tests/{file}", *options]
            self._server.stdin.write(json.dumps([copy, arguments]) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            out = (Path(copy) / "out.txt").read_text()
            if code not in (0, 1) or (code == 1 and " failed" not in out and " error" not in out):
                raise RuntimeError(f"{tests} cannot be run: {out[-900:]}")
            return code == 1

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


def measure(root: Path, mutants: list[Mutant]) -> dict[str, object]:
    """Return the share of changes that tests notice, in all and in each room, and those that they do not."""
    missed, by_room = [], {}
    with closing(Runner()) as runner:
        for mutant in mutants:
            start = time.monotonic()
            try:
                noticed = runner.is_noticed(root, mutant)
            except RuntimeError as error:
                noticed = False
                print(error, flush=True)
            missed += [] if noticed else [mutant._asdict()]
            counts = by_room.setdefault(mutant.file.split("/")[0], [0, 0])
            counts[0] += noticed
            counts[1] += 1
            word, seconds = "noticed" if noticed else "MISSED ", time.monotonic() - start
            print(f"{word} {seconds:4.0f} s  {mutant.file}  {mutant.old!r}", flush=True)
    share = 1 - len(missed) / max(len(mutants), 1)
    rooms = {room: f"{noticed} of {tried}" for room, (noticed, tried) in sorted(by_room.items())}
    return {"tried": len(mutants), "share_noticed": share, "noticed_by_room": rooms, "missed": missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", nargs="?", type=int, default=len(MUTANTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help="run tests that standard input names")
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    result = measure(ROOT, random.Random(0).sample(MUTANTS, min(options.n, len(MUTANTS))))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("tried", "share_noticed", "noticed_by_room")}))


if __name__ == "__main__":
    main()
