"""One thin file an estimator: check, split, fit the core, set fitted attributes."""
