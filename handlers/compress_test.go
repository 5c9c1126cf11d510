package handlers_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/authtest"
)

// revokeMany puts n grants of a user that were just revoked into the store.
func revokeMany(t *testing.T, s *authtest.Server, n int) {
	t.Helper()
	now := s.Store.Now()
	err := s.Store.Write(t.Context(), func(tx store.Tx) error {
		for range n {
			_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
				VALUES ($1, 1, 0, $2, 'alice', 'c', 'n', 'h', 's', 'r', 0, $3)`, seal.NewID(now.AddDate(0, 1, 0)), now.UnixMilli(), now.AddDate(0, 1, 0).Unix())
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Restart(t)
}

// A long feed is compressed for those who take that, and the same for all others.
func TestLongFeedIsCompressed(t *testing.T) {
	s := authtest.New(t)
	short := s.Get(t, "/.well-known/revoked")
	if short.Header.Get("Vary") == "Accept-Encoding" || short.Header.Get("Content-Encoding") != "" {
		t.Errorf("a short feed: %v", short.Header)
	}
	revokeMany(t, s, 2000)
	plain := s.Get(t, "/.well-known/revoked")
	tags := map[string]bool{plain.Header.Get("ETag"): true}
	for accept, zipped := range map[string]bool{
		"gzip": true, "br, gzip": true, "GZIP;q=0.5": true, "deflate, gzip;q=1.0, *;q=0": true,
		"gzip;q=0": false, "gzip; q=0.000": false, "": false, "br": false, "identity": false, "xgzip": false, "*": false,
	} {
		r := s.Do(t, request("GET", authtest.Issuer+"/.well-known/revoked", "", "Accept-Encoding", accept))
		body, h := r.Body, r.Header
		if got := h.Get("Content-Encoding") == "gzip"; got != zipped || !strings.Contains(strings.Join(h.Values("Vary"), ","), "Accept-Encoding") || h.Get("Content-Length") != fmt.Sprint(len(body)) {
			t.Errorf("%q: compressed %v, %v", accept, got, h)
			continue
		}
		if zipped {
			tags[h.Get("ETag")] = true
			if len(body) > len(plain.Body)*3/4 {
				t.Errorf("%d of %d bytes", len(body), len(plain.Body))
			}
			z, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			body = string(b)
		}
		if body != plain.Body {
			t.Errorf("%q: another feed", accept)
		}
		again := s.Do(t, request("GET", authtest.Issuer+"/.well-known/revoked", "", "Accept-Encoding", accept, "If-None-Match", h.Get("ETag")))
		if again.StatusCode != http.StatusNotModified || again.Body != "" {
			t.Errorf("%q: the same again: %d", accept, again.StatusCode)
		}
	}
	if len(tags) != 2 {
		t.Errorf("entity tags %v, want one for each form", tags)
	}
}
