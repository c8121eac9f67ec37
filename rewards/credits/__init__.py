"""Rules of token credit, one file per rule, and what a function of named inputs is."""
