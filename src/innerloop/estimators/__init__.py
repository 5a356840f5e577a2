"""The scikit-learn estimator."""

from innerloop._base.standard_errors import mean_and_error, standard_errors
from innerloop.adaptation.predictor import Predictor
from innerloop.estimators.meta_regressor import MetaRegressor
from innerloop.tabular.intervals import as_level
from innerloop.tabular.rate_choice import HeldOut, Rates
from innerloop.tabular.settings import Settings
from innerloop.tabular.training import MetaTraining

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
