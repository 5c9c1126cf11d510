package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"signet/internal/denylist"
	"signet/internal/mcpclient"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/internal/test/freeport"
	"signet/internal/vault"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"signet": main}) }

// Each command does what its script shows, as a user types it. A script runs in an empty
// directory, with settings for a server of its own; the commands below are for scripts.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			port, err := freeport.New()
			if err != nil {
				return err
			}
			env.Setenv("PORT", strconv.Itoa(port))
			env.Setenv("SIGNET_ISSUER", fmt.Sprintf("http://localhost:%d", port))
			env.Setenv("SIGNET_LISTEN", fmt.Sprintf("127.0.0.1:%d", port))
			env.Setenv("SIGNET_METRICS_LISTEN", "off")
			other, err := freeport.New()
			if err != nil {
				return err
			}
			env.Setenv("METRICS", fmt.Sprintf("127.0.0.1:%d", other)) // for scripts that need the listener
			env.Setenv("SIGNET_DRAIN_DELAY", "1ms")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": wantStatus, "hidden": wantHidden, "mode": wantMode, "ready": waitReady, "capture": capture, "sums": printSums,
			"grants": makeGrants, "accounts": makeAccounts, "signing-key": makeSigningKey, "access-token": printToken,
		},
	})
}

// wantStatus runs a command that must end with an exit status: status 2 signet user add.
func wantStatus(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// wantHidden fails if the last command printed one of the texts: hidden cows.
func wantHidden(ts *testscript.TestScript, _ bool, args []string) {
	for _, secret := range args {
		for _, from := range []string{"stdout", "stderr"} {
			if strings.Contains(ts.ReadFile(from), secret) {
				ts.Fatalf("%q is in %s", secret, from)
			}
		}
	}
}

// wantMode compares the permissions of a file: mode 0600 data/secret.
func wantMode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := info.Mode().Perm(); got != fs.FileMode(want) {
		ts.Fatalf("%s has mode %o, want %o", args[1], got, want)
	}
}

// waitReady waits until the server of the script is ready.
func waitReady(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		resp, err := http.Get(ts.Getenv("SIGNET_ISSUER") + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("no server is ready: %v", err)
		}
	}
}

// capture sets a variable to what a regular expression finds in the last output:
// capture KID '"kid": "(.*)"'.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("%s is not in the output", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// printSums prints a checksum of every file in a directory, except those that a look at
// the store makes.
func printSums(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".lock") || strings.HasSuffix(path, "-shm") {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.HasSuffix(path, "-wal") && len(b) == 0 {
			return err
		}
		fmt.Fprintf(ts.Stdout(), "%x %s\n", sha256.Sum256(b), path)
		return err
	}))
}

// makeGrants makes a data directory with a grant of alice, $ALICE, another whose user and
// client have names that no terminal should see, $NASTY, and more of other users:
// grants data 1000.
func makeGrants(ts *testscript.TestScript, _ bool, args []string) {
	ctx, data := context.Background(), state.Data{Dir: ts.MkAbs(args[0])}
	more, err := strconv.Atoi(args[1])
	ts.Check(err)
	_, err = state.Prepare(ctx, data)
	ts.Check(err)
	st, err := state.OpenStore(ctx, data)
	ts.Check(err)
	defer st.Close()
	list, err := denylist.New(ctx, denylist.Options{Store: st})
	ts.Check(err)
	end := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	since := time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	alice := denylist.Grant{ID: seal.NewID(end), Subject: "alice", ClientHash: "c", ClientName: "App", ConsentHash: "h", Scope: "read write",
		Resource: "https://mcp.test/mcp", Created: since.Unix(), Expires: end.Unix()}
	nasty := alice
	nasty.ID, nasty.Subject, nasty.ClientName = seal.NewID(end), "Idp|Zed", "\x1b[2J\r\u202eApp\tX"
	for _, g := range []denylist.Grant{alice, nasty} {
		_, err := list.Use(ctx, st.Epoch(), g, 0, since)
		ts.Check(err)
	}
	ts.Check(st.Write(ctx, func(tx store.Tx) error {
		for i := range more {
			_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
				VALUES ($1, 1, 0, 0, $2, 'c', 'n', 'h', 'read', 'https://mcp.test/mcp', 0, $3)`, seal.NewID(end), fmt.Sprint("user", i), end.Unix())
			if err != nil {
				return err
			}
		}
		return nil
	}))
	ts.Setenv("ALICE", alice.ID)
	ts.Setenv("NASTY", nasty.ID)
}

// makeAccounts makes a data directory with users who are in no users file, each with one grant:
// accounts data.
func makeAccounts(ts *testscript.TestScript, _ bool, args []string) {
	ctx, data := context.Background(), state.Data{Dir: ts.MkAbs(args[0])}
	ring, err := state.Prepare(ctx, data)
	ts.Check(err)
	st, err := state.OpenStore(ctx, data)
	ts.Check(err)
	defer st.Close()
	v := vault.New(vault.Options{Store: st, Ring: ring})
	defer v.Close()
	list, err := denylist.New(ctx, denylist.Options{Store: st})
	ts.Check(err)
	end := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, a := range []vault.Account{
		{Provider: "corp", Account: seal.Account{Subject: "upstream:corp:Ann", Name: "ann", Email: "ann@corp.example", DisplayName: "Ann A.", Scopes: []string{"read"}}},
		{Provider: "corp", Account: seal.Account{Subject: "upstream:corp:2", Name: "\x1b[2J\r\u202eApp\tX"}},
		{Account: seal.Account{Subject: "Seven", Name: "seven"}},
	} {
		_, err := v.SignedIn(ctx, a)
		ts.Check(err)
		if a.Provider != "" {
			_, err = v.Put(ctx, seal.Credential{Subject: a.Subject, Provider: a.Provider, Access: "access"})
			ts.Check(err)
		}
		_, err = list.Use(ctx, st.Epoch(), denylist.Grant{ID: seal.NewID(end), Subject: a.Subject, ClientHash: "c", ClientName: "App", Scope: "read",
			Resource: "https://mcp.test/mcp", Created: 1, Expires: end.Unix()}, 0, time.Now())
		ts.Check(err)
	}
}

// makeSigningKey writes a private key of the operator's own: signing-key keys/a.pem.
func makeSigningKey(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}

// printToken signs in at the running demo and prints the access token.
func printToken(ts *testscript.TestScript, _ bool, _ []string) {
	endpoint, err := mcpclient.ParseEndpoint(ts.Getenv("SIGNET_ISSUER") + "/mcp")
	ts.Check(err)
	c, err := mcpclient.Connect(context.Background(), mcpclient.Options{Endpoint: endpoint, Username: "demo_user", Password: "demo_password", Narrator: silent{}})
	ts.Check(err)
	defer c.Close()
	fmt.Fprint(ts.Stdout(), c.AccessToken())
}

type silent struct{}

func (silent) Step(string)                  {}
func (silent) Exchange(string, string, int) {}
