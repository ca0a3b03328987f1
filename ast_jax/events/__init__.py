"""Sounds with a beginning and an end: tables of them, how they are read off scores, how well they are
found.
"""

from ast_jax.events.decode import SIMPLE, Decoder, Rules
from ast_jax.events.table import FORMS, Event, read_events, read_files, told_apart, write_events

__all__ = [
    "FORMS",
    "SIMPLE",
    "Decoder",
    "Event",
    "Rules",
    "read_events",
    "read_files",
    "told_apart",
    "write_events",
]
