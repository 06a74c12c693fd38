"""Exceptions for mistakes that the user can correct."""

from __future__ import annotations

from collections.abc import Callable


class UserError(ValueError):
    """Wrong input: an option, a file or a folder.

    The message is one line that names the wrong input and the remedy. The commands print it on
    stderr and end with exit status 2; no file is left half-written.

    >>> try:
    ...     anomaly_tf.train("photos/", approach="vea")
    ... except anomaly_tf.UserError as error:
    ...     print(error)
    unknown approach 'vea'; did you mean 'vae'?
    """


def as_option(name: str) -> str:
    """The command-line form of an option: `--training.batch-size` for `training.batch_size`."""
    return f"--{name}".replace("_", "-")


class OptionError(ValueError):
    """An invalid value of an option; the message is `name reason`.

    Attributes:
        name: Name of the option, with a dot after a section: `training.batch_size`.
        reason: The allowed values and the value given.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name, self.reason = name, reason

    def as_user_error(self, spelling: Callable[[str], str] = as_option) -> UserError:
        """The error for the user, with the option in the form that `spelling` gives."""
        return UserError(f"option {spelling(self.name)} {self.reason}")
