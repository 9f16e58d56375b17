"""Every block of `deploy/docs/sql.md`, run over windows of a real store in both forms, its answers held against a dump."""

import pathlib
import re

import duckdb
import pytest
from bson import decode, json_util
from conftest import Lab
from dump import dump
from validator import check_export, windows_of
from waiting import eventually

PAGE = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "docs" / "sql.md"
FORMS = {"jsonl": 'format = "jsonl"\ncompression = "zstd"\nparts = 2', "parquet": 'format = "parquet"\ncompression = "zstd"\nparts = 2'}


def blocks() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.S)


def workload(client) -> None:
    """Orders whose status goes on, a transaction, and namespaces that are emptied, moved, and moved over."""
    orders = client["shop"]["orders"]
    orders.insert_many([{"_id": n, "status": "new", "total": n * 10} for n in range(20)])
    orders.update_many({"_id": {"$lt": 10}}, {"$set": {"status": "paid"}}, comment="payday")
    orders.delete_one({"_id": 19})
    with client.start_session() as session, session.start_transaction():
        orders.update_one({"_id": 3}, {"$set": {"status": "sent"}}, session=session)
        client["shop"]["parcels"].insert_one({"_id": "p3", "order": 3}, session=session)
    for name in ("a", "b", "gone"):
        client["moves"][name].insert_many([{"_id": f"{name}{n}", "from": name} for n in range(3)])
    client["moves"]["gone"].drop()
    client["moves"]["gone"].insert_one({"_id": "after the drop"})


def more(client) -> None:
    """After window 1."""
    client["shop"]["orders"].update_one({"_id": 7}, {"$set": {"status": "sent"}})
    client["moves"]["a"].rename("b", dropTarget=True)
    client["moves"]["b"].update_one({"_id": "a1"}, {"$set": {"n": 1}})
    client["moves"]["a"].insert_one({"_id": "a new one"})
    client["moves"]["b"].rename("c")
    client["moves"]["c"].delete_one({"_id": "a2"})
    client["other"]["x"].insert_one({"_id": 1})
    client.drop_database("other")


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """The folder of each form, and dumps of the store at the end of window 1 and of the last."""
    lab = Lab(tmp_path_factory.mktemp("sql"))
    folders = {form: lab.folder / form for form in FORMS}
    tables = (f'[sinks.{form}]\ntype = "folder"\ndir = "{folders[form]}"\n{FORMS[form]}\n' for form in FORMS)
    store = lab.store()
    sidecar = lab.sidecar(store, config="[windows]\nidle_ms = 600000\nmax_age_ms = 600000\n" + "\n".join(tables))
    try:
        with sidecar.client(appname="till") as client:
            workload(client)
            sidecar.cut("first")
            dumps = [dump(store.client())]
            more(client)
            sidecar.cut("second")
            dumps.append(dump(store.client()))
        check_export(sidecar.export)
        count = len(windows_of(sidecar.export))
        for form, folder in folders.items():
            eventually(lambda: len(list(folder.glob("window-*/manifest.json"))) == count, 60, f"all windows as {form}")
        yield folders, dumps
    finally:
        lab.end()


def documents(dumped: dict[str, list[bytes]]) -> dict[str, int]:
    return {ns: len(found) for ns, found in dumped.items() if found}


@pytest.mark.parametrize("form", list(FORMS))
def test_the_page(exports, form):
    """Each block runs; those that look for faults find none; those that tell something tell what the store held."""
    folders, (first, second) = exports
    sql = duckdb.connect()
    answers = []
    for block in blocks():
        if block.startswith("-- ") and not block.startswith(f"-- {form}\n"):
            continue
        result = sql.execute(block.replace("EXPORT", str(folders[form])))
        answers.append((block, [column[0] for column in result.description or []], result.fetchall()))
    by = {}
    for block, names, rows in answers:
        by.setdefault(tuple(names), []).append((block, rows))

    def rows(*names: str, holding: str = "") -> list:
        (found,) = [rows for block, rows in by[names] if holding in block]
        return found

    assert dict(rows("ns", "documents")) == documents(first)
    assert rows("ns", "alive", "documents") == []
    held = sorted(json_util.dumps(json_util.loads(text), sort_keys=True) for _, text in rows("id", "after"))
    assert held == sorted(json_util.dumps(decode(raw), sort_keys=True) for raw in second["shop.orders"])
    statuses = {status: (orders, total) for status, orders, total in rows("status", "orders", "total")}
    assert statuses == {"new": (9, sum(n * 10 for n in range(10, 19))), "paid": (8, 350), "sent": (2, 100)}
    history = rows("epoch", "seq", "wall", "op", "user", "app", "before", "after")
    assert [(row[1], row[3], row[5]) for row in history] == [(1, "insert", "till"), (2, "update", "till"), (3, "update", "till")]
    changed = rows("lsn", "id", "wall", "was", "became", "user", "app", "client", "comment")
    assert [(was, became) for _, _, _, was, became, *_ in changed].count(("new", "paid")) == 10
    assert any("payday" in str(row[-1]) for row in changed)
    assert {app for app, *_ in rows("app", "hour", "op", "changes")} == {"till"}
    ((_, _, _, changes, namespaces),) = rows("txn_lsid", "txn_number", "first_lsn", "changes", "namespaces")
    assert changes == 2 and sorted(namespaces) == ["shop.orders", "shop.parcels"]
    for names in (("lsn", "times"), ("lsn", "gap"), ("lsn",), ("ns", "op", "told", "found")):
        assert rows(*names) == [], names
    # The macro once more, at the end, over the namespaces that moved.
    state = sql.execute("select ns, count(*) from state_at((select max(last_lsn) from windows)) group by ns").fetchall()
    assert dict(state) == documents(second)
    assert documents(second)["moves.c"] == 2 and "moves.b" not in documents(second)


@pytest.mark.parametrize("form", list(FORMS))
def test_the_checks_can_fail(exports, form, tmp_path):
    """Over windows with one record twice and one missing, the page's checks find both."""
    folders, _ = exports
    sql = duckdb.connect()
    for block in blocks():
        if block.startswith("-- ") and not block.startswith(f"-- {form}\n"):
            continue
        if "CREATE OR REPLACE" in block:
            sql.execute(block.replace("EXPORT", str(folders[form])))
    sql.execute("create table held as select * from records")
    sql.execute(f"drop {'table' if form == 'jsonl' else 'view'} records")
    lost, twice = [row[0] for row in sql.execute("select lsn from held where ns = 'shop.orders' and op = 'update' order by lsn limit 2").fetchall()]
    sql.execute(f"create view records as select * from held where lsn <> {lost} union all select * from held where lsn = {twice}")
    found = {}
    for block in blocks():
        if not block.startswith("-- ") and "CREATE" not in block:
            result = sql.execute(block.replace("EXPORT", str(folders[form])))
            found[tuple(column[0] for column in result.description)] = result.fetchall()
    assert (twice, 2) in found[("lsn", "times")]
    assert [gap for _, gap in found[("lsn", "gap")] if gap > 0] == [1]
    assert found[("ns", "op", "told", "found")] == []  # One lost and one twice: the counts are equal.
    sql.execute(f"create or replace view records as select * from held where lsn <> {lost}")
    (counts,) = [block for block in blocks() if "Counts" not in block and "FULL JOIN" in block]
    assert [row[:2] for row in sql.execute(counts.replace("EXPORT", str(folders[form]))).fetchall()] == [("shop.orders", "update")]
    sql.execute("""create or replace view records as select * replace (case when id::varchar = '{"$numberInt":"7"}' and seq = 2
        then sha256('another') else after_sha256 end as after_sha256) from held""")
    (chain,) = [block for block in blocks() if "prior_lsn" in block]
    assert len(sql.execute(chain).fetchall()) == 1
