package backend

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"
)

// events reads a stream of server-sent events, of which only event, data, id and retry matter.
type events struct {
	r     *bufio.Reader
	most  int    // bytes of one event
	heard func() // called after each line

	begun bool // a line of the stream has been read
	cr    bool // the last line ended with CR

	data  []byte
	id    string        // of the last event that had one
	retry time.Duration // that the server wants between two connections; 0: it has not said
}

// errTooLong says that an answer has more bytes than it may have.
var errTooLong = errors.New("the answer is too long")

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 8<<10) }}

func newEvents(r io.Reader, most int, heard func()) *events {
	e := &events{r: readers.Get().(*bufio.Reader), most: most, heard: heard}
	e.r.Reset(r)
	return e
}

// again goes on reading another stream.
func (e *events) again(r io.Reader) {
	e.r.Reset(r)
	e.begun, e.cr = false, false
}

func (e *events) close() {
	e.r.Reset(nil)
	readers.Put(e.r)
}

// next returns the data of the next message that has any, which the caller may keep. An event of
// another type is for listeners of that type (HTML Standard §9.2.6), which MCP does not have: of it
// only the id counts. The error is io.EOF at the end of the stream, where an event without its empty
// line does not count.
func (e *events) next() ([]byte, error) {
	e.data = nil
	foreign := false // the event is of another type
	for {
		line, err := e.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if len(e.data) > 1 && !foreign {
				return e.data[:len(e.data)-1], nil // without the last line feed
			}
			e.data, foreign = nil, false
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			foreign = len(value) > 0 && string(value) != "message"
		case "data":
			if len(e.data)+len(value) > e.most {
				return nil, errTooLong
			}
			e.data = append(append(e.data, value...), '\n')
		case "id":
			if len(value) < 1024 && bytes.IndexByte(value, 0) < 0 {
				e.id = string(value)
			}
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				e.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// line returns the next line without its end, which is CR LF, LF or CR. It is valid until the next
// call.
func (e *events) line() ([]byte, error) {
	if err := e.skipLF(); err != nil {
		return nil, err
	}
	line, err := e.upToEnd()
	if errors.Is(err, bufio.ErrBufferFull) {
		line, err = e.longLine(line)
	}
	if err != nil {
		return nil, err
	}
	e.heard()
	if !e.begun {
		line = bytes.TrimPrefix(line, []byte("\ufeff")) // byte order mark
	}
	e.begun = true
	return line, nil
}

func (e *events) longLine(start []byte) ([]byte, error) {
	line := append(make([]byte, 0, 4*len(start)), start...)
	for {
		more, err := e.upToEnd()
		if len(line)+len(more) > e.most+len("data: ") {
			return nil, errTooLong
		}
		line = append(line, more...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// upToEnd returns the text before the next end of a line, like [bufio.Reader.ReadSlice]. It does
// not wait for the LF after a CR.
func (e *events) upToEnd() ([]byte, error) {
	for seen := 0; ; {
		_, err := e.r.Peek(seen + 1) // waits for more than has been seen
		text, _ := e.r.Peek(e.r.Buffered())
		if end := lineEnd(text[seen:]); end >= 0 {
			end += seen
			e.cr = text[end] == '\r'
			_, _ = e.r.Discard(end + 1) // all of it is in the buffer, here and below
			return text[:end], nil
		}
		if err != nil {
			_, _ = e.r.Discard(len(text))
			return text, err
		}
		seen = len(text)
	}
}

// skipLF skips the LF of a CR LF whose CR has ended the line before. Only the next line waits for it.
func (e *events) skipLF() error {
	if !e.cr {
		return nil
	}
	next, err := e.r.Peek(1)
	if err != nil {
		return err
	}
	if next[0] == '\n' {
		_, _ = e.r.Discard(1) // it is in the buffer
	}
	e.cr = false
	return nil
}

// lineEnd is the index of the first CR or LF, or -1.
func lineEnd(text []byte) int {
	n := bytes.IndexByte(text, '\n')
	if n >= 0 {
		text = text[:n]
	}
	if cr := bytes.IndexByte(text, '\r'); cr >= 0 {
		return cr
	}
	return n
}
