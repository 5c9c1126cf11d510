// Package state is the part of a server that stays from one start to the next: the root
// secret, the store and the store's mirror. It makes them on a first start, detects a loss,
// and rotates the root secret.
package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"signet/internal/durable"
	"signet/internal/seal"
	"signet/internal/store"
)

// acceptLoss is the command that begins anew after a part of a data directory was lost:
// nothing that was issued before is accepted after it.
const acceptLoss = "signet doctor --accept-loss"

// maxSecret is the longest list of root secrets, in bytes.
const maxSecret = 64 << 10

// Data says where the state of a server lives.
type Data struct {
	Dir    string // of the files secret and mirror
	Secret string // root secrets; empty: they are in the file secret in Dir
	Store  string // path of the SQLite store, or URL of a PostgreSQL database; empty: signet.db in Dir

	KeepEpoch    bool // see [store.Options]
	GroupMayRead bool // the file secret may be readable by its group, as a mounted secret is
}

// shared reports whether the store is a database that replicas share. Then the secret is a
// setting, the same for all of them, and nothing of the state is in Dir.
func (d Data) shared() bool { return store.Locate(d.Store).Shared() }

// Access is the rule for the files of d.
func (d Data) Access() durable.Access { return durable.Access{GroupRead: d.GroupMayRead} }

func (d Data) secretFile() string { return filepath.Join(d.Dir, "secret") }
func (d Data) mirrorFile() string { return filepath.Join(d.Dir, "mirror") }

// marker is a file that exists from the first step of a first start to its last. The files
// beside it were made by a start that did not finish, and no client was served from them.
func (d Data) marker() string { return filepath.Join(d.Dir, "first-start") }

func (d Data) storeOptions() store.Options {
	path := d.Store
	if d.shared() {
		return store.Options{Path: path}
	}
	if path == "" {
		path = filepath.Join(d.Dir, "signet.db")
	}
	return store.Options{Path: path, Mirror: d.mirrorFile()}
}

// Prepare returns the root secrets after making sure that secret, store and mirror
// belong together. On a first start, where none of the three exists, it makes them;
// it completes a first start that was interrupted. If only some of them exist, it changes
// nothing and returns an error that names the missing ones. A shared store is made by
// the first server that opens it.
func Prepare(ctx context.Context, d Data) (*seal.Keyring, error) {
	if d.shared() {
		return d.Ring()
	}
	if err := makeDir(d.Dir); err != nil {
		return nil, err
	}
	if err := store.FinishRestore(d.storeOptions()); err != nil {
		return nil, err
	}
	for _, path := range []string{d.secretFile(), d.mirrorFile(), d.marker()} {
		durable.RemoveLeftovers(path)
	}
	first, err := d.firstStart()
	if err != nil {
		return nil, err
	}
	if first {
		if err := d.begin(ctx); err != nil {
			return nil, fmt.Errorf("first start in %s: %w", d.Dir, err)
		}
	}
	return d.Ring()
}

// firstStart reports whether there is nothing yet, or an unfinished first start.
func (d Data) firstStart() (bool, error) {
	if err := d.checkPlace(); err != nil {
		return false, err
	}
	opts := d.storeOptions()
	if store.Restoring(opts) {
		return false, fmt.Errorf("%s: a restore was interrupted: the next start of the server completes it, and so does the same `signet restore`", opts.Path)
	}
	if exists(d.marker()) {
		return true, nil
	}
	parts := []string{opts.Path, opts.Mirror}
	if d.Secret == "" {
		parts = append(parts, d.secretFile())
	}
	var have, missing []string
	for _, p := range parts {
		if exists(p) {
			have = append(have, p)
		} else {
			missing = append(missing, p)
		}
	}
	switch {
	case len(have) == 0:
		return true, nil
	case len(missing) == 0:
		return false, nil
	}
	return false, fmt.Errorf("%s: missing, although there is %s: put it back, or run `%s` to begin anew (all users sign in again)",
		strings.Join(missing, " and "), strings.Join(have, " and "), acceptLoss)
}

// checkPlace returns an error if a directory is where the file of the store should be.
func (d Data) checkPlace() error {
	path := d.storeOptions().Path
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return nil
	}
	return fmt.Errorf("SIGNET_STORE: %s is a directory: name the file in it, such as %s", path, filepath.Join(path, "signet.db"))
}

func (d Data) begin(ctx context.Context) error {
	if err := create(d.marker(), ""); err != nil {
		return err
	}
	if d.Secret == "" && !exists(d.secretFile()) {
		if err := create(d.secretFile(), seal.NewSecret()+"\n"); err != nil {
			return err
		}
	}
	ring, err := d.Ring()
	if err != nil {
		return err
	}
	opts := d.storeOptions()
	if !exists(opts.Path) || !exists(opts.Mirror) {
		for _, p := range []string{opts.Path, opts.Path + "-wal", opts.Path + "-shm", opts.Mirror} {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := store.Create(ctx, opts, ring.Fingerprint()); err != nil {
			return err
		}
	}
	if err := os.Remove(d.marker()); err != nil {
		return err
	}
	return durable.SyncDir(d.Dir)
}

// Ring reads the root secrets from the setting or the file.
func (d Data) Ring() (*seal.Keyring, error) {
	if d.Secret != "" {
		ring, err := seal.Parse(d.Secret)
		if err != nil {
			return nil, fmt.Errorf("SIGNET_SECRET: %w", err)
		}
		return ring, nil
	}
	if d.shared() {
		return nil, errors.New("SIGNET_SECRET: must be set when the store is a PostgreSQL database, to the same for all replicas (`signet secret new` prints a fresh one)")
	}
	b, err := d.Access().Read(d.secretFile(), maxSecret)
	if err != nil {
		return nil, fmt.Errorf("the root secret: %w", err)
	}
	return d.parseSecret(b)
}

func (d Data) parseSecret(text []byte) (*seal.Keyring, error) {
	ring, err := seal.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put the right file back, or run `%s` to begin anew", d.secretFile(), err, acceptLoss)
	}
	return ring, nil
}

// open opens the store, which must have been made under one of ring's roots.
func (d Data) open(ctx context.Context, ring *seal.Keyring, opts store.Options) (*store.Store, error) {
	opts.Root = ring.HasFingerprint
	if opts.Serve {
		opts.First = ring.Fingerprint()
	}
	return store.Open(ctx, opts)
}

// OpenStore opens the store for a command, also beside a running server. It makes nothing:
// before a first start the error is [store.ErrNoStore].
func OpenStore(ctx context.Context, d Data) (*store.Store, error) {
	opts := d.storeOptions()
	if !d.shared() {
		switch fresh, err := d.firstStart(); {
		case err != nil:
			return nil, err
		case fresh:
			return nil, fmt.Errorf("%w: %s", store.ErrNoStore, opts.Path)
		}
	}
	ring, err := d.Ring()
	if err != nil {
		return nil, err
	}
	return d.open(ctx, ring, opts)
}

// Inspect checks the state as [Prepare] and [Open] do, and makes nothing. fresh means that
// there is nothing yet, and that a first start will make it.
func Inspect(ctx context.Context, d Data) (fresh bool, err error) {
	if !d.shared() {
		if exists(d.Dir) { // otherwise the store may still be there, in another directory
			if err := makeDir(d.Dir); err != nil {
				return false, err
			}
		}
		if fresh, err := d.firstStart(); fresh || err != nil {
			return fresh, err
		}
	}
	st, err := OpenStore(ctx, d)
	if d.shared() && errors.Is(err, store.ErrNoStore) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, st.Close()
}

// AcceptLoss makes a data directory usable again after a part of it was lost. It makes
// missing files, renames files that are damaged or were made under another secret, and
// gives the store a new epoch, so that nothing issued before is accepted. It refuses while
// a server runs. It returns a line for each thing that it did.
func AcceptLoss(ctx context.Context, d Data) (did []string, err error) {
	if d.shared() {
		return acceptSharedLoss(ctx, d)
	}
	if err := makeDir(d.Dir); err != nil {
		return nil, err
	}
	if err := d.checkPlace(); err != nil {
		return nil, err // it is not set aside
	}
	ring, err := d.Ring()
	secret := ""
	if err != nil {
		if d.Secret != "" {
			return nil, err // a wrong setting is not a loss
		}
		secret = seal.NewSecret()
		if ring, err = seal.Parse(secret); err != nil {
			return nil, err
		}
	}
	opts := d.storeOptions()
	opts.Root = ring.HasFingerprint
	if err := store.FinishRestore(opts); err != nil {
		return nil, err
	}
	aside, err := store.NewEpoch(ctx, opts, ring.Fingerprint())
	if err != nil {
		return nil, err
	}
	did = append(did, "gave "+opts.Path+" a new epoch")
	if len(aside) > 0 {
		did = append(did, "what was there is now "+strings.Join(aside, " and "))
	}
	if secret != "" {
		path := d.secretFile()
		if exists(path) {
			aside := path + time.Now().UTC().Format(".lost-20060102-150405.000")
			if err := os.Rename(path, aside); err != nil {
				return did, err
			}
			did = append(did, "moved "+path+" to "+aside)
		}
		if err := create(path, secret+"\n"); err != nil {
			return did, err
		}
		did = append(did, "made a new secret in "+path)
	}
	if err := os.Remove(d.marker()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return did, err
	}
	return did, nil
}

// AcceptClock makes the time of a store go on from this machine's clock, after a wrong clock
// has moved the store's time ahead. What was refused as expired would be accepted again, so
// the store gets a new epoch too. It refuses while a server runs.
func AcceptClock(ctx context.Context, d Data) (did []string, err error) {
	st, err := OpenStore(ctx, d)
	if err != nil {
		return nil, err
	}
	behind := st.Behind()
	if err := st.Close(); err != nil {
		return nil, err
	}
	if behind < time.Second {
		return nil, errors.New("the store's time is not ahead of the clock: there is nothing to accept")
	}
	if did, err = AcceptLoss(ctx, d); err == nil {
		did = append(did, fmt.Sprintf("its time goes on from %s: it was %v ahead of the clock", moment(time.Now()), behind.Round(time.Second)))
	}
	return did, err
}

// acceptSharedLoss needs the secret: it is a setting, which only the operator can make.
func acceptSharedLoss(ctx context.Context, d Data) (did []string, err error) {
	ring, err := d.Ring()
	if err != nil {
		return nil, err
	}
	opts := d.storeOptions()
	opts.Root = ring.HasFingerprint
	aside, err := store.NewEpoch(ctx, opts, ring.Fingerprint())
	if err != nil {
		return nil, err
	}
	did = append(did, "gave the store in the PostgreSQL database a new epoch")
	for _, schema := range aside {
		did = append(did, "what was there is now in the schema "+schema)
	}
	return did, nil
}

// RestoreRing returns the root secrets for a restore. It makes the data directory if there
// is none.
func RestoreRing(d Data) (*seal.Keyring, error) {
	if !d.shared() {
		if err := makeDir(d.Dir); err != nil {
			return nil, err
		}
	}
	ring, err := d.Ring()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: missing: a backup does not hold the root secret. Put the secret of the server that was backed up there (mode 0600), or set SIGNET_SECRET", d.secretFile())
	}
	return ring, err
}

// Restore makes the store from contents, as [store.Restore] does.
func Restore(ctx context.Context, d Data, ring *seal.Keyring, contents store.Contents, replace bool) (aside string, err error) {
	opts := d.storeOptions()
	if !d.shared() {
		if err := d.checkPlace(); err != nil {
			return "", err
		}
	}
	opts.Root = ring.HasFingerprint
	return store.Restore(ctx, opts, contents, replace)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

// makeDir makes dir for this user alone, or refuses one that other users can write to.
func makeDir(dir string) error {
	err := durable.MakeDir(dir)
	if err == nil {
		err = durable.WritableFolder(dir)
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

// create makes a file unless it is there already.
func create(path, content string) error {
	if err := durable.Create(path, []byte(content)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
