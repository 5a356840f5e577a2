"""Change the code in small ways and see whether tests notice: python benchmarks/mutants.py [N] [--out FILE].

Each change replaces a text that occurs once in a file, and names the tests that should fail; only these are run, in a
copy of the project. N of the changes are tried, drawn with seed 0; all unless given.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


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
    Mutant("data/shuffle.py", "hashed.sum(axis=1, keepdims=True, where=real))", "np.uint64(0))", "test_tasks.py"),
    Mutant(
        "data/row_blocks.py", 'axis=2), mode="r"))[place]', "axis=2)))[place]", "test_storage.py -k rows_in_a_folder"
    ),
    Mutant(
        "tabular/training.py", "scaling.tasks(tasks).nameless()", "scaling.tasks(tasks)", "test_invariance.py -k names"
    ),
    Mutant("tabular/training.py", "replace(self.rows, ids=training.ids)", "self.rows", "test_invariance.py -k names"),
    Mutant(
        "tabular/fitted_table.py",
        "known_coef=self.known_coef[:0])",
        "known_coef=self.known_coef)",
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
        "adaptation/predictor.py", "np.log1p(n_rows), np.log1p(self.n_rows)", "n_rows, self.n_rows", "test_adapting.py"
    ),
    Mutant("tabular/stacking.py", "_PRIOR_TASKS = 3", "_PRIOR_TASKS = 300", "test_stacking.py"),
    Mutant(
        "tabular/intervals.py",
        "within = np.minimum(LEVELS, n / (n + 1))",
        "within = np.minimum(LEVELS, n / (n + 2))",
        "test_intervals.py",
    ),
    Mutant("tabular/folds.py", "return float(np.median(", "return float(np.mean(", "test_choice.py"),
    Mutant(
        "evaluation/_nested.py",
        "_errors(fitted, chosen, rest, unseen",
        "_errors(fitted, chosen, unseen, unseen",
        "test_evaluation.py",
    ),
    Mutant(
        "evaluation/rate_slices.py",
        "2 * standard_errors(self.per_task)",
        "9 * standard_errors(self.per_task)",
        "test_report.py -k theory",
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
]


def apply(root: Path, mutant: Mutant) -> None:
    """Make the change in a copy of the project; refuse a text that does not occur exactly once."""
    path = root / "src" / "innerloop" / mutant.file
    text = path.read_text(encoding="utf-8")
    if (n := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.file} has {mutant.old!r} {n} times; a change must name a text that is there once.")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def is_noticed(root: Path, mutant: Mutant) -> bool:
    """Return whether the tests that a change names fail in a copy with the change."""
    with tempfile.TemporaryDirectory() as copy:
        for part in ("src", "tests", "pyproject.toml"):
            copied = shutil.copytree if (root / part).is_dir() else shutil.copy
            copied(root / part, Path(copy) / part)
        apply(Path(copy), mutant)
        environment = os.environ | {"PYTHONPATH": str(Path(copy) / "src"), "OMP_NUM_THREADS": "1"}
        file, *options = mutant.tests.split()
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{file}", *options]
        ran = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode not in (0, 1):
            raise RuntimeError(f"{mutant.tests} cannot be run: {ran.stdout[-500:]}{ran.stderr[-500:]}")
        return ran.returncode == 1


def measure(root: Path, mutants: list[Mutant]) -> dict[str, object]:
    """Return the share of changes that tests notice, and those that they do not."""
    missed = []
    for mutant in mutants:
        noticed = is_noticed(root, mutant)
        missed += [] if noticed else [mutant._asdict()]
        print("noticed" if noticed else "MISSED ", mutant.file, mutant.old, flush=True)
    return {"tried": len(mutants), "share_noticed": 1 - len(missed) / max(len(mutants), 1), "missed": missed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", nargs="?", type=int, default=len(MUTANTS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = measure(ROOT, random.Random(0).sample(MUTANTS, min(options.n, len(MUTANTS))))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("tried", "share_noticed")}))


if __name__ == "__main__":
    main()
