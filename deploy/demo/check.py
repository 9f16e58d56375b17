"""An outsider's audit of the demo: DuckDB, PyMongo and hashlib; nothing of Tidelog's own code.

    check.py EXPORT_DIR STORE_URI SUMMARY.json

It proves, and names the first thing that does not hold:
  1. each file is what its manifest says, and each manifest carries the hash of the one before;
  2. lsn is dense over all windows; seq is dense per document; `before` is the previous `after`;
  3. the hash of each image is the SHA-256 of its BSON, and each change hash is right;
  4. the changes are exactly those that the store acknowledged to the programs: none lost, none invented;
  5. applying the windows gives exactly what a full dump of the store holds, document by document, and both give the
     state fingerprint in the last manifest.
"""

import hashlib
import json
import pathlib
import sys
from collections import Counter

import bson
import bson.json_util
import pymongo
import records

EXACT = bson.json_util.CANONICAL_JSON_OPTIONS


class Broken(Exception):
    """Something does not hold."""


def expect(holds, what):
    if not holds:
        raise Broken(what)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def check_files(export):
    previous, manifest = None, None
    folders = sorted(pathlib.Path(export).glob("window-*"))
    expect(folders, f"no windows in {export}")
    for folder in folders:
        raw = (folder / "manifest.json").read_bytes()
        manifest = json.loads(raw)
        found = manifest["previous_manifest_sha256"]
        expect((found or None) == previous, f"{folder.name}: the manifest before has another hash than {found}")
        for file in manifest["files"]:
            expect(sha((folder / file["name"]).read_bytes()) == file["sha256"], f"{folder.name}: {file['name']} was changed")
        previous = sha(raw)
    return len(folders), manifest


def check_chain(con):
    """SQL over all windows; each query lists what must not be there."""
    rules = {
        "lsn is not dense": "SELECT lsn FROM (SELECT lsn, row_number() OVER (ORDER BY lsn) AS n FROM records) WHERE lsn <> n",
        "seq is not dense": """SELECT lsn FROM (SELECT lsn, seq, lag(seq) OVER w AS prior FROM records WHERE control IS NULL
            WINDOW w AS (PARTITION BY ns, key, epoch ORDER BY lsn)) WHERE seq <> coalesce(prior, 0) + 1""",
        "before is not the previous after": """SELECT lsn FROM (SELECT lsn, before_sha256 AS b, lag(after_sha256) OVER w AS a
            FROM records WHERE control IS NULL WINDOW w AS (PARTITION BY ns, key ORDER BY lsn)) WHERE b IS DISTINCT FROM a""",
        "the change hash is wrong": """SELECT lsn FROM records WHERE control IS NULL AND change_hash <> sha256(concat_ws(':',
            epoch, seq, op, coalesce(before_sha256, ''), coalesce(after_sha256, ''), key, ns))""",
    }
    for what, query in rules.items():
        row = con.execute(f"{query} ORDER BY lsn LIMIT 1").fetchone()
        expect(row is None, f"{what} at lsn {row and row[0]}")


def check_images(con):
    count = 0
    for lsn, *sides in con.execute(
        "SELECT lsn, before, before_sha256, after, after_sha256 FROM records WHERE control IS NULL ORDER BY lsn"
    ).fetchall():
        for text, told in (sides[:2], sides[2:]):
            if text is not None:
                raw = bson.encode(bson.json_util.loads(text, json_options=EXACT))
                expect(sha(raw) == told, f"an image at lsn {lsn} is not what its hash says")
                count += 1
    return count


def check_acknowledged(con, summary):
    logged = Counter(
        {f"{ns} {op}": n for ns, op, n in con.execute(
            "SELECT ns, op, count(*) FROM records WHERE control IS NULL AND starts_with(ns, ? || '.') GROUP BY ALL",
            [summary["database"]],
        ).fetchall()}
    )  # fmt: skip
    acked = Counter(summary["acknowledged"])
    for kind in sorted(set(acked) | set(logged)):
        expect(acked[kind] == logged[kind], f"{kind}: {acked[kind]} acknowledged, {logged[kind]} in the windows")
    return sum(acked.values())


def fingerprint(hashes):
    return f"{sum(int(h, 16) for h in hashes) % 2**256:064x}"


def check_state(con, manifest, uri, database):
    """The fold of the windows, the dump of the store, and the manifest: three ways to one number."""
    living = con.execute(
        """SELECT ns, list(after_sha256) FROM (
             SELECT ns, key, arg_max(after_sha256, lsn) AS after_sha256, max(lsn) AS lsn
             FROM (SELECT ns, key, coalesce(after_sha256, '') AS after_sha256, lsn FROM records WHERE control IS NULL)
             GROUP BY ns, key) AS last
           WHERE after_sha256 <> '' AND lsn > coalesce(
             (SELECT max(d.lsn) FROM records d WHERE d.control = 'drop' AND d.ns = last.ns), 0)
           GROUP BY ns"""
    ).fetchall()
    folded = {ns: sorted(hashes) for ns, hashes in living if ns.startswith(f"{database}.")}
    told = {entry["ns"]: entry for entry in manifest["namespaces"]}
    client = pymongo.MongoClient(uri, document_class=bson.raw_bson.RawBSONDocument, serverSelectionTimeoutMS=20000)
    names = client[database].list_collection_names()
    documents = 0
    for ns in sorted(set(folded) | {f"{database}.{name}" for name in names}):
        stored = sorted(sha(d.raw) for d in client[database][ns.split(".", 1)[1]].find())
        expect(folded.get(ns, []) == stored, f"{ns}: applying the windows does not give what the store holds")
        expect(told[ns]["complete"], f"{ns} is marked incomplete")
        expect(told[ns]["alive"] == len(stored), f"{ns}: the manifest says {told[ns]['alive']} documents alive")
        expect(told[ns]["fingerprint"] == fingerprint(stored), f"{ns}: another state fingerprint than the store's")
        documents += len(stored)
        print(f"  {ns:<24} {len(stored):>6} documents  fingerprint {fingerprint(stored)[:16]}…  windows = store = manifest")
    return documents


def main():
    export, uri, summary_file = sys.argv[1:]
    summary = json.loads(pathlib.Path(summary_file).read_text(encoding="utf-8"))
    try:
        windows, manifest = check_files(export)
        con = records.load(export)
        check_chain(con)
        images = check_images(con)
        changes = check_acknowledged(con, summary)
        documents = check_state(con, manifest, uri, summary["database"])
    except Broken as broken:
        print(f"does not hold: {broken}")
        return 1
    print(f"  {windows} windows, {changes} changes = those acknowledged, {images} images rehashed, {documents} documents equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
