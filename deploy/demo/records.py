"""The exported windows as a DuckDB table `records`: what a stranger with a SQL engine sees."""

import pathlib

import duckdb

COLUMNS = {
    "log": "VARCHAR", "lsn": "BIGINT", "ns": "VARCHAR", "id": "JSON", "key": "VARCHAR", "epoch": "BIGINT",
    "seq": "BIGINT", "op": "VARCHAR", "before": "JSON", "after": "JSON", "before_sha256": "VARCHAR",
    "after_sha256": "VARCHAR", "change_hash": "VARCHAR", "control": "VARCHAR", "wall": "VARCHAR", "origin": "JSON",
    "comment": "VARCHAR",
}  # fmt: skip


def load(export):
    """A connection with the table `records`; `at` is the window's folder."""
    lines = pathlib.Path(export) / "window-*" / "records.jsonl"
    con = duckdb.connect()
    con.execute(
        "CREATE TABLE records AS SELECT *, parse_filename(parse_path(filename)[-2]) AS at FROM read_json(?, "
        "format = 'newline_delimited', filename = true, maximum_object_size = 134217728, columns = " + str(COLUMNS) + ")",
        [str(lines)],
    )
    return con
