// Does jobs with an Astra token. A LifetimeWatcher renews the lease, and the program mints the next token while the old token is
// still live. README.md of the folder above lists the environment variables.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

const retry = 5 * time.Second

type token struct{ value, clientID, leaseID string }

// liveToken has a token that is always valid. Call current for each request.
type liveToken struct {
	vault  *api.Client
	creds  string
	now    atomic.Pointer[token]
	leases []*token
}

func (l *liveToken) current() *token { return l.now.Load() }

func (l *liveToken) mint(ctx context.Context) (*api.Secret, error) {
	secret, err := l.vault.Logical().ReadWithContext(ctx, l.creds)
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, fmt.Errorf("nothing at %s", l.creds)
	}
	// Store the lease first: if a later step fails, the token can still be revoked.
	next := &token{leaseID: secret.LeaseID}
	l.leases = append(l.leases, next)
	next.value, _ = secret.Data["token"].(string)
	next.clientID, _ = secret.Data["clientId"].(string)
	if next.value == "" {
		return nil, fmt.Errorf("no token at %s", l.creds)
	}
	l.now.Store(next)
	fmt.Printf("got token %s for %d s\n", next.clientID, secret.LeaseDuration)
	return secret, nil
}

// keep renews the lease until it cannot be extended, then mints the next token. The old token stays live for the rest of its
// lease, so that requests with it can end.
func (l *liveToken) keep(ctx context.Context, secret *api.Secret) {
	for ctx.Err() == nil {
		l.renew(ctx, secret)
		for ctx.Err() == nil {
			next, err := l.mint(ctx)
			if err == nil {
				secret = next
				break
			}
			fmt.Fprintf(os.Stderr, "no next token: %v\n", err)
			pause(ctx, retry)
		}
	}
}

// renew returns when the lease needs a successor.
func (l *liveToken) renew(ctx context.Context, secret *api.Secret) {
	watcher, err := l.vault.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: secret, Increment: secret.LeaseDuration})
	if err != nil {
		fmt.Fprintf(os.Stderr, "the lease cannot be renewed: %v\n", err)
		return
	}
	go watcher.Start()
	defer watcher.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-watcher.DoneCh():
			if err != nil {
				fmt.Fprintf(os.Stderr, "token %s was not renewed: %v\n", l.current().clientID, err)
			}
			return
		case renewal := <-watcher.RenewCh():
			granted := renewal.Secret.LeaseDuration
			fmt.Printf("renewed token %s for %d s\n", l.current().clientID, granted)
			// max_ttl is near. The watcher itself reports that only at the end of the lease, too late for an overlap.
			if granted < secret.LeaseDuration/2 {
				return
			}
		}
	}
}

// revoke deletes the tokens in Astra. If that fails, a token lives until its lease expires.
func (l *liveToken) revoke() {
	// The tokens before the last two have expired.
	for _, old := range l.leases[max(0, len(l.leases)-2):] {
		body := map[string]any{"lease_id": old.leaseID, "sync": true}
		if _, err := l.vault.Logical().Write("sys/leases/revoke", body); err != nil {
			fmt.Fprintf(os.Stderr, "token %s was not revoked: %v\n", old.clientID, err)
		} else {
			fmt.Printf("revoked token %s\n", old.clientID)
		}
	}
}

// job asks Astra which organization the token belongs to.
func job(ctx context.Context, url string, token *token) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v2/currentOrg", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token.value)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("astra answered %s", answer.Status)
	}
	return nil
}

func run(ctx context.Context) error {
	// Reads VAULT_ADDR and VAULT_TOKEN.
	vault, err := api.NewClient(nil)
	if err != nil {
		return err
	}
	live := &liveToken{vault: vault, creds: os.Getenv("ASTRA_CREDS")}
	secret, err := live.mint(ctx)
	if err != nil {
		return err
	}
	keeping, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		live.keep(keeping, secret)
	}()
	defer func() {
		stop()
		<-ended
		live.revoke()
	}()
	jobs, err := strconv.Atoi(envOr("JOBS", "10"))
	if err != nil {
		return err
	}
	for number := 1; number <= jobs && ctx.Err() == nil; number++ {
		token := live.current()
		if err := job(ctx, envOr("ASTRA_URL", "https://api.astra.datastax.com"), token); err != nil {
			return err
		}
		fmt.Printf("job %d done with token %s\n", number, token.clientID)
		pause(ctx, time.Second)
	}
	return nil
}

func pause(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}

func envOr(name, other string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return other
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
