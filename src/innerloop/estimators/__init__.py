"""The scikit-learn estimator, and its files."""

from innerloop.estimators.meta_regressor import MetaRegressor

__all__ = ["MetaRegressor"]
