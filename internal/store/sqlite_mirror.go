package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mark is what the mirror knows of its store. It is written after the commit it
// tells of, so it may lag behind the store and never runs ahead of it: a store
// that has less than its mark has lost something.
type mark struct {
	epoch   string
	commits int64
	base    int64 // commits that the file holds without its log
}

// The mirror is two slots of a line each, written in turn and in place, so a
// torn write leaves the other one. It costs a write into the page cache per
// commit and no fsync.
const slotSize = 128

func (m mark) line() []byte {
	text := fmt.Sprintf("signet-mirror/1 %s %d %d", m.epoch, m.commits, m.base)
	text += fmt.Sprintf(" %08x", crc32.ChecksumIEEE([]byte(text)))
	return fmt.Appendf(nil, "%-*s\n", slotSize-1, text)
}

func parseMark(line []byte) (m mark, ok bool) {
	fields := strings.Fields(string(line))
	if len(fields) != 5 {
		return mark{}, false
	}
	commits, err1 := strconv.ParseInt(fields[2], 10, 64)
	base, err2 := strconv.ParseInt(fields[3], 10, 64)
	m = mark{fields[1], commits, base}
	return m, err1 == nil && err2 == nil && bytes.Equal(m.line(), line)
}

// later returns the later mark of the two slots and where it stands.
func later(slots []byte) (m mark, slot int, ok bool) {
	for i := 0; i < 2 && len(slots) >= (i+1)*slotSize; i++ {
		this, whole := parseMark(slots[i*slotSize : (i+1)*slotSize])
		if whole && (!ok || this.commits > m.commits || this.commits == m.commits && this.base > m.base) {
			m, slot, ok = this, i, true
		}
	}
	return m, slot, ok
}

// readMirror returns the later mark. A mirror that is missing is
// [fs.ErrNotExist], one without a whole mark [ErrHalf].
func readMirror(path string) (mark, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return mark{}, err
	}
	m, _, ok := later(b)
	if !ok {
		return mark{}, fmt.Errorf("%w: %s: the store's mirror is unreadable (%s)", ErrHalf, path, acceptLoss)
	}
	return m, nil
}

// createMirror puts a mirror in place in one step.
func createMirror(path string, m mark) error {
	return replaceFile(path, append(m.line(), m.line()...))
}

// replaceFile writes a file aside and moves it into place, durably.
func replaceFile(path string, data []byte) error {
	aside := path + ".new"
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		os.Remove(aside)
		return err
	}
	return syncDir(path)
}

// syncDir makes the name of the file at path durable.
func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// mirror is the open mirror of an open store.
type mirror struct{ f *os.File }

func openMirror(path string) (*mirror, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the store's mirror cannot be written: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w (%s)", ErrHalf, err, acceptLoss)
	}
	return &mirror{f}, nil
}

// advance raises the mark to at least to. Other processes write the mirror too;
// what one of them loses to another makes it lag, which is harmless.
func (m *mirror) advance(to mark) error {
	var slots [2 * slotSize]byte
	n, err := m.f.ReadAt(slots[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	now, slot, ok := later(slots[:n])
	if ok && now.epoch != to.epoch {
		return fmt.Errorf("%s: %w", m.f.Name(), ErrOtherStore)
	}
	next := mark{to.epoch, max(to.commits, now.commits), max(to.base, now.base)}
	if ok && next == now {
		return nil
	}
	_, err = m.f.WriteAt(next.line(), int64(1-slot)*slotSize)
	return err
}

func (m *mirror) close() { m.f.Close() }
