"""Meta-learning of any `torch.nn.Module`, with inner learning rates of any sign."""

from innerloop.neural.algorithms import MAML, Algorithm, ImplicitMAML, Reptile, RidgeHead
from innerloop.neural.batch import TaskBatch
from innerloop.neural.callbacks import EarlyStopping, TensorBoardCallback
from innerloop.neural.classes import ClassTasks
from innerloop.neural.inner_loop import adapt, predict
from innerloop.neural.layers import StepBatchNorm
from innerloop.neural.linear import FrozenFeatures, LinearizedModule, features, linearize
from innerloop.neural.linearized_sweep import linearized_sweep
from innerloop.neural.scores import Scores
from innerloop.neural.sources import (
    TEST,
    TRAINING,
    VALIDATION,
    DistributionTasks,
    SinusoidTasks,
    Stage,
    TaskSetTasks,
    TaskSource,
)
from innerloop.neural.storage import TrainedNetwork, load_module, load_network
from innerloop.neural.sweep import sweep
from innerloop.neural.task_model import accuracy, half_mse
from innerloop.neural.trainer import Callback, MetaTrainer
from innerloop.neural.training import Adam, Training

__all__ = [
    "MAML",
    "TEST",
    "TRAINING",
    "VALIDATION",
    "Adam",
    "Algorithm",
    "Callback",
    "ClassTasks",
    "DistributionTasks",
    "EarlyStopping",
    "FrozenFeatures",
    "ImplicitMAML",
    "LinearizedModule",
    "MetaTrainer",
    "Reptile",
    "RidgeHead",
    "Scores",
    "SinusoidTasks",
    "Stage",
    "StepBatchNorm",
    "TaskBatch",
    "TaskSetTasks",
    "TaskSource",
    "TensorBoardCallback",
    "TrainedNetwork",
    "Training",
    "accuracy",
    "adapt",
    "features",
    "half_mse",
    "linearize",
    "linearized_sweep",
    "load_module",
    "load_network",
    "predict",
    "sweep",
]
