package backend_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
)

// stdio is a server over stdio, and what it has reported.
type stdio struct {
	*backend.Backend
	log     lockedBuffer
	changed chan string
	options backend.Options
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newStdio returns a server that is a program of these tests. It is not started yet.
func newStdio(t *testing.T, program, manner string, change ...func(o *backend.Options)) *stdio {
	t.Helper()
	s := &stdio{changed: make(chan string, 100)}
	env := map[string]gatewayconfig.Secret{programVariable: gatewayconfig.Secret(program), mannerVariable: gatewayconfig.Secret(manner)}
	env["GORACE"] = "atexit_sleep_ms=0" // otherwise a test binary takes a second to end
	s.options = backend.Options{
		Server: &gatewayconfig.Server{ID: "files", Timeout: time.Minute, MaxAnswer: 1 << 20, MaxRequests: 1000, HealthEvery: time.Hour,
			Instances: []gatewayconfig.Instance{{Command: []string{os.Args[0]}, Env: env, Weight: 1}}},
		Routing: gatewayconfig.Routing{FailureThreshold: 1000},
		Agent:   "signet/test", Log: slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Changed: func(list string) { s.changed <- list },
	}
	s.options.SetPace(time.Minute, 0, time.Microsecond, 0) // the machine may be busy; and no test waits for a pause that it is not about
	for _, change := range change {
		change(&s.options)
	}
	b, err := backend.New(s.options)
	if err != nil {
		t.Fatal(err)
	}
	s.Backend = b
	t.Cleanup(b.Close)
	return s
}

// call calls a tool and returns its result.
func (s *stdio) call(t *testing.T, tool, arguments string) string {
	t.Helper()
	return s.send(t, callOf(tool, arguments), nil)
}

func (s *stdio) send(t *testing.T, m backend.Message, notify backend.Notify) string {
	t.Helper()
	a, err := s.Do(t.Context(), m, notify)
	if err != nil || a.Error != nil {
		t.Fatalf("%s %s: %s, error %v", m.Method, m.Params, a.Error, err)
	}
	return string(a.Result)
}

// text is the text of a tool's result.
func text(t *testing.T, result string) string {
	t.Helper()
	var r struct{ Content []struct{ Text string } }
	if err := json.Unmarshal([]byte(result), &r); err != nil || len(r.Content) != 1 {
		t.Fatalf("no result with a text: %s", result)
	}
	return r.Content[0].Text
}

// next is the next value of a channel. The test fails by its own time limit if there is none.
func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-t.Context().Done():
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func wantError(t *testing.T, err error, kind, what string) *backend.Error {
	t.Helper()
	e, ok := errors.AsType[*backend.Error](err)
	if !ok || e.Kind != kind || !strings.Contains(e.What, what) || e.Server != "files" {
		t.Fatalf("error %v, want one of the server files of kind %s that says %q", err, kind, what)
	}
	return e
}

// Servers by the SDK in both kinds of protocol versions, used in both forms of messages.
func TestServerOverStdio_Probe15_Row79(t *testing.T) {
	for _, version := range []string{"2026-07-28", "2025-06-18"} {
		t.Run(version, func(t *testing.T) {
			manner := map[string]string{"2026-07-28": "", "2025-06-18": "sessions"}[version]
			s := newStdio(t, "sdk", manner)
			m := callOf("echo", `{"a":[1.0, "\u00e9<"],`+"\r\n"+`"b":null}`)
			if got := text(t, s.send(t, m, nil)); got != `{"a":[1.0, "\u00e9<"],  "b":null}` && got != `{"a":[1.0,"\u00e9<"],"b":null}` {
				t.Errorf("arguments arrive as %s", got)
			}
			if era := s.State().Era; era != version {
				t.Errorf("protocol %q, want %q", era, version)
			}
			if got := s.send(t, modern(callOf("echo", "{}")), nil); strings.Count(got, `"resultType":"complete"`) != 1 || text(t, got) != "{}" {
				t.Errorf("a message without a session is answered by %s", got)
			}
			if err := s.Check(t.Context()); err != nil {
				t.Errorf("the health check says %v", err)
			}
		})
	}
}

func TestOneProcessForAllCallers_Probe15_Row79(t *testing.T) {
	s := newStdio(t, "sdk", "")
	pids := make(chan string)
	for range 20 {
		go func() {
			a, err := s.Do(t.Context(), callOf("pid", "{}"), nil)
			if err != nil {
				t.Error(err)
			}
			pids <- string(a.Result)
		}()
	}
	first := next(t, pids)
	for range 19 {
		if other := next(t, pids); other != first {
			t.Errorf("processes %s and %s", first, other)
		}
	}
}

// Each of many callers with one progress token gets the progress of its own call, by its own token.
func TestCallersOverStdioNeverMeet(t *testing.T) {
	for _, manner := range []string{"", "sessions"} {
		s := newStdio(t, "sdk", manner)
		var callers sync.WaitGroup
		for i := range 20 {
			callers.Go(func() {
				token, mark := `"one \u0026 the same"`, fmt.Sprintf(`{"caller":%d}`, i)
				if i%2 == 0 {
					token = "7"
				}
				m := backend.Message{Method: "tools/call", Params: json.RawMessage(`{"name":"progress","_meta":{"progressToken":` + token + `,"own":1},"arguments":` + mark + `}`)}
				var got []string
				a, err := s.Do(t.Context(), m, func(method string, message json.RawMessage) {
					got = append(got, method)
					var n struct {
						Params struct {
							ProgressToken json.RawMessage
							Progress      int
							Message       string
						}
					}
					if err := json.Unmarshal(message, &n); err != nil || string(n.Params.ProgressToken) != token || n.Params.Progress != len(got) || n.Params.Message != mark {
						t.Errorf("caller %d gets %s", i, message)
					}
				})
				if err != nil || a.Result == nil || len(got) != 3 {
					t.Errorf("caller %d: %d notifications, answer %s %s, error %v", i, len(got), a.Result, a.Error, err)
				}
			})
		}
		callers.Wait()
	}
}

func TestNotificationOfOtherCallsReachesNoCaller(t *testing.T) {
	s := newStdio(t, "fake", "")
	m := callOf("foreign progress", "{}")
	m.Params = json.RawMessage(`{"name":"foreign progress","_meta":{"progressToken":"mine"}}`)
	s.send(t, m, func(_ string, message json.RawMessage) { t.Errorf("the caller gets %s", message) })
}

func TestCancellationReachesTheServer(t *testing.T) {
	for _, manner := range []string{"", "sessions"} {
		s := newStdio(t, "sdk", manner)
		ctx, cancel := context.WithCancel(t.Context())
		m := backend.Message{Method: "tools/call", Params: json.RawMessage(`{"name":"hold","_meta":{"progressToken":"t"},"arguments":{"n":1}}`)}
		_, err := s.Do(ctx, m, func(string, json.RawMessage) { cancel() }) // it has begun
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want that of the context", err)
		}
		for text(t, s.call(t, "canceled", "{}")) != `{"n":1}` {
			if t.Context().Err() != nil {
				t.Fatal("the call has not been cancelled")
			}
		}
		s.call(t, "echo", "{}") // it harms no other call
	}
}

func TestNotificationsOfCallersDoNotDisturbTheOnlySession(t *testing.T) {
	s := newStdio(t, "fake", "")
	for _, method := range []string{"notifications/cancelled", "notifications/initialized", "notifications/progress", "notifications/roots/list_changed", "notifications/other"} {
		if a, err := s.Do(t.Context(), backend.Message{Method: method, Params: json.RawMessage(`{"requestId":1}`)}, nil); err != nil || a.Result != nil || a.Error != nil {
			t.Errorf("%s: answer %s, error %v", method, a.Result, err)
		}
	}
	said := s.call(t, "said", "{}")
	if strings.Count(said, "notifications/initialized") != 1 || strings.Count(said, "notifications/other") != 1 || strings.Count(said, "notifications/") != 2 {
		t.Errorf("the server has got %s", said)
	}
}

func TestListsThatChange(t *testing.T) {
	for _, manner := range []string{"", "sessions"} {
		s := newStdio(t, "sdk", manner)
		s.call(t, "grow", "{}")
		if list := next(t, s.changed); list != "tools" {
			t.Errorf("list %q has changed, want tools", list)
		}
	}
}

func TestListenersOfResources(t *testing.T) {
	for _, manner := range []string{"", "sessions"} {
		s := newStdio(t, "sdk", manner)
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan string, 100), make(chan error)
		for range 2 {
			go func() {
				ended <- s.Listen(ctx, "", nil, []string{"file:///a", "file:///b"}, func(method string, message json.RawMessage) { got <- method + string(message) })
			}()
		}
		for len(got) < 2 { // until the subscriptions have arrived
			s.call(t, "update", "{}")
		}
		for range 2 {
			if n := next(t, got); !strings.HasPrefix(n, "notifications/resources/updated{") || !strings.Contains(n, `"file:///a"`) {
				t.Errorf("notification %s", n)
			}
		}
		cancel()
		for range 2 {
			if err := next(t, ended); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want that of the context", err)
			}
		}
	}
}

func TestListenerGetsItsResourcesOnly(t *testing.T) {
	s := newStdio(t, "fake", "")
	got, ended := make(chan string, 100), make(chan error)
	go func() {
		ended <- s.Listen(t.Context(), "", nil, []string{"a:a"}, func(_ string, message json.RawMessage) { got <- string(message) })
	}()
	for !strings.Contains(s.call(t, "said", "{}"), `resources/subscribe{\"uri\":\"a:a\"}`) {
	}
	s.call(t, "updates", "{}")
	if n := next(t, got); !strings.Contains(n, `"a:a"`) {
		t.Errorf("notification %s", n)
	}
	if _, err := s.Do(t.Context(), callOf("dies", "{}"), nil); err == nil {
		t.Error("a process that has ended answers")
	}
	wantError(t, next(t, ended), backend.Down, "its process has ended")
}

func TestEnvironmentOfItsOwn_Row79(t *testing.T) {
	t.Setenv("SIGNET_SECRET", "of the gateway")
	t.Setenv("LANG", "C.UTF-8")
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := newStdio(t, "fake", "", func(o *backend.Options) {
		i := &o.Server.Instances[0]
		i.Command, i.Dir = append(i.Command, "--root", "/a b"), dir
		i.Env["API_KEY"], i.Env["LANG"] = "a key", "de_DE"
	})
	var place struct {
		Environment, Arguments []string
		Directory              string
	}
	if err := json.Unmarshal([]byte(s.call(t, "place", "{}")), &place); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"API_KEY": "a key", "LANG": "de_DE", "GORACE": "atexit_sleep_ms=0", programVariable: "fake", mannerVariable: ""}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			want[name] = value
		}
	}
	got := map[string]string{}
	for _, variable := range place.Environment {
		name, value, _ := strings.Cut(variable, "=")
		got[name] = value
	}
	if !maps.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
	if !slices.Equal(place.Arguments, []string{"--root", "/a b"}) || place.Directory != dir {
		t.Errorf("arguments %q in %s", place.Arguments, place.Directory)
	}
}

func TestCrash_Row79(t *testing.T) {
	s := newStdio(t, "fake", "")
	waiting := make(chan error)
	go func() {
		_, err := s.Do(t.Context(), callOf("silent", "{}"), nil)
		waiting <- err
	}()
	_, err := s.Do(t.Context(), callOf("dies", "{}"), nil)
	wantError(t, err, backend.Down, "its process has ended")
	if err := <-waiting; err == nil {
		t.Error("the process that has ended answers another message")
	}
	if said := s.call(t, "said", "{}"); strings.Count(said, `"initialize{`) != 1 {
		t.Errorf("the next process has got %s", said)
	}
	if list := next(t, s.changed); list != "" {
		t.Errorf("list %q has changed after a restart, want all", list)
	}
	if log := s.log.String(); !strings.Contains(log, "exit status 3") {
		t.Errorf("the log does not say how the process ended: %s", log)
	}
}

func TestAnswerBeforeTheEndCounts(t *testing.T) {
	s := newStdio(t, "fake", "")
	if got := s.call(t, "answers and dies", "{}"); got != `{"last":true}` {
		t.Error(got)
	}
}

// A process that ends again and again is started with pauses that grow, which callers are told.
func TestRestartBacksOff_Row79(t *testing.T) {
	s := newStdio(t, "fake", "dies", func(o *backend.Options) { o.SetPace(0, 0, time.Hour, time.Microsecond) })
	if err := s.Check(t.Context()); err == nil {
		t.Error("the health check finds nothing wrong")
	}
	_, err := s.Do(t.Context(), callOf("echo", "{}"), nil)
	first := wantError(t, err, backend.Down, "will be started again in 30s").RetryAfter
	if first <= 0 || first > 30*time.Second {
		t.Errorf("the next start is in %s, want at most 30 s", first)
	}
	if log := s.log.String(); strings.Count(log, "the server cannot be started") != 1 || !strings.Contains(log, "cannot read the license") {
		t.Errorf("log: %s", log)
	}
	wantError(t, s.Restart(t.Context()), backend.Down, "its process has ended") // it did not wait
}

func TestRestart(t *testing.T) {
	s := newStdio(t, "sdk", "")
	first := s.call(t, "pid", "{}")
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if second := s.call(t, "pid", "{}"); second == first {
		t.Error("the process is still the first one")
	}
	if list := next(t, s.changed); list != "" {
		t.Errorf("list %q has changed after a restart, want all", list)
	}
}

// The process of a disabled server ends with its last call, and another one starts when the server
// is enabled.
func TestDisabledServerHasNoProcess(t *testing.T) {
	s := newStdio(t, "sdk", "")
	pid := text(t, s.call(t, "pid", `{}`))
	number, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	lives := func() bool { return syscall.Kill(number, 0) == nil }
	ctx, cancel := context.WithCancel(t.Context())
	m := callOf("hold", `{}`)
	m.Params = json.RawMessage(`{"name":"hold","arguments":{},"_meta":{"progressToken":1}}`)
	holds, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		s.Do(ctx, m, func(string, json.RawMessage) { close(holds) })
	}()
	next(t, holds)
	s.Enable(false)
	if !lives() {
		t.Error("the process ends while a call runs")
	}
	_, err = s.Do(t.Context(), callOf("pid", `{}`), nil)
	wantError(t, err, backend.Disabled, "disabled")
	cancel()
	next(t, ended)
	// The first health check may run still.
	eventually(t, "the process of a disabled server ends", func() bool { return !lives() })
	if err := s.Check(t.Context()); err != nil || s.State().Status != "disabled" {
		t.Errorf("a check of a disabled server: %v, %+v", err, s.State())
	}
	eventually(t, "a check of a disabled server leaves nothing behind", func() bool { return s.State().Era == "" })
	s.Enable(true)
	eventually(t, "a process runs again", func() bool { return s.State().Era != "" })
	if again := text(t, s.call(t, "pid", `{}`)); again == pid {
		t.Errorf("process %s again", again)
	}
}

func TestServersThatBeginBadly(t *testing.T) {
	for manner, want := range map[string]struct{ version, kind, what string }{
		"":                 {version: "2025-11-25"},
		"narrow":           {version: "2025-06-18"},
		"dies at discover": {version: "2025-11-25"},
		"mute":             {version: "2025-11-25"},
		"refuses":          {kind: backend.Malformed, what: "refuses initialize"},
		"future":           {kind: backend.Malformed, what: "version of the protocol"},
		"hangs":            {kind: backend.Down, what: "did not answer within"},
		"dies":             {kind: backend.Down, what: "its process has ended"},
	} {
		t.Run(manner, func(t *testing.T) {
			t.Parallel()
			s := newStdio(t, "fake", manner, func(o *backend.Options) {
				switch manner { // what the program never says is waited for
				case "mute":
					o.SetPace(30*time.Second, 0, 0, 0)
				case "hangs":
					o.SetPace(3*time.Second, 0, 0, 0)
				}
			})
			_, err := s.Do(t.Context(), callOf("echo", "{}"), nil)
			if want.version == "" {
				wantError(t, err, want.kind, want.what)
			} else if era := s.State().Era; err != nil || era != want.version {
				t.Errorf("version %q, error %v; want %q", era, err, want.version)
			}
		})
	}
}

func TestCommandThatDoesNotExist(t *testing.T) {
	for name, change := range map[string]func(i *gatewayconfig.Instance){
		"no-such-program": func(i *gatewayconfig.Instance) { i.Command[0] = "no-such-program" },
		"/no/such/dir":    func(i *gatewayconfig.Instance) { i.Dir = "/no/such/dir" },
	} {
		s := newStdio(t, "fake", "", func(o *backend.Options) { change(&o.Server.Instances[0]) })
		_, err := s.Do(t.Context(), callOf("echo", "{}"), nil)
		wantError(t, err, backend.Down, name)
		if err := s.Check(t.Context()); err == nil {
			t.Error("the health check finds nothing wrong")
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	s := newStdio(t, "fake", "", func(o *backend.Options) { o.Server.MaxAnswer, o.Routing.FailureThreshold = 100_000, 1 })
	good := func() { // which also shows that no answer has opened the circuit breaker
		t.Helper()
		if got := s.call(t, "echo", `{"x": 1}`); got != `{"params":{"name":"echo","arguments":{"x":1}}}` {
			t.Fatalf("after that, echo answers %s", got)
		}
	}
	good()
	for tool, what := range map[string]string{
		"long": "longer than 100000 bytes", "long, id last": "longer than 100000 bytes",
		"both": "or both", "neither": "no result", "array": "wrong shape", "text error": "not one of JSON-RPC",
	} {
		_, err := s.Do(t.Context(), callOf(tool, `{"size":100000}`), nil)
		wantError(t, err, backend.Malformed, what)
		good()
	}
	for tool, want := range map[string]string{"wrong ids": `{"right":true}`, "noise": `{"fine":true}`, "twice": `{"first":true}`} {
		if got := s.call(t, tool, "{}"); got != want {
			t.Errorf("%s: %s", tool, got)
		}
		good()
	}
	if log := s.log.String(); strings.Count(log, "that is no message") != 1 || strings.Contains(log, "starting up") {
		t.Errorf("several lines of noise are not logged once, without what they say: %s", log)
	}
	if got := s.call(t, "exactly", `{"size":100000}`); len(got) < 99_000 {
		t.Errorf("an answer of just the limit has %d bytes", len(got))
	}
	a, err := s.Do(t.Context(), callOf("fails", "{}"), nil)
	if err != nil || string(a.Error) != `{"code":-32602,"message":"no","data":{"a":[1]}}` || a.Result != nil {
		t.Errorf("the server's error is %s, %v", a.Error, err)
	}
}

func TestRequestsOfTheServerAreRefused(t *testing.T) {
	s := newStdio(t, "fake", "")
	const want = `{"got":["\"p\"{}","7{\"code\":-32601,\"message\":\"Method not found\"}"]}`
	if got := s.call(t, "asks", "{}"); got != want {
		t.Errorf("the server is answered by %s, want %s", got, want)
	}
}

func TestTimeoutIsOfSilence_Row79(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got, err := backend.Await(time.Minute, func(progress, answer func()) {
			for range 10 {
				time.Sleep(59 * time.Second)
				progress()
			}
			time.Sleep(59 * time.Second)
			answer()
		})
		if err != nil || len(got) != 10 {
			t.Errorf("%d notifications, error %v: progress must prolong the time", len(got), err)
		}
		begin := time.Now()
		_, err = backend.Await(time.Minute, func(progress, _ func()) { progress() })
		if e, ok := errors.AsType[*backend.Error](err); !ok || e.Kind != backend.Down || time.Since(begin) != time.Minute {
			t.Errorf("error %v after %s, want one after a minute", err, time.Since(begin))
		}
	})
}

func TestServerThatDoesNotAnswer(t *testing.T) {
	s := newStdio(t, "fake", "", func(o *backend.Options) { o.Server.Timeout = 2 * time.Second })
	s.call(t, "echo", "{}")
	_, err := s.Do(t.Context(), callOf("silent", "{}"), nil)
	wantError(t, err, backend.Down, "no answer within 2s")
	if said := s.call(t, "said", "{}"); !strings.Contains(said, `notifications/cancelled{\"requestId\":`) {
		t.Errorf("the server has got %s, but no cancellation", said)
	}
}

// A process that does not answer the health check is replaced, unless it may be busy.
func TestHealthCheckEndsAProcessThatHangs(t *testing.T) {
	s := newStdio(t, "fake", "numb", func(o *backend.Options) { o.Server.Timeout = 2 * time.Second })
	s.call(t, "echo", "{}")
	if err := s.Check(t.Context()); err == nil {
		t.Error("the health check finds nothing wrong")
	}
	s.call(t, "echo", "{}")
	if list := next(t, s.changed); list != "" {
		t.Errorf("list %q has changed, want all: there is another process", list)
	}
}

func TestProcessThatDoesNotReadIsEnded(t *testing.T) {
	s := newStdio(t, "fake", "", func(o *backend.Options) { o.Server.Timeout = 2 * time.Second })
	s.call(t, "stops reading", "{}")
	large := callOf("echo", `"`+strings.Repeat("x", 1<<20)+`"`) // more than a pipe holds
	if _, err := s.Do(t.Context(), large, nil); err == nil {
		t.Error("a process that does not read answers")
	}
	for { // until the process is another one; a message may still meet the end of this one
		if a, err := s.Do(t.Context(), callOf("echo", "{}"), nil); err == nil && a.Result != nil {
			return
		} else if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// A log message over stdio does not say to whose call it belongs.
func TestLogMessagesAreLogged(t *testing.T) {
	s := newStdio(t, "fake", "", func(o *backend.Options) {
		o.Server.Instances[0].Env["API_KEY"] = "horse \"battery\""
	})
	s.send(t, callOf("logs", `{}`), func(_ string, message json.RawMessage) { t.Errorf("the caller gets %s", message) })
	s.Close()
	if log := s.log.String(); !strings.Contains(log, `level=DEBUG msg="log message" server=files line="{\"level\":\"info\",\"data\":\"key is ***\"}"`) {
		t.Errorf("log: %s", log)
	}
}

func TestStderrIsLoggedWithoutSecrets(t *testing.T) {
	s := newStdio(t, "fake", "", func(o *backend.Options) { o.Server.Instances[0].Env["API_KEY"] = "correct horse" })
	s.call(t, "writes to stderr", `{"size":100000}`)
	s.Close()
	log := s.log.String()
	if !strings.Contains(log, `level=DEBUG msg=stderr server=files line="key is ***yyy`) || strings.Contains(log, "correct horse") || len(log) > 10_000 {
		t.Errorf("log of %d bytes: %.2000s", len(log), log)
	}
}

// witness accepts the connection of a program that keeps it open as long as it lives.
func witness(t *testing.T) (address string, here, gone func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted, c := make(chan net.Conn, 1), net.Conn(nil)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	here = func() {
		c = next(t, accepted)
		t.Cleanup(func() { c.Close() })
	}
	gone = func() { io.Copy(io.Discard, c) } // ends with the program
	return l.Addr().String(), here, gone
}

func TestNothingIsLeftAfterClose_Probe15_Row79_Row90(t *testing.T) {
	for _, manner := range []string{"", "stubborn"} {
		address, here, gone := witness(t)
		s := newStdio(t, "fake", manner, func(o *backend.Options) {
			o.Server.Instances[0].Env[aliveVariable] = gatewayconfig.Secret(address)
			o.SetPace(0, 50*time.Millisecond, 0, 0)
		})
		s.call(t, "spawns", "{}")
		here()
		waiting := make(chan error)
		go func() {
			_, err := s.Do(t.Context(), callOf("silent", "{}"), nil)
			waiting <- err
		}()
		s.Close()
		gone()
		if err := <-waiting; err == nil {
			t.Error("a message is answered after the end")
		}
		_, err := s.Do(t.Context(), callOf("echo", "{}"), nil)
		wantError(t, err, backend.Down, "is being stopped")
	}
}

func TestNothingIsLeftAfterACrash(t *testing.T) {
	address, here, gone := witness(t)
	s := newStdio(t, "fake", "", func(o *backend.Options) {
		o.Server.Instances[0].Env[aliveVariable] = gatewayconfig.Secret(address)
	})
	s.call(t, "spawns", "{}")
	here()
	if _, err := s.Do(t.Context(), callOf("dies", "{}"), nil); err == nil {
		t.Error("a process that has ended answers")
	}
	gone()
}

func TestNothingIsLeftIfTheGatewayIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a process together with another one")
	}
	address, here, gone := witness(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), programVariable+"=gateway", aliveVariable+"="+address)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	here()
	cmd.Process.Kill()
	cmd.Wait()
	gone()
}
