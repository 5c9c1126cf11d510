package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var figures = flag.Bool("figures", false, "measure the built program under load (make bench)")

// TestFigures measures the built program: the server on one core, the load on
// another, durable writes. It asserts nothing about speed; it prints.
func TestFigures(t *testing.T) {
	if !*figures {
		t.Skip("measures for a minute; run by make bench")
	}
	info, err := os.Stat(program(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("binary                        %.1f MiB", float64(info.Size())/(1<<20))
	d := startDaemon(t, []string{"SIGNET_LOG_LEVEL=info"}, "--demo")
	d.stop()
	d.prefix = []string{need(t, "taskset"), "--cpu-list", "0"}
	if out, err := exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", "1", strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d.start()
	t.Logf("start to first answer         %s", d.startTime())
	t.Logf("memory when idle              %.1f MiB", d.rss())

	type family struct {
		client registration
		handle string
		access string
	}
	families := make([]family, 64)
	for i := range families {
		client, tok := d.login()
		families[i] = family{client, tok.RefreshToken, tok.AccessToken}
	}
	for _, connections := range []int{16, 64} {
		load(t, d, fmt.Sprintf("refreshes, %d connections", connections), connections, func(i int, c *conn) error {
			f := &families[i]
			body := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.handle}, "client_id": {f.client.ClientID}}.Encode()
			answer, err := c.do("POST", "/token", "Content-Type: application/x-www-form-urlencoded\r\n", body)
			if err != nil {
				return err
			}
			var tok tokens
			if err := json.Unmarshal(answer, &tok); err != nil || tok.RefreshToken == "" {
				return fmt.Errorf("%s", answer)
			}
			f.handle, f.access = tok.RefreshToken, tok.AccessToken
			return nil
		})
	}
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}}}`
	load(t, d, "MCP calls, 16 connections", 16, func(i int, c *conn) error {
		_, err := c.do("POST", "/mcp", "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\nAuthorization: Bearer "+families[i].access+"\r\n", call)
		return err
	})
	load(t, d, "JWKS, 16 connections", 16, func(_ int, c *conn) error {
		_, err := c.do("GET", "/.well-known/jwks.json", "", "")
		return err
	})
	load(t, d, "livez, 16 connections", 16, func(_ int, c *conn) error {
		_, err := c.do("GET", "/livez", "", "")
		return err
	})
	t.Logf("memory under load             %.1f MiB", d.rss())
}

// startTime is the median of some starts, from exec to the first answer.
func (d *daemon) startTime() time.Duration {
	var took []time.Duration
	addr := strings.TrimPrefix(d.issuer, "http://")
	for range 5 {
		d.stop()
		begin := time.Now()
		cmd := d.command()
		if err := cmd.Start(); err != nil {
			d.t.Fatal(err)
		}
		for {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", addr)
				b, _ := io.ReadAll(c)
				c.Close()
				if bytes.HasPrefix(b, []byte("HTTP/1.1 200")) {
					break
				}
			}
			time.Sleep(500 * time.Microsecond)
		}
		took = append(took, time.Since(begin))
		cmd.Process.Kill()
		cmd.Wait()
		d.start()
	}
	slices.Sort(took)
	return took[len(took)/2].Round(time.Millisecond)
}

// rss is the resident memory in MiB.
func (d *daemon) rss() float64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.cmd.Process.Pid), "status"))
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			return n / 1024
		}
	}
	return 0
}

// load runs do on so many connections for five seconds and prints rate and latency.
func load(t *testing.T, d *daemon, what string, connections int, do func(i int, c *conn) error) {
	t.Helper()
	const lasts = 5 * time.Second
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range connections {
		wg.Go(func() {
			c := dial(t, d.issuer)
			defer c.Close()
			var took []time.Duration
			for time.Since(begin) < lasts {
				sent := time.Now()
				if err := do(i, c); err != nil {
					t.Errorf("%s: %v", what, err)
					break
				}
				took = append(took, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	t.Logf("%-28s  %6.0f/s   p50 %s   p99 %s", what, float64(len(all))/time.Since(begin).Seconds(),
		all[len(all)/2].Round(10*time.Microsecond), all[len(all)*99/100].Round(10*time.Microsecond))
}

// conn is an HTTP/1.1 connection that costs the load's core as little as possible.
type conn struct {
	net.Conn
	r    *bufio.Reader
	host string
}

func dial(t *testing.T, base string) *conn {
	t.Helper()
	host := strings.TrimPrefix(base, "http://")
	c, err := net.Dial("tcp", host)
	if err != nil {
		t.Error(err)
		t.FailNow()
	}
	return &conn{c, bufio.NewReader(c), host}
}

func (c *conn) do(method, path, headers, body string) ([]byte, error) {
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s", method, path, c.host, headers, len(body), body); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return b, err
}
