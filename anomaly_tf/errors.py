"""The one exception that a user can cause and can mend."""


class UserError(ValueError):
    """Wrong input from outside: an option, a file, a folder.

    The message is one line that names the thing and the remedy. The scripts print it on
    stderr and end with exit status 2; nothing is left half-written.
    """
