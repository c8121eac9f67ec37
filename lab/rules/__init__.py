"""Credit rules of the laboratory, one file per rule."""
