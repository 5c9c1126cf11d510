package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"signet/internal/durable"
)

// mark is the content of the mirror. It is written after the commit that it counts, so
// it may be behind the store and is never ahead of it: a store that has less than its
// mark has lost something.
type mark struct {
	epoch   string
	commits int64
	base    int64 // commits that the file contains without its log
}

// slotSize is the size of each of the two slots of the mirror. They contain a line each
// and are written in turn and in place, so that a torn write leaves the other slot
// whole. That costs one write into the page cache per commit, and no fsync.
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

// laterMark returns the later mark of the two slots, and which slot has it.
func laterMark(slots []byte) (m mark, slot int, ok bool) {
	for i := 0; i < 2 && len(slots) >= (i+1)*slotSize; i++ {
		this, whole := parseMark(slots[i*slotSize : (i+1)*slotSize])
		if whole && (!ok || this.commits > m.commits || this.commits == m.commits && this.base > m.base) {
			m, slot, ok = this, i, true
		}
	}
	return m, slot, ok
}

// maxMirror is more than a mirror has, in bytes.
const maxMirror = 64 << 10

// readMirror returns the later mark. If the mirror is missing, the error is
// [fs.ErrNotExist]; if it has no whole mark, [ErrHalf].
func readMirror(path string) (mark, error) {
	b, err := durable.ReadFile(path, maxMirror)
	if err != nil {
		return mark{}, err
	}
	m, _, ok := laterMark(b)
	if !ok {
		return mark{}, fmt.Errorf("%w: %s: the store's mirror is unreadable (%s)", ErrHalf, path, acceptLoss)
	}
	return m, nil
}

// createMirror puts a mirror in its place in one step.
func createMirror(path string, m mark) error {
	return durable.Replace(path, append(m.line(), m.line()...))
}

// mirror is the open mirror of an open store.
type mirror struct{ f *os.File }

func openMirror(path string) (*mirror, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the store's mirror cannot be written: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w (%s)", ErrHalf, err, acceptLoss)
	}
	return &mirror{f}, nil
}

// advance raises the mark to at least to. Other processes write the mirror too. If they
// overwrite each other's marks, the mirror is behind, which does no harm.
//
// It follows every commit, so it writes in place and without an fsync, not by
// [durable.Replace] (BenchmarkGroupInsert).
func (m *mirror) advance(to mark) error {
	var slots [2 * slotSize]byte
	n, err := m.f.ReadAt(slots[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	now, slot, ok := laterMark(slots[:n])
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
