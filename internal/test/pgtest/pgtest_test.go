package pgtest_test

import (
	"os"
	"testing"

	"signet/internal/test/pgtest"
)

// Commits survive a stop, and Close removes all files.
func TestServerStopsAndStarts(t *testing.T) {
	pgtest.URL(t) // skips the test where there is no PostgreSQL
	if _, err := pgtest.Bin(); err != nil {
		t.Skip(err)
	}
	s, err := pgtest.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.URL, "CREATE TABLE kept (n int)")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, s.URL, "INSERT INTO kept VALUES (1)")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Dir); err == nil {
		t.Errorf("%s is left", s.Dir)
	}
}
