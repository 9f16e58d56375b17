"""`delta_scan` of DuckDB's own extension over a local table, in an environment of its own: the extension comes with one version of DuckDB.

Usage: scan.py FOLDER SQL, where SQL names the table `t`. Prints the rows as JSON."""

import json
import pathlib
import sys

import duckdb
import duckdb_extension_delta

folder, sql = sys.argv[1:]
extension = next(pathlib.Path(duckdb_extension_delta.__file__).parent.glob("extensions/*/delta.duckdb_extension"))
connection = duckdb.connect()
connection.execute(f"LOAD '{extension}'")
connection.execute(f"CREATE VIEW t AS SELECT * FROM delta_scan('{folder}')")
print(json.dumps(connection.execute(sql).fetchall()))
