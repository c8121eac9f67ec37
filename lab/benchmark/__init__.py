"""The versioned benchmark of credit rules: its definition, its runs, its number and its ranks."""
