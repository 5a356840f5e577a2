"""Few-shot problems as command-line options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from innerloop._base.checks import as_count, as_rate

if TYPE_CHECKING:
    from innerloop.neural.fewshot.problems import FewShot

Files = Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")]
Names = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]
_DEFAULTS: dict[str, dict[str, Any]] = {
    "omniglot": {
        **{"shots": 1, "queries": 3, "width": 16, "inner_lr": 0.4},
        **{"outer_lr": 0.003, "n_tasks": 4, "iterations": 1000},
    },
    "sinusoid": {
        **{"shots": 10, "queries": 10, "width": 40, "inner_lr": 0.02},
        **{"outer_lr": 0.001, "n_tasks": 25, "iterations": 10000},
    },
}
_BY_TASK = ("shots", "queries", "width", "inner_lr", "outer_lr", "n_tasks")
_OF_IMAGES = ("data", "ways", "network", "norm", "rotations", "validation", "test")


@Parameter(name="*")
@dataclass(frozen=True)
class Training:
    """A few-shot problem, a network and how it is trained.

    Parameters
    ----------
    task
        omniglot or sinusoid.
    data
        Omniglot: the archive as its authors publish it, or several.
    ways
        Omniglot: classes of a task.
    shots
        Support rows, with omniglot of each class; 1 for omniglot and 10 for sinusoid unless given.
    queries
        Query rows, with omniglot of each class; 3 and 10 unless given.
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
        What trains. meta-sgd learns a rate for each weight, starting from inner_lr.
    inner_lr
        Rate of the inner loop in training, of any sign; 0.4 and 0.02 unless given.
    n_steps
        Steps of the inner loop.
    outer_lr
        Rate of Adam in the outer loop; 0.003 and 0.001 unless given.
    n_tasks
        Tasks of an iteration; 4 and 25 unless given.
    n_validation
        Tasks that choose adapt_lr; in a sweep so many for each seed.
    seed
        Of tasks, split and weights.
    device
        cpu, cuda, ...
    compile
        Compile the meta-gradient; needs a C++ compiler.
    """

    task: Literal["omniglot", "sinusoid"]
    data: Files = None
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

    def default(self, name: str) -> Any:
        """Return what an option of the task is unless given."""
        return _DEFAULTS[self.task][name]

    @property
    def rate(self) -> float:
        """The inner rate of training."""
        return as_rate(self._value("inner_lr"), "--inner-lr")

    def problem(self) -> FewShot:
        """Return the problem; torch is loaded here."""
        try:
            from innerloop.neural.fewshot import problems as fewshot
        except ImportError:
            raise ValueError("`innerloop train` needs PyTorch: pip install 'innerloop[neural]'.") from None
        counts = {
            name: as_count(self._value(name), f"--{name.replace('_', '-')}")
            for name in ("shots", "queries", "width", "n_tasks")
        }
        settings = {
            "n_tasks": counts["n_tasks"],
            "n_steps": as_count(self.n_steps, "--n-steps"),
            "n_validation": as_count(self.n_validation, "--n-validation"),
            "algorithm": self.algorithm,
            "outer_lr": self._outer_lr(),
            "device": self.device,
            "compile": self.compile,
        }
        if self.task == "sinusoid":
            self._refuse_options_of_images()
            return fewshot.sinusoids(counts["shots"], counts["queries"], counts["width"], self.seed, **settings)
        from innerloop.neural.fewshot.omniglot import CharacterTasks, read_omniglot, split_alphabets

        if not self.data:
            raise ValueError("`--task omniglot` needs `--data` with the archive, such as images_background_small1.zip.")
        split = split_alphabets(read_omniglot(*self.data), self.validation, self.test, self.seed)
        source = CharacterTasks(split, self.ways, self.seed, self.rotations, flat=self.network == "mlp")
        return fewshot.characters(source, counts["shots"], counts["queries"], counts["width"], self.norm, **settings)

    def settings(self, problem: FewShot) -> dict[str, Any]:
        """Return what decides the weights, as JSON can hold it."""
        given = {name: value for name, value in asdict(self).items() if name not in ("data", "device", "compile")}
        return {**given, **{name: self._value(name) for name in _BY_TASK}, "source": repr(problem.source)}

    def title(self) -> str:
        """Return the problem in a few words."""
        shots = self._value("shots")
        if self.task == "sinusoid":
            return f"Sine waves, {shots} shots, {self._steps()}"
        network = f"{'Conv4' if self.network == 'conv4' else 'MLP'} of width {self._value('width')}"
        return f"Omniglot, {self.ways} ways, {shots} shot{'s' if shots > 1 else ''}, {network}, {self._steps()}"

    def _steps(self) -> str:
        return f"{self.n_steps} step{'s' if self.n_steps > 1 else ''}"

    def _value(self, name: str) -> Any:
        given = getattr(self, name)
        return self.default(name) if given is None else given

    def _outer_lr(self) -> float:
        rate = as_rate(self._value("outer_lr"), "--outer-lr")
        if rate <= 0:
            raise ValueError(f"`--outer-lr` must be positive, got {rate:g}.")
        return rate

    def _refuse_options_of_images(self) -> None:
        for name in _OF_IMAGES:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(f"`--{name}` is an option of --task omniglot; leave it out.")
