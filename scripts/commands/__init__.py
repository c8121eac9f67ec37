"""The commands of ``tokengym``, one module each; they load what they need when they are called."""
