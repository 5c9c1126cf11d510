package denylist_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/store"
	"signet/internal/test/storetest"
)

// TestMain lets this binary be the server that a test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SIGNET_TEST_VICTIM"); dir != "" {
		victim(dir)
	}
	os.Exit(m.Run())
}

// victim uses and revokes grants until it is killed. It writes a line before each call
// (intent) and after it (acknowledgement).
func victim(dir string) {
	ctx := context.Background()
	s, err := store.Open(ctx, pathOptions(dir))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	l, err := denylist.New(ctx, denylist.Options{Store: s, Window: time.Hour, Skew: skew, Keep: time.Hour})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var out sync.Mutex
	say := func(what, id string, gen int64) {
		out.Lock()
		defer out.Unlock()
		fmt.Println(what, id, gen)
	}
	go func() { // expired rows are inserted and pruned all the time
		for {
			if err := addOld(ctx, s); err != nil {
				fmt.Println("error", 0, err)
				os.Exit(1)
			}
			if err := l.Prune(ctx, s.Now()); err != nil {
				fmt.Println("error", 0, err)
				os.Exit(1)
			}
		}
	}()
	fmt.Println("ready - 0")
	for range 16 {
		go func() {
			for {
				g := grantAt(s.Now())
				for gen := int64(0); gen < 20; gen++ {
					say("use", g.ID, gen)
					next, err := l.Use(ctx, s.Epoch(), g, gen, s.Now())
					if err != nil || next != gen+1 {
						fmt.Println("error", next, err)
						os.Exit(1)
					}
					say("used", g.ID, gen)
				}
				if rand.IntN(2) == 0 {
					say("revoke", g.ID, 0)
					if err := l.Revoke(ctx, g, s.Now()); err != nil {
						fmt.Println("error", err)
						os.Exit(1)
					}
					say("revoked", g.ID, 0)
				}
			}
		}()
	}
	select {}
}

// addOld adds a few hundred grants that ended two lives ago.
func addOld(ctx context.Context, s *store.Store) error {
	return s.Write(ctx, func(tx store.Tx) error {
		for range 300 {
			g := grantAt(s.Now().Add(-2 * life))
			g.Gen, g.Subject = 1, "old"
			if err := insertRow(tx, g); err != nil {
				return err
			}
		}
		return nil
	})
}

// history is what the victim's lines say about one grant.
type history struct {
	used, tried       int64 // the newest generation acknowledged, and presented
	revoked, revoking bool  // the revocation was acknowledged, and begun
	reused, checked   bool  // the test reused a handle, and has checked that the grant is dead
}

// After any number of kills, while old rows are pruned, only the current handle and its
// direct predecessor are accepted, a repeated refresh that was not answered is served,
// and a grant that was revoked, also because of reuse, stays revoked.
func TestAcknowledgedVerdictsSurviveKill_L15(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 5
	}
	dir := t.TempDir()
	storetest.Create(t, pathOptions(dir))
	grants := map[string]*history{}
	acks := 0
	for range rounds {
		acks += runVictim(t, dir, grants)
		s := storetest.Open(t, pathOptions(dir))
		l, err := denylist.New(t.Context(), denylist.Options{Store: s, Window: time.Hour, Skew: skew, Keep: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for id, h := range grants {
			h.check(t, l, s, id)
		}
		if err := l.Prune(t.Context(), s.Now()); err != nil {
			t.Fatal(err)
		}
		if left, err := l.Grants(t.Context(), "old", time.Unix(0, 0)); err != nil || len(left) > 0 {
			t.Errorf("%d expired rows were not pruned (%v)", len(left), err)
		}
		if n := l.Stats().RolledBack; n != 0 {
			t.Fatalf("%d alarms about a store that was not rolled back", n)
		}
		s.Close()
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d acknowledgements, %d grants", rounds, acks, len(grants))
}

// runVictim runs a victim, kills it after a random time and records its lines in grants.
func runVictim(t *testing.T, dir string, grants map[string]*history) (acks int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SIGNET_TEST_VICTIM="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		var what, id string
		var gen int64
		if n, _ := fmt.Sscan(sc.Text(), &what, &id, &gen); n != 3 {
			t.Errorf("the victim wrote %q", sc.Text())
			continue
		}
		h := grants[id]
		if h == nil {
			h = &history{used: -1}
			grants[id] = h
		}
		switch what {
		case "ready":
			delete(grants, id)
			time.AfterFunc(rand.N(50*time.Millisecond), func() { cmd.Process.Kill() })
		case "use":
			h.tried = gen
		case "used":
			h.used = gen
			acks++
		case "revoke":
			h.revoking = true
		case "revoked":
			h.revoked = true
			acks++
		}
	}
	cmd.Wait()
	return acks
}

// check presents the grant's handles. The first check reuses one of them, so that the
// grant is revoked; from then on it must stay revoked.
func (h *history) check(t *testing.T, l *denylist.List, s *store.Store, id string) {
	t.Helper()
	g := grantAt(s.Now())
	g.ID = id
	use := func(gen int64) (int64, error) { return l.Use(context.Background(), s.Epoch(), g, gen, s.Now()) }
	dead := func(why string, gens ...int64) {
		t.Helper()
		for _, gen := range gens {
			if next, err := use(gen); !errors.Is(err, denylist.ErrRevoked) {
				t.Errorf("%s: generation %d gave %d, %v", why, gen, next, err)
			}
		}
		if !l.Revoked(id) {
			t.Errorf("%s: its access tokens would pass", why)
		}
	}
	switch {
	case h.reused:
		if !h.checked {
			dead("revoked because of reuse", h.tried, h.tried+1)
		}
		h.checked = true
	case h.revoked:
		if !h.checked {
			dead("revoked", 0, h.used, h.used+1)
		}
		h.checked = true
	case h.revoking:
		// A revocation that was not acknowledged may have been committed or not.
	case h.used == h.tried || h.tried > 0:
		// The client repeats the unanswered refresh, or goes on.
		gen := h.used + 1
		next, err := use(gen)
		if err != nil || next != gen+1 {
			t.Errorf("generation %d after %d was acknowledged: %d, %v", gen, h.used, next, err)
		}
		h.tried = next
		if gen < 2 {
			return // its predecessor is the code, or has grace
		}
		if next, err := use(gen - 1); !errors.Is(err, denylist.ErrReused) {
			t.Errorf("generation %d after %d was issued: %d, %v", gen-1, gen+1, next, err)
		}
		h.reused = true
	}
}
