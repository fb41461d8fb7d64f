"""The group of commands: those of other packages beside its own, and every error in one line."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from itertools import pairwise
from typing import Any

import click

from reparam_kit.cli.paths import held_apart
from reparam_kit.cli.plugins import load, plugins, warn
from reparam_kit.cli.quiet import libraries_hushed, with_verbose
from reparam_kit.cli.signals import ending_well
from reparam_kit.cli.streams import OutputLostError, guard_streams
from reparam_kit.errors import InputError, ReparamError, first_line, printable
from reparam_kit.points import foreign_packages
from reparam_kit.registry import FILE_OF_USER

_FAULT = 70  # EX_SOFTWARE of sysexits.h
TRACEBACK = "reparam_kit.traceback"
"""Whether the user wants to see where an error was raised, in the context's ``meta``."""
_PIPE = 141  # as a shell says it of a program that SIGPIPE ended


class Group(click.Group):
    """Adds the commands of the entry-point group ``reparam_kit.commands``, and prints errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *sorted(plugins().keys() - self.commands.keys())]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        warn((self.get_command(ctx, name) for name in self.list_commands(ctx)), self.commands)
        super().format_commands(ctx, formatter)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = self.commands.get(cmd_name)
        if command is None and cmd_name in plugins():
            command = load(plugins()[cmd_name])
        return command and with_verbose(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        _refuse_empty(rest)
        return name, command and held_apart(command), rest

    def main(self, *args: Any, **options: Any) -> Any:
        guard_streams()
        try:
            return super().main(*args, **options)
        except OutputLostError as error:  # of the help, which is no command
            click.echo(f"reparam-kit: {printable(error)}", err=True)
            sys.exit(ReparamError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        with ending_well() as ending, libraries_hushed(ctx):
            try:
                result = super().invoke(ctx)
                sys.stdout.flush()
                return result
            except (click.exceptions.Exit, click.Abort):
                raise
            except BaseException as error:
                ending.close()
                message, code = _ended(ending.by or error, ctx)
                if ctx.meta.get(TRACEBACK):
                    trace = "".join(traceback.format_exception(error)).splitlines()
                    click.echo("\n".join(map(printable, trace)), err=True)
                if message:
                    click.echo(f"reparam-kit: {printable(message)}", err=True)
                ctx.exit(code)


def _refuse_empty(args: list[str]) -> None:
    """Refuse an empty value: a shell variable that is not set gives one, and as a path it is the current folder."""
    for before, word in pairwise(["", *args]):
        if not word or re.fullmatch(r"--[\w-]+=", word):
            where = word or before
            raise InputError(
                f"an empty value{f' beside {where}' if where else ''}, as of a variable that is not set: give one"
            )


def _ended(error: BaseException, ctx: click.Context) -> tuple[str, int]:
    """Say what to say of a command that did not come to its end, and the exit status."""
    match error:
        case ReparamError():
            return str(error), error.exit_code
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else ctx.command_path
            return f"{error.format_message()} (see {command} --help)", error.exit_code
        case click.ClickException():
            return error.format_message(), error.exit_code
        case KeyboardInterrupt():
            by = "" if error.args in ((), ("SIGINT",)) else f" by {error.args[0]}"
            return f"interrupted{by}; nothing was left half written", getattr(error, "exit_code", 130)
        case BrokenPipeError() | OutputLostError(errno=errno.EPIPE):  # the reader has what it wanted
            return "", _PIPE
        case OSError():  # a full disk, a folder without permission
            return str(error), ReparamError.exit_code
        case Exception():
            return _unforeseen(error)
    raise error


def _unforeseen(error: Exception) -> tuple[str, int]:
    """Say what to say of an error that no code expected, and the exit status."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # torch raises a RuntimeError
        return "out of memory: the files name more than this machine can hold", ReparamError.exit_code
    if isinstance(error, RecursionError):
        return "a model or a file is nested too deeply to be read", ReparamError.exit_code
    if theirs := _place_of_others(error):
        said = f"{theirs}: {type(error).__name__}: {first_line(error)}"
        return f"{said}; reparam-kit --traceback ... shows the whole trace", ReparamError.exit_code
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"this is a fault of reparam-kit: {type(error).__name__}: {first_line(error)} "
        f"at {place.filename}:{place.lineno}; please report it with the command and its files; "
        "reparam-kit --traceback ... shows the whole trace"
    ), _FAULT


def _place_of_others(error: Exception) -> str:
    """Return the line of another package, or of a file that --import ran, if that and not ours was running."""
    theirs = foreign_packages()
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        package = module.partition(".")[0]
        if module.startswith(FILE_OF_USER) or package in theirs:
            return f"{frame.f_code.co_filename}, line {line}"
        if package in ("reparam_kit", "recipes"):
            break
    return ""
