package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"signet/internal/durable"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/vault"
	"signet/jwt"
	"signet/keys"
)

// SecretRotation is one call of `signet secret rotate`.
type SecretRotation struct {
	Data   Data
	Finish bool          // the last step: from then on the old root is for client ids only
	Now    bool          // Finish although things that the old root sealed may be in use
	Lives  time.Duration // see SealedLives
	Say    func(format string, args ...any)
}

// useWithin is how long a running server may take to use the changed file.
const useWithin = 15 * time.Second

// errAgain is true whenever a rotation stops half way.
const errAgain = "nothing is lost: run this command again"

// Run rotates the root secret. If the secret is a file, it changes the file and the store
// step by step, beside a running server: every server knows the new root before it seals
// anything. If it is interrupted at any point, the next call goes on from there. If the
// secret is a setting, Run seals the content of the store again, and says what to deploy.
func (r SecretRotation) Run(ctx context.Context) (err error) {
	st, err := OpenStore(ctx, r.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if r.Data.Secret != "" || r.Data.shared() {
		return r.deployed(ctx, st)
	}
	unlock, err := durable.LockFolder(ctx, r.Data.Dir, 0)
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%s: another rotation of the secret is running", r.Data.Dir)
	}
	if err != nil {
		return err
	}
	defer unlock()
	path := r.Data.secretFile()
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s is mounted from elsewhere: change it there, in the steps of docs/keys.md", path))
	}
	f := &fileRotation{SecretRotation: r, store: st, path: path}
	defer f.letGo()
	return f.run(ctx)
}

// fileRotation is a rotation of the secret file of one machine.
type fileRotation struct {
	SecretRotation
	store   *store.Store
	path    string
	list    string        // content of the file
	ring    *seal.Keyring // of list
	release func()        // releases the store's lock, which it holds while no server runs
}

func (f *fileRotation) letGo() {
	if f.release != nil {
		f.release()
	}
}

func (f *fileRotation) run(ctx context.Context) error {
	text, err := durable.ReadFile(f.path, 64<<10)
	if err != nil {
		return err
	}
	if err := f.use(strings.TrimSpace(string(text))); err != nil {
		return err
	}
	if f.Finish {
		return f.finish(ctx)
	}
	begun := false
	if seal.PhaseOf(f.list) == seal.Settled {
		begun = true
		if err := f.step(seal.Begin(f.list, seal.NewSecret())); err != nil {
			return err
		}
		f.Say("The new root secret is in %s, and is not used for sealing yet.", f.path)
	}
	if seal.PhaseOf(f.list) == seal.Begun {
		if err := f.inUse(ctx); err != nil {
			return err
		}
		begun = true
		if err := f.step(seal.Turn(f.list)); err != nil {
			return err
		}
		f.Say("It is used for sealing from now on; the old one still opens everything that it sealed.")
	}
	fingerprint, since, err := f.store.Root(ctx)
	if err != nil {
		return err
	}
	if !begun && fingerprint == f.ring.Fingerprint() {
		if since.IsZero() {
			f.Say("The store has used the first root secret of the list since it was made.")
		} else {
			f.Say("The root secret was already rotated on %s, and that rotation must be finished first.", moment(since))
		}
		return f.sayFinish(since)
	}
	if err := f.inUse(ctx); err != nil {
		return err
	}
	done, err := reseal(ctx, f.store, f.ring)
	if err != nil {
		return err
	}
	f.Say("The store uses it: %s are sealed again.", done)
	return f.sayFinish(time.Now())
}

func (f *fileRotation) sayFinish(since time.Time) error {
	if since.IsZero() { // the store knows no other root
		f.Say("The old one sealed nothing in it, except for client ids. Run\n\n    signet secret rotate --finish")
		return nil
	}
	f.Say("Everything that the old one sealed, except for client ids, has expired by %s. After that run\n\n    signet secret rotate --finish", moment(since.Add(f.Lives)))
	return nil
}

// finish keeps the old root for client ids and their secrets only.
func (f *fileRotation) finish(ctx context.Context) error {
	fingerprint, since, err := f.store.Root(ctx)
	switch {
	case err != nil:
		return err
	case seal.PhaseOf(f.list) == seal.Settled:
		return errors.New("there is no rotation to finish: `signet secret rotate` begins one")
	case seal.PhaseOf(f.list) == seal.Begun || fingerprint != f.ring.Fingerprint():
		return errors.New("the rotation was interrupted: run `signet secret rotate` first, which completes it")
	}
	if err := f.tooEarly(since); err != nil {
		return err
	}
	if err := f.inUse(ctx); err != nil { // what a server still sealed under the old root would be lost
		return err
	}
	if err := resealLate(ctx, f.store, f.ring); err != nil {
		return err
	}
	if err := f.step(seal.Settle(f.list)); err != nil {
		return err
	}
	if err := f.inUse(ctx); err != nil {
		return err
	}
	f.Say("The rotation is finished. The old root secret stays in %s for client ids and client secrets, and opens nothing else.", f.path)
	return nil
}

func (r SecretRotation) tooEarly(since time.Time) error {
	if end := since.Add(r.Lives); !r.Now && time.Now().Before(end) {
		return fmt.Errorf("too early: users who signed in under the old root secret would have to sign in again. All of their sessions and grants have expired by %s; --now does not wait", moment(end))
	}
	return nil
}

// use takes list as the content of the file.
func (f *fileRotation) use(list string) error {
	ring, err := seal.Parse(list)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.list, f.ring = list, ring
	return nil
}

// step writes the next list.
func (f *fileRotation) step(list string, err error) error {
	if err == nil {
		err = f.use(list)
	}
	if err == nil {
		err = durable.Replace(f.path, []byte(list+"\n"))
	}
	return err
}

// inUse waits until the running server, if there is one, uses the content of the file. If
// there is none, it keeps one from starting.
func (f *fileRotation) inUse(ctx context.Context) error {
	if f.release != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, useWithin)
	defer cancel()
	want := strings.Join(f.ring.Roots(), ",")
	for {
		release, err := store.Hold(f.Data.storeOptions().Path)
		if err == nil {
			f.release = release
			return nil
		}
		if !errors.Is(err, store.ErrLocked) {
			return err
		}
		running, err := f.store.Servers(ctx)
		if err == nil && len(running) > 0 && !slices.ContainsFunc(running, func(one store.Server) bool { return one.Roots != want }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the running server did not use the changed %s within %v: see its log, or restart it (%s)", f.path, useWithin, errAgain)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// howToDeploy is what the operator does if the secret is a setting.
const howToDeploy = "SIGNET_SECRET is set, so you deploy it. To rotate it:\n" +
	"  1. `signet secret new` prints a new one. Deploy old,new to all servers\n" +
	"  2. deploy new,old to all servers\n" +
	"  3. run `signet secret rotate` with that setting: it seals the signing keys of the store again\n" +
	"  4. once everything that the old one sealed has expired, deploy new,clients:old"

// deployed rotates a secret that is a setting.
func (r SecretRotation) deployed(ctx context.Context, st *store.Store) error {
	ring, err := r.Data.Ring()
	if err != nil {
		return err
	}
	fingerprint, since, err := st.Root(ctx)
	if err != nil {
		return err
	}
	others := slices.ContainsFunc(ring.Roots()[1:], func(name string) bool { return !strings.HasPrefix(name, "clients:") })
	switch {
	case !others:
		return errors.New(howToDeploy)
	case fingerprint == ring.Fingerprint() && !r.Finish:
		r.Say("The store already uses the first root secret of the list, since %s.", sinceWhen(since))
		r.Say("If the other one is the new one, deploy new,old to all servers, and run this again with that setting.")
		if since.IsZero() {
			r.Say("If it is the old one, it sealed nothing in this store, except for client ids. Deploy new,clients:old.")
			return nil
		}
		r.Say("If it is the old one, everything that it sealed, except for client ids, has expired by %s. Deploy new,clients:old after that.", moment(since.Add(r.Lives)))
		return nil
	case fingerprint != ring.Fingerprint() && r.Finish:
		return errors.New("the store does not use the first root secret of the list: run `signet secret rotate` first")
	}
	if err := r.allSeal(ctx, st, ring.Fingerprint()); err != nil {
		return err
	}
	if r.Finish {
		if err := r.tooEarly(since); err != nil {
			return err
		}
		if err := resealLate(ctx, st, ring); err != nil {
			return err
		}
		r.Say("Deploy new,clients:old to all servers now. The old one must stay in the list for client ids and client secrets.")
		return nil
	}
	done, err := reseal(ctx, st, ring)
	if err != nil {
		return err
	}
	r.Say("The store uses the first root secret of the list now: %s are sealed again.", done)
	r.Say("Everything that the old one sealed, except for client ids, has expired by %s. After that deploy new,clients:old to all servers.", moment(time.Now().Add(r.Lives)))
	return nil
}

// allSeal refuses while a running server does not seal under the root of fingerprint: that
// server could not open what the others seal, or would go on sealing under a root that is
// about to be retired.
func (r SecretRotation) allSeal(ctx context.Context, st *store.Store, fingerprint string) error {
	running, err := st.Servers(ctx)
	if err != nil {
		return err
	}
	if one, err := Runs(ctx, r.Data, st); err != nil || !one {
		if err != nil {
			return err
		}
		running = nil
	}
	var ignorant, early []string
	for _, one := range running {
		switch {
		case !knows(one, fingerprint):
			ignorant = append(ignorant, one.ID)
		case !seals(one, fingerprint):
			early = append(early, one.ID)
		}
	}
	switch {
	case len(ignorant) > 0:
		return fmt.Errorf("servers that do not have the first root secret of the list: %s. Deploy old,new to all of them first, then new,old (a server that has just stopped counts as running for %v)",
			strings.Join(ignorant, ", "), store.GoneAfter)
	case len(early) > 0:
		return fmt.Errorf("servers that still seal under the old root secret: %s. Deploy new,old to all of them first (a server that has just stopped counts as running for %v)",
			strings.Join(early, ", "), store.GoneAfter)
	}
	r.Say("Running servers, all with the new root secret: %d.", len(running))
	return nil
}

// reseal seals the content of the store under the first root of ring, and says what it sealed.
// The keys come last, because their transaction records that the store is under that root:
// what is interrupted before is repeated.
func reseal(ctx context.Context, st *store.Store, ring *seal.Keyring) (done string, err error) {
	accounts, tokens, err := vault.Reseal(ctx, st, ring)
	if err != nil {
		return "", fmt.Errorf("sealing the accounts of the store again: %w (%s)", err, errAgain)
	}
	n, err := keys.Reseal(ctx, st, ring)
	if err != nil {
		return "", fmt.Errorf("sealing the signing keys of the store again: %w (%s)", err, errAgain)
	}
	done = fmt.Sprintf("%d signing keys", n)
	if accounts+tokens > 0 {
		done += fmt.Sprintf(", and of users from elsewhere %d accounts and the tokens of %d", accounts, tokens)
	}
	return done, nil
}

// resealLate seals what a request that had begun before the rotation has stored after it: accounts
// and tokens have no end, so they may never be under a root that is only for clients.
func resealLate(ctx context.Context, st *store.Store, ring *seal.Keyring) error {
	if _, _, err := vault.Reseal(ctx, st, ring); err != nil {
		return fmt.Errorf("sealing the accounts of the store again: %w (%s)", err, errAgain)
	}
	return nil
}

func moment(t time.Time) string { return t.UTC().Format(time.DateTime + " MST") }

func sinceWhen(t time.Time) string {
	if t.IsZero() {
		return "it was made"
	}
	return moment(t)
}

// SealedLives is the longest time for which something that was sealed can be valid, except
// for client ids: a login session, or a refresh handle that is not used.
func SealedLives(refreshTTL, refreshIdleTTL time.Duration) time.Duration {
	const session = 12 * time.Hour
	return max(min(refreshTTL, refreshIdleTTL), session) + jwt.Leeway
}

// Runs reports whether a server runs on the store of d.
func Runs(ctx context.Context, d Data, st *store.Store) (bool, error) {
	if d.shared() {
		running, err := st.Servers(ctx)
		return len(running) > 0, err
	}
	release, err := store.Hold(d.storeOptions().Path)
	if errors.Is(err, store.ErrLocked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	release()
	return false, nil
}
