package store

import "context"

func (f *sqliteFile) dump(ctx context.Context, fn func(t Table, values []any) error) error {
	var stopped error // by fn, so the engine did not fail
	err := f.read(ctx, func(tx Tx) error {
		for _, t := range Tables() {
			if err := dumpTable(ctx, tx, t, func(values []any) error {
				stopped = fn(t, values)
				return stopped
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if stopped != nil {
		return stopped
	}
	return err
}

func dumpTable(ctx context.Context, tx Tx, t Table, fn func(values []any) error) error {
	rows, err := tx.Query(t.query())
	if err != nil {
		return err
	}
	defer rows.Close()
	values, dest := make([]any, len(t.Columns)), make([]any, len(t.Columns))
	for i := range dest {
		dest[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(values); err != nil {
			return err
		}
	}
	return rows.Err()
}
