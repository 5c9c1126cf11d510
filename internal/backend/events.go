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

// events reads a stream of server-sent events, of which only data, id and retry matter.
type events struct {
	r     *bufio.Reader
	most  int    // bytes of one event
	heard func() // called after each line

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
func (e *events) again(r io.Reader) { e.r.Reset(r) }

func (e *events) close() {
	e.r.Reset(nil)
	readers.Put(e.r)
}

// next returns the data of the next event that has any, which the caller may keep. The error is
// io.EOF at the end of the stream, where an event without its empty line does not count.
func (e *events) next() ([]byte, error) {
	e.data = nil
	for {
		line, err := e.line()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if len(e.data) > 1 {
				return e.data[:len(e.data)-1], nil // without the last line feed
			}
			e.data = nil
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
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

// line returns the next line without its end. It is valid until the next call.
func (e *events) line() ([]byte, error) {
	line, err := e.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line, err = e.longLine(line)
	}
	if err != nil {
		return nil, err
	}
	e.heard()
	return bytes.TrimRight(line, "\r\n"), nil
}

func (e *events) longLine(start []byte) ([]byte, error) {
	line := append(make([]byte, 0, 4*len(start)), start...)
	for {
		more, err := e.r.ReadSlice('\n')
		if len(line)+len(more) > e.most+len("data: \r\n") {
			return nil, errTooLong
		}
		line = append(line, more...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}
