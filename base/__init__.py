"""What every floor stands on: words and their registry, settings, errors, files, stored models."""
