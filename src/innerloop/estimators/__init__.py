"""The scikit-learn estimator."""

from innerloop.estimators.meta_regressor import MetaRegressor

__all__ = ["MetaRegressor"]
