"""One stored set of episodes under every credit rule."""
