"""Sounds with a beginning and an end: tables of them, how they are read off scores, how well they are
found.
"""

from ast_jax.events.decode import SIMPLE, Decoder, Rules
from ast_jax.events.table import FORMS, Event, names_of_tables, read_events, read_files, write_events

__all__ = [
    "FORMS",
    "SIMPLE",
    "Decoder",
    "Event",
    "Rules",
    "names_of_tables",
    "read_events",
    "read_files",
    "write_events",
]
