package e2e

import (
	"testing"

	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

// SharedStore returns the settings of a server on a PostgreSQL database of its own.
func SharedStore(t testing.TB) []string {
	t.Helper()
	return []string{"SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret()}
}

// OnBothStores runs a test on a SQLite file and on a PostgreSQL database.
func OnBothStores(t *testing.T, test func(t *testing.T, settings []string)) {
	t.Run("SQLite", func(t *testing.T) { test(t, nil) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, SharedStore(t)) })
}
