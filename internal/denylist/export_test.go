package denylist

import "signet/internal/store"

// ScanPage is how many rows a pass through all grants reads at a time.
const ScanPage = scanPage

// Page runs the statements that read one page of a pass.
func (l *List) Page(tx store.Tx, since int64, after string) (grants []Grant, last string, err error) {
	return l.page(tx, since, after)
}

// Rotation is the change of a rotation.
func Rotation(g Grant, epoch string, gen, now, seen int64) store.Change {
	return rotate(g, epoch, gen, now, seen)
}
