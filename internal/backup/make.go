package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"signet/internal/durable"
	"signet/internal/state"
	"signet/internal/store"
)

// Files are the files that a backup holds beside the store.
type Files struct {
	Users, Clients string
}

// names are what the files are called in a backup.
func (f Files) names() []struct{ name, path string } {
	return []struct{ name, path string }{{"users", f.Users}, {"clients.json", f.Clients}}
}

func (f Files) path(name string) string {
	for _, n := range f.names() {
		if n.name == name {
			return n.path
		}
	}
	return ""
}

// Made says what a backup holds.
type Made struct {
	Rows           map[string]int // by table
	Users, Clients bool           // false: there was no such file
}

// MakeFile makes a backup in a new file at path, whole or not at all, as [Make] does. It
// never replaces a file.
func MakeFile(ctx context.Context, d state.Data, files Files, path, version string) (made Made, err error) {
	exists := func(err error) error {
		return fmt.Errorf("%s: %w: a backup never replaces a file", path, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) { // before the work
		return made, exists(fs.ErrExist)
	}
	f, err := durable.Stage(path)
	if err != nil {
		return made, err
	}
	defer f.Discard()
	if made, err = Make(ctx, d, files, f, version); err != nil {
		return made, err
	}
	if err := f.Create(); errors.Is(err, fs.ErrExist) {
		return made, exists(fs.ErrExist)
	} else if err != nil {
		return made, err
	}
	return made, nil
}

// Make writes a backup of the store, as it is at one moment, and of the files to w, also
// beside a running server. version is that of the program.
func Make(ctx context.Context, d state.Data, files Files, w io.Writer, version string) (made Made, err error) {
	st, err := state.OpenStore(ctx, d)
	if err != nil {
		return made, err
	}
	defer st.Close()
	ring, err := d.Ring()
	if err != nil {
		return made, err
	}
	var keep int64
	err = st.Read(ctx, func(tx store.Tx) error { return tx.QueryRow("SELECT keep_revoked FROM meta").Scan(&keep) })
	if err != nil {
		return made, err
	}
	now := time.Now()
	b, err := NewWriter(w, ring, Header{Made: now.UTC().Truncate(time.Second), Version: version, Root: st.Fingerprint(), Seen: st.Now().UnixMilli(), Keep: keep})
	if err != nil {
		return made, err
	}
	there := map[string]bool{}
	for _, f := range files.names() {
		if there[f.name], err = addFile(b, d.Access(), f.name, f.path); err != nil {
			return made, fmt.Errorf("backing up %s: %w", f.path, err)
		}
	}
	made = Made{Rows: map[string]int{}, Users: there["users"], Clients: there["clients.json"]}
	err = st.Dump(ctx, func(t store.Table, values []any) error {
		made.Rows[t.Name]++
		return b.Row(t, values)
	})
	if err != nil {
		return made, err
	}
	return made, b.Close()
}

// addFile reports whether there is such a file.
func addFile(b *Writer, access durable.Access, name, path string) (there bool, err error) {
	f, err := access.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return true, b.File(name, f)
}
