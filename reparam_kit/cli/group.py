"""The group of commands: those of other packages beside its own, and every error in one line."""

from __future__ import annotations

import os
import sys
import traceback
from io import TextIOWrapper
from typing import Any

import click

from reparam_kit.cli.plugins import load, plugins, warn
from reparam_kit.errors import ReparamError, first_line, printable

_FAULT = 70  # EX_SOFTWARE of sysexits.h


class Group(click.Group):
    """Adds the commands of the entry-point group ``reparam_kit.commands``, and prints errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *sorted(plugins().keys() - self.commands.keys())]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        warn(self.get_command(ctx, name) for name in self.list_commands(ctx))
        super().format_commands(ctx, formatter)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        point = plugins().get(cmd_name)
        return load(point) if point else None

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # one in an older encoding than a name or a table needs
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except ReparamError as error:
            _say(error)
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else ctx.command_path
            _say(f"{error.format_message()} (see {command} --help)")
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("reparam-kit: interrupted; nothing was left half written", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk, a folder without permission
            _say(error)
            ctx.exit(ReparamError.exit_code)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except Exception as error:
            if os.environ.get("REPARAM_TRACEBACK"):
                raise
            message, code = _unforeseen(error)
            _say(message)
            ctx.exit(code)


def _say(message: object) -> None:
    click.echo(f"reparam-kit: {printable(message)}", err=True)


def _unforeseen(error: Exception) -> tuple[str, int]:
    """What to say of an error that no code expected, and the exit status."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch raises a RuntimeError
        return "out of memory: the files name more than this machine can hold", ReparamError.exit_code
    if isinstance(error, RecursionError):
        return "a model or a file is nested too deeply to be read", ReparamError.exit_code
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"this is a fault of reparam-kit: {type(error).__name__}: {first_line(error)} "
        f"at {place.filename}:{place.lineno}; please report it with the command and its files; "
        "REPARAM_TRACEBACK=1 shows the whole trace"
    ), _FAULT
