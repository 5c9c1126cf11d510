package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"signet/internal/durable"
	"signet/internal/state"
	"signet/internal/store"
)

// Replacing says what [Restore] may replace. What it replaces stays under another name.
type Replacing struct {
	Store bool
	Files bool // users and clients
}

// Restore makes a data directory, or a shared store, of a backup. The store has a new
// epoch: nothing that was issued before is accepted, and all users sign in again. Existing
// files stay, and an existing store is an error, unless replace says otherwise. It refuses
// while a server runs. Every fault of the backup is found before anything is changed. It
// returns a line for each thing that it did.
func Restore(ctx context.Context, d state.Data, files Files, from io.Reader, replace Replacing) (did []string, err error) {
	ring, err := state.RestoreRing(d)
	if err != nil {
		return nil, err
	}
	b, err := NewReader(from, ring)
	if err != nil {
		return nil, err
	}
	r := &restoring{files: files, replace: replace.Files}
	defer r.forget()
	if err := b.Files(r.file); err != nil {
		return nil, err
	}
	aside, err := state.Restore(ctx, d, ring, store.Contents{
		Fingerprint: b.Header.Root, Seen: time.UnixMilli(b.Header.Seen), Keep: b.Header.Keep, Next: r.counting(b),
	}, replace.Store)
	if errors.Is(err, fs.ErrExist) {
		return r.did, fmt.Errorf("%w: --replace puts the backup in its place, and keeps the store that is there under another name", err)
	}
	if err != nil {
		return r.did, err
	}
	did = append(r.did, fmt.Sprintf("restored %d grants and %d signing keys of the backup made at %s", r.rows["grants"], r.rows["signing_keys"], b.Header.Made.Format(time.RFC3339)))
	if aside != "" {
		did = append(did, "what was there is now "+aside)
	}
	return append(did, "the store has a new epoch: all users sign in again"), nil
}

// restoring is a restore in progress.
type restoring struct {
	files   Files
	replace bool
	staged  []*durable.Staged // one for each of names
	names   []string
	rows    map[string]int
	did     []string
}

// file writes the parts of a file to a temporary file beside its place. It makes the folder
// if there is none.
func (r *restoring) file(name string, part []byte) error {
	if part == nil {
		path := r.files.path(name)
		if path == "" {
			return fmt.Errorf("%w: it has a file %q", ErrNewer, name)
		}
		if err := durable.MakeDir(filepath.Dir(path)); err != nil {
			return err
		}
		f, err := durable.Stage(path)
		if err != nil {
			return err
		}
		r.staged, r.names = append(r.staged, f), append(r.names, name)
		return nil
	}
	_, err := r.staged[len(r.staged)-1].Write(part)
	return err
}

func (r *restoring) forget() {
	for _, f := range r.staged {
		f.Discard()
	}
}

// counting passes the rows on and counts them. After the last row the backup is known to be
// whole. The files are then put in their places, before the store is, so that they are
// there when a restore that was interrupted is repeated.
func (r *restoring) counting(b *Reader) func() (store.Table, []any, error) {
	r.rows = map[string]int{}
	return func() (store.Table, []any, error) {
		t, values, err := b.Next()
		if errors.Is(err, io.EOF) {
			if err := r.placeAll(); err != nil {
				return t, nil, err
			}
		}
		if err == nil {
			r.rows[t.Name]++
		}
		return t, values, err
	}
}

func (r *restoring) placeAll() error {
	for i, f := range r.staged {
		path := r.files.path(r.names[i])
		if err := r.place(f, path); err != nil {
			return fmt.Errorf("restoring %s: %w", path, err)
		}
	}
	return nil
}

// maxThere bounds the file that a restored one is compared with, in bytes.
const maxThere = 256 << 20

// place gives a file its name, if that is free or may be replaced.
func (r *restoring) place(f *durable.Staged, path string) error {
	there, err := durable.ReadFile(path, maxThere)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.did = append(r.did, "restored "+path)
	case err != nil:
		return err
	default:
		same, err := sameContent(f.Name(), there)
		if same || err != nil {
			return err
		}
		if !r.replace {
			r.did = append(r.did, "kept "+path+", which differs from the backup: --replace-files puts the backup in its place")
			return nil
		}
		aside := path + time.Now().UTC().Format(".replaced-20060102-150405.000")
		if err := os.Link(path, aside); err != nil {
			return err
		}
		r.did = append(r.did, "restored "+path+"; what was there is now "+aside)
	}
	return f.Replace()
}

func sameContent(path string, content []byte) (bool, error) {
	b, err := os.ReadFile(path)
	return bytes.Equal(b, content), err
}
