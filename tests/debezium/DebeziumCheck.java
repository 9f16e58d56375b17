import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.debezium.config.Configuration;
import io.debezium.connector.mongodb.MongoDbConnectorConfig;
import io.debezium.connector.mongodb.MongoDbSchema;
import io.debezium.connector.mongodb.MongoDbSourceInfoStructMaker;
import io.debezium.connector.mongodb.transforms.ExtractNewDocumentState;
import io.debezium.data.Json;
import io.debezium.pipeline.txmetadata.TransactionMonitor;
import java.io.BufferedReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.sink.SinkRecord;
import org.bson.BsonBinaryWriter;
import org.bson.BsonDocument;
import org.bson.codecs.BsonDocumentCodec;
import org.bson.codecs.EncoderContext;
import org.bson.io.BasicOutputBuffer;

/**
 * Reads lines of Tidelog's Debezium envelope as Kafka Connect does and flattens them with Debezium's own transform.
 *
 * <p>usage: DebeziumCheck FILE DATABASE. Each line goes through Kafka Connect's JsonConverter with the connector's own schema
 * (which the transform asks for). One line of JSON for each: what its images hash to when Debezium's BSON library reads them,
 * and for records of DATABASE what ExtractNewDocumentState makes of it, with deletes as `__deleted` and as tombstones.
 */
public final class DebeziumCheck {
    private static final ObjectMapper MAPPER = new ObjectMapper();

    private final JsonConverter reader = converter(true);
    private final JsonConverter writer = converter(false);
    private final ExtractNewDocumentState<SinkRecord> rewrite = transform("rewrite");
    private final ExtractNewDocumentState<SinkRecord> tombstone = transform("delete-to-tombstone");
    private final Schema source = source();
    private final Map<String, JsonNode> schemas = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        DebeziumCheck check = new DebeziumCheck();
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        try (BufferedReader lines = Files.newBufferedReader(Path.of(arguments[0]))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                out.println(check.look(MAPPER.readTree(line), arguments[1]));
            }
        }
        out.flush();
    }

    private String look(JsonNode payload, String database) throws Exception {
        String db = payload.at("/source/db").asText();
        String topic = "tidelog." + db + "." + payload.at("/source/collection").asText();
        ObjectNode message = MAPPER.createObjectNode();
        message.set("schema", schemas.computeIfAbsent(topic, t -> reader.asJsonSchema(envelope(t))));
        message.set("payload", payload);
        SchemaAndValue read = reader.toConnectData(topic, MAPPER.writeValueAsBytes(message));
        Struct value = (Struct) read.value();
        value.validate();
        ObjectNode told = MAPPER.createObjectNode();
        told.set("lsn", payload.at("/tidelog/lsn"));
        told.put("op", value.getString("op"));
        told.put("snapshot", value.getStruct("source").getString("snapshot"));
        told.put("before", sha(value.getString("before")));
        told.put("after", sha(value.getString("after")));
        if (db.equals(database)) {
            Schema keySchema = SchemaBuilder.struct().name(topic + ".Key").field("id", Schema.STRING_SCHEMA).build();
            Struct key = new Struct(keySchema).put("id", payload.at("/tidelog/id").toString());
            SinkRecord record = new SinkRecord(topic, 0, keySchema, key, read.schema(), value, 0);
            told.set("rewrite", flat(rewrite.apply(record)));
            told.set("tombstone", flat(tombstone.apply(record)));
        }
        return MAPPER.writeValueAsString(told);
    }

    private JsonNode flat(SinkRecord record) throws Exception {
        if (record == null) {
            return MAPPER.getNodeFactory().textNode("dropped");
        }
        byte[] json = writer.fromConnectData(record.topic(), record.valueSchema(), record.value());
        return json == null ? MAPPER.nullNode() : MAPPER.readTree(json);
    }

    /** The hash of the BSON that the Extended JSON stands for. */
    private static String sha(String extended) throws Exception {
        if (extended == null) {
            return null;
        }
        BasicOutputBuffer bytes = new BasicOutputBuffer();
        new BsonDocumentCodec().encode(
                new BsonBinaryWriter(bytes), BsonDocument.parse(extended), EncoderContext.builder().build());
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes.toByteArray()));
    }

    /** As io.debezium.connector.mongodb.MongoDbSchema builds it. */
    private Schema envelope(String topic) {
        return SchemaBuilder.struct()
                .name(topic + ".Envelope")
                .field("before", Json.builder().optional().build())
                .field("after", Json.builder().optional().build())
                .field("updateDescription", MongoDbSchema.UPDATED_DESCRIPTION_SCHEMA)
                .field("source", source)
                .field("op", Schema.OPTIONAL_STRING_SCHEMA)
                .field("ts_ms", Schema.OPTIONAL_INT64_SCHEMA)
                .field("transaction", TransactionMonitor.TRANSACTION_BLOCK_SCHEMA)
                .build();
    }

    private static Schema source() {
        Map<String, String> settings =
                Map.of("topic.prefix", "tidelog", "mongodb.connection.string", "mongodb://localhost/?replicaSet=none");
        MongoDbSourceInfoStructMaker maker = new MongoDbSourceInfoStructMaker();
        maker.init("mongodb", "3.6.1", new MongoDbConnectorConfig(Configuration.from(settings)));
        return maker.schema();
    }

    private static JsonConverter converter(boolean schemas) {
        JsonConverter converter = new JsonConverter();
        converter.configure(Map.of("schemas.enable", String.valueOf(schemas)), false);
        return converter;
    }

    private static ExtractNewDocumentState<SinkRecord> transform(String deletes) {
        ExtractNewDocumentState<SinkRecord> transform = new ExtractNewDocumentState<>();
        transform.configure(Map.of("delete.tombstone.handling.mode", deletes));
        return transform;
    }
}
