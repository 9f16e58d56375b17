// The Node.js driver with its default options, as an application uses it. One JSON line per check on standard output.
//
//   node check.js URI ADDRESS MODE      ADDRESS: the only server that the driver may ever talk to; MODE: replica | standalone
import { MongoClient, GridFSBucket, Long } from "mongodb";
import { deepStrictEqual as equal, ok, rejects } from "node:assert";
import { randomBytes } from "node:crypto";

const [uri, address, mode] = process.argv.slice(2);
const client = new MongoClient(uri, { monitorCommands: true, appName: "node-check" });
const seen = { addresses: new Set(), started: 0, succeeded: 0, failed: [], retryable: 0 };
const watch = (event) => seen.addresses.add(event.address);
client.on("commandStarted", (e) => { watch(e); seen.started += 1; if (e.command.txnNumber !== undefined) seen.retryable += 1; });
client.on("commandSucceeded", (e) => { watch(e); seen.succeeded += 1; });
client.on("commandFailed", (e) => { watch(e); seen.failed.push(`${e.commandName}: ${e.failure.message}`); });
for (const name of ["serverOpening", "serverHeartbeatSucceeded", "connectionCreated", "serverDescriptionChanged"]) {
  client.on(name, (e) => seen.addresses.add(e.address ?? e.connectionId));
}

const db = client.db(`node_${mode}`);
const docs = db.collection("docs");

const checks = {
  async crud() {
    await docs.deleteMany({});
    equal((await docs.insertOne({ _id: 1, n: 1, big: Long.fromString("9007199254740993") })).insertedId, 1);
    equal((await docs.insertMany([{ _id: 2, n: 2 }, { _id: 3, n: 3 }, { n: 4 }])).insertedCount, 3);
    equal((await docs.updateOne({ _id: 1 }, { $inc: { n: 10 } })).modifiedCount, 1);
    equal((await docs.updateMany({ n: { $gt: 1 } }, [{ $set: { twice: { $multiply: ["$n", 2] } } }])).modifiedCount, 4);
    equal((await docs.replaceOne({ _id: 2 }, { n: "replaced" })).modifiedCount, 1);
    ok((await docs.updateOne({ name: "new" }, { $set: { x: 1 } }, { upsert: true })).upsertedId);
    equal((await docs.findOneAndUpdate({ _id: 3 }, { $set: { n: 33 } }, { returnDocument: "after" })).n, 33);
    equal((await docs.findOneAndReplace({ _id: 3 }, { n: 34 })).n, 33);
    equal((await docs.findOneAndDelete({ _id: 3 })).n, 34);
    equal((await docs.deleteOne({ _id: 2 })).deletedCount, 1);
    equal(await docs.countDocuments({}), 3);
    equal((await docs.find({}, { promoteLongs: false }).sort({ _id: 1 }).toArray())[0].n.valueOf?.() ?? 0, 11);
    await rejects(docs.insertOne({ _id: 1 }), (e) => e.code === 11000);
  },
  async sessions() {
    await client.withSession({ causalConsistency: true }, async (session) => {
      await docs.insertOne({ _id: "s" }, { session });
      equal((await docs.findOne({ _id: "s" }, { session }))._id, "s");
      await docs.updateOne({ _id: "s" }, { $set: { a: 1 } }, { session });
      equal((await docs.findOne({ _id: "s" }, { session })).a, 1);
    });
  },
  async transactions() {
    if (mode !== "replica") return;
    const session = client.startSession();
    await session.withTransaction(async () => {
      await docs.insertOne({ _id: "t" }, { session });
      await docs.updateOne({ _id: "t" }, { $set: { a: 1 } }, { session });
    });
    equal((await docs.findOne({ _id: "t" })).a, 1);
    session.startTransaction();
    await docs.deleteOne({ _id: "t" }, { session });
    equal(await docs.findOne({ _id: "t" }, { session }), null);
    await session.abortTransaction();
    await session.endSession();
    equal((await docs.findOne({ _id: "t" })).a, 1);
  },
  async bulk() {
    const result = await docs.bulkWrite([
      { insertOne: { document: { _id: "b1" } } },
      { updateOne: { filter: { _id: "b1" }, update: { $set: { x: 1 } } } },
      { replaceOne: { filter: { _id: "b2" }, replacement: { y: 1 }, upsert: true } },
      { deleteOne: { filter: { _id: "b1" } } },
    ]);
    equal([result.insertedCount, result.modifiedCount, result.upsertedCount, result.deletedCount], [1, 1, 1, 1]);
    const error = await docs.bulkWrite([{ insertOne: { document: { _id: "b2" } } }, { insertOne: { document: { _id: "b3" } } }], { ordered: false }).catch((e) => e);
    equal([error.code, error.result.insertedCount], [11000, 1]);
  },
  async clientBulk() {
    const space = `${db.databaseName}.client_bulk`;
    const models = [
      { name: "insertOne", namespace: space, document: { _id: 1 } },
      { name: "updateOne", namespace: space, filter: { _id: 1 }, update: { $set: { x: 1 } } },
      { name: "deleteMany", namespace: `${space}_2`, filter: {} },
    ];
    const result = await client.bulkWrite(models, { verboseResults: true });
    equal([result.insertedCount, result.modifiedCount], [1, 1]);
    equal(result.updateResults.get(1).modifiedCount, 1);
  },
  async gridfs() {
    const bucket = new GridFSBucket(db, { bucketName: "files" });
    const content = randomBytes(1_500_000);
    const upload = bucket.openUploadStream("a file");
    await new Promise((done, failed) => upload.on("finish", done).on("error", failed).end(content));
    const parts = [];
    for await (const part of bucket.openDownloadStream(upload.id)) parts.push(part);
    ok(Buffer.concat(parts).equals(content));
    await bucket.rename(upload.id, "another name");
    await bucket.delete(upload.id);
    equal(await db.collection("files.chunks").countDocuments({}), 0);
  },
  async changeStream() {
    if (mode !== "replica") return;
    const stream = db.collection("watched").watch([], { fullDocument: "updateLookup" });
    const first = stream.next();
    let going = true;
    const writer = (async () => {
      for (let n = 0; going && n < 100; n += 1) {
        await db.collection("watched").insertOne({ n });
        await new Promise((done) => setTimeout(done, 50));
      }
    })();
    const event = await first;
    going = false;
    await writer;
    equal(event.operationType, "insert");
    ok(event._id);
    await stream.close();
  },
  async monitoring() {
    ok(seen.started > 30 && seen.started === seen.succeeded + seen.failed.length, JSON.stringify(seen));
    if (mode === "replica") ok(seen.retryable > 10, "no retryable write was sent");
  },
  async onlyTheSidecar() {
    const hosts = [...client.topology.description.servers.keys()];
    equal(hosts, [address]);
    equal([...seen.addresses].map((a) => String(a).replace(/^.*?(127\.0\.0\.1:\d+).*$/, "$1")).filter((a) => a !== address), []);
  },
};

let failures = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(JSON.stringify({ check: name, ok: true }));
  } catch (error) {
    failures += 1;
    console.log(JSON.stringify({ check: name, ok: false, detail: String(error.stack ?? error) }));
  }
}
await client.close();
console.log(JSON.stringify({ done: Object.keys(checks).length, failures }));
