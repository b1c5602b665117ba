// Package host tests the release binary on Go's own plugin host: go-plugin with one socket for all connections
// (GRPCBrokerMultiplex), and the client of Vault's SDK. Vault uses both for a plugin in a container.
package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	sdk "github.com/hashicorp/vault/sdk/plugin"
	"github.com/hashicorp/vault/sdk/plugin/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// patience limits each test. The plugin waits 5 s for the answer to a knock.
const patience = 2 * time.Minute

// backend is Vault's client of a plugin. It also shows the broker and the connection.
type backend struct {
	sdk.GRPCBackendPlugin
	broker *plugin.GRPCBroker
	conn   *grpc.ClientConn
}

func (b *backend) GRPCClient(ctx context.Context, broker *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	b.broker, b.conn = broker, conn
	return b.GRPCBackendPlugin.GRPCClient(ctx, broker, conn)
}

// host is one process of the plugin.
type host struct {
	client  *plugin.Client
	rpc     plugin.ClientProtocol
	backend *backend
}

func start(t *testing.T) *host {
	t.Helper()
	binary := os.Getenv("PLUGIN")
	if binary == "" {
		t.Fatal(`PLUGIN is not set: run eval "$(make -s bin)"`)
	}
	found := &backend{}
	command := exec.Command(binary)
	command.Env = []string{pluginutil.PluginAutoMTLSEnv + "=true", pluginutil.PluginVaultVersionEnv + "=1.21.1"}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:     sdk.HandshakeConfig,
		VersionedPlugins:    map[int]plugin.PluginSet{5: {sdk.BackendPluginName: found}},
		Cmd:                 command,
		SkipHostEnv:         true,
		AllowedProtocols:    []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:            true,
		GRPCBrokerMultiplex: true,
		Logger:              hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr}),
	})
	t.Cleanup(client.Kill)
	rpc, err := client.Client()
	if err != nil {
		t.Fatalf("could not start the plugin: %v", err)
	}
	return &host{client: client, rpc: rpc, backend: found}
}

// stop stops the plugin as Vault does, and fails if the plugin has to be killed.
func (h *host) stop(t *testing.T) {
	t.Helper()
	begun := time.Now()
	h.client.Kill()
	// After 2 s without an end, go-plugin kills the process.
	if took := time.Since(begun); took >= 2*time.Second || !h.client.Exited() {
		t.Errorf("the plugin did not stop on its own: %v", took)
	}
}

// mount is one mount with its own storage.
type mount struct {
	logical.Backend
	storage logical.Storage
	ctx     context.Context
	org     string
}

// mount sets up and initializes a mount.
func (h *host) mount(ctx context.Context, number int) (*mount, error) {
	raw, err := h.rpc.Dispense(sdk.BackendPluginName)
	if err != nil {
		return nil, err
	}
	m := &mount{
		Backend: raw.(logical.Backend),
		storage: &logical.InmemStorage{},
		ctx:     metadata.AppendToOutgoingContext(ctx, pluginutil.MultiplexingCtxKey, fmt.Sprintf("mount%05d", number)),
		org:     fmt.Sprintf("0d6f5bb1-0000-4000-8000-%012d", number),
	}
	config := &logical.BackendConfig{
		Logger:      hclog.NewNullLogger(),
		StorageView: m.storage,
		System:      logical.TestSystemView(),
		Config:      map[string]string{},
		BackendUUID: fmt.Sprintf("9d6f5bb1-0000-4000-8000-%012d", number),
	}
	if err := m.Setup(m.ctx, config); err != nil {
		return nil, fmt.Errorf("Setup: %w", err)
	}
	return m, m.Initialize(m.ctx, &logical.InitializationRequest{})
}

// check writes a config, and checks that it is in the mount's own storage and nothing else is.
func (m *mount) check() error {
	request := &logical.Request{
		ID:        "request",
		Operation: logical.UpdateOperation,
		Path:      "config",
		Storage:   m.storage,
		Data: map[string]any{
			"org_id": m.org, "astra_token": "AstraCS:client:secret", "url": "http://127.0.0.1:9",
			"logical_name": "shop", "caller_mode": "standard", "verify_connection": false,
		},
	}
	response, err := m.HandleRequest(m.ctx, request)
	if err != nil || response.IsError() {
		return fmt.Errorf("write of the config: %v, %w", response, err)
	}
	keys, err := m.storage.List(m.ctx, "config/")
	if err != nil || len(keys) != 1 || keys[0] != m.org {
		return fmt.Errorf("the storage of the mount with %q has the configs %q, %w", m.org, keys, err)
	}
	return nil
}

func TestAMountWorksAndThePluginStops(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := start(t)
	m, err := h.mount(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
	h.stop(t)
}

// A yamux session allows 256 streams that nobody has accepted yet, and libraries have limits of their own.
func TestSixHundredMountsShareTheSocket(t *testing.T) {
	const mounts, callers = 600, 16
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := start(t)
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for number := caller; number < mounts; number += callers {
				m, err := h.mount(ctx, number)
				if err == nil {
					err = m.check()
				}
				if err != nil {
					t.Errorf("mount %d: %v", number, err)
					return
				}
			}
		})
	}
	group.Wait()
	h.stop(t)
}

// Vault gives up its Setup, but its broker goes on: the knock is answered, and nobody uses the connection.
func TestASetupThatWasGivenUpMixesUpNoMounts(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := start(t)
	for round := range 20 {
		hurry, hangUp := context.WithTimeout(ctx, time.Duration(round)*100*time.Microsecond)
		_, _ = h.mount(hurry, 1000+round)
		hangUp()
		m, err := h.mount(ctx, round)
		if err == nil {
			err = m.check()
		}
		if err != nil {
			t.Errorf("the mount after a Setup that was given up: %v", err)
		}
	}
	h.stop(t)
}

// A caller that hangs up during its Setup leaves a knock that the host answers late, when the plugin may already knock for
// the next mount. Each mount must still get its own storage.
func TestAnAbandonedKnockMixesUpNoMounts(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := start(t)
	if _, err := h.mount(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		id := h.backend.broker.NextId()
		hurry, hangUp := context.WithTimeout(ctx, 200*time.Millisecond)
		abandoned := metadata.AppendToOutgoingContext(hurry, pluginutil.MultiplexingCtxKey, fmt.Sprintf("gone%06d", round))
		_, err := pb.NewBackendClient(h.backend.conn).Setup(abandoned, &pb.SetupArgs{BrokerID: id})
		hangUp()
		if err == nil {
			t.Fatal("a Setup succeeded although nobody answered the knock")
		}
		// The next mount knocks first, and the late answer to the abandoned knock comes meanwhile.
		next := make(chan error, 1)
		go func() {
			m, err := h.mount(ctx, 10+round)
			if err == nil {
				err = m.check()
			}
			next <- err
		}()
		go h.backend.broker.AcceptAndServe(id, func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(options...)
		})
		if err := <-next; err != nil {
			t.Errorf("the mount after an abandoned knock: %v", err)
		}
	}
	h.stop(t)
}
