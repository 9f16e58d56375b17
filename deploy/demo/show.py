"""Tells a person what the demo's programs did, from the exported windows alone.

    show.py EXPORT_DIR DATABASE
"""

import json
import sys

import records

BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def heading(text):
    print(f"\n{BOLD}{text}{PLAIN}")


def table(names, rows):
    rows = [[str(v) if v is not None else "" for v in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(names), *rows]) for i in range(len(names))]
    for row in [list(names), ["-" * w for w in widths], *rows]:
        print("  " + "  ".join(v.ljust(w) for v, w in zip(row, widths)).rstrip())


def who(con, database):
    heading("Who changed what")
    rows = con.execute(
        """SELECT origin->>'app' AS program, ns, count(*), count(DISTINCT key),
                  string_agg(DISTINCT op, ', ' ORDER BY op), min(wall)[12:23], max(wall)[12:23]
           FROM records WHERE control IS NULL AND starts_with(ns, ? || '.') GROUP BY ALL ORDER BY program, ns""",
        [database],
    ).fetchall()
    tills = [row for row in rows if (row[0] or "").startswith("shop-")]
    shown = [row for row in rows if row not in tills] + [row for row in tills if row[0] == "shop-1"]
    table(["program", "collection", "changes", "documents", "kinds", "first", "last"], shown)
    print(f"  (and {len({row[0] for row in tills}) - 1} more shops like shop-1)")


def plain(value):
    """An Extended JSON value as a person reads it."""
    if isinstance(value, dict) and len(value) == 1:
        (kind, inner), = value.items()
        if kind in ("$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$oid"):
            return inner
    return json.dumps(value, ensure_ascii=False)


def difference(before, after):
    before, after = (json.loads(v) if v else None for v in (before, after))
    if before is None:
        return "created: " + ", ".join(f"{k} {plain(v)}" for k, v in (after or {}).items())
    if after is None:
        return "gone"
    parts = [f"{k} {plain(before[k])} → {plain(v)}" for k, v in after.items() if k in before and before[k] != v]
    parts += [f"{k} set to {plain(v)}" for k, v in after.items() if k not in before]
    parts += [f"{k} removed" for k in before if k not in after]
    return ", ".join(parts)


def history(con, database, name):
    heading(f"History of one document: {database}.accounts, _id {name!r}")
    rows = con.execute(
        """SELECT seq, wall[12:23], op, origin->>'app', comment, before, after FROM records
           WHERE ns = ? AND id = to_json(?) ORDER BY lsn""",
        [f"{database}.accounts", name],
    ).fetchall()
    table(["seq", "at", "op", "program", "why", "what"], [(*row[:5], difference(row[5], row[6])) for row in rows])


def controls(con, database):
    heading("What happened to collections")
    rows = con.execute(
        """SELECT lsn, control, ns, wall[12:23] FROM records
           WHERE control IN ('opened', 'create', 'drop') AND starts_with(ns, ? || '.') ORDER BY lsn""",
        [database],
    ).fetchall()
    table(["lsn", "fact", "collection", "at"], rows)


def main():
    export, database = sys.argv[1:]
    con = records.load(export)
    who(con, database)
    history(con, database, "ACC-0007")
    controls(con, database)


if __name__ == "__main__":
    main()
