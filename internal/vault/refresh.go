package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
)

const (
	// claimLapses is how long after its begin a claim counts. It is longer than callEnds, and
	// leaves time to store the answer, also if clocks of servers differ a little.
	claimLapses = 30 * time.Second

	// callEnds is the longest time that the call of a provider takes. The call has a limit of its
	// own, which is a little less.
	callEnds = 22 * time.Second

	// flightEnds bounds a refresh: a claim of a server that died, and a call.
	flightEnds = claimLapses + callEnds + 10*time.Second

	// lookAgain is how often a request looks whether the claim of another server is over.
	lookAgain = 100 * time.Millisecond

	// maxVersion is more than any version, and a number that JSON keeps.
	maxVersion = 1 << 53

	// storeAgain is how often an answer is stored again while the store is unavailable.
	storeAgain = 250 * time.Millisecond
)

// Call asks a provider for newer tokens. Subject and Provider of its answer do not count, and an
// empty Bound is that of the entry. An error that wraps [ErrEnded] says that the provider has ended the tokens for
// good. Any other error is no verdict.
type Call = func(ctx context.Context, e Entry) (seal.Credential, error)

// flightKey names what requests of one process wait for together.
type flightKey struct {
	subject, provider string
	stale             int64
}

// flight is a refresh that requests wait for. entry and err are set before done is closed.
type flight struct {
	done  chan struct{}
	entry Entry
	err   error
}

// Refresh returns the tokens of a user at a provider in a version later than stale: at once if
// there are such. Otherwise one request, of all servers, calls call and stores its answer, and
// the others wait for that, until their ctx ends ([ErrBusy]). A refresh that has begun goes on
// when its request ends, because the provider's answer may be the only way to further tokens.
//
// The error is [ErrUnknown] if there are no tokens, and [ErrEnded] for all who wait if call says
// so: the tokens are deleted then. If the tokens were taken in the meantime, the error is
// ErrEnded too, and the entry is the provider's answer, to be revoked there. After any other
// error of call, the requests that waited get that error or ErrBusy, and do not call in turn.
func (v *Vault) Refresh(ctx context.Context, subject, provider string, stale int64, call Call) (Entry, error) {
	if stale >= maxVersion {
		return Entry{}, fmt.Errorf("vault: %d is no version of an entry", stale)
	}
	f, err := v.join(ctx, flightKey{subject, provider, max(stale, 0)}, call)
	if err != nil {
		return Entry{}, err
	}
	select {
	case <-f.done:
		return f.entry, f.err
	case <-ctx.Done():
		return Entry{}, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
}

// join returns the flight of a key, which it begins if there is none.
func (v *Vault) join(ctx context.Context, key flightKey, call Call) (*flight, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, errors.New("vault: closed")
	}
	if f := v.flights[key]; f != nil {
		return f, nil
	}
	f := &flight{done: make(chan struct{})}
	v.flights[key] = f
	ctx = context.WithoutCancel(ctx)
	v.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, flightEnds)
		defer cancel()
		f.entry, f.err = v.refresh(ctx, key, call)
		v.mu.Lock()
		delete(v.flights, key)
		v.mu.Unlock()
		close(f.done)
	})
	return f, nil
}

// refresh waits for the claims of other servers, or claims the entry and calls the provider.
func (v *Vault) refresh(ctx context.Context, key flightKey, call Call) (Entry, error) {
	waited := "" // the claim that this request has waited for
	for {
		r, err := v.read(ctx, key.subject, key.provider)
		switch {
		case errors.Is(err, ErrUnknown) && waited != "":
			return Entry{}, ErrEnded
		case err != nil:
			return Entry{}, err
		case r.Version > key.stale:
			return r.Entry, nil
		case waited != "" && r.claim != waited: // the call came to nothing
			return Entry{}, ErrBusy
		case r.claim == "" || v.lapsed(r):
			claimed, err := v.claim(ctx, &r)
			if err != nil {
				return Entry{}, err
			}
			if claimed {
				return v.callAndCommit(ctx, r, max(r.Version, key.stale)+1, call)
			}
			waited = "" // another request was faster
			continue
		}
		waited = r.claim
		if !pause(ctx, lookAgain) {
			return Entry{}, ErrBusy
		}
	}
}

// pause waits, and reports whether ctx has not ended by then.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lapsed reports whether a claim no longer counts. One that lies far in the future was made
// before the clock was set back.
func (v *Vault) lapsed(r row) bool {
	return v.now().Sub(time.UnixMilli(r.claimedAt)).Abs() >= claimLapses
}

// claim claims an entry, unless anything has changed since it was read. The version alone does not
// tell: an entry that was taken and put anew begins with the first one again.
func (v *Vault) claim(ctx context.Context, r *row) (claimed bool, err error) {
	claim, at := rand.Text(), v.now().UnixMilli()
	claimed, err = v.change(ctx, "UPDATE credentials SET claim = $1, claimed_at = $2 WHERE sub = $3 AND provider = $4 AND version = $5 AND claim = $6 AND sealed = $7",
		claim, at, r.Subject, r.Provider, r.Version, r.claim, r.sealed)
	r.claim, r.claimedAt = claim, at
	return claimed, err
}

// callAndCommit calls the provider for a claimed entry, and does what the answer says.
func (v *Vault) callAndCommit(ctx context.Context, r row, next int64, call Call) (Entry, error) {
	answer, err := v.call(ctx, r.Entry, call)
	var raw string
	if err == nil {
		answer.Subject, answer.Provider, answer.Bound = r.Subject, r.Provider, cmp.Or(answer.Bound, r.Bound)
		raw, err = sealed(v.ring, answer, "provider's tokens are")
	}
	switch {
	case errors.Is(err, ErrEnded):
		return v.end(ctx, r, next-1, err)
	case err != nil:
		v.release(ctx, r)
		return Entry{}, err
	}
	e := Entry{Credential: answer, Version: next, Changed: v.store.Now().UnixMilli()}
	mine, err := v.settle(ctx, "UPDATE credentials SET sealed = $3, version = $4, changed_at = $5, claim = '', claimed_at = 0 WHERE sub = $1 AND provider = $2 AND claim = $6",
		r.Subject, r.Provider, raw, next, e.Changed, r.claim)
	switch {
	case err != nil:
		v.log.Error("the provider's new tokens could not be stored: if it takes the earlier ones no longer, the user signs in again", "sub", r.Subject, "provider", r.Provider, "err", err)
		return Entry{}, err
	case mine:
		return e, nil
	}
	return v.instead(ctx, r, next-1, e)
}

// call calls the provider. A panic of call is an error like others.
func (v *Vault) call(ctx context.Context, e Entry, call Call) (answer seal.Credential, err error) {
	ctx, cancel := context.WithTimeout(ctx, callEnds)
	defer cancel()
	defer func() {
		if recover() != nil { // its value may have a token in it
			v.log.Error("the refresh of a provider's tokens panicked", "provider", e.Provider, "stack", string(debug.Stack()))
			err = errors.New("vault: the refresh panicked")
		}
	}()
	return call(ctx, e)
}

// end deletes the tokens that the provider has ended, if the entry is still claimed.
func (v *Vault) end(ctx context.Context, r row, stale int64, ended error) (Entry, error) {
	mine, err := v.settle(ctx, "DELETE FROM credentials WHERE sub = $1 AND provider = $2 AND claim = $3", r.Subject, r.Provider, r.claim)
	switch {
	case err != nil:
		return Entry{}, err
	case mine:
		return Entry{}, ended
	}
	e, err := v.instead(ctx, r, stale, Entry{})
	if errors.Is(err, ErrEnded) {
		err = ended
	}
	return e, err
}

// instead returns what there is now in place of a claimed entry: later tokens of a sign-in, or
// none. In that case the provider's answer is returned, to be revoked.
func (v *Vault) instead(ctx context.Context, r row, stale int64, answer Entry) (Entry, error) {
	now, err := v.read(ctx, r.Subject, r.Provider)
	switch {
	case errors.Is(err, ErrUnknown):
		return answer, ErrEnded
	case err != nil:
		return Entry{}, err
	case now.Version > stale:
		return now.Entry, nil
	}
	return Entry{}, ErrBusy
}

// settle changes a claimed entry, and reports whether it was still claimed. What the provider
// answered exists nowhere else, so an unavailable store is asked again while the claim lasts.
func (v *Vault) settle(ctx context.Context, query string, args ...any) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, claimLapses-callEnds)
	defer cancel()
	for {
		mine, err = v.change(ctx, query, args...)
		if !errors.Is(err, store.ErrUnavailable) || !pause(ctx, storeAgain) {
			return mine, err
		}
	}
}

// release gives a claim up. If that fails, the claim lapses.
func (v *Vault) release(ctx context.Context, r row) {
	_, err := v.change(ctx, "UPDATE credentials SET claim = '', claimed_at = 0 WHERE sub = $1 AND provider = $2 AND claim = $3", r.Subject, r.Provider, r.claim)
	if err != nil {
		v.log.Warn("a claim could not be released, and lapses", "sub", r.Subject, "provider", r.Provider, "err", err)
	}
}
