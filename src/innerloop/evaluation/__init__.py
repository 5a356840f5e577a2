"""Evaluation of a table: errors of methods on unseen tasks, coverage of intervals, advice."""

from innerloop.evaluation._nested import evaluate, evaluate_on, n_ticks
from innerloop.evaluation._verdict import verdict
from innerloop.evaluation.methods import METHODS, Method
from innerloop.evaluation.scores import Curve, Evaluation, Score

__all__ = ["METHODS", "Curve", "Evaluation", "Method", "Score", "evaluate", "evaluate_on", "n_ticks", "verdict"]
