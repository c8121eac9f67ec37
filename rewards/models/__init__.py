"""Loading, batching and reading of the models behind scorers."""
