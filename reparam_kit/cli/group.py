"""The group of commands: those of other packages beside its own, and every error in one line."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from reparam_kit.errors import ReparamError


class Group(click.Group):
    """Adds the commands of the entry-point group ``reparam_kit.commands``, and prints errors in one line."""

    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group="reparam_kit.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *sorted(self._plugins().keys() - self.commands.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        plugin = self._plugins().get(cmd_name)
        command: click.Command | None = plugin.load() if plugin else None
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ReparamError as error:
            click.echo(f"reparam-kit: {error}", err=True)
            ctx.exit(error.exit_code)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else ctx.command_path
            click.echo(f"reparam-kit: {error.format_message()} (see {command} --help)", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("reparam-kit: interrupted; nothing was left half written", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk, a folder without permission
            click.echo(f"reparam-kit: {error}", err=True)
            ctx.exit(ReparamError.exit_code)
