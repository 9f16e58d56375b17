"""The demo's application: a shop and its back office, as PyMongo programs of which none knows of the sidecar.

    workload.py URI DATABASE SUMMARY.json

Several programs at once, each with its own application name, write to a few hot and many cold documents: single and
bulk inserts, modifiers, pipelines, replacements, upserts, updates and deletes of many, findAndModify, transfers that
retry. In the middle and at the end the books are closed with a marker command, `{tidelogCut: 1, label: …}`.

SUMMARY.json tells how many changes the store acknowledged, by namespace and kind. It is counted from the replies
alone: what the sidecar logged must be exactly that.
"""

import collections
import concurrent.futures
import datetime
import json
import random
import sys
import threading

import bson
import pymongo
from pymongo import DeleteMany, InsertOne, ReplaceOne, ReturnDocument, UpdateMany, UpdateOne

CUSTOMERS = 300
ORDERS_EACH = 220
SHOPS = 4


class Acked:
    """Changes that the store acknowledged, by namespace and operation."""

    def __init__(self):
        self.counts = collections.Counter()
        self.lock = threading.Lock()

    def add(self, collection, op, n=1):
        with self.lock:
            self.counts[f"{collection.full_name} {op}"] += n


def connect(uri, app):
    return pymongo.MongoClient(uri, appname=app, serverSelectionTimeoutMS=20000)


def money(rng, low, high):
    return bson.Decimal128(f"{rng.randint(low * 100, high * 100) / 100:.2f}")


def opening(db, acked):
    """The first day: customers, accounts, stock."""
    rng = random.Random(1)
    customers = [
        {"_id": n, "name": f"Customer {n:04}", "city": rng.choice(["Lisbon", "Oslo", "Kraków"]), "points": 0}
        for n in range(1, CUSTOMERS + 1)
    ]
    acked.add(db.customers, "insert", len(db.customers.insert_many(customers).inserted_ids))
    accounts = [{"_id": f"ACC-{n:04}", "owner": n, "cents": bson.Int64(100_000)} for n in range(1, 41)]
    acked.add(db.accounts, "insert", len(db.accounts.insert_many(accounts).inserted_ids))
    for sku in range(1, 11):
        db.stock.update_one({"_id": f"SKU-{sku:02}"}, {"$setOnInsert": {"left": 10_000}}, upsert=True)
        acked.add(db.stock, "insert")


def shop(uri, database, number, acked):
    """One till: orders come, are paid and shipped, some are cancelled."""
    rng = random.Random(100 + number)
    with connect(uri, f"shop-{number}") as client:
        db = client[database]
        for n in range(ORDERS_EACH):
            order = {
                "_id": bson.ObjectId(),
                "customer": rng.randint(1, CUSTOMERS),
                "placed": datetime.datetime.now(datetime.timezone.utc),
                "lines": [{"sku": f"SKU-{rng.randint(1, 10):02}", "quantity": rng.randint(1, 3)}],
                "total": money(rng, 5, 400),
                "status": "placed",
            }
            db.orders.insert_one(order)
            acked.add(db.orders, "insert")
            line = order["lines"][0]
            taken = db.stock.find_one_and_update(
                {"_id": line["sku"], "left": {"$gte": line["quantity"]}},
                {"$inc": {"left": -line["quantity"]}},
                return_document=ReturnDocument.AFTER,
            )
            acked.add(db.stock, "update", int(taken is not None))
            advance(db, rng, order, n, acked)


def advance(db, rng, order, n, acked):
    """What becomes of an order."""
    key = {"_id": order["_id"]}
    fate = n % 5
    if fate == 0:
        acked.add(db.orders, "delete", db.orders.delete_one(key).deleted_count)
    elif fate == 1:
        whole = {**order, "status": "paid", "lines": order["lines"] + [{"sku": "GIFT", "quantity": 1}]}
        acked.add(db.orders, "replace", db.orders.replace_one(key, whole).modified_count)
    elif fate == 2:
        pipeline = [{"$set": {"status": "shipped", "shipped": "$$NOW", "units": {"$sum": "$lines.quantity"}}}]
        acked.add(db.orders, "update", db.orders.update_one(key, pipeline).modified_count)
    elif fate == 3:
        change = {"$set": {"status": "returned"}, "$push": {"notes": "by post"}}
        acked.add(db.orders, "update", db.orders.update_one(key, change).modified_count)
    points = db.customers.update_one({"_id": order["customer"]}, {"$inc": {"points": rng.randint(1, 9)}})
    acked.add(db.customers, "update", points.modified_count)


def back_office(uri, database, acked):
    """A person at work on accounts; the comment says why."""
    with connect(uri, "back-office") as client:
        accounts = client[database].accounts
        story = [
            ({"$inc": {"cents": bson.Int64(25_000)}}, "deposit at the counter"),
            ({"$set": {"limit": bson.Decimal128("500.00")}}, "limit agreed, ticket 4711"),
            ({"$inc": {"cents": bson.Int64(-2_999)}}, "card payment"),
            ({"$inc": {"cents": bson.Int64(2_999)}}, "card payment reversed, ticket 4712"),
            ({"$unset": {"limit": ""}, "$set": {"closing": True}}, "customer leaves"),
        ]
        for change, why in story:
            done = accounts.update_one({"_id": "ACC-0007"}, change, comment=why)
            acked.add(accounts, "update", done.modified_count)
        for n in range(150):
            payer, payee = f"ACC-{1 + n % 3:04}", f"ACC-{4 + n % 3:04}"
            for account, cents in ((payer, -100), (payee, 100)):
                why = f"transfer {n}"
                done = accounts.update_one({"_id": account}, {"$inc": {"cents": bson.Int64(cents)}}, comment=why)
                acked.add(accounts, "update", done.modified_count)
        done = accounts.delete_one({"_id": "ACC-0007"}, comment="account closed")
        acked.add(accounts, "delete", done.deleted_count)


def nightly(uri, database, acked):
    """A batch program: many documents in one command, and a scratch collection that it drops again."""
    with connect(uri, "nightly-batch") as client:
        db = client[database]
        for city in ("Lisbon", "Oslo", "Kraków"):
            done = db.customers.update_many({"city": city}, {"$set": {"statement": f"sent to {city}"}})
            acked.add(db.customers, "update", done.modified_count)
        rows = db.staging.insert_many([{"_id": n, "raw": f"row {n}"} for n in range(1000)])
        acked.add(db.staging, "insert", len(rows.inserted_ids))
        mixed = db.staging.bulk_write(
            [UpdateMany({"_id": {"$lt": 100}}, {"$set": {"clean": True}}), DeleteMany({"_id": {"$gte": 900}})]
            + [ReplaceOne({"_id": n}, {"raw": "again", "n": n}) for n in range(100, 130)]
            + [InsertOne({"_id": 5000 + n}) for n in range(20)]
            + [UpdateOne({"_id": 9000 + n}, {"$set": {"late": True}}, upsert=True) for n in range(10)]
        )
        acked.add(db.staging, "update", 100)
        acked.add(db.staging, "replace", 30)
        acked.add(db.staging, "insert", mixed.inserted_count + mixed.upserted_count)
        acked.add(db.staging, "delete", mixed.deleted_count)
        if mixed.modified_count != 130:
            raise SystemExit(f"bulk_write modified {mixed.modified_count}, not 130")
        db.staging.drop()


def close_books(client, label):
    """The marker: the sidecar closes a window here and answers; the store never sees the command."""
    return client.admin.command({"tidelogCut": 1, "label": label})


def run(uri, database, acked):
    with connect(uri, "opening") as client:
        opening(client[database], acked)
        cuts = [close_books(client, "opening-balance")]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            work = [pool.submit(shop, uri, database, n, acked) for n in range(1, SHOPS + 1)]
            work += [pool.submit(back_office, uri, database, acked), pool.submit(nightly, uri, database, acked)]
            for done in concurrent.futures.as_completed(work):
                done.result()
        cuts.append(close_books(client, "end-of-day"))
    return cuts


def main():
    uri, database, summary = sys.argv[1:]
    acked = Acked()
    cuts = run(uri, database, acked)
    told = {"database": database, "acknowledged": dict(sorted(acked.counts.items())), "cuts": len(cuts)}
    with open(summary, "w", encoding="utf-8") as file:
        json.dump(told, file, indent=2)
    print(f"{sum(acked.counts.values())} changes acknowledged by the store to {SHOPS + 3} programs")


if __name__ == "__main__":
    main()
