"""Fitting one table: folds, held-out losses, the choice of rates and adaptation, intervals."""
