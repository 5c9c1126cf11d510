package handlers_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"signet/handlers"
)

// The context ends as one of context.WithTimeout does, whether or not somebody waited for its
// end before, and so does one that is made from it.
func TestBoundedContextEndsAsOthersDo(t *testing.T) {
	type key struct{}
	for name, c := range map[string]struct {
		lasts time.Duration
		end   func(answered, endParent func())
		want  error
	}{
		"by its time":     {0, func(_, _ func()) {}, context.DeadlineExceeded},
		"by the answer":   {time.Hour, func(answered, _ func()) { answered() }, context.Canceled},
		"with its parent": {time.Hour, func(_, endParent func()) { endParent() }, context.Canceled},
	} {
		for _, waited := range []bool{false, true} {
			parent, endParent := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
			defer endParent()
			b, answered := handlers.NewBounded(parent, c.lasts)
			defer answered()
			before, cancel := context.WithCancel(context.Background())
			if waited {
				before, cancel = context.WithCancel(b)
			}
			defer cancel()
			if c.lasts > 0 && (b.Err() != nil || before.Err() != nil) {
				t.Errorf("%s: ended at once: %v, %v", name, b.Err(), before.Err())
			}
			if b.Value(key{}) != "value" {
				t.Errorf("%s: without the parent's value", name)
			}
			c.end(answered, endParent)
			if err := b.Err(); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
			<-b.Done()
			after, cancel := context.WithCancel(b)
			defer cancel()
			if <-after.Done(); !errors.Is(after.Err(), c.want) {
				t.Errorf("%s: a child: %v, want %v", name, after.Err(), c.want)
			}
			if waited {
				if <-before.Done(); !errors.Is(before.Err(), c.want) {
					t.Errorf("%s: an earlier child: %v, want %v", name, before.Err(), c.want)
				}
			}
		}
	}
}

// A parent that ends earlier is the bound.
func TestBoundedContextIsBoundByItsParent(t *testing.T) {
	parent, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, end := handlers.NewBounded(parent, time.Hour)
	defer end()
	want, _ := parent.Deadline()
	if at, ok := b.Deadline(); !ok || !at.Equal(want) {
		t.Errorf("%v, want %v", at, want)
	}
}
