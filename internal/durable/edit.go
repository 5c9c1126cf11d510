package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Edit replaces the file at path by what change makes of its content, which is nil if
// there is no file. Edits of other processes come before or after, never between: it waits
// for them for as long as patience ([ErrLocked]). If change returns an error, or the result
// is longer than limit, the file stays as it is.
func (a Access) Edit(ctx context.Context, path string, limit int64, patience time.Duration, change func(old []byte) ([]byte, error)) error {
	target, err := writeTarget(path)
	if err != nil {
		return err
	}
	if err := WritableFolder(filepath.Dir(target)); err != nil {
		return err
	}
	unlock, err := Lock(ctx, target+".lock", patience)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := a.Read(target, limit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	content, err := change(old)
	if err != nil {
		return err
	}
	if int64(len(content)) > limit {
		return tooLong(path, limit)
	}
	if err := Replace(target, content); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
