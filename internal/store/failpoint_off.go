//go:build !failpoint

package store

// The places where a build for tests can break the store, see internal/failpoint.

func breakable(w writer) writer { return w }

func (o Options) breakable() Options { return o }

func (u use) breakable() use { return u }
