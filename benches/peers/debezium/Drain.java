import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.BufferedWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Debezium's engine with its connector for MongoDB: events of one collection as lines of a file.
 *
 * <p>usage: Drain CONNECTION OFFSETS DATABASE COLLECTION EVENTS OUT. Ends when it has that many events; prints "ready" once the
 * engine polls, and then the milliseconds from the first event to the last. `cursor.pipeline.order=user_only` with a pipeline of
 * one empty match: the store evaluates the connector's own pipeline slowly, which is not what is measured.
 */
public final class Drain {
    private Drain() {}

    public static void main(String[] arguments) throws Exception {
        Properties options = new Properties();
        options.setProperty("name", "drain");
        options.setProperty("connector.class", "io.debezium.connector.mongodb.MongoDbConnector");
        options.setProperty("mongodb.connection.string", arguments[0]);
        options.setProperty("topic.prefix", "drain");
        options.setProperty("offset.storage", "org.apache.kafka.connect.storage.FileOffsetBackingStore");
        options.setProperty("offset.storage.file.filename", arguments[1]);
        options.setProperty("offset.flush.interval.ms", "200");
        options.setProperty("snapshot.mode", "no_data");
        options.setProperty("capture.mode", "change_streams_update_full");
        options.setProperty("capture.scope", "collection");
        options.setProperty("capture.target", arguments[2] + "." + arguments[3]);
        options.setProperty("collection.include.list", arguments[2] + "." + arguments[3]);
        options.setProperty("cursor.pipeline", "[{\"$match\": {}}]");
        options.setProperty("cursor.pipeline.order", "user_only");
        options.setProperty("poll.interval.ms", "10");
        options.setProperty("max.batch.size", "8192");
        options.setProperty("max.queue.size", "32768");
        options.setProperty("errors.max.retries", "0");
        long wanted = Long.parseLong(arguments[4]);
        CountDownLatch done = new CountDownLatch(1);
        long[] state = new long[3];
        try (BufferedWriter out = Files.newBufferedWriter(Path.of(arguments[5]))) {
            DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine.create(Json.class).using(options)
                .using(new DebeziumEngine.ConnectorCallback() {
                    @Override
                    public void pollingStarted() {
                        System.out.println("ready");
                    }
                })
                .using((success, message, error) -> {
                    if (!success) {
                        System.err.println(message + " " + error);
                    }
                    done.countDown();
                })
                .notifying((List<ChangeEvent<String, String>> events, DebeziumEngine.RecordCommitter<ChangeEvent<String, String>> committer) -> {
                    for (ChangeEvent<String, String> event : events) {
                        if (event.value() != null) {
                            state[0] += 1;
                            if (state[0] == 1) {
                                state[1] = System.nanoTime();
                            }
                            try {
                                out.write(event.value());
                                out.newLine();
                            } catch (java.io.IOException error) {
                                throw new java.io.UncheckedIOException(error);
                            }
                        }
                        committer.markProcessed(event);
                    }
                    committer.markBatchFinished();
                    if (state[0] >= wanted) {
                        state[2] = System.nanoTime();
                        done.countDown();
                    }
                })
                .build();
            ExecutorService threads = Executors.newSingleThreadExecutor();
            threads.execute(engine);
            done.await();
            engine.close();
            threads.shutdown();
            out.flush();
        }
        System.out.println("events " + state[0] + " ms " + (state[2] - state[1]) / 1_000_000);
        System.exit(state[0] >= wanted ? 0 : 1);
    }
}
