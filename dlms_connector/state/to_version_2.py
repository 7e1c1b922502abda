"""Version 1 -> 2: each fact gets its cause and its end; what version 1 may have learned wrongly is asked again.

Version 1 took any refusal of a scaler for "no scaler" and kept it as `[0, ""]`, took a refused range for "no ranges"
and two lost lists for "no lists". None of these can be told from what the meter really said, so they go.
"""

from __future__ import annotations

import sqlite3

STATEMENTS = (
    "ALTER TABLE facts ADD COLUMN cause TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE facts ADD COLUMN until_ms INTEGER NOT NULL DEFAULT 0",
    # json() writes it in one form, however version 1 spaced it; a damaged value is dropped as well.
    "DELETE FROM facts WHERE kind = 'scalers' AND (NOT json_valid(value) OR json(value) = '[0,\"\"]')",
    "DELETE FROM facts WHERE kind = 'abilities' AND key = 'lists'",
    "DELETE FROM facts WHERE kind = 'profile access'",
)


def migrate(connection: sqlite3.Connection) -> None:
    """Run inside the caller's transaction."""
    for statement in STATEMENTS:
        connection.execute(statement)
