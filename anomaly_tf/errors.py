"""The exceptions that a user can cause and can mend."""

from __future__ import annotations

from collections.abc import Callable


class UserError(ValueError):
    """Wrong input from outside: an option, a file, a folder.

    The message is one line that names the thing and the remedy. The scripts print it on
    stderr and end with exit status 2; nothing is left half-written.
    """


def as_option(name: str) -> str:
    """`training.batch_size` as a command line has it: `--training.batch-size`."""
    return f"--{name}".replace("_", "-")


class OptionError(ValueError):
    """A value that an option cannot have; the message is `name reason`.

    Attributes:
        name: The option, dots lead into a section: `training.batch_size`.
        reason: What it must be, and what came.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name, self.reason = name, reason

    def as_user_error(self, spelling: Callable[[str], str] = as_option) -> UserError:
        """The error for the user, who writes the option as `spelling` does."""
        return UserError(f"option {spelling(self.name)} {self.reason}")
