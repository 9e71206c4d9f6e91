# SPDX-License-Identifier: Apache-2.0
"""How a command ends badly: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

from typing import IO, Any, Final

import click

DAMAGED: Final = 1  # bytes are not what they should be
UNUSABLE: Final = 2  # this input, option or machine cannot do what was asked; click's own code
INTERRUPTED: Final = 130  # what a shell reports for Ctrl-C


class CommandError(click.ClickException):
    """The command cannot go on; ``exit_code`` says whose fault it is."""

    def __init__(self, message: str, exit_code: int = UNUSABLE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click means it to be set

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message as ``error: ...`` to stderr."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


class DamagedError(CommandError):
    """Stored bytes are missing or wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, DAMAGED)
