"""Few-shot problems as command-line options."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, final

from cyclopts import Parameter

from innerloop._base.checks import as_count, as_rate
from innerloop._blocks.fingerprint import fingerprint

if TYPE_CHECKING:
    from innerloop.neural.fewshot.problems import FewShot

Files = Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")]
Names = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]

# What `innerloop train --out` writes first: the settings of the training.
SETTINGS = "settings.json"


@Parameter(name="*")
@dataclass(frozen=True)
class FewShotOptions:
    """A few-shot problem, a network and how it is trained.

    Parameters
    ----------
    task
        omniglot, images (a folder of images by class), table or sinusoid; unless given, what `data` is.
    data
        Omniglot: the archive as its authors publish it, or several. Images: a folder with one of images for each
        class, or with train, val and test of such. Table: a CSV or Parquet file.
    group
        Table: the column that says which task a row is of.
    target
        Table: the column to predict; the other columns are features.
    ways
        Omniglot and images: classes of a task.
    shots
        Support rows, of images for each class; 1 of images and 10 otherwise unless given.
    queries
        Query rows, of images for each class; 3 of images and 10 otherwise unless given.
    network
        Omniglot: four convolutions, or two dense layers on the pixels.
    width
        Channels or hidden units; 16 and 40 unless given.
    norm
        Of conv4: over the rows at hand (query rows see each other), or over groups of channels of each row.
    rotations
        Omniglot: count a character turned by 90, 180 and 270 degrees as three more.
    validation
        Omniglot: alphabets to choose adapt_lr on; a fifth of all unless given.
    test
        Omniglot: alphabets to test on; a fifth of all unless given.
    algorithm
        Meta-learning algorithm. meta-sgd learns a rate for each weight, starting from inner_lr.
    inner_lr
        Rate of the inner loop in training, of any sign; 0.4 for images and 0.02 otherwise unless given.
    n_steps
        Steps of the inner loop.
    outer_lr
        Rate of Adam in the outer loop; 0.003 for images and 0.001 otherwise unless given.
    n_tasks
        Tasks of an iteration; 4 for images and 25 otherwise unless given.
    n_validation
        Tasks that choose adapt_lr; in a sweep so many for each seed.
    seed
        Of tasks, split and weights.
    device
        cpu, cuda, ...
    compile
        Compile the meta-gradient; needs a C++ compiler.
    """

    task: Literal["omniglot", "images", "table", "sinusoid"] | None = None
    data: Files = None
    group: str | None = None
    target: str | None = None
    ways: int = 5
    shots: int | None = None
    queries: int | None = None
    network: Literal["conv4", "mlp"] = "conv4"
    width: int | None = None
    norm: Literal["batch", "group"] = "batch"
    rotations: bool = True
    validation: Names = None
    test: Names = None
    algorithm: Literal["maml", "fomaml", "anil", "meta-sgd", "reptile"] = "maml"
    inner_lr: float | None = None
    n_steps: int = 1
    outer_lr: float | None = None
    n_tasks: int | None = None
    n_validation: int = 100
    seed: int = 0
    device: str | None = None
    compile: bool = False

    @property
    def kind(self) -> TaskKind:
        """The kind of task, with its defaults."""
        return _KINDS[self._task]

    @property
    def _task(self) -> str:
        if self.task is not None:
            return self.task
        if not self.data:
            raise ValueError("`innerloop train` needs `--data` with your tasks, or `--task sinusoid`.")
        if self.group is not None or self.target is not None:
            return "table"
        return "images" if self.data[0].is_dir() else "omniglot"

    def value(self, name: str) -> Any:
        """Return an option as given, or else the default of the task."""
        given = getattr(self, name)
        return self.kind.defaults[name] if given is None else given

    @property
    def rate(self) -> float:
        """The inner rate of training."""
        return as_rate(self.value("inner_lr"), "--inner-lr")

    def problem(self) -> FewShot:
        """Return the problem; torch is loaded here."""
        try:
            from innerloop.neural.fewshot.problems import METHODS
        except ImportError:
            raise ValueError("`innerloop train` needs PyTorch: pip install 'innerloop[neural]'.") from None
        from innerloop.neural.training import Adam, Training

        sizes = {name: self._count(name) for name in ("shots", "queries", "width")}
        method = METHODS[self.algorithm]
        settings = {
            "n_tasks": self._count("n_tasks"),
            "n_steps": as_count(self.n_steps, "--n-steps"),
            "n_validation": as_count(self.n_validation, "--n-validation"),
            "learns_rates": method.learns_rates,
            "training": Training(
                algorithm=method.algorithm,
                optimiser=Adam(self._outer_lr()),
                seed=self.seed,
                device=self.device,
                compile=self.compile,
            ),
        }
        self._refuse_options_of_other_kinds()
        return self.kind.problem(self, sizes, settings)

    def settings(self, problem: FewShot) -> dict[str, Any]:
        """Return what decides the weights, as JSON can hold it."""
        options = {name: value for name, value in asdict(self).items() if name not in ("data", "device", "compile")}
        filled = {name: self.value(name) for name in self.kind.defaults if name in options}
        return {**options, **filled, "task": self._task, "source": _described(problem.source)}

    def title(self) -> str:
        """Return the problem in a few words."""
        steps = f"{self.n_steps} step{'s' if self.n_steps > 1 else ''}"
        return f"{self.kind.title(self)}, {steps}"

    def _count(self, name: str) -> int:
        return as_count(self.value(name), f"--{name.replace('_', '-')}")

    def _outer_lr(self) -> float:
        rate = as_rate(self.value("outer_lr"), "--outer-lr")
        if rate <= 0:
            raise ValueError(f"`--outer-lr` must be positive, got {rate:g}.")
        return rate

    def _refuse_options_of_other_kinds(self) -> None:
        for task, kind in _KINDS.items():
            for name in sorted(kind.options - self.kind.options):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(f"`--{name}` is an option of --task {task}; leave it out.")


def _described(source: object) -> str:
    """Return a short text that differs where two sources draw different tasks."""
    described = fingerprint(source, "source")
    if isinstance(described, str):
        return described
    digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    return f"{type(source).__name__} {digest[:12]}"


class TaskKind(ABC):
    """What `--task` chooses: options that no other kind has, defaults, and the problem itself."""

    options: ClassVar[frozenset[str]]
    defaults: ClassVar[dict[str, Any]]

    @abstractmethod
    def problem(self, options: FewShotOptions, sizes: dict[str, int], settings: dict[str, Any]) -> FewShot:
        """Return the problem; `sizes` are shots, queries and width."""

    @abstractmethod
    def title(self, options: FewShotOptions) -> str:
        """Return tasks and network in a few words."""


@final
class _Omniglot(TaskKind):
    options = frozenset({"data", "ways", "network", "norm", "rotations", "validation", "test"})
    defaults = {
        **{"shots": 1, "queries": 3, "width": 16, "inner_lr": 0.4},
        **{"outer_lr": 0.003, "n_tasks": 4, "iterations": 1000},
    }

    def problem(self, options: FewShotOptions, sizes: dict[str, int], settings: dict[str, Any]) -> FewShot:
        from innerloop.neural.fewshot.omniglot import CharacterTasks, read_omniglot, split_alphabets
        from innerloop.neural.fewshot.problems import characters

        if not options.data:
            raise ValueError("`--task omniglot` needs `--data` with the archive, such as images_background_small1.zip.")
        split = split_alphabets(read_omniglot(*options.data), options.validation, options.test, options.seed)
        source = CharacterTasks(split, options.ways, options.seed, options.rotations, flat=options.network == "mlp")
        return characters(source, sizes["shots"], sizes["queries"], sizes["width"], options.norm, **settings)

    def title(self, options: FewShotOptions) -> str:
        shots, name = options.value("shots"), {"conv4": "Conv4", "mlp": "MLP"}[options.network]
        network = f"{name} of width {options.value('width')}"
        return f"Omniglot, {options.ways} ways, {shots} shot{'s' if shots > 1 else ''}, {network}"


@final
class _Images(TaskKind):
    options = frozenset({"data", "ways", "norm"})
    defaults = _Omniglot.defaults

    def problem(self, options: FewShotOptions, sizes: dict[str, int], settings: dict[str, Any]) -> FewShot:
        from innerloop.neural.classes import ClassTasks
        from innerloop.neural.fewshot.omniglot import SIDE
        from innerloop.neural.fewshot.problems import characters

        if not options.data or len(options.data) > 1:
            raise ValueError("`--task images` needs `--data` with one folder, of a folder of images for each class.")
        source = ClassTasks.from_folder(options.data[0], SIDE, 1, n_ways=options.ways, seed=options.seed)
        return characters(source, sizes["shots"], sizes["queries"], sizes["width"], options.norm, **settings)

    def title(self, options: FewShotOptions) -> str:
        shots = options.value("shots")
        network = f"Conv4 of width {options.value('width')}"
        return f"Images, {options.ways} ways, {shots} shot{'s' if shots > 1 else ''}, {network}"


@final
class _Table(TaskKind):
    options = frozenset({"data", "group", "target"})
    defaults = {
        **{"shots": 10, "queries": 10, "width": 40, "inner_lr": 0.02},
        **{"outer_lr": 0.001, "n_tasks": 25, "iterations": 2000},
    }

    def problem(self, options: FewShotOptions, sizes: dict[str, int], settings: dict[str, Any]) -> FewShot:
        from innerloop.cli._tables import read_tasks
        from innerloop.neural.fewshot.problems import regression

        if not options.data or len(options.data) > 1 or options.group is None or options.target is None:
            raise ValueError("`--task table` needs `--data` with one file, `--group` and `--target`.")
        read = read_tasks(options.data[0], options.group, options.target, None, None, None, None)
        assert read.tasks.column_map is not None
        details = {**read.details(options.group), "columns": read.tasks.column_map.to_state()}
        problem = regression(read.tasks, sizes["shots"], sizes["queries"], sizes["width"], **settings)
        return replace(problem, details=details)

    def title(self, options: FewShotOptions) -> str:
        return f"{options.target} by {options.group}, {options.value('shots')} shots"


@final
class _Sinusoid(TaskKind):
    options = frozenset()
    defaults = {
        **{"shots": 10, "queries": 10, "width": 40, "inner_lr": 0.02},
        **{"outer_lr": 0.001, "n_tasks": 25, "iterations": 10000},
    }

    def problem(
        self,
        options: FewShotOptions,  # noqa: ARG002
        sizes: dict[str, int],
        settings: dict[str, Any],
    ) -> FewShot:
        from innerloop.neural.fewshot.problems import sinusoids

        return sinusoids(sizes["shots"], sizes["queries"], sizes["width"], **settings)

    def title(self, options: FewShotOptions) -> str:
        return f"Sine waves, {options.value('shots')} shots"


_KINDS: dict[str, TaskKind] = {
    **{"omniglot": _Omniglot(), "images": _Images()},
    **{"table": _Table(), "sinusoid": _Sinusoid()},
}
