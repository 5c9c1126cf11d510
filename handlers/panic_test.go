package handlers_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"signet/internal/store"
	"signet/internal/test/authtest"
	"signet/users"
)

// buggyUsers panic when they are armed.
type buggyUsers struct {
	*authtest.Users
	armed atomic.Bool
}

func (u *buggyUsers) Lookup(ctx context.Context, subject string) (users.User, error) {
	if u.armed.Load() {
		panic("a lookup with a bug")
	}
	return u.Users.Lookup(ctx, subject)
}

// A panic costs its own request one server_error in JSON. No lock is held after it,
// nothing was spent, and only the log has the reason. The same holds for a panic in the
// middle of a transaction.
func TestPanicInAHandlerFailsOneRequest_L17(t *testing.T) {
	source := &buggyUsers{Users: authtest.NewUsers()}
	s := authtest.New(t, func(c *authtest.Config) { c.Users = source })
	tokens := s.Tokens(t, "alice", s.PUB)
	source.armed.Store(true)
	for range 3 {
		form := "grant_type=refresh_token&client_id=" + s.PUB.ID + "&refresh_token=" + tokens.Refresh
		w := s.Failing(t, request("POST", authtest.Issuer+"/token", form, "Content-Type", formType))
		if w.StatusCode != http.StatusInternalServerError || w.Error() != "server_error" || strings.Count(w.Body, "{") != 1 || strings.Contains(w.Body, "bug") {
			t.Errorf("a panic in a refresh: %d %s", w.StatusCode, w.Body)
		}
	}
	source.armed.Store(false)
	if next := s.Refresh(t, s.PUB, tokens.Refresh).Tokens(t); s.Generation(t, next.Refresh) == s.Generation(t, tokens.Refresh) {
		t.Error("the handle was not rotated")
	}
	func() {
		defer func() {
			if p := recover(); p != "in the middle" {
				t.Errorf("the panic of a transaction came out as %v", p)
			}
		}()
		_ = s.Store.Write(t.Context(), func(tx store.Tx) error {
			if _, err := tx.Exec("UPDATE grants SET revoked_at = 1"); err != nil {
				t.Error(err)
			}
			panic("in the middle")
		})
	}()
	s.Tokens(t, "bob", s.PUB)
	next := s.Refresh(t, s.PUB, tokens.Refresh) // repeated: its transaction was undone
	if next.StatusCode != http.StatusOK {
		t.Errorf("after a transaction that panicked: %d %s", next.StatusCode, next.Body)
	}
}
