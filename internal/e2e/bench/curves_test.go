package bench

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/e2e"
)

// curves are the charts of docs/scale.md by the names of their files.
type curves map[string]chart

// write saves the drawings beside the document.
func (all curves) write(b *testing.B) {
	for name, c := range all {
		if err := os.WriteFile(filepath.Join("docs", name+".svg"), []byte(c.svg()), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// measureConnections loads one server with more and more connections.
func measureConnections(b *testing.B, out *strings.Builder) chart {
	pin(b, "1")
	g := grownServer(b, 100_000, fewPeople)
	var refreshes []point
	out.WriteString("| connections | refreshes, SQLite |\n|---|---|\n")
	for _, n := range []int{1, 4, 16, 64, 128} { // of more than 160 that never pause some are refused
		l := g.refreshes(b, n)
		fmt.Fprintf(out, "| %d | %s |\n", n, l)
		refreshes = append(refreshes, point{float64(n), l.rate()})
	}
	out.WriteString("\n")
	return chart{title: "Refreshes a second by connections, server on one core", x: "connections", lines: []line{{"refresh, SQLite", refreshes}}}
}

// measureKeys publishes more and more keys, which lie in a directory.
func measureKeys(b *testing.B, out *strings.Builder) chart {
	pin(b, "1")
	var refreshes, calls []point
	out.WriteString("| keys in the JWK Set | bytes | refreshes | MCP calls |\n|---|---|---|---|\n")
	for _, n := range []int{1, 4, 16, 64} {
		g := grownServer(b, 1000, fewPeople, "SIGNET_KEYS_DIR="+directoryOfKeys(b, n))
		keys, size := publishedKeys(b, g.d)
		if keys != n {
			b.Fatalf("%d keys are published, want %d", keys, n)
		}
		access := g.client.Exchange(b, g.client.Code(b, "ann", "correct horse battery staple")).AccessToken
		l := g.refreshes(b, 64)
		m := load(b, g.d.Issuer, 64, 2*time.Second, func(_ int, c *e2e.Wire) error {
			_, err := c.Do("POST", "/mcp", mcpHeaders(access), echoCall)
			return err
		})
		fmt.Fprintf(out, "| %d | %d | %s | %s |\n", n, size, l, m)
		refreshes, calls = append(refreshes, point{float64(n), l.rate()}), append(calls, point{float64(n), m.rate()})
		g.d.Stop()
	}
	out.WriteString("\n")
	return chart{title: "Requests a second by published keys, server on one core", x: "keys in the JWK Set", lines: []line{{"refresh, SQLite", refreshes}, {"MCP call", calls}}}
}

func directoryOfKeys(b *testing.B, n int) string {
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			b.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("2025-01-01-%02d.pem", i)), text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// publishedKeys returns the number of keys in the JWK Set, and its length.
func publishedKeys(b *testing.B, d *e2e.Program) (keys, size int) {
	resp, err := http.Get(d.Issuer + "/.well-known/jwks.json")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(text, &set); err != nil {
		b.Fatal(err)
	}
	return len(set.Keys), len(text)
}

// measureUsers starts servers with more and more users in the file.
func measureUsers(b *testing.B, out *strings.Builder) chart {
	pin(b, "1")
	var refreshes []point
	out.WriteString("| users in the file | bytes | start | refreshes |\n|---|---|---|---|\n")
	for _, n := range []int{1000, 10_000, 100_000, 1_000_000} {
		g := grownServer(b, 1000, n)
		info, err := os.Stat(filepath.Join(g.d.Dir, "users"))
		if err != nil {
			b.Fatal(err)
		}
		l := g.refreshes(b, 64)
		fmt.Fprintf(out, "| %d | %.1f MB | %v | %s |\n", n, float64(info.Size())/1e6, g.started.Round(10*time.Millisecond), l)
		refreshes = append(refreshes, point{float64(n), l.rate()})
		g.d.Stop()
	}
	out.WriteString("\n")
	return chart{title: "Refreshes a second by users in the file, server on one core", x: "users in the file", lines: []line{{"refresh, SQLite", refreshes}}}
}

// fewPeople is a number of users whose file is read in no time, and of whom none gets too
// many grants.
const fewPeople = 20_000

func member(i int) string { return fmt.Sprintf("p%07d", i) }

// addPeople adds ann and other users to the file of a server that does not run. All have
// ann's password.
func addPeople(b *testing.B, d *e2e.Program, people int) {
	d.AddUser("ann", "correct horse battery staple")
	path := filepath.Join(d.Dir, "users")
	ann, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	all := bytes.NewBuffer(ann)
	for i := range people {
		all.Write(bytes.Replace(ann, []byte(`"ann"`), []byte(`"`+member(i)+`"`), 1))
	}
	if err := os.WriteFile(path, all.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
}
