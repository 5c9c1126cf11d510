package faults

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"signet/internal/e2e"
)

// A stream that would last for hours ends with the server: it ends cleanly, and the
// stop does not wait for it.
func TestStopEndsStreams(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	_, tok := d.Login()
	r, err := http.NewRequest("POST", d.Issuer+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},`+
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + tok.AccessToken, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen",
	} {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("listening: %v, %v", resp, err)
	}
	defer resp.Body.Close()
	stream := bufio.NewReader(resp.Body)
	if _, err := stream.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if status := d.Stop(); status != 0 { // a stream that does not end by itself makes the stop fail
		t.Errorf("exit status %d", status)
	}
	if _, err := io.ReadAll(stream); err != nil {
		t.Errorf("the stream broke off: %v", err)
	}
}

// A second signal ends the server without waiting for open requests.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	c, err := net.Dial("tcp", strings.TrimPrefix(d.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n") // and no more
	d.Signal(syscall.SIGTERM)
	d.WaitFor(`"msg":"stopping"`)
	d.Signal(syscall.SIGTERM)
	if status := d.Status(); status != e2e.ExitFailed || d.Says("requests were still running") > 0 {
		t.Errorf("exit status %d, want %d at once:\n%s", status, e2e.ExitFailed, d.Output())
	}
	if answer, _ := io.ReadAll(c); len(answer) > 0 { // the server has waited for the body in vain
		t.Errorf("the open request was answered: %s", answer)
	}
}
