package store

import (
	"context"
	"time"
)

// Contents is what a store is restored from.
type Contents struct {
	Fingerprint string    // of the root secret that the store was made under
	Seen        time.Time // the latest time that the store had seen
	Keep        int64     // how long the store remembered revoked grants, in seconds; 0: not known

	// Next returns the rows, table by table. After the last row it returns [io.EOF],
	// but only if no row is missing. Values are int64, string or nil.
	Next func() (t Table, values []any, err error)
}

// restored is the statement that completes the meta of a restored store.
const restored = `UPDATE meta SET last_seen = CASE WHEN last_seen < $1 THEN $1 ELSE last_seen END,
	keep_revoked = $2, not_before = $3, rows_epoch = $4`

func (c Contents) restored() []any {
	return []any{c.Seen.UnixMilli(), c.Keep, notBefore(time.Now()), beforeRestore}
}

// Restore makes a store of contents, with a new epoch: what was issued before is
// refused. A store that is already there is an error, [fs.ErrExist], unless replace is
// set; then it is renamed, and aside is its new name. Restore refuses while a server
// runs. If it fails or is interrupted, either the store from before is there or the
// restored one; on SQLite after [FinishRestore].
func Restore(ctx context.Context, o Options, contents Contents, replace bool) (aside string, err error) {
	o, err = o.check()
	if err != nil {
		return "", err
	}
	return o.engine.restore(ctx, o, contents, replace)
}

// Restoring reports whether a restore was interrupted, or is running, so that
// [FinishRestore] is due.
func Restoring(o Options) bool { return Locate(o.Path).engine.restoring(o) }

// FinishRestore completes a [Restore] that was interrupted once its rows were whole.
// Otherwise it does nothing.
func FinishRestore(o Options) error { return Locate(o.Path).engine.finishRestore(o) }
