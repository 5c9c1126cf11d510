package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Schedule is a load whose requests begin at fixed times, whether earlier ones were
// answered or not: a slow server does not get fewer requests. A request that finds no
// connection free for a while is not sent, but counted.
type Schedule struct {
	Rate        float64 // a second
	Connections int
	Lasts       time.Duration
	Closed      bool                                         // each connection sends without pause, whatever Rate says
	Send        func(i int, c *Wire) (status int, err error) // on connection i
}

// tardy is how late a request may begin if all connections are busy.
const tardy = 20 * time.Millisecond

// Seen is the outcome of a schedule.
type Seen struct {
	Good, Refused []time.Duration // time from sending to the end of the answer
	Late          []time.Duration // the same for good answers, from the time on the schedule
	InTime        int             // good answers before the end of the schedule
	Skipped       int             // requests not sent: no connection was free
	Over          time.Duration   // time until the last answer
	Lasts         time.Duration   // length of the schedule
	Failed        error           // first answer that was neither good nor refused, or first missing answer
	Failures      int
}

func (s *Seen) Add(o Seen) {
	s.Good, s.Refused, s.Late = append(s.Good, o.Good...), append(s.Refused, o.Refused...), append(s.Late, o.Late...)
	s.InTime += o.InTime
	s.Skipped += o.Skipped
	s.Failures += o.Failures
	s.Over += o.Over
	s.Lasts += o.Lasts
	if s.Failed == nil {
		s.Failed = o.Failed
	}
}

// Rate is the number of good answers a second, while the schedule lasts.
func (s *Seen) Rate() float64 { return float64(s.InTime) / s.Lasts.Seconds() }

func (s Schedule) Run(t testing.TB, base string) Seen {
	t.Helper()
	var next atomic.Int64
	var mu sync.Mutex
	var all Seen
	var wg sync.WaitGroup
	conns := make([]*Wire, s.Connections)
	for i := range conns {
		c, err := Dial(base)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// The server has accepted the connection when the load begins.
		if _, _, err := c.Exchange(GetRequest(c.Host, "/livez")); err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	begin := time.Now()
	for i, c := range conns {
		wg.Go(func() {
			var mine Seen
			for {
				due := time.Duration(float64(next.Add(1)-1) / s.Rate * float64(time.Second))
				if due > s.Lasts {
					break
				}
				wait := due - time.Since(begin)
				if s.Closed {
					due, wait = time.Since(begin), 0
					if due > s.Lasts {
						break
					}
				}
				if wait < -tardy {
					mine.Skipped++
					continue
				}
				time.Sleep(wait)
				sent := time.Since(begin)
				status, err := s.Send(i, c)
				done := time.Since(begin)
				switch {
				case err == nil && status == 503:
					mine.Refused = append(mine.Refused, done-sent)
				case err == nil && status < 400:
					mine.Good = append(mine.Good, done-sent)
					mine.Late = append(mine.Late, done-due)
					if done <= s.Lasts {
						mine.InTime++
					}
				default:
					mine.Failures++
					if mine.Failed == nil {
						mine.Failed = fmt.Errorf("%d %v", status, err)
					}
				}
				if err != nil {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.Add(mine)
		})
	}
	wg.Wait()
	all.Over, all.Lasts = time.Since(begin), s.Lasts
	return all
}

// Exchange sends a request as it is, and returns the status and the body, which is
// valid until the next call.
func (c *Wire) Exchange(request []byte) (status int, body []byte, err error) {
	if _, err := c.Write(request); err != nil {
		return 0, nil, err
	}
	length, chunked := 0, false
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		switch {
		case err != nil:
			return 0, nil, err
		case first && len(line) > 12:
			status = int(line[9]-'0')*100 + int(line[10]-'0')*10 + int(line[11]-'0')
		case len(line) == 2:
			if chunked {
				body, err = io.ReadAll(httputil.NewChunkedReader(c.r))
				if err == nil {
					_, err = c.r.Discard(2)
				}
				return status, body, err
			}
			if body, err = c.r.Peek(length); err == nil {
				_, err = c.r.Discard(length)
			}
			return status, body, err
		case bytes.HasPrefix(line, []byte("Content-Length: ")):
			length, err = strconv.Atoi(string(bytes.TrimSpace(line[16:])))
			if err != nil {
				return 0, nil, err
			}
		case bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked")):
			chunked = true
		}
	}
}

func FormRequest(host, path, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, host, len(body), body)
}

func GetRequest(host, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
}

// Refreshing is a family of handles that is refreshed again and again over any
// connection.
type Refreshing struct {
	Client  string
	Handle  string
	request []byte
}

func (f *Refreshing) Send(c *Wire) (int, error) {
	if f.request == nil {
		f.request = FormRequest(c.Host, "/token", "grant_type=refresh_token&client_id="+f.Client+"&refresh_token="+f.Handle)
	}
	status, body, err := c.Exchange(f.request)
	if err != nil || status != 200 {
		return status, err
	}
	_, rest, ok := bytes.Cut(body, []byte(`"refresh_token":"`))
	handle, _, ok2 := bytes.Cut(rest, []byte(`"`))
	if !ok || !ok2 {
		return status, fmt.Errorf("no handle in %s", body)
	}
	f.Handle, f.request = string(handle), nil
	return status, nil
}

func Percentile(of []time.Duration, p int) time.Duration {
	if len(of) == 0 {
		return 0
	}
	slices.Sort(of)
	return of[len(of)*p/100].Round(10 * time.Microsecond)
}

func (s Seen) String() string {
	return fmt.Sprintf("good %.0f/s p50 %v p99 %v; refused %.0f/s p50 %v p99 %v; not sent %.0f/s; failed %d %v",
		s.Rate(), Percentile(s.Good, 50), Percentile(s.Good, 99),
		float64(len(s.Refused))/s.Over.Seconds(), Percentile(s.Refused, 50), Percentile(s.Refused, 99), float64(s.Skipped)/s.Over.Seconds(), s.Failures, s.Failed)
}

// Wire is an HTTP/1.1 connection that costs the load's core as little as possible.
type Wire struct {
	net.Conn
	r    *bufio.Reader
	out  []byte // the last request
	Host string
}

func Dial(base string) (*Wire, error) {
	host := strings.TrimPrefix(base, "http://")
	c, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	return &Wire{Conn: c, r: bufio.NewReader(c), Host: host}, nil
}

func (c *Wire) Do(method, path, headers, body string) ([]byte, error) {
	c.out = append(append(append(append(c.out[:0], method...), ' '), path...), " HTTP/1.1\r\nHost: "...)
	c.out = append(append(append(append(c.out, c.Host...), "\r\n"...), headers...), "Content-Length: "...)
	c.out = append(append(strconv.AppendInt(c.out, int64(len(body)), 10), "\r\n\r\n"...), body...)
	if _, err := c.Write(c.out); err != nil {
		return nil, err
	}
	status, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	// Reading a response as net/http does costs as much as serving it, and more for the
	// side that sends more headers.
	length, chunked := 0, false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if len(line) == 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return nil, err
			}
		}
		chunked = chunked || bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked"))
	}
	b, err := c.body(length, chunked)
	if err == nil && !strings.HasPrefix(status, "HTTP/1.1 200") {
		err = fmt.Errorf("%s %s", status, b)
	}
	return b, err
}

func (c *Wire) body(length int, chunked bool) ([]byte, error) {
	if chunked {
		b, err := io.ReadAll(httputil.NewChunkedReader(c.r))
		if err == nil {
			_, err = c.r.Discard(2) // the line after the last chunk
		}
		return b, err
	}
	b := make([]byte, length)
	_, err := io.ReadFull(c.r, b)
	return b, err
}
