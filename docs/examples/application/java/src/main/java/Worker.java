import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.springframework.scheduling.concurrent.ThreadPoolTaskScheduler;
import org.springframework.vault.authentication.SimpleSessionManager;
import org.springframework.vault.authentication.TokenAuthentication;
import org.springframework.vault.client.VaultEndpoint;
import org.springframework.vault.core.VaultTemplate;
import org.springframework.vault.core.lease.SecretLeaseContainer;
import org.springframework.vault.core.lease.domain.RequestedSecret;
import org.springframework.vault.core.lease.event.AfterSecretLeaseRenewedEvent;
import org.springframework.vault.core.lease.event.SecretLeaseCreatedEvent;

/**
 * Does jobs with an Astra token. A {@link SecretLeaseContainer} renews the lease, and mints the next token while the old token is
 * still live. README.md of the folder above lists the environment variables.
 */
public class Worker {

    record Token(String value, String clientId, String leaseId) {
        @Override
        public String toString() {
            return "Token[" + clientId + "]";
        }
    }

    /** Has a token that is always valid. Call {@link #current} for each request. */
    static class LiveToken implements AutoCloseable {
        private final VaultTemplate vault;
        private final SecretLeaseContainer container;
        private final ThreadPoolTaskScheduler scheduler = new ThreadPoolTaskScheduler();
        private final CompletableFuture<Void> first = new CompletableFuture<>();
        private final ConcurrentLinkedDeque<Token> tokens = new ConcurrentLinkedDeque<>();

        LiveToken(VaultTemplate vault, String creds, Duration ttl) throws Exception {
            this.vault = vault;
            scheduler.setDaemon(true);
            scheduler.initialize();
            container = new SecretLeaseContainer(vault, scheduler);
            // The container renews a third of the TTL before the lease ends. If a renewal grants less than half of the TTL, max_ttl
            // is near, and the container mints the next token. The defaults, 60 s and 10 s, do not fit short leases.
            container.setExpiryThreshold(ttl.dividedBy(3));
            container.setMinRenewal(ttl.dividedBy(2));
            container.addLeaseListener(event -> {
                if (event instanceof SecretLeaseCreatedEvent created) {
                    add(created);
                } else if (event instanceof AfterSecretLeaseRenewedEvent renewed) {
                    System.out.printf("renewed token %s for %d s%n", current().clientId, renewed.getLease().getLeaseDuration().toSeconds());
                }
            });
            container.addErrorListener((event, error) -> {
                System.err.println(error.getMessage());
                first.completeExceptionally(error);
            });
            container.addRequestedSecret(RequestedSecret.rotating(creds));
            container.afterPropertiesSet();
            container.start();
            first.get();
        }

        private void add(SecretLeaseCreatedEvent created) {
            Map<String, Object> data = created.getSecrets();
            Token token = new Token((String) data.get("token"), (String) data.get("clientId"), created.getLease().getLeaseId());
            // The token before the last one has expired by now.
            if (tokens.size() > 1) {
                tokens.removeFirst();
            }
            tokens.addLast(token);
            System.out.printf("got token %s for %d s%n", token.clientId, created.getLease().getLeaseDuration().toSeconds());
            first.complete(null);
        }

        Token current() {
            return tokens.getLast();
        }

        /** Revokes all tokens that are still live. If that fails, a token lives until its lease expires. */
        @Override
        public void close() {
            container.stop();
            for (Token token : tokens) {
                try {
                    // The container revokes in the background, and forgets the token that it replaced.
                    vault.write("sys/leases/revoke", Map.of("lease_id", token.leaseId, "sync", true));
                    System.out.printf("revoked token %s%n", token.clientId);
                } catch (RuntimeException error) {
                    System.err.printf("token %s was not revoked: %s%n", token.clientId, error.getMessage());
                }
            }
            scheduler.shutdown();
        }
    }

    /** The job: asks Astra which organization the token belongs to. */
    static void job(HttpClient http, String url, Token token) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url + "/v2/currentOrg"))
            .header("Authorization", "Bearer " + token.value)
            .timeout(Duration.ofSeconds(30))
            .build();
        int status = http.send(request, BodyHandlers.discarding()).statusCode();
        if (status != 200) {
            throw new IllegalStateException("Astra answered " + status);
        }
    }

    static String env(String name, String other) {
        return System.getenv().getOrDefault(name, other);
    }

    public static void main(String[] args) throws Exception {
        var stop = new CountDownLatch(1);
        var ended = new CountDownLatch(1);
        // Java ends after its hooks. So this hook waits until the token is revoked.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stop.countDown();
            try {
                ended.await(60, TimeUnit.SECONDS);
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
        }));
        var endpoint = VaultEndpoint.from(URI.create(System.getenv("VAULT_ADDR")));
        var login = new SimpleSessionManager(new TokenAuthentication(System.getenv("VAULT_TOKEN")));
        var vault = new VaultTemplate(endpoint, new org.springframework.http.client.SimpleClientHttpRequestFactory(), login);
        var ttl = Duration.ofSeconds(Long.parseLong(env("ROLE_TTL", "3600")));
        try (var live = new LiveToken(vault, System.getenv("ASTRA_CREDS"), ttl)) {
            var http = HttpClient.newHttpClient();
            int jobs = Integer.parseInt(env("JOBS", "10"));
            for (int number = 1; number <= jobs && stop.getCount() > 0; number++) {
                Token token = live.current();
                job(http, env("ASTRA_URL", "https://api.astra.datastax.com"), token);
                System.out.printf("job %d done with token %s%n", number, token.clientId);
                stop.await(1, TimeUnit.SECONDS);
            }
        } finally {
            ended.countDown();
        }
    }
}
