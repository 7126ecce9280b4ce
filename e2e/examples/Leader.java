import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.concurrent.TimeUnit;

/** Does five steps a second while this pod leads. It asks before every step. CONCH_URL, LEDGER_URL: see leader.go. */
public class Leader {
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final HttpRequest QUESTION = HttpRequest.newBuilder(URI.create(System.getenv("CONCH_URL") + "/v1/leader")).build();
    static final URI LEDGER = URI.create(System.getenv("LEDGER_URL"));

    /** The deadline is a time of System.nanoTime(), which stands still while the machine is suspended. Java has no clock
     *  that goes on; where machines are suspended, count with /proc/uptime as leader.rs does. */
    record Answer(boolean leads, String token, long deadline, boolean terminating) {}

    /** What is not clearly a yes is a no. */
    static Answer ask() {
        long asked = System.nanoTime(); // before the question: nobody knows how long the answer was on its way
        try {
            var answer = send(QUESTION);
            boolean terminating = answer.body().contains("\"terminating\":true");
            if (answer.statusCode() != 200) return new Answer(false, "", asked, terminating);
            String token = answer.headers().firstValue("Conch-Token").orElseThrow();
            long validForMs = answer.headers().firstValueAsLong("Conch-Valid-For-Ms").orElseThrow();
            return new Answer(true, token, asked + TimeUnit.MILLISECONDS.toNanos(validForMs), terminating);
        } catch (Exception error) { // refused, late, cut off, a header is missing: all of them mean no
            System.out.println("no answer: " + error);
            return new Answer(false, "", asked, false);
        }
    }

    /** One effect, shorter than the policy's stopGrace (3 s). The ledger refuses a token lower than it has seen: 412. */
    static void step(String token) {
        try {
            var entry = HttpRequest.newBuilder(LEDGER).header("Conch-Token", token).POST(BodyPublishers.ofString("one step"));
            int status = send(entry.build()).statusCode();
            if (status != 200) System.out.println("the ledger answered " + status);
        } catch (Exception error) {
            System.out.println("no step: " + error);
        }
    }

    static HttpResponse<String> send(HttpRequest request) throws Exception {
        var answer = CLIENT.sendAsync(request, BodyHandlers.ofString());
        try { return answer.get(2, TimeUnit.SECONDS); } finally { answer.cancel(true); } // what is late must not happen later
    }

    public static void main(String[] arguments) throws InterruptedException {
        // SIGTERM ends a JVM in the middle of a step. This lets it wait for the loop, which stops on `terminating`.
        Thread loop = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> { try { loop.join(); } catch (InterruptedException e) { } }));
        for (Answer now = ask(); !now.terminating; Thread.sleep(200), now = ask()) {
            if (now.leads && System.nanoTime() - now.deadline < 0) step(now.token);
        }
    }
}
