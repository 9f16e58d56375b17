// The Go driver with its default options, as an application uses it. One JSON line per check on standard output.
//
//	go run . URI ADDRESS MODE      ADDRESS: the only server that the driver may ever talk to; MODE: replica | standalone
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// witness collects what the driver tells of its connections and commands.
type witness struct {
	sync.Mutex
	addresses                             map[string]bool
	started, succeeded, failed, retryable int
}

func (w *witness) address(text string) {
	w.Lock()
	defer w.Unlock()
	w.addresses[strings.SplitN(text, "[", 2)[0]] = true
}

type lab struct {
	client *mongo.Client
	db     *mongo.Database
	docs   *mongo.Collection
	seen   *witness
	mode   string
	addr   string
}

func must(what string, condition bool, detail ...any) {
	if !condition {
		panic(fmt.Sprint(what, " ", detail))
	}
}

func try[T any](value T, err error) T {
	if err != nil {
		panic(err.Error())
	}
	return value
}

func connect(uri string, seen *witness) *mongo.Client {
	commands := &event.CommandMonitor{
		Started: func(_ context.Context, e *event.CommandStartedEvent) {
			seen.address(e.ConnectionID)
			seen.Lock()
			defer seen.Unlock()
			seen.started++
			if _, err := e.Command.LookupErr("txnNumber"); err == nil {
				seen.retryable++
			}
		},
		Succeeded: func(context.Context, *event.CommandSucceededEvent) { seen.Lock(); seen.succeeded++; seen.Unlock() },
		Failed:    func(context.Context, *event.CommandFailedEvent) { seen.Lock(); seen.failed++; seen.Unlock() },
	}
	servers := &event.ServerMonitor{
		ServerOpening:            func(e *event.ServerOpeningEvent) { seen.address(e.Address.String()) },
		ServerHeartbeatSucceeded: func(e *event.ServerHeartbeatSucceededEvent) { seen.address(e.ConnectionID) },
		TopologyDescriptionChanged: func(e *event.TopologyDescriptionChangedEvent) {
			for _, server := range e.NewDescription.Servers {
				seen.address(server.Addr.String())
			}
		},
	}
	pool := &event.PoolMonitor{Event: func(e *event.PoolEvent) { seen.address(e.Address) }}
	how := options.Client().ApplyURI(uri).SetMonitor(commands).SetServerMonitor(servers).SetPoolMonitor(pool).SetAppName("go-check")
	return try(mongo.Connect(how))
}

func (l *lab) crud(ctx context.Context) {
	try(l.docs.DeleteMany(ctx, bson.D{}))
	must("insert", try(l.docs.InsertOne(ctx, bson.D{{"_id", 1}, {"n", 1}})).InsertedID != nil)
	must("insert many", len(try(l.docs.InsertMany(ctx, []any{bson.D{{"_id", 2}, {"n", 2}}, bson.D{{"n", 3}}})).InsertedIDs) == 2)
	must("update", try(l.docs.UpdateOne(ctx, bson.D{{"_id", 1}}, bson.D{{"$inc", bson.D{{"n", 9}}}})).ModifiedCount == 1)
	pipeline := mongo.Pipeline{{{"$set", bson.D{{"twice", bson.D{{"$multiply", bson.A{"$n", 2}}}}}}}}
	must("update many", try(l.docs.UpdateMany(ctx, bson.D{{"n", bson.D{{"$gt", 1}}}}, pipeline)).ModifiedCount == 3)
	must("replace", try(l.docs.ReplaceOne(ctx, bson.D{{"_id", 2}}, bson.D{{"r", true}})).ModifiedCount == 1)
	upsert := options.UpdateOne().SetUpsert(true)
	must("upsert", try(l.docs.UpdateOne(ctx, bson.D{{"name", "new"}}, bson.D{{"$set", bson.D{{"x", 1}}}}, upsert)).UpsertedID != nil)
	var found struct{ N int }
	after := options.FindOneAndUpdate().SetReturnDocument(options.After)
	err := l.docs.FindOneAndUpdate(ctx, bson.D{{"_id", 1}}, bson.D{{"$inc", bson.D{{"n", 1}}}}, after).Decode(&found)
	must("find and update", err == nil && found.N == 11, err, found)
	must("find and replace", l.docs.FindOneAndReplace(ctx, bson.D{{"_id", 1}}, bson.D{{"n", 5}}).Decode(&found) == nil && found.N == 11)
	must("find and delete", l.docs.FindOneAndDelete(ctx, bson.D{{"_id", 1}}).Decode(&found) == nil && found.N == 5)
	must("delete", try(l.docs.DeleteOne(ctx, bson.D{{"_id", 2}})).DeletedCount == 1)
	must("count", try(l.docs.CountDocuments(ctx, bson.D{})) == 2)
	try(l.docs.InsertOne(ctx, bson.D{{"_id", "dup"}}))
	_, err = l.docs.InsertOne(ctx, bson.D{{"_id", "dup"}})
	must("duplicate key", mongo.IsDuplicateKeyError(err), err)
}

func (l *lab) sessions(ctx context.Context) {
	session := try(l.client.StartSession())
	defer session.EndSession(ctx)
	ctx = mongo.NewSessionContext(ctx, session)
	try(l.docs.InsertOne(ctx, bson.D{{"_id", "s"}}))
	try(l.docs.UpdateOne(ctx, bson.D{{"_id", "s"}}, bson.D{{"$set", bson.D{{"a", 1}}}}))
	must("own write", l.docs.FindOne(ctx, bson.D{{"_id", "s"}, {"a", 1}}).Err() == nil)
}

func (l *lab) transaction(ctx context.Context) {
	if l.mode != "replica" {
		return
	}
	session := try(l.client.StartSession())
	defer session.EndSession(ctx)
	_, err := session.WithTransaction(ctx, func(inside context.Context) (any, error) {
		if _, err := l.docs.InsertOne(inside, bson.D{{"_id", "t"}}); err != nil {
			return nil, err
		}
		return l.docs.UpdateOne(inside, bson.D{{"_id", "t"}}, bson.D{{"$set", bson.D{{"a", 1}}}})
	})
	must("committed", err == nil, err)
	must("there", l.docs.FindOne(ctx, bson.D{{"_id", "t"}, {"a", 1}}).Err() == nil)
	must("start", session.StartTransaction() == nil)
	inside := mongo.NewSessionContext(ctx, session)
	try(l.docs.DeleteOne(inside, bson.D{{"_id", "t"}}))
	must("gone inside", errors.Is(l.docs.FindOne(inside, bson.D{{"_id", "t"}}).Err(), mongo.ErrNoDocuments))
	must("aborted", session.AbortTransaction(ctx) == nil)
	must("still there", l.docs.FindOne(ctx, bson.D{{"_id", "t"}}).Err() == nil)
}

func (l *lab) bulk(ctx context.Context) {
	models := []mongo.WriteModel{
		mongo.NewInsertOneModel().SetDocument(bson.D{{"_id", "b1"}}),
		mongo.NewUpdateOneModel().SetFilter(bson.D{{"_id", "b1"}}).SetUpdate(bson.D{{"$set", bson.D{{"x", 1}}}}),
		mongo.NewReplaceOneModel().SetFilter(bson.D{{"_id", "b2"}}).SetReplacement(bson.D{{"y", 1}}).SetUpsert(true),
		mongo.NewDeleteOneModel().SetFilter(bson.D{{"_id", "b1"}}),
	}
	done := try(l.docs.BulkWrite(ctx, models))
	must("bulk", done.InsertedCount == 1 && done.ModifiedCount == 1 && done.UpsertedCount == 1 && done.DeletedCount == 1, done)
	done, err := l.docs.BulkWrite(ctx, []mongo.WriteModel{
		mongo.NewInsertOneModel().SetDocument(bson.D{{"_id", "b2"}}),
		mongo.NewInsertOneModel().SetDocument(bson.D{{"_id", "b3"}}),
	}, options.BulkWrite().SetOrdered(false))
	must("unordered", mongo.IsDuplicateKeyError(err) && done.InsertedCount == 1, err)
}

func (l *lab) clientBulk(ctx context.Context) {
	writes := []mongo.ClientBulkWrite{
		{Database: l.db.Name(), Collection: "client_bulk", Model: mongo.NewClientInsertOneModel().SetDocument(bson.D{{"_id", 1}})},
		{Database: l.db.Name(), Collection: "client_bulk", Model: mongo.NewClientUpdateOneModel().SetFilter(bson.D{{"_id", 1}}).SetUpdate(bson.D{{"$set", bson.D{{"x", 1}}}})},
		{Database: l.db.Name(), Collection: "client_bulk2", Model: mongo.NewClientDeleteManyModel().SetFilter(bson.D{})},
	}
	done := try(l.client.BulkWrite(ctx, writes, options.ClientBulkWrite().SetVerboseResults(true)))
	must("client bulk", done.InsertedCount == 1 && done.ModifiedCount == 1 && done.UpdateResults[1].ModifiedCount == 1, done)
}

func (l *lab) gridfs(ctx context.Context) {
	bucket := l.db.GridFSBucket(options.GridFSBucket().SetName("files"))
	content := make([]byte, 1_500_000)
	rand.New(rand.NewSource(1)).Read(content)
	id := try(bucket.UploadFromStream(ctx, "a file", bytes.NewReader(content)))
	var back bytes.Buffer
	try(bucket.DownloadToStream(ctx, id, &back))
	must("same", bytes.Equal(content, back.Bytes()))
	must("rename", bucket.Rename(ctx, id, "another name") == nil)
	must("delete", bucket.Delete(ctx, id) == nil)
	must("no chunks", try(l.db.Collection("files.chunks").CountDocuments(ctx, bson.D{})) == 0)
}

func (l *lab) changeStream(ctx context.Context) {
	if l.mode != "replica" {
		return
	}
	watched := l.db.Collection("watched")
	stream := try(watched.Watch(ctx, mongo.Pipeline{}, options.ChangeStream().SetFullDocument(options.UpdateLookup)))
	defer stream.Close(ctx)
	try(watched.InsertOne(ctx, bson.D{{"_id", 1}}))
	must("event", stream.Next(ctx), stream.Err())
	must("insert", stream.Current.Lookup("operationType").StringValue() == "insert")
}

func (l *lab) monitoring(context.Context) {
	l.seen.Lock()
	defer l.seen.Unlock()
	must("commands", l.seen.started > 25 && l.seen.started == l.seen.succeeded+l.seen.failed, l.seen.started, l.seen.succeeded, l.seen.failed)
	must("retryable", l.mode != "replica" || l.seen.retryable > 10, l.seen.retryable)
}

func (l *lab) onlyTheSidecar(context.Context) {
	l.seen.Lock()
	defer l.seen.Unlock()
	must("addresses", len(l.seen.addresses) == 1 && l.seen.addresses[l.addr], l.seen.addresses)
}

// run says whether a check holds.
func run(name string, check func(context.Context)) (good bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	line := map[string]any{"check": name, "ok": true}
	defer func() {
		if cause := recover(); cause != nil {
			line["ok"], line["detail"] = false, fmt.Sprint(cause)
		}
		good = line["ok"] == true
		text, _ := json.Marshal(line)
		fmt.Println(string(text))
	}()
	check(ctx)
	return
}

func main() {
	seen := &witness{addresses: map[string]bool{}}
	client := connect(os.Args[1], seen)
	db := client.Database("go_" + os.Args[3])
	l := &lab{client: client, db: db, docs: db.Collection("docs"), seen: seen, addr: os.Args[2], mode: os.Args[3]}
	checks := []struct {
		name  string
		check func(context.Context)
	}{
		{"crud", l.crud}, {"sessions", l.sessions}, {"transactions", l.transaction}, {"bulk", l.bulk},
		{"clientBulk", l.clientBulk}, {"gridfs", l.gridfs}, {"changeStream", l.changeStream}, {"monitoring", l.monitoring},
		{"onlyTheSidecar", l.onlyTheSidecar},
	}
	failures := 0
	for _, c := range checks {
		if !run(c.name, c.check) {
			failures++
		}
	}
	_ = client.Disconnect(context.Background())
	fmt.Printf("{\"done\":%d,\"failures\":%d}\n", len(checks), failures)
}
