package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"signet/internal/backup"
	"signet/internal/state"
	"signet/internal/store"
)

// A restored store remembers revoked grants for as long as the one that was backed up, and
// no access token from before the restore counts.
func TestRestoreCarriesOnTheLongestLife(t *testing.T) {
	const kept = 86_460
	from := state.Data{Dir: t.TempDir()}
	if _, err := state.Prepare(t.Context(), from); err != nil {
		t.Fatal(err)
	}
	keep := func(d state.Data, change string) (keep, notBefore int64) {
		t.Helper()
		s, err := state.OpenStore(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		err = s.Write(t.Context(), func(tx store.Tx) error {
			if change != "" {
				if _, err := tx.Exec(change, kept); err != nil {
					return err
				}
			}
			return tx.QueryRow("SELECT keep_revoked FROM meta").Scan(&keep)
		})
		if err != nil {
			t.Fatal(err)
		}
		return keep, s.NotBefore()
	}
	if _, notBefore := keep(from, "UPDATE meta SET keep_revoked = $1"); notBefore != 0 {
		t.Errorf("in a new store tokens count from %d", notBefore)
	}
	var file bytes.Buffer
	if _, err := backup.Make(t.Context(), from, backup.Files{}, &file, "test"); err != nil {
		t.Fatal(err)
	}
	to := state.Data{Dir: t.TempDir()}
	secret, err := os.ReadFile(filepath.Join(from.Dir, "secret"))
	if err == nil {
		err = os.WriteFile(filepath.Join(to.Dir, "secret"), secret, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Unix()
	if _, err := backup.Restore(t.Context(), to, backup.Files{}, &file, backup.Replacing{}); err != nil {
		t.Fatal(err)
	}
	if got, notBefore := keep(to, ""); got != kept || notBefore <= before || notBefore > time.Now().Unix()+1 {
		t.Errorf("it remembers for %d s, want %d; tokens count from %d, restored at %d", got, kept, notBefore, before)
	}
}
