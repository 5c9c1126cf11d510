package mcp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/jwt"
	"signet/mcp"
)

// revocable makes the verifier ask a set that may change while requests run.
func (w *world) revocable(t testing.TB) (revoke func(gid string)) {
	t.Helper()
	var revoked sync.Map
	v, err := jwt.NewVerifier(jwt.VerifierOptions{
		Issuer: issuer, Audiences: []string{resource}, Keys: w.keys,
		Revoked: func(gid string) bool { _, ok := revoked.Load(gid); return ok },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.options.Verifier = v
	return func(gid string) { revoked.Store(gid, true) }
}

// lasting returns a handler that answers when its context ends, and notes how long that
// took.
func lasting(ended map[string]time.Duration, mu *sync.Mutex) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		began := time.Now()
		<-r.Context().Done()
		mu.Lock()
		defer mu.Unlock()
		ended[r.Header.Get("X-Name")] = time.Since(began)
	})
}

// The answers to calls end too. Streams of other grants go on.
func TestRevocationEndsStreams_G04(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		revoke := w.revocable(t)
		var mu sync.Mutex
		ended := map[string]time.Duration{}
		h := mcp.Guard(w.options, lasting(ended, &mu))
		var all sync.WaitGroup
		for _, c := range []struct{ name, method, accept, grant string }{
			{"stream", "GET", "text/event-stream", "gone"},
			{"second stream", "GET", "text/event-stream", "gone"},
			{"call", "POST", "application/json, text/event-stream", "gone"},
			{"another's stream", "GET", "text/event-stream", "here"},
		} {
			r := httptest.NewRequest(c.method, resource, nil)
			r.Header.Set("X-Name", c.name)
			r.Header.Set("Accept", c.accept)
			r.Header.Set("Authorization", "Bearer "+w.token(t, func(claims *jwt.Claims) { claims.GrantID = c.grant }))
			all.Go(func() { serve(h, r) })
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if len(ended) != 0 {
			t.Fatalf("ended before anything was revoked: %v", ended)
		}
		revoke("gone")
		time.Sleep(time.Second)
		synctest.Wait()
		for _, name := range []string{"stream", "second stream", "call"} {
			if took := ended[name]; took < 10*time.Second || took > 12*time.Second {
				t.Errorf("%s: ended after %v, want 10 to 12 s, a second after the revocation", name, took)
			}
		}
		if len(ended) != 3 {
			t.Errorf("ended: %v, want nothing of other grants", ended)
		}
		all.Wait() // the other stream ends with its token
		if took := ended["another's stream"]; took < 5*time.Minute || took > 7*time.Minute {
			t.Errorf("another's stream: ended after %v, want 5 to 7 minutes, with its token", took)
		}
		// The timer stops, and starts again.
		time.Sleep(time.Hour)
		again := httptest.NewRequest("GET", resource, nil)
		again.Header.Set("X-Name", "later")
		again.Header.Set("Accept", "text/event-stream")
		again.Header.Set("Authorization", "Bearer "+w.token(t, func(claims *jwt.Claims) { claims.GrantID = "later" }))
		all.Go(func() { serve(h, again) })
		time.Sleep(5 * time.Second)
		revoke("later")
		all.Wait()
		if took := ended["later"]; took > 7*time.Second {
			t.Errorf("after a pause: ended after %v, want at most 7 s", took)
		}
	})
}

// It makes no difference whether a handler asks for its context before or after the revocation,
// or only for one that is derived from it.
func TestContextOfAStreamThatIsAskedForLate_G04(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		revoke := w.revocable(t)
		h := mcp.Guard(w.options, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			name, derived := r.Header.Get("X-Name"), r.Context()
			if name == "early" {
				var cancel context.CancelFunc
				derived, cancel = context.WithCancel(r.Context())
				defer cancel()
				if derived.Err() != nil {
					t.Error("ended before the revocation")
				}
			}
			revoke(name)
			time.Sleep(2 * time.Second)
			if err := derived.Err(); err != context.Canceled {
				t.Errorf("%s: %v, want that the context has ended", name, err)
			}
		}))
		for _, name := range []string{"early", "late"} {
			r := httptest.NewRequest("POST", resource, nil)
			r.Header.Set("X-Name", name)
			r.Header.Set("Accept", "text/event-stream")
			r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.GrantID = name }))
			serve(h, r)
		}
	})
}

// Only an answer that may be a stream is cut off.
func TestRevocationCutsOffNoPlainAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		revoke := w.revocable(t)
		h := mcp.Guard(w.options, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
				t.Error("cut off")
			case <-time.After(10 * time.Second):
			}
		}))
		r := httptest.NewRequest("POST", resource, nil)
		r.Header.Set("Accept", "application/json")
		r.Header.Set("Authorization", "Bearer "+w.token(t, nil))
		var all sync.WaitGroup
		all.Go(func() { serve(h, r) })
		time.Sleep(time.Second)
		revoke("g1")
		all.Wait()
	})
}

// Subscriptions are the only streams that the endpoint itself opens.
func TestRevocationEndsSubscriptions_G04(t *testing.T) {
	w := newWorld(t)
	revoke := w.revocable(t)
	srv := httptest.NewServer(w.handler(t))
	t.Cleanup(srv.Close)
	res := w.subscribe(t, srv.URL, w.token(t, nil))
	buf := make([]byte, 4096)
	n, err := res.Body.Read(buf)
	if err != nil || !strings.Contains(string(buf[:n]), "acknowledged") {
		t.Fatalf("status %d: %q %v", res.StatusCode, buf[:n], err)
	}
	revoke("g1")
	began := time.Now()
	for err == nil {
		_, err = res.Body.Read(buf)
	}
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("the stream ended after %v (%v), want at most 15 s", d, err)
	}
}
