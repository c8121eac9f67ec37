"""Training of the bundled models and of bundles on real text."""
