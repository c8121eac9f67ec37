"""Errors raised for bad input: one line that names the value and the remedy.

All derive from ``ValueError``, so that ``except ValueError`` catches them, apart from
`StorageError`, which is an ``OSError``. Wrong types raise plain ``TypeError``.
"""

import gymnasium

from tokengym.base.text import printable


class TokenGymError(ValueError):
    """Base of every error that tokengym raises for a bad value.

    Messages quote texts, names and other libraries' messages, and so pass through `printable`.
    """

    def __str__(self) -> str:
        return printable(super().__str__())

    def for_terminal(self) -> str:
        """Return the message for the command line, whose reader has no error at hand."""
        return str(self)


class SettingsError(TokenGymError):
    """An environment's setting outside its range, or two that contradict each other."""


class RenderModeError(SettingsError, TypeError):
    """An unknown render mode; Stable-Baselines3 takes a ``TypeError`` for a refusal."""


class PromptError(TokenGymError):
    """An empty prompt set, an empty or overlong prompt, an unknown prompt id."""


class DatasetError(TokenGymError):
    """A data set that cannot be read, or lacks a named column."""


class TokenizerError(TokenGymError):
    """A tokenizer without EOS or pad, or one whose ids do not fit the model."""


class PretrainedError(TokenGymError):
    """A stored model or tokenizer that is missing, or that would run code when it is read."""


class ActionError(TokenGymError):
    """An action outside the vocabulary, or an action mask that allows nothing."""


class EpisodeOverError(TokenGymError, gymnasium.error.ResetNeeded):
    """A step after the episode's end, or before the first reset."""


class StateError(TokenGymError):
    """A saved state that does not fit the environment."""


class CheckpointError(TokenGymError):
    """A checkpoint that is damaged, of another format, or not of this environment."""


class PartnerError(TokenGymError):
    """A partner in a conversation that raised, took too long, or gave no usable reply."""


class UntrustedCodeError(TokenGymError):
    """Code of a file that a saved folder names, and nobody else does; it was not run."""


class BundleError(TokenGymError):
    """A folder of models that lacks a part."""


class FolderInUseError(ValueError):
    """Another process is writing a folder of results."""


class StorageError(OSError):
    """A file or folder could not be written: the disk is full, read-only or failing."""


class Stopped(SystemExit):
    """The end of a process that is stopped from outside, whatever code it was running."""


def is_fault(error: BaseException) -> bool:
    """Return whether an exception is an error of the code that raised it, not a stop of it.

    A panic of a library in Rust derives from ``BaseException`` alone.
    """
    return not isinstance(error, KeyboardInterrupt | GeneratorExit | Stopped)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error of a library, or its class's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
