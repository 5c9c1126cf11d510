// Package cluster runs Signet as several machines would: nginx in front of replicas
// of the real program, each a process of its own, on a real PostgreSQL. Replicas and
// database can be stopped, killed, paused and started again.
//
// `make cluster` runs it to be broken by hand, and the tests of this package break it.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"signet/internal/seal"
	"signet/internal/test/freeport"
	"signet/internal/test/pgtest"
	"signet/internal/test/process"
	"signet/server"
)

// The user that exists at every replica.
const (
	User     = server.DemoUser
	Password = server.DemoPassword
)

// Rotation is the period of the signing keys unless Options.Env says otherwise.
const Rotation = 20 * time.Second

// Options are the settings of a cluster. The zero value is two replicas of role auth
// and three of role mcp, built from this source.
type Options struct {
	Auth, MCP int    // replicas of each role; 0 means 2 and 3
	Port      int    // port of nginx on loopback; 0 means any
	Program   string // path of the program; built if empty

	Users map[string]string // passwords by name, of users besides the demo's

	Gateway string // path of a configuration of the gateway, which the mcp replicas serve; empty: they serve the demo's tools

	Env []string // more settings of every replica

	// Store, if not nil, returns the URL at which a replica finds the database, such as
	// that of a proxy.
	Store func(replica, url string) string

	// EnvOf, if not nil, returns more settings of one replica.
	EnvOf func(replica string) []string
}

// Cluster is a running cluster. Close ends it.
type Cluster struct {
	URL    string // URL of nginx, which is the issuer
	Secret string // root secret of the replicas
	Dir    string // directory of all files, including logs
	Auth   []*Replica
	MCP    []*Replica

	Postgres *pgtest.Server

	o     Options
	nginx *process.Process
}

// Missing returns an error that names a missing program, such as nginx, or nil.
func Missing() error {
	_, err := pgtest.Bin()
	_, err2 := nginxProgram()
	return errors.Join(err, err2)
}

// drain is longer than nginx avoids a replica that refused connections: two seconds,
// which it counts as up to three. With less, nginx would avoid a restarted replica
// while the next one stops in a rolling restart.
const drain = 3500 * time.Millisecond

// Start starts all processes and waits until they answer.
func Start(ctx context.Context, o Options) (c *Cluster, err error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	if o.Auth == 0 {
		o.Auth = 2
	}
	if o.MCP == 0 {
		o.MCP = 3
	}
	c = &Cluster{o: o, Secret: seal.NewSecret()}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.Dir, err = os.MkdirTemp("", "signet-cluster-"); err != nil {
		return c, err
	}
	if o.Program == "" {
		c.o.Program = filepath.Join(c.Dir, "signet")
		if err := process.Build(ctx, c.o.Program); err != nil {
			return c, err
		}
	}
	if c.o.Program, err = filepath.Abs(c.o.Program); err != nil {
		return c, err
	}
	if c.Postgres, err = pgtest.NewServer(); err != nil {
		return c, err
	}
	if c.o.Port == 0 {
		if c.o.Port, err = freeport.New(); err != nil {
			return c, err
		}
	}
	c.URL = "http://localhost:" + strconv.Itoa(c.o.Port)
	return c, c.begin(ctx)
}

// begin starts the processes in the order of their dependencies.
func (c *Cluster) begin(ctx context.Context) (err error) {
	if c.Auth, err = c.newReplicas("auth", c.o.Auth); err != nil {
		return err
	}
	if c.MCP, err = c.newReplicas("mcp", c.o.MCP); err != nil {
		return err
	}
	for name, password := range c.o.Users {
		add := c.Command(ctx, "user", "add", name, "--scope", "read", "--scope", "write", "--password-stdin")
		add.Stdin = strings.NewReader(password + "\n")
		if out, err := add.CombinedOutput(); err != nil {
			return fmt.Errorf("adding the user %s: %w: %s", name, err, out)
		}
	}
	if c.o.Gateway != "" {
		if err := c.addGateway(ctx); err != nil {
			return err
		}
	}
	if err := startAll(ctx, c.Auth); err != nil {
		return err
	}
	if err := c.startNginx(ctx); err != nil { // nginx remembers replicas that refuse connections, so it starts last
		return err
	}
	if err := startAll(ctx, c.MCP); err != nil {
		return err
	}
	for _, r := range c.Replicas() {
		if err := r.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// addGateway makes the mcp replicas gateways: clients of the issuer that hold no secret but that of
// the client.
func (c *Cluster) addGateway(ctx context.Context) error {
	config, err := filepath.Abs(c.o.Gateway)
	if err != nil {
		return err
	}
	for _, r := range c.Auth {
		r.env = append(r.env, "SIGNET_GATEWAY_CONFIG="+config, "SIGNET_CLIENTS_FILE="+filepath.Join(c.Dir, "clients.json"))
	}
	out, err := c.Command(ctx, "client", "add", "gateway", "--exchange", "gateway", "--json").Output()
	if err != nil {
		return fmt.Errorf("adding the gateway's client: %w", err)
	}
	var client struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	if err := json.Unmarshal(out, &client); err != nil {
		return fmt.Errorf("the gateway's client: %w", err)
	}
	for _, r := range c.MCP {
		r.env = append(r.env, "SIGNET_GATEWAY_CONFIG="+config, "SIGNET_GATEWAY_CLIENT_ID="+client.ID, "SIGNET_GATEWAY_CLIENT_SECRET="+client.Secret)
	}
	return nil
}

func (c *Cluster) newReplicas(role string, n int) (list []*Replica, err error) {
	for i := range n {
		r, err := c.newReplica(role, i+1)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

func startAll(ctx context.Context, list []*Replica) (err error) {
	errs := make(chan error)
	for _, r := range list {
		go func() { errs <- r.Start(ctx) }()
	}
	for range list {
		err = errors.Join(err, <-errs)
	}
	return err
}

// Replicas returns all replicas, those of role auth first.
func (c *Cluster) Replicas() []*Replica {
	return append(c.Auth[:len(c.Auth):len(c.Auth)], c.MCP...)
}

// Replica returns the replica with that name, such as auth-1, or nil.
func (c *Cluster) Replica(name string) *Replica {
	for _, r := range c.Replicas() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// UsersFile is the path of the users file that the auth replicas share.
func (c *Cluster) UsersFile() string { return filepath.Join(c.Dir, "users") }

// NginxLog is the path of the error log of nginx.
func (c *Cluster) NginxLog() string { return filepath.Join(c.Dir, "nginx.log") }

func (c *Cluster) newReplica(role string, n int) (*Replica, error) {
	port, err := freeport.New()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprint(role, "-", n)
	r := &Replica{Name: name, Role: role, URL: "http://127.0.0.1:" + strconv.Itoa(port), Log: filepath.Join(c.Dir, name+".log"), program: c.o.Program}
	r.env = append(r.env, "PATH="+os.Getenv("PATH"), "HOME="+c.Dir,
		"SIGNET_ISSUER="+c.URL, "SIGNET_LISTEN=127.0.0.1:"+strconv.Itoa(port), "SIGNET_TRUSTED_PROXIES=127.0.0.1/32",
		"SIGNET_METRICS_LISTEN=off", "SIGNET_KEY_ROTATION="+Rotation.String(), "SIGNET_DRAIN_DELAY="+drain.String())
	r.args = []string{"serve", "--role", role}
	if role == "auth" {
		url := c.Postgres.URL
		if c.o.Store != nil {
			url = c.o.Store(name, url)
		}
		r.env = append(r.env, "SIGNET_STORE="+url, "SIGNET_SECRET="+c.Secret, "SIGNET_DATA_DIR="+filepath.Join(c.Dir, name), "SIGNET_USERS_FILE="+c.UsersFile())
		r.args = append(r.args, "--demo")
	}
	r.env = append(r.env, c.o.Env...)
	if c.o.EnvOf != nil {
		r.env = append(r.env, c.o.EnvOf(name)...)
	}
	return r, nil
}

// Command returns a command of the program in the environment of the first auth
// replica, such as `signet key rotate`.
func (c *Cluster) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.o.Program, args...)
	cmd.Env = c.Auth[0].env
	return cmd
}

// Close kills all processes and removes all files. Closing twice is fine.
func (c *Cluster) Close() error {
	var errs []error
	for _, r := range c.Replicas() {
		if r.Running() {
			errs = append(errs, r.Kill())
		}
	}
	if c.nginx != nil {
		errs = append(errs, c.nginx.Stop())
		c.nginx = nil
	}
	if c.Postgres != nil {
		errs = append(errs, c.Postgres.Close())
	}
	if c.Dir != "" {
		errs = append(errs, os.RemoveAll(c.Dir))
	}
	return errors.Join(errs...)
}

// Tail returns the last lines of a log.
func Tail(log string, lines int) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	list := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(list[max(0, len(list)-lines):], "\n")
}

// appendTo opens a log for appending, since a process may be started again.
func appendTo(path string) (io.WriteCloser, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}
