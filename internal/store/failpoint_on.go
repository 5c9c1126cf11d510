//go:build failpoint

package store

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"signet/internal/failpoint"
)

func withFailpoints(w writer) writer { return failpointWriter{w} }

// failpointWriter passes the failpoints around a transaction.
type failpointWriter struct{ writer }

func (b failpointWriter) transact(by time.Time, m mode, fn func(session) error) error {
	if err := failpoint.At(failpoint.Begin); err != nil {
		return err
	}
	wrote := false
	err := b.writer.transact(by, m, func(tx session) error {
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

func (b failpointWriter) change(by time.Time, requests []*request) ([]bool, error) {
	for _, point := range []string{failpoint.Begin, failpoint.Commit} {
		if err := failpoint.At(point); err != nil {
			return nil, fmt.Errorf("%w: %w", errLost, err)
		}
	}
	made, err := b.writer.change(by, requests)
	if err == nil && slices.Contains(made, true) {
		if err = failpoint.At(failpoint.Committed); err != nil {
			return nil, fmt.Errorf("%w: %w", errLost, err)
		}
	}
	return made, err
}

func (o Options) withFailpoints() Options {
	if o.fault == nil {
		o.fault = func(string) error { return failpoint.At(failpoint.Statement) }
	}
	return o
}

// withFailpoints gives up durability if SIGNET_TEST_SYNCHRONOUS is set: a test of
// durability has to detect that.
func (u use) withFailpoints() use {
	if mode := os.Getenv("SIGNET_TEST_SYNCHRONOUS"); mode != "" {
		return use(strings.Replace(string(u), "synchronous(FULL)", "synchronous("+mode+")", 1))
	}
	return u
}
