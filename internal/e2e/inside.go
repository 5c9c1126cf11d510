package e2e

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"signet/internal/seal"
)

// Ring returns the keyring of the server, which opens its sealed artefacts.
func (d *Program) Ring() *seal.Keyring {
	d.T.Helper()
	secret := d.Setting("SIGNET_SECRET")
	if secret == "" {
		b, err := os.ReadFile(filepath.Join(d.Dir, "secret"))
		if err != nil {
			d.T.Fatal(err)
		}
		secret = strings.TrimSpace(string(b))
	}
	ring, err := seal.Parse(secret)
	if err != nil {
		d.T.Fatal(err)
	}
	return ring
}

// Generation returns the grant and the generation of a refresh handle.
func (d *Program) Generation(handle string) (grant string, gen int64) {
	d.T.Helper()
	h, err := seal.Open[seal.Refresh](d.Ring(), handle)
	if err != nil {
		d.T.Fatal(err)
	}
	return h.Grant.ID, h.Gen
}

// Database opens the store of a running server to read it.
func (d *Program) Database() *sql.DB {
	d.T.Helper()
	driver, source := "sqlite", "file:"+filepath.Join(d.Dir, "signet.db")+"?mode=ro&_pragma=busy_timeout(2000)"
	if u := d.Setting("SIGNET_STORE"); u != "" {
		driver, source = "pgx", u+"&search_path=signet"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		d.T.Fatal(err)
	}
	d.T.Cleanup(func() { db.Close() })
	return db
}

// Change runs a statement on the store of a stopped server.
func (d *Program) Change(query string) {
	d.T.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(d.Dir, "signet.db"))
	if err != nil {
		d.T.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		d.T.Fatal(err)
	}
}

// Row returns the row of a grant in the store; gen is -1 if there is none.
func (d *Program) Row(grant string) (gen int64, revoked bool) {
	d.T.Helper()
	var at int64
	err := d.Database().QueryRow("SELECT gen, revoked_at FROM grants WHERE id = $1", grant).Scan(&gen, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return -1, false
	}
	if err != nil {
		d.T.Fatal(err)
	}
	return gen, at != 0
}

// Metrics returns the page of metrics.
func (d *Program) Metrics() string {
	d.T.Helper()
	resp, err := http.Get("http://" + d.Setting("SIGNET_METRICS_LISTEN") + "/metrics")
	if err != nil {
		d.T.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.T.Fatal(err)
	}
	return string(b)
}

// Descriptors counts the open files of the server.
func (d *Program) Descriptors() int {
	d.T.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID()))
	if err != nil {
		d.T.Fatal(err)
	}
	return len(files)
}

// Confidential adds a client with a secret.
func (d *Program) Confidential() *Client {
	d.T.Helper()
	out, errOut, status := d.Signet("", "client", "add", "conf", "--redirect-uri", RedirectURI, "--scope", "read", "--json")
	if status != 0 {
		d.T.Fatal(errOut)
	}
	c := &Client{Issuer: d.Issuer, RedirectURI: RedirectURI}
	if err := json.Unmarshal([]byte(out), c); err != nil || c.Secret == "" {
		d.T.Fatalf("%s: %v", out, err)
	}
	return c
}

// Gauge returns the value of one metric.
func (d *Program) Gauge(name string) float64 {
	d.T.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(d.Metrics())
	if m == nil {
		d.T.Fatalf("no %s in the metrics", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		d.T.Fatal(err)
	}
	return v
}

// WithMetrics adds a listener for metrics.
func (d *Program) WithMetrics() *Program {
	for i, kv := range d.Env {
		if strings.HasPrefix(kv, "SIGNET_METRICS_LISTEN=") {
			d.Env[i] = "SIGNET_METRICS_LISTEN=127.0.0.1:" + FreePort(d.T)
		}
	}
	return d
}
