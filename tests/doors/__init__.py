"""Each door beside the real package of its trainer: `make test-doors`.

Every file runs in a virtual environment of its own, with its trainer's pins. Nothing here stands
for a trainer: what cannot be imported fails. Trainers on no index are read from their sources.
"""
