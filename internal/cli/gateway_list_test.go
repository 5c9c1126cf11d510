package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The list of servers says what is wrong with each, also which of its names are not served.
func TestGatewayListSaysWhatIsWrong(t *testing.T) {
	running := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"servers":[
			{"id":"a","status":"running","instances":[{"status":"running"}]},
			{"id":"b","status":"error","problem":"connection refused","instances":[{"status":"error","breaker":"open"}],
			 "left_out":["tool echo: it is that of the server a","tool x: it is that of the server a","tool y\u001b: it is that of the server a","tool z: it is that of the server a"]}]}`)
	}))
	defer running.Close()
	var out strings.Builder
	p := Process{Environ: []string{"SIGNET_DATA_DIR=" + t.TempDir(), "SIGNET_METRICS_LISTEN=" + strings.TrimPrefix(running.URL, "http://")}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out}
	if status := Run(t.Context(), p, []string{"gateway", "list"}); status != 0 {
		t.Fatalf("status %d: %s", status, out.String())
	}
	for _, want := range []string{"connection refused; tool echo: it is that of the server a; tool x:", "; 1 more", "0/1, 1 open"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the list does not say %q:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "that of the server a") != 3 {
		t.Errorf("the list is\n%s", &out)
	}
}
