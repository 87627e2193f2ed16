"""The command line: what its options mean. What a command does is in the room that does it."""

from smft_lab.cli.app import main

__all__ = ["main"]
