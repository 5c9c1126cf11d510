//go:build !failpoint

package store

// At these places a build for tests can break the store, see internal/failpoint.

func withFailpoints(w writer) writer { return w }

func (o Options) withFailpoints() Options { return o }

func (u use) withFailpoints() use { return u }
