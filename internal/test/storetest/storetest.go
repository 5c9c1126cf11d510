// Package storetest gives tests a store of either engine, which ends with the test: a
// SQLite file in a directory of its own, or a PostgreSQL database (see pgtest).
package storetest

import (
	"context"
	"path/filepath"
	"testing"

	"signet/internal/store"
	"signet/internal/test/pgtest"
)

// Engine is a kind of store.
type Engine string

// The engines.
const (
	SQLite     Engine = "SQLite"
	PostgreSQL Engine = "PostgreSQL"
)

// Engines are all kinds of stores.
var Engines = []Engine{SQLite, PostgreSQL}

// Each runs a test on each engine.
func Each(t *testing.T, test func(t *testing.T, e Engine)) {
	t.Helper()
	for _, e := range Engines {
		t.Run(string(e), func(t *testing.T) { test(t, e) })
	}
}

// Nowhere returns the options of a store that does not exist yet.
func (e Engine) Nowhere(t testing.TB) store.Options {
	t.Helper()
	if e == PostgreSQL {
		return store.Options{Path: pgtest.URL(t)}
	}
	dir := t.TempDir()
	return store.Options{Path: filepath.Join(dir, "signet.db"), Mirror: filepath.Join(dir, "mirror")}
}

// Empty makes a store and returns its options.
func (e Engine) Empty(t testing.TB) store.Options {
	t.Helper()
	o := e.Nowhere(t)
	Create(t, o)
	return o
}

// Open makes a store and opens it.
func (e Engine) Open(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, e.Empty(t))
}

// Create makes a store.
func Create(t testing.TB, o store.Options) {
	t.Helper()
	if err := store.Create(context.Background(), o, "fingerprint"); err != nil {
		t.Fatal(err)
	}
}

// Open opens a store until the end of the test, or until the test closes it.
func Open(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(context.WithoutCancel(t.Context()), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return s
}
