package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/backup"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/pgtest"
	"signet/internal/test/storetest"
)

func newRing(t testing.TB) *seal.Keyring {
	t.Helper()
	ring, err := seal.Parse(seal.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func write(t testing.TB, s *store.Store, query string, args ...any) {
	t.Helper()
	err := s.Write(context.Background(), func(tx store.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

const insertGrant = `INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, replays)
	VALUES ($1, $2, $3, $4, $5, 'c', $6, 'h', 'read write', 'https://mcp.test/a', 1, 4102444800, 1)`

// filled makes a store with rows of every kind.
func filled(t testing.TB, o store.Options, ring *seal.Keyring) *store.Store {
	t.Helper()
	if err := store.Create(t.Context(), o, ring.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	s := storetest.Open(t, o)
	write(t, s, "INSERT INTO signing_keys (period, kid, public, sealed_private, starts_at, published_at) VALUES (1, 'k1', '{}', NULL, 10, 5), (2, 'k2', '{}', 'sealed', 20, 15)")
	write(t, s, "INSERT INTO withdrawn_keys (kid, published_at, withdrawn_at) VALUES ('k0', 1, 2)")
	for i := range 3 {
		write(t, s, insertGrant, fmt.Sprint("id", i), i, int64(1)<<52+int64(i), i, "alice", "A <client> & \"quotes\" \u2028 ☂")
	}
	write(t, s, "INSERT INTO spent (kind, id, expires_at) VALUES ('login', 'x', 4102444800)")
	write(t, s, "INSERT INTO accounts (sub, provider, sealed, version, disabled, created_at, seen_at) VALUES ('upstream:corp:1', 'corp', 'sealed', 'v', 1, 2, 3)")
	write(t, s, "INSERT INTO upstream_sessions (id, sub, seen_at) VALUES ('hash', 'upstream:corp:1', 4)")
	write(t, s, "INSERT INTO credentials (sub, provider, sealed, version, changed_at, claim, claimed_at) VALUES ('upstream:corp:1', 'corp', 'sealed', 5, 6, 'claimed', 7)")
	return s
}

// rows are what a store has, one line each.
func rows(t testing.TB, s *store.Store) (list []string) {
	t.Helper()
	err := s.Dump(t.Context(), func(table store.Table, values []any) error {
		list = append(list, fmt.Sprintf("%s %q", table.Name, values))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// dump makes a backup of a store and two files.
func dump(t testing.TB, s *store.Store, ring *seal.Keyring) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := backup.NewWriter(&b, ring, backup.Header{Made: time.Unix(1795212000, 0).UTC(), Version: "test", Root: s.Fingerprint(), Seen: time.Now().Add(time.Hour).UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := w.File(name, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Dump(t.Context(), w.Row); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var files = map[string]string{"users": strings.Repeat("a line\n", 20_000) + "\xff", "clients.json": ""}

// read reads all of a backup without a store.
func read(b []byte, ring *seal.Keyring) error {
	r, err := backup.NewReader(bytes.NewReader(b), ring)
	if err != nil {
		return err
	}
	if err := r.Files(func(string, []byte) error { return nil }); err != nil {
		return err
	}
	for {
		if _, _, err := r.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func restore(t testing.TB, o store.Options, b []byte, ring *seal.Keyring, replace bool) (aside string, err error) {
	t.Helper()
	r, err := backup.NewReader(bytes.NewReader(b), ring)
	if err != nil {
		return "", err
	}
	if err := r.Files(func(string, []byte) error { return nil }); err != nil {
		return "", err
	}
	return store.Restore(t.Context(), o, store.Contents{Fingerprint: r.Header.Root, Seen: time.UnixMilli(r.Header.Seen), Next: r.Next}, replace)
}

// A backup of either engine restores all of it into either, under a new epoch, and
// time does not go back behind the backup's.
func TestRestoresIntoEitherEngine(t *testing.T) {
	for _, from := range storetest.Engines {
		for _, to := range storetest.Engines {
			t.Run(string(from+" to "+to), func(t *testing.T) {
				ring := newRing(t)
				s := filled(t, from.Nowhere(t), ring)
				b := dump(t, s, ring)
				o := to.Nowhere(t)
				if aside, err := restore(t, o, b, ring, false); err != nil || aside != "" {
					t.Fatalf("restoring: %q, %v", aside, err)
				}
				got := storetest.Open(t, o)
				if diff := cmp.Diff(rows(t, s), rows(t, got)); diff != "" || len(rows(t, got)) != 10 {
					t.Errorf("rows differ:\n%s", diff)
				}
				if got.Epoch() == s.Epoch() || got.Epoch() == "" || got.Fingerprint() != ring.Fingerprint() {
					t.Errorf("epoch %s of %s, fingerprint %s", got.Epoch(), s.Epoch(), got.Fingerprint())
				}
				if ahead := time.Until(got.Now()); ahead < 50*time.Minute {
					t.Errorf("the store's time is %v ahead, want the backup's hour", ahead)
				}
				write(t, got, insertGrant, "new", 1, 1, 0, "bob", "") // and it takes writes
			})
		}
	}
}

// A store that is there is replaced only on demand, and is still there then; not under
// a running server.
func TestRestoreReplacesOnDemand(t *testing.T) {
	for _, engine := range storetest.Engines {
		t.Run(string(engine), func(t *testing.T) {
			ring := newRing(t)
			b := dump(t, filled(t, engine.Nowhere(t), ring), ring)
			o := engine.Nowhere(t)
			if err := store.Create(t.Context(), o, ring.Fingerprint()); err != nil {
				t.Fatal(err)
			}
			s := storetest.Open(t, o)
			epoch := s.Epoch()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := restore(t, o, b, ring, false); !errors.Is(err, fs.ErrExist) {
				t.Errorf("without the option: %v, want %v", err, fs.ErrExist)
			}
			serving := o
			serving.Serve = true
			running := storetest.Open(t, serving)
			rows(t, running) // as a server reads at its start
			if _, err := restore(t, o, b, ring, true); !errors.Is(err, store.ErrLocked) {
				t.Errorf("under a running server: %v, want %v", err, store.ErrLocked)
			}
			if running.Epoch() != epoch || len(rows(t, running)) != 0 {
				t.Error("a refused restore has changed the store")
			}
			if err := running.Close(); err != nil {
				t.Fatal(err)
			}
			aside, err := restore(t, o, b, ring, true)
			for range 5 { // a database may take a while to notice that the server is gone
				if !errors.Is(err, store.ErrLocked) {
					break
				}
				aside, err = restore(t, o, b, ring, true)
			}
			if err != nil || !strings.Contains(aside, "replaced") {
				t.Fatalf("replacing: %q, %v", aside, err)
			}
			if got := rows(t, storetest.Open(t, o)); len(got) != 10 {
				t.Errorf("%d rows, want 10: %q", len(got), got)
			}
			if engine == storetest.SQLite {
				if _, err := os.Stat(aside); err != nil {
					t.Errorf("what was there: %v", err)
				}
			} else {
				pgtest.Exec(t, o.Path, "SELECT epoch FROM "+aside+".meta")
			}
		})
	}
}

// line returns b with line n (from 0) changed.
func line(b []byte, n int, change func(string) string) []byte {
	lines := strings.SplitAfter(string(b), "\n")
	lines[n] = change(lines[n])
	return []byte(strings.Join(lines, ""))
}

// A backup with any fault is refused with the reason, and nothing is restored.
func TestRefusedBackups(t *testing.T) {
	ring := newRing(t)
	good := dump(t, filled(t, storetest.SQLite.Nowhere(t), ring), ring)
	lines := bytes.Count(good, []byte("\n"))
	forged := func() []byte { // by an attacker who can compute a checksum
		other := newRing(t)
		b := dump(t, filled(t, storetest.SQLite.Nowhere(t), other), other)
		return bytes.Replace(b, []byte(other.Fingerprint()), []byte(ring.Fingerprint()), 1)
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want error
		says string
	}{
		{"nothing", nil, backup.ErrDamaged, "line 1"},
		{"a text", []byte("hello\n"), backup.ErrDamaged, "not that of a backup"},
		{"a SQLite store", []byte("SQLite format 3\x00\n"), backup.ErrDamaged, "not that of a backup"},
		{"another root secret", line(good, 0, func(l string) string { return strings.Replace(l, ring.Fingerprint(), "AAAAAAAAAAAAAAAA", 1) }), backup.ErrOtherRoot, "SIGNET_SECRET"},
		{"a later format", line(good, 0, func(l string) string { return strings.Replace(l, `"signet_backup":1`, `"signet_backup":2`, 1) }), backup.ErrNewer, "format 2"},
		{"a later table", bytes.Replace(good, []byte(`"table":"spent"`), []byte(`"table":"later"`), 1), backup.ErrNewer, "later"},
		{"a later column", bytes.Replace(good, []byte(`"replays"`), []byte(`"later"`), 1), backup.ErrNewer, "later"},
		{"a number changed", bytes.Replace(good, []byte(`"id1",1,`), []byte(`"id1",2,`), 1), backup.ErrDamaged, "checksum"},
		{"a row removed", line(good, lines-2, func(string) string { return "" }), backup.ErrDamaged, "checksum"},
		{"a value missing", bytes.Replace(good, []byte(`"id1",1,`), []byte(`"id1",`), 1), backup.ErrDamaged, "not a row"},
		{"a value of another type", bytes.Replace(good, []byte(`"id1",1,`), []byte(`"id1",true,`), 1), backup.ErrDamaged, "not a row"},
		{"a fraction", bytes.Replace(good, []byte(`"id1",1,`), []byte(`"id1",1.5,`), 1), backup.ErrDamaged, "not a row"},
		{"no end", line(good, lines-1, func(string) string { return "" }), backup.ErrDamaged, "cut off"},
		{"more after the end", append(bytes.Clone(good), '\n'), backup.ErrDamaged, "follows its end"},
		{"twice", append(bytes.Clone(good), good...), backup.ErrDamaged, "follows its end"},
		{"sealed under another root", forged(), backup.ErrDamaged, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := storetest.SQLite.Nowhere(t)
			_, err := restore(t, o, tt.b, ring, true)
			if !errors.Is(err, tt.want) || !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("got %v, want %v that says %q", err, tt.want, tt.says)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(o.Path), "*"))
			if err != nil || len(left) > 1 { // the lock
				t.Errorf("left behind: %q, %v", left, err)
			}
		})
	}
	if err := read(good, ring); err != nil {
		t.Errorf("the good one: %v", err)
	}
	for cut := range good {
		if cut%97 == 0 || cut > len(good)-300 {
			if err := read(good[:cut], ring); !errors.Is(err, backup.ErrDamaged) {
				t.Errorf("cut to %d bytes: %v", cut, err)
			}
		}
	}
}

// An attacker would have to make the checksum and its seal again.
func TestForgedEndIsRefused(t *testing.T) {
	ring, other := newRing(t), newRing(t)
	var b bytes.Buffer
	w, err := backup.NewWriter(&b, other, backup.Header{Root: ring.Fingerprint()})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := read(b.Bytes(), ring); !errors.Is(err, backup.ErrDamaged) || !strings.Contains(err.Error(), "not sealed under this root secret") {
		t.Errorf("got %v", err)
	}
}

// Rows that are written while a backup is made are in it together or not at all.
func TestBackupIsOfOneMoment(t *testing.T) {
	for _, engine := range storetest.Engines {
		t.Run(string(engine), func(t *testing.T) {
			ring := newRing(t)
			s := filled(t, engine.Nowhere(t), ring)
			for i := range 200 {
				write(t, s, insertGrant, fmt.Sprintf("old%03d", i), 1, 1, 0, "bob", "")
			}
			var n, later int
			err := s.Dump(t.Context(), func(table store.Table, values []any) error {
				if n++; n == 5 { // a grant with a spent id, as a login writes them
					write(t, s, insertGrant, "z", 1, 1, 0, "bob", "")
					write(t, s, "INSERT INTO spent (kind, id, expires_at) VALUES ('login', 'z', 1)")
				}
				for _, v := range values {
					if v == "z" {
						later++
					}
				}
				return nil
			})
			if err != nil || later != 0 || n != 210 {
				t.Errorf("%d rows, %d of them from later, %v; want 210 from before", n, later, err)
			}
		})
	}
}

// Every table and column is either in a backup or left out on purpose.
func TestNothingIsForgotten(t *testing.T) {
	ring := newRing(t)
	s := filled(t, storetest.SQLite.Nowhere(t), ring)
	left := map[string]bool{"meta": true, "attempts": true, "servers": true} // a new epoch; forgotten within hours; those that run
	held := map[string]string{}
	for _, table := range store.Tables() {
		held[table.Name] = strings.Join(table.Columns, " ")
	}
	err := s.Read(t.Context(), func(tx store.Tx) error {
		list, err := tx.Query("SELECT m.name, group_concat(c.name, ' ') FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' GROUP BY m.name")
		if err != nil {
			return err
		}
		defer list.Close()
		for list.Next() {
			var name, columns string
			if err := list.Scan(&name, &columns); err != nil {
				return err
			}
			columns = strings.TrimSuffix(columns, " claim claimed_at") // of a server that was refreshing tokens, and lapses
			if !left[name] && held[name] != columns {
				t.Errorf("table %s has the columns %s, and a backup of it %s", name, columns, held[name])
			}
		}
		return list.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzReader(f *testing.F) {
	ring := newRing(f)
	good := dump(f, filled(f, storetest.SQLite.Nowhere(f), ring), ring)
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"table":"grants"`), []byte(`"file":"users"`), 1))
	f.Add(bytes.Replace(good, []byte("\n["), []byte("\n\n["), 1))
	f.Add([]byte(`{"signet_backup":1,"root":"` + ring.Fingerprint() + "\"}\n{\"end\":{}}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := read(b, ring); err == nil && !bytes.Equal(b, good) {
			t.Errorf("accepted a file that no server wrote: %q", b)
		} else if err != nil && !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrNewer) && !errors.Is(err, backup.ErrOtherRoot) {
			t.Errorf("an error without a reason: %v", err)
		}
	})
}

// The header can be read by other programs.
func TestHeaderIsJSON(t *testing.T) {
	ring := newRing(t)
	b := dump(t, filled(t, storetest.SQLite.Nowhere(t), ring), ring)
	var h map[string]any
	if err := json.Unmarshal(b[:bytes.IndexByte(b, '\n')], &h); err != nil || h["signet_backup"] != 1.0 || h["made"] != "2026-11-20T22:00:00Z" {
		t.Errorf("%v, %v", h, err)
	}
}
