package admission_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"signet/internal/admission"
)

func open(t *testing.T, b *admission.Budget, holder string, bytes int64) *admission.Load {
	t.Helper()
	l, err := b.Open(holder)
	if err == nil {
		err = l.Take(bytes)
	}
	if err != nil {
		t.Fatalf("%s, %d bytes: %v", holder, bytes, err)
	}
	return l
}

func wantNoRoom(t *testing.T, b *admission.Budget, holder string, bytes int64) {
	t.Helper()
	l, err := b.Open(holder)
	if err == nil {
		before := b.Used()
		if err = l.Take(bytes); err != nil && b.Used() != before {
			t.Errorf("a refusal took %d bytes", b.Used()-before)
		}
		l.Close()
	}
	if !errors.Is(err, admission.ErrFull) {
		t.Errorf("%s, %d bytes: %v, want %v", holder, bytes, err, admission.ErrFull)
	}
}

const mib = 1 << 20

// A holder has its share at most, and gets it back.
func TestHolderHasItsShareOfBytes(t *testing.T) {
	b := admission.NewBudget(16*mib, 256*mib)
	first := open(t, b, "ann", 8*mib)
	open(t, b, "ann", 7*mib)
	wantNoRoom(t, b, "ann", mib)
	open(t, b, "bob", 15*mib)
	open(t, b, "", 15*mib) // not known whose: no other one's
	open(t, b, "", 15*mib)
	wantNoRoom(t, b, "", 1<<62)
	first.Reset()
	if err := first.Take(8 * mib); err != nil {
		t.Errorf("an answer in place of the body: %v", err)
	}
	first.Close()
	open(t, b, "ann", 8*mib)

	small, n := admission.NewBudget(16*mib, 256*mib), 0
	for _, err := small.Open("ann"); err == nil; n++ {
		_, err = small.Open("ann")
	}
	if n < 100 || n > 300 {
		t.Errorf("a holder has %d requests at once", n)
	}
}

// However many holders take all they can, there is room for another one, and the total holds.
func TestGreedyHoldersLeaveRoom(t *testing.T) {
	const total = 256 * mib
	b := admission.NewBudget(16*mib, total)
	var all []*admission.Load
	for i := range 200 {
		l, err := b.Open(fmt.Sprint(i))
		if err != nil {
			t.Fatalf("holder %d: %v", i, err)
		}
		for l.Take(64<<10) == nil {
		}
		all = append(all, l)
	}
	if b.Used() > total || b.Used() < total/2 {
		t.Errorf("%d MiB are taken of %d", b.Used()/mib, total/mib)
	}
	open(t, b, "another", 64<<10).Close()
	for _, l := range all {
		l.Close()
	}
	if b.Used() != 0 {
		t.Errorf("%d bytes are left", b.Used())
	}
}

// Without a budget there is no bound.
func TestNoBudget(t *testing.T) {
	var b *admission.Budget
	l, err := b.Open("ann")
	if err != nil || l.Take(1<<62) != nil {
		t.Error("refused without a budget")
	}
	l.Reset()
	l.Close()
}

func TestSendWritesAll(t *testing.T) {
	for _, n := range []int{0, 1, 32 << 10, 32<<10 + 1, 1 << 20} {
		w, body := httptest.NewRecorder(), strings.Repeat("x", n)
		if err := admission.Send(w, []byte(body)); err != nil || w.Body.String() != body {
			t.Errorf("%d bytes: %d were written: %v", n, w.Body.Len(), err)
		}
	}
}
