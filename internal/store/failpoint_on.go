//go:build failpoint

package store

import (
	"fmt"
	"os"
	"strings"
	"time"

	"signet/internal/failpoint"
)

func breakable(w writer) writer { return breakableWriter{w} }

// breakableWriter passes the points around a transaction.
type breakableWriter struct{ writer }

func (b breakableWriter) transact(by time.Time, group bool, fn func(session) error) error {
	if err := failpoint.At(failpoint.Begin); err != nil {
		return err
	}
	wrote := false
	err := b.writer.transact(by, group, func(tx session) error {
		if err := fn(tx); err != nil {
			return err
		}
		if wrote = tx.written() > 0; wrote {
			return failpoint.At(failpoint.Commit)
		}
		return nil
	})
	if err == nil && wrote {
		if err = failpoint.At(failpoint.Committed); err != nil {
			return fmt.Errorf("%w: %w", errLost, err)
		}
	}
	return err
}

func (o Options) breakable() Options {
	if o.fault == nil {
		o.fault = func(string) error { return failpoint.At(failpoint.Statement) }
	}
	return o
}

// breakable gives up durability where SIGNET_TEST_SYNCHRONOUS says so: a test of
// durability has to condemn that.
func (u use) breakable() use {
	if mode := os.Getenv("SIGNET_TEST_SYNCHRONOUS"); mode != "" {
		return use(strings.Replace(string(u), "synchronous(FULL)", "synchronous("+mode+")", 1))
	}
	return u
}
