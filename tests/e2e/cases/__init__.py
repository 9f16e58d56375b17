"""The table of commands that are run direct and through the sidecar: same replies, same state.

A case is a name and steps, run in order on one connection in database `t`. A step is a command; `(command, sequences)` sends
those arrays as document sequences; a function gets the replies so far and returns a step. Wherever "@" stands it becomes the
case's own collection. Each file of this folder adds its part.
"""

import dataclasses


@dataclasses.dataclass
class Case:
    """One row of the table."""

    name: str
    steps: list
    # The log cannot prove this case's collection ($out and the like): it is left out of the fold.
    gap: bool = False
    # Reply fields that need not be equal, with the reason beside the case.
    free: tuple = ()


def many(*documents) -> dict:
    """A step that fills the collection."""
    return {"insert": "@", "documents": list(documents)}


def all_cases() -> list[Case]:
    """The whole table."""
    from cases import batches, deletes, fam, inserts, misc, retries, transactions, updates, wrong

    parts = (inserts, updates, deletes, fam, batches, retries, transactions, misc, wrong)
    table = [case for part in parts for case in part.cases()]
    names = [case.name for case in table]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    return table


def fill(value, collection: str):
    """The step with "@" replaced."""
    if isinstance(value, str):
        return value.replace("@", collection)
    if isinstance(value, dict):
        return type(value)((fill(k, collection), fill(v, collection)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(fill(v, collection) for v in value)
    return value
