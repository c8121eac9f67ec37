"""Training of models on texts, and bundles from labelled texts of one's own."""
