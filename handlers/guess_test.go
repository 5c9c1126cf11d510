package handlers_test

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"slices"
	"testing"
	"time"

	"signet/internal/test/authtest"
)

// Guessing refresh handles and codes is hopeless, quick to refuse, and never asks
// the store: with the store gone a guess is still refused, where a true handle gets
// 503.
func TestGuessedTokensChangeNothing_E16(t *testing.T) {
	s := authtest.New(t)
	tokens := s.Tokens(t, "alice", s.PUB)
	s.StopStore(t)
	wantError(t, s.Refresh(t, s.PUB, tokens.Refresh), http.StatusServiceUnavailable, "temporarily_unavailable")

	genuine, err := base64.RawURLEncoding.DecodeString(tokens.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	const guesses = 5_000
	var took []time.Duration
	for i := range guesses {
		b := make([]byte, len(genuine))
		rand.Read(b)
		if i%2 == 0 {
			copy(b, genuine[:29]) // the right version, root and nonce
		}
		guess := base64.RawURLEncoding.EncodeToString(b)
		begin := time.Now()
		r := s.Refresh(t, s.PUB, guess)
		took = append(took, time.Since(begin))
		wantError(t, r, http.StatusBadRequest, "invalid_grant")
		if t.Failed() {
			return
		}
	}
	slices.Sort(took)
	if median := took[guesses/2]; median > 50*time.Millisecond {
		t.Errorf("refusing a guess takes %s, want 50 ms or less", median)
	}
}
