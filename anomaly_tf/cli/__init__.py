"""The command line: `anomaly-tf train|evaluate|report|export|predict|search|benchmark`.

One module per command, with a `main` that takes the arguments and returns the exit status; the
parsing that they share is `command_line.py`. The scripts at the root of the repository run the same
functions.
"""

from __future__ import annotations

from importlib import import_module

from anomaly_tf.errors import UserError
from anomaly_tf.program import COMMANDS, NAME
from anomaly_tf.script import run_script
from anomaly_tf.version import VERSION


def main() -> None:
    """Runs the command that `sys.argv` names and ends the process with its exit status."""
    run_script(_main)


def run(command: str) -> None:
    """Runs one command with the arguments in `sys.argv`, and ends the process."""
    run_script(lambda arguments: _run(command, arguments))


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"{NAME} {VERSION}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        # Imported late: it reads the parser of the options, which a known command may not need.
        from anomaly_tf.config.parser import unknown

        kind = "option" if command.startswith("-") else "command"
        raise UserError(unknown(kind, command, [*COMMANDS, "--help", "--version"]))
    return _run(command, rest)


def _run(command: str, arguments: list[str]) -> int:
    # Imported late, so that Ctrl-C while it loads is answered in one line.
    return import_module(f"{__name__}.{command}").main(arguments)


def _help() -> str:
    commands = "\n".join(f"  {name:<11}{summary}" for name, summary in COMMANDS.items())
    return (
        f"usage: {NAME} COMMAND [--OPTION VALUE ...]\n\n"
        f"Image anomaly detection: learn from images what normal looks like.\n\n"
        f"commands:\n{commands}\n\n"
        f"options:\n"
        f"  --help     Show this list; '{NAME} COMMAND --help' lists the options of one.\n"
        f"  --version  Show the version.\n\n"
        f"example:\n  {NAME} train --approach vae --data photos/"
    )
