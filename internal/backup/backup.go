// Package backup makes and restores the file in which an operator keeps the state of a
// server: the rows of its store, its users and its configured clients. The root secret is
// not in the file, which is of no use without it.
//
// The file is text, one JSON value a line, and the same for both engines, so a backup
// of a SQLite file can be restored into a PostgreSQL database. It is written and read
// as a stream. Its last line carries a checksum of all before, sealed under the root
// secret: a file that was cut off, damaged or changed is refused.
//
//	{"signet_backup":1,"made":"2026-11-20T22:00:00Z","version":"0.1.0","root":"…","seen":1795212000000}
//	{"file":"users"}
//	"eyJ…"                                           base64, some KiB a line
//	{"table":"grants","columns":["id","gen",…]}
//	["0dfh…",3,…]
//	{"end":{"sha256":"…","seal":"…"}}
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"signet/internal/seal"
	"signet/internal/store"
)

// Reasons for which a backup is refused.
var (
	ErrDamaged   = errors.New("backup damaged")
	ErrOtherRoot = errors.New("backup made under another root secret")
	ErrNewer     = errors.New("backup made by a newer version of this program")
)

const (
	format  = 1
	maxLine = 1 << 20
	chunk   = 48 << 10 // of a file, a line
)

// Header is the first line of a backup.
type Header struct {
	Format  int       `json:"signet_backup"`
	Made    time.Time `json:"made"`
	Version string    `json:"version"`        // of the program
	Root    string    `json:"root"`           // fingerprint of the root secret under which the store was made
	Keep    int64     `json:"keep,omitempty"` // how long the store remembered revoked grants, in seconds
	Seen    int64     `json:"seen"`           // the latest time that the store knew, Unix milliseconds
}

// section is a line that announces the lines after it.
type section struct {
	File    string   `json:"file,omitempty"`
	Table   string   `json:"table,omitempty"`
	Columns []string `json:"columns,omitempty"`
	End     *end     `json:"end,omitempty"`
}

type end struct {
	SHA256 string `json:"sha256"`
	Seal   string `json:"seal"` // a seal.Backup
}

// Writer writes a backup: files first, then rows, then the end.
type Writer struct {
	ring  *seal.Keyring
	to    *bufio.Writer
	sum   hash.Hash
	lines *json.Encoder
	table string
}

// NewWriter begins a backup of a store that was made under one of ring's roots.
func NewWriter(w io.Writer, ring *seal.Keyring, h Header) (*Writer, error) {
	h.Format = format
	b := &Writer{ring: ring, to: bufio.NewWriterSize(w, 256<<10), sum: sha256.New()}
	b.lines = json.NewEncoder(io.MultiWriter(b.to, b.sum))
	b.lines.SetEscapeHTML(false)
	return b, b.lines.Encode(h)
}

// File adds a file.
func (w *Writer) File(name string, content io.Reader) error {
	if err := w.lines.Encode(section{File: name}); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for {
		n, err := io.ReadFull(content, buf)
		if n > 0 {
			if err := w.lines.Encode(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Row adds a row. The rows of a table must follow each other.
func (w *Writer) Row(t store.Table, values []any) error {
	if t.Name != w.table {
		w.table = t.Name
		if err := w.lines.Encode(section{Table: t.Name, Columns: t.Columns}); err != nil {
			return err
		}
	}
	return w.lines.Encode(values)
}

// Close writes the end. Without it the backup is refused.
func (w *Writer) Close() error {
	sum := w.sum.Sum(nil)
	sealed, err := seal.Seal(w.ring, seal.Backup{Sum: sum})
	if err != nil {
		return err
	}
	if err := w.lines.Encode(section{End: &end{SHA256: hex.EncodeToString(sum), Seal: sealed}}); err != nil {
		return err
	}
	return w.to.Flush()
}

// Reader reads a backup: [Reader.Files], then [Reader.Next]. Nothing that it returns
// is certain before Next has returned [io.EOF].
type Reader struct {
	Header Header

	ring  *seal.Keyring
	from  *bufio.Reader
	sum   hash.Hash
	n     int // of the line that was read last
	line  []byte
	table store.Table
}

// NewReader reads the header. It refuses a backup of another root secret or of a later
// format, and a file that is no backup.
func NewReader(r io.Reader, ring *seal.Keyring) (*Reader, error) {
	b := &Reader{ring: ring, from: bufio.NewReaderSize(r, maxLine), sum: sha256.New()}
	if err := b.advance(); err != nil {
		return nil, err
	}
	switch err := json.Unmarshal(b.line, &b.Header); {
	case err != nil || b.Header.Format < 1 || b.Header.Root == "":
		return nil, fmt.Errorf("%w: its first line is not that of a backup of Signet", ErrDamaged)
	case b.Header.Format > format:
		return nil, fmt.Errorf("%w: it has the format %d, this one knows %d", ErrNewer, b.Header.Format, format)
	case !ring.HasFingerprint(b.Header.Root):
		return nil, fmt.Errorf("%w (its fingerprint is %s, that of the one in use %s): a backup does not hold the secret, and needs the secret of the server at that time. "+
			"Put it back, or list it after the present one (SIGNET_SECRET=present,old)", ErrOtherRoot, b.Header.Root, ring.Fingerprint())
	}
	return b, b.advance()
}

// advance goes to the next line. All lines before it are in the sum then.
func (r *Reader) advance() error {
	r.sum.Write(r.line)
	line, err := r.from.ReadSlice('\n')
	r.n++
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: it ends in line %d, without its end: it was cut off, or is still being written", ErrDamaged, r.n)
	case errors.Is(err, bufio.ErrBufferFull):
		return r.damaged("is too long")
	case err != nil:
		return fmt.Errorf("reading the backup: %w", err)
	}
	r.line = line
	return nil
}

func (r *Reader) damaged(what string) error {
	return fmt.Errorf("%w: line %d %s", ErrDamaged, r.n, what)
}

// Files calls fn with the parts of each file, an empty one at its beginning.
func (r *Reader) Files(fn func(name string, part []byte) error) error {
	for {
		s, err := r.section()
		if err != nil || s.File == "" {
			return err
		}
		if err := fn(s.File, nil); err != nil {
			return err
		}
		for {
			if err := r.advance(); err != nil {
				return err
			}
			if r.line[0] != '"' {
				break
			}
			var part []byte
			if err := json.Unmarshal(r.line, &part); err != nil {
				return r.damaged("is not a part of a file")
			}
			if err := fn(s.File, part); err != nil {
				return err
			}
		}
	}
}

func (r *Reader) section() (s section, err error) {
	if json.Unmarshal(r.line, &s) != nil || s.File == "" && s.Table == "" && s.End == nil {
		return s, r.damaged("does not say what follows")
	}
	return s, nil
}

// Next returns the next row. After the last one it returns [io.EOF], if the end is there,
// all lines before it are as they were written, and the writer had the root secret. The
// caller may keep the slice.
func (r *Reader) Next() (t store.Table, values []any, err error) {
	for r.line[0] != '[' {
		s, err := r.section()
		if err != nil {
			return t, nil, err
		}
		if s.End != nil {
			return t, nil, r.check(s.End)
		}
		if s.Table == "" || len(s.Columns) == 0 {
			return t, nil, r.damaged("is out of place")
		}
		if r.table, err = known(s); err != nil {
			return t, nil, err
		}
		if err := r.advance(); err != nil {
			return t, nil, err
		}
	}
	if values, err = parseRow(r.line); err != nil || len(values) != len(r.table.Columns) {
		return t, nil, r.damaged("is not a row of the table " + r.table.Name)
	}
	return r.table, values, r.advance()
}

// known finds the table of a section. A backup of an older version may have fewer
// columns.
func known(s section) (store.Table, error) {
	for _, t := range store.Tables() {
		if t.Name != s.Table {
			continue
		}
		for i, c := range s.Columns {
			if !slices.Contains(t.Columns, c) || slices.Contains(s.Columns[:i], c) {
				return t, fmt.Errorf("%w: its table %s has a column %q", ErrNewer, s.Table, c)
			}
		}
		t.Columns = s.Columns
		return t, nil
	}
	return store.Table{}, fmt.Errorf("%w: it has a table %q", ErrNewer, s.Table)
}

func parseRow(line []byte) ([]any, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	var values []any
	if err := d.Decode(&values); err != nil {
		return nil, err
	}
	for i, v := range values {
		switch v := v.(type) {
		case nil, string:
		case json.Number:
			n, err := v.Int64()
			if err != nil {
				return nil, err
			}
			values[i] = n
		default:
			return nil, errors.New("neither a number nor a string")
		}
	}
	return values, nil
}

// check compares the end with the lines before it, and returns io.EOF if it is right.
func (r *Reader) check(e *end) error {
	sum := r.sum.Sum(nil)
	if e.SHA256 != hex.EncodeToString(sum) {
		return fmt.Errorf("%w: its checksum is not that of its content", ErrDamaged)
	}
	sealed, err := seal.Open[seal.Backup](r.ring, e.Seal)
	if err != nil || !bytes.Equal(sealed.Sum, sum) {
		return fmt.Errorf("%w: its end was not sealed under this root secret: it was changed after it was made", ErrDamaged)
	}
	if _, err := r.from.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its end", ErrDamaged)
	}
	return io.EOF
}
