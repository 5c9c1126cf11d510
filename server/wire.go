package server

import (
	"bytes"
	"net"
	"strconv"
)

// sendBuffer is how much of an answer the kernel keeps for a client that does not read. By
// default that may be megabytes, and a server could not tell for long whether a client reads.
const sendBuffer = 128 << 10

// wire is a listener whose connections have a small send buffer and, unless they are
// encrypted, refuse folded header lines. With TLS the bytes of a header pass from package
// tls to net/http unseen; there, no proxy in between has read the header differently.
type wire struct {
	net.Listener
	encrypted bool
}

func (l wire) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if b, ok := c.(interface{ SetWriteBuffer(bytes int) error }); ok {
		_ = b.SetWriteBuffer(sendBuffer) // a request of the kernel, not a need
	}
	if l.encrypted {
		return c, nil
	}
	return &unfolded{Conn: c}, nil
}

// unfolded is a connection on which a header line that begins with a space is refused.
// net/http would take it for the end of the line before (obs-fold), which a proxy may not
// have done (RFC 9112 §5.2). The space becomes a colon, which makes the line malformed for
// net/http, so it answers 400 and closes.
type unfolded struct {
	net.Conn
	scan scanner
}

func (c *unfolded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.scan.next(p[:n])
	return n, err
}

// CloseWrite is for net/http, which ends a connection so that the client can read the answer.
func (c *unfolded) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// scanner follows the requests of one connection, header by header.
type scanner struct {
	line          []byte // beginning of the present line of a header
	long          bool   // the line is longer than what is kept of it
	more          bool   // the line is not the request line
	body, pending int64  // bytes until the next header: of the present body, and of the one after this header
	lost          bool   // the length of a body is not known: the connection ends after this request
}

// longestField is more than the lines that matter have: Content-Length and Transfer-Encoding.
const longestField = 64

// next reads p, and changes it if a header line in it is folded.
func (s *scanner) next(p []byte) {
	for len(p) > 0 && !s.lost {
		if s.body > 0 {
			n := min(s.body, int64(len(p)))
			s.body -= n
			p = p[n:]
			continue
		}
		if s.more && len(s.line) == 0 && !s.long && (p[0] == ' ' || p[0] == '\t') {
			p[0] = ':'
		}
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			s.keep(p)
			return
		}
		s.keep(p[:end])
		s.endLine()
		p = p[end+1:]
	}
}

func (s *scanner) keep(p []byte) {
	if room := longestField - len(s.line); len(p) > room {
		p, s.long = p[:room], true
	}
	s.line = append(s.line, p...)
}

// endLine looks at a whole line.
func (s *scanner) endLine() {
	line := bytes.TrimSuffix(s.line, []byte("\r"))
	switch name, value, _ := bytes.Cut(line, []byte(":")); {
	case !s.more: // the request line
		s.more = true
	case len(line) == 0 && !s.long: // the end of the header
		s.more = false
		s.body, s.pending = s.pending, 0
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		s.lost = true
	case bytes.EqualFold(name, []byte("Content-Length")):
		n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
		s.pending, s.lost = n, err != nil || n < 0 || s.long
	}
	s.line, s.long = s.line[:0], false
}
