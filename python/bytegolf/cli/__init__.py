"""The command `bytegolf`: its verbs, their options and their help. What a verb does is in the room of that verb."""

from bytegolf.cli.command import app, main

__all__ = ["app", "main"]
