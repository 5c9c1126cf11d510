package store

import "context"

// Create makes a store with a new epoch. If there is one already, the error is
// [fs.ErrExist]. fingerprint names the root secret that the store is made under. A
// Create that is interrupted leaves what Open calls [ErrNoStore], and can be repeated.
func Create(ctx context.Context, o Options, fingerprint string) error {
	o, err := o.check()
	if err != nil {
		return err
	}
	return o.engine.create(ctx, o, fingerprint)
}

// A grant whose column epoch is empty, because a release before that column made it, is of
// the epoch in meta.rows_epoch, or of any if that is empty too. So whatever gives a store
// another epoch must leave the earlier one there.
// And since the tokens of before are refused, not_before moves.
const (
	keepRowsEpoch = "rows_epoch = CASE rows_epoch WHEN '' THEN epoch ELSE rows_epoch END"
	acceptLost    = "UPDATE meta SET epoch = $1, fingerprint = $2, last_seen = $3, not_before = $4, ended = '', rolled_back_at = 0, pruned_to = 0, " + keepRowsEpoch
	beforeRestore = "before the restore"
)

// NewEpoch accepts that a store was lost, damaged, restored or replaced. A whole store
// is kept and gets a new epoch, so that nothing issued before is accepted. A store
// that is not whole, or that was made under a root secret that o.Root does not know,
// is renamed, never removed, and a new one is made; aside are the new names, of files or of
// a schema. NewEpoch refuses while a server runs.
func NewEpoch(ctx context.Context, o Options, fingerprint string) (aside []string, err error) {
	if o, err = o.check(); err != nil {
		return nil, err
	}
	return o.engine.newEpoch(ctx, o, fingerprint)
}
