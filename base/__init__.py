"""Foundation of every floor: words and their registry, settings, errors, files, stored models."""
