package backend_test

import (
	"strings"
	"testing"
	"time"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/internal/test/backends"
)

// What a broken server sends in place of an answer becomes an error that names the server and says
// what is wrong, and contains nothing of it. The server's other methods go on.
func TestBadAnswers(t *testing.T) {
	for m, want := range map[backends.Manner]struct{ kind, text string }{
		backends.HTML:       {backend.Malformed, "it is not JSON"},
		backends.Huge:       {backend.Malformed, "more than 1048576 bytes"},
		backends.Endless:    {backend.Malformed, "more than 1048576 bytes"},
		backends.Stalled:    {backend.Down, "did not answer within 300ms"},
		backends.Silent:     {backend.Down, "did not answer within 300ms"},
		backends.WrongID:    {backend.Malformed, "the id of another request"},
		backends.WrongShape: {backend.Malformed, "the wrong shape"},
		backends.NotJSON:    {backend.Malformed, "not one JSON value"},
		backends.Redirect:   {backend.Malformed, "a redirect, which is not followed"},
		backends.Challenge:  {backend.Unauthorized, "refuses the credential"},
	} {
		t.Run(string(m), func(t *testing.T) {
			elsewhere := backends.NewHostile(t, backends.HostileOptions{})
			h := backends.NewHostile(t, backends.HostileOptions{Elsewhere: elsewhere.URL()})
			s := at(h.Endpoint())
			s.MaxAnswer = 1 << 20
			if want.kind == backend.Down { // only these have to run out of time
				s.Timeout = 300 * time.Millisecond
			}
			b := open(t, s)
			mustDo(t, b, callOf("echo", `{}`))
			h.Switch(m, "tools/call")
			e := failure(t, b, callOf("echo", `{}`))
			if e.Kind != want.kind || !strings.Contains(e.Error(), want.text) {
				t.Errorf("%s: %v, want %s and %q", e.Kind, e, want.kind, want.text)
			}
			if list, err := b.List(t.Context(), "tools", "", nil); err != nil || len(list) != 1 {
				t.Errorf("the list: %s %v", list, err)
			}
			if r := elsewhere.Requests(); len(r) != 0 {
				t.Errorf("the request went elsewhere: %v", r)
			}
			h.Switch(backends.Good)
			mustDo(t, b, callOf("echo", `{}`))
		})
	}
}

// A server that is broken from the start is an error, too, and is used as soon as it is well.
func TestBadFromTheStart(t *testing.T) {
	for _, m := range backends.Manners {
		if m == backends.Stalled || m == backends.Silent {
			continue
		}
		h := backends.NewHostile(t, backends.HostileOptions{Elsewhere: "http://127.0.0.1:9"})
		h.Switch(m)
		s := at(h.Endpoint())
		s.MaxAnswer = 1 << 20
		b := open(t, s, func(o *backend.Options) { o.Routing = gatewayconfig.Routing{FailureThreshold: 100} })
		failure(t, b, callOf("echo", `{}`))
		h.Switch(backends.Good)
		mustDo(t, b, callOf("echo", `{}`))
	}
}
