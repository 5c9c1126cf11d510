package bench

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/e2e"
)

const (
	manyUsers   = 50
	manyServers = 20
)

// many is a gateway in front of many servers that take tokens of their users, and of two dead ones:
// "refuses", at whose address nothing listens, and "silent", which accepts connections and never
// answers.
type many struct {
	gateway served
	program *e2e.Program
	lists   atomic.Int64 // that the servers were asked for
	tokens  []string     // of the users
}

func startMany(b *testing.B, core []string) *many {
	b.Helper()
	m := &many{}
	var config strings.Builder
	config.WriteString("servers:\n")
	for i := range manyServers {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Mcp-Method") == "tools/list" {
				m.lists.Add(1)
			}
			fastServer(w, r)
		}))
		b.Cleanup(server.Close)
		fmt.Fprintf(&config, "  - {id: s%d, type: http, auth_strategy: master_oauth, config: {url: %q}}\n", i, server.URL+"/mcp")
	}
	fmt.Fprintf(&config, "  - {id: refuses, type: http, auth_strategy: bypass_auth, config: {url: %q}}\n", "http://127.0.0.1:"+e2e.FreePort(b)+"/mcp")
	fmt.Fprintf(&config, "  - {id: silent, type: http, auth_strategy: bypass_auth, config: {url: %q}}\n", "http://"+silent(b)+"/mcp")
	file := filepath.Join(b.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	m.program = e2e.Start(b, []string{"SIGNET_LOG_LEVEL=info", "SIGNET_GATEWAY_CONFIG=" + file, e2e.WideLimits}, "--demo")
	m.program.Stop()
	m.program.Prefix, m.program.Log = core, filepath.Join(b.TempDir(), "log")
	m.program.Start()
	m.gateway = served{m.program.Issuer, m.program.PID()}
	for range manyUsers {
		_, tok := m.program.Login()
		m.tokens = append(m.tokens, tok.AccessToken)
	}
	return m
}

// silent is the address of a listener that answers nothing.
func silent(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, c)
		}
	}()
	return l.Addr().String()
}

// message is a request of a user.
func (m *many) message(user int, method, tool string) (headers, body string) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	headers = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n" +
		"Mcp-Method: " + method + "\r\nAuthorization: Bearer " + m.tokens[user%manyUsers] + "\r\n"
	params := "{" + meta + "}"
	if tool != "" {
		headers += "Mcp-Name: " + tool + "\r\n"
		params = `{"name":"` + tool + `","arguments":{"message":"x"},` + meta + `}`
	}
	return headers, `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":` + params + `}`
}

// call calls a tool of each living server in turn on behalf of a user.
func (m *many) call() func(int, *e2e.Wire) error {
	var n atomic.Int64
	return func(user int, c *e2e.Wire) error {
		headers, body := m.message(user, "tools/call", fmt.Sprintf("s%d.echo", n.Add(1)%manyServers))
		answer, err := c.Do("POST", "/mcp", headers, body)
		if err == nil && !bytes.Contains(answer, []byte(`"text":"x"`)) {
			err = fmt.Errorf("%s", answer)
		}
		return err
	}
}

func (m *many) list(user int, c *e2e.Wire) error {
	headers, body := m.message(user, "tools/list", "")
	answer, err := c.Do("POST", "/mcp", headers, body)
	if n := bytes.Count(answer, []byte(`.echo"`)); err == nil && n != manyServers {
		err = fmt.Errorf("the list has %d tools, want %d", n, manyServers)
	}
	return err
}

// measureMany measures what many users and servers, and dead ones, cost.
func measureMany(b *testing.B, core []string, r *report) {
	m := startMany(b, core)
	for user := range manyUsers { // each has a credential for each server, and all its lists
		c, err := e2e.Dial(m.gateway.base)
		if err != nil {
			b.Fatal(err)
		}
		call := m.call()
		for range manyServers {
			if err := call(user, c); err != nil {
				b.Fatal(err)
			}
		}
		if err := m.list(user, c); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
	before := m.lists.Load()
	l := m.gateway.load(b, 8, m.list)
	r.row(fmt.Sprintf("tools/list over %d servers, 8 connections", manyServers), "from memory", l.String(), fmt.Sprintf("%d lists read from servers meanwhile", m.lists.Load()-before))
	m.gateway.load(b, manyUsers, m.call())
	r.row(fmt.Sprintf("memory, %d users of %d servers, under load", manyUsers, manyServers), "<= 200 MiB", fmt.Sprintf("%.1f MiB", rss(m.program)), "")
	var alone, refusing, silence loaded
	for range 3 {
		alone = alone.plus(m.gateway.load(b, 4, m.call()))
		refusing = refusing.plus(m.beside("refuses", func() loaded { return m.gateway.load(b, 4, m.call()) }))
		silence = silence.plus(m.beside("silent", func() loaded { return m.gateway.load(b, 4, m.call()) }))
	}
	r.row("call beside a server that refuses connections", "as without it", refusing.String(), "without: "+alone.String())
	r.row("call beside a server that never answers", "as without it", silence.String(), "without: "+alone.String())
	l = m.beside("silent", func() loaded { return m.gateway.load(b, 1, m.list) })
	r.row("tools/list beside a server that never answers", "as without it", l.String(), "")
}

// beside measures while 32 clients call a dead server, each again when it has an answer.
func (m *many) beside(dead string, measure func() loaded) loaded {
	var clients []*e2e.Wire
	for i := range 32 {
		c, err := e2e.Dial(m.gateway.base)
		if err != nil {
			continue
		}
		clients = append(clients, c)
		go func() {
			headers, body := m.message(i, "tools/call", dead+".echo")
			for pause := time.NewTicker(100 * time.Millisecond); ; <-pause.C {
				if _, err := c.Do("POST", "/mcp", headers, body); err != nil {
					pause.Stop()
					return // the measurement is over
				}
			}
		}()
	}
	l := measure()
	for _, c := range clients {
		c.Close()
	}
	return l
}
