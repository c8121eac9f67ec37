"""Advantage estimators of the laboratory, one file per estimator or pair of them."""
