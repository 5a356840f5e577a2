"""The scikit-learn estimator."""

from innerloop.estimators._heldout import HeldOut, Rates, mean_and_error, standard_errors
from innerloop.estimators._intervals import as_level
from innerloop.estimators._settings import Settings
from innerloop.estimators._training import MetaTraining
from innerloop.estimators._trials import Predictor
from innerloop.estimators.meta_regressor import MetaRegressor

__all__ = [
    "HeldOut",
    "MetaRegressor",
    "MetaTraining",
    "Predictor",
    "Rates",
    "Settings",
    "as_level",
    "mean_and_error",
    "standard_errors",
]
