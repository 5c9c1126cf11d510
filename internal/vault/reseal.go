package vault

import (
	"context"
	"fmt"

	"signet/internal/seal"
	"signet/internal/store"
)

// resealPage is how many rows one transaction of Reseal reads.
const resealPage = 200

// Reseal seals accounts and tokens in the store under the first root of ring, beside running
// servers that seal under that root already. It returns how many of both it sealed again: none
// if that was done before. What no root of ring opens is left alone.
func Reseal(ctx context.Context, st *store.Store, ring *seal.Keyring) (accounts, credentials int, err error) {
	if accounts, err = resealTable[seal.Account](ctx, st, ring, "accounts"); err != nil {
		return accounts, 0, fmt.Errorf("accounts: %w", err)
	}
	if credentials, err = resealTable[seal.Credential](ctx, st, ring, "credentials"); err != nil {
		return accounts, credentials, fmt.Errorf("tokens of providers: %w", err)
	}
	return accounts, credentials, nil
}

// resealTable goes through a table page by page, in the order of subject and provider.
func resealTable[T seal.Artefact](ctx context.Context, st *store.Store, ring *seal.Keyring, table string) (n int, err error) {
	var after sealedRow
	for more := true; more; {
		done, last := 0, after
		err := st.Write(ctx, func(tx store.Tx) (err error) {
			done, last, more = 0, after, false
			page, err := sealedRows(tx, table, after)
			if err != nil {
				return err
			}
			for _, r := range page {
				again, err := resealRow[T](tx, ring, table, r)
				if err != nil {
					return err
				}
				if again {
					done++
				}
				last = r
			}
			more = len(page) == resealPage
			return nil
		})
		if err != nil {
			return n, err
		}
		n += done
		after = last
	}
	return n, nil
}

// sealedRow is what Reseal reads of a row.
type sealedRow struct{ subject, provider, sealed string }

// sealedRows returns the next rows after one. Both tables have these columns, and keys that
// begin with the subject.
func sealedRows(tx store.Tx, table string, after sealedRow) (page []sealedRow, err error) {
	rows, err := tx.Query("SELECT sub, provider, sealed FROM "+table+" WHERE (sub, provider) > ($1, $2) ORDER BY sub, provider LIMIT $3", after.subject, after.provider, resealPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r sealedRow
		if err := rows.Scan(&r.subject, &r.provider, &r.sealed); err != nil {
			return nil, err
		}
		page = append(page, r)
	}
	return page, rows.Err()
}

// resealRow seals a row again, unless it is under the first root, or has changed meanwhile.
func resealRow[T seal.Artefact](tx store.Tx, ring *seal.Keyring, table string, r sealedRow) (done bool, err error) {
	if seal.IsCurrent(ring, r.sealed) {
		return false, nil
	}
	value, err := seal.Open[T](ring, r.sealed)
	if err != nil {
		return false, nil // no root opens it
	}
	raw, err := seal.Seal(ring, value)
	if err != nil {
		return false, err
	}
	return exec(tx, "UPDATE "+table+" SET sealed = $1 WHERE sub = $2 AND provider = $3 AND sealed = $4", raw, r.subject, r.provider, r.sealed)
}
