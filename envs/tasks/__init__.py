"""The bundled tasks, one file per task."""
