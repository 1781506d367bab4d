// The conversation (tests/src/clients/conversation.rs) by java.net.http.HttpClient ("new") or
// HttpsURLConnection ("old").
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.stream.Stream;
import javax.net.ssl.HttpsURLConnection;

public class Client {
    interface Answer {
        int status();
        InputStream body() throws IOException;
    }

    interface Asker {
        Answer ask(String method, String path, byte[] body) throws Exception;
    }

    static final String BEARER = "Bearer " + System.getenv("LAB_API_KEY");

    static Asker httpClient(String origin) {
        HttpClient client = HttpClient.newHttpClient();
        return (method, path, body) -> {
            HttpRequest.BodyPublisher publisher = body == null
                ? HttpRequest.BodyPublishers.noBody()
                : HttpRequest.BodyPublishers.ofByteArray(body);
            HttpRequest request = HttpRequest.newBuilder(URI.create(origin + path))
                .header("authorization", BEARER).method(method, publisher).build();
            HttpResponse<InputStream> response =
                client.send(request, HttpResponse.BodyHandlers.ofInputStream());
            return new Answer() {
                public int status() { return response.statusCode(); }
                public InputStream body() { return response.body(); }
            };
        };
    }

    static Asker urlConnection(String origin) {
        return (method, path, body) -> {
            HttpsURLConnection connection =
                (HttpsURLConnection) new URL(origin + path).openConnection();
            connection.setRequestMethod(method);
            connection.setRequestProperty("authorization", BEARER);
            if (body != null) {
                connection.setDoOutput(true);
                connection.getOutputStream().write(body);
            }
            int status = connection.getResponseCode();
            return new Answer() {
                public int status() { return status; }
                public InputStream body() throws IOException {
                    return status < 400 ? connection.getInputStream() : connection.getErrorStream();
                }
            };
        };
    }

    static String whole(Answer answer) throws IOException {
        try (InputStream body = answer.body()) {
            return new String(body.readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Asker asker =
            arguments[0].equals("new") ? httpClient(arguments[1]) : urlConnection(arguments[1]);
        System.out.println("version " + System.getProperty("java.version"));
        Answer answer = asker.ask("GET", "/v1/lab/echo", null);
        System.out.println("echo " + answer.status());
        System.out.println(whole(answer));

        answer = asker.ask("POST", "/v1/lab/upload", new byte[3000000]);
        System.out.print("upload " + answer.status() + " " + whole(answer));

        answer = asker.ask("GET", "/v1/lab/events/3", null);
        InputStreamReader reader = new InputStreamReader(answer.body(), StandardCharsets.UTF_8);
        try (Stream<String> lines = new BufferedReader(reader).lines()) {
            lines.filter(line -> line.startsWith("data: "))
                .forEach(line -> System.out.println(line.substring(6)));
        }

        answer = asker.ask("DELETE", "/v1/models/m", null);
        System.out.print("refused " + answer.status() + " " + whole(answer));
    }
}
