"""Exceptions for mistakes that the user can correct."""


class UserError(ValueError):
    """Wrong input: an option, a file or a folder.

    The message is one line that names the wrong input and the remedy. The commands print it on
    stderr and end with exit status 2; no file is left half-written.
    """


class OptionError(ValueError):
    """An invalid value of an option; the message is `name reason`.

    Attributes:
        name: Name of the option, with a dot after a section: `training.batch_size`.
        reason: The allowed values and the value given.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name, self.reason = name, reason

    def as_user_error(self) -> UserError:
        """The error for the command line, where the option's name has hyphens."""
        return UserError(f"option --{self.name.replace('_', '-')} {self.reason}")
