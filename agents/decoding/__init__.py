"""Fast decoding with a key-value cache."""
