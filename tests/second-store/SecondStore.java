import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.util.List;

/** mongo-java-server with its H2 backend: PORT FILE. It says 9 for its wire version (it has what is asked of it there), since drivers refuse 8. */
public class SecondStore {
    private record Version(List<Integer> getVersionArray, int getWireVersion) implements MongoVersion {}

    public static void main(String[] arguments) {
        H2Backend backend = new H2Backend(arguments[1]);
        backend.version(new Version(List.of(4, 4, 0), 9));
        new MongoServer(backend).bind("127.0.0.1", Integer.parseInt(arguments[0]));
        System.out.println("listening on 127.0.0.1:" + arguments[0]);
    }
}
