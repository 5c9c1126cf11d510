package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httputil"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// schedule is a load whose requests begin when it is their time, not when an earlier
// one has been answered: a server that is slow is not asked less for it. There are
// so many connections; a request that finds none free for a while is not sent, and
// counted.
type schedule struct {
	rate        float64 // a second
	connections int
	lasts       time.Duration
	closed      bool                                         // no schedule: each connection sends as soon as it can
	send        func(i int, c *wire) (status int, err error) // on connection i
}

// tardy is how late a request may begin because all connections were busy.
const tardy = 20 * time.Millisecond

// seen is what became of a schedule.
type seen struct {
	good, refused []time.Duration // from sending to the end of the answer
	late          []time.Duration // of the good ones: from their time on the schedule
	skipped       int             // not sent: no connection was free
	over          time.Duration
	failed        error // the first answer that was neither, or none
	failures      int
}

func (s *seen) add(o seen) {
	s.good, s.refused, s.late = append(s.good, o.good...), append(s.refused, o.refused...), append(s.late, o.late...)
	s.skipped += o.skipped
	s.failures += o.failures
	if s.failed == nil {
		s.failed = o.failed
	}
}

func (s schedule) run(t testing.TB, base string) seen {
	t.Helper()
	var next atomic.Int64
	var mu sync.Mutex
	var all seen
	var wg sync.WaitGroup
	conns := make([]*wire, s.connections)
	for i := range conns {
		c, err := dial(base)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	begin := time.Now()
	for i, c := range conns {
		wg.Go(func() {
			var mine seen
			for {
				due := time.Duration(float64(next.Add(1)-1) / s.rate * float64(time.Second))
				if due > s.lasts {
					break
				}
				wait := due - time.Since(begin)
				if s.closed {
					due, wait = time.Since(begin), 0
					if due > s.lasts {
						break
					}
				}
				if wait < -tardy {
					mine.skipped++
					continue
				}
				time.Sleep(wait)
				sent := time.Since(begin)
				status, err := s.send(i, c)
				done := time.Since(begin)
				switch {
				case err == nil && status == 503:
					mine.refused = append(mine.refused, done-sent)
				case err == nil && status < 400:
					mine.good = append(mine.good, done-sent)
					mine.late = append(mine.late, done-due)
				default:
					mine.failures++
					if mine.failed == nil {
						mine.failed = fmt.Errorf("%d %v", status, err)
					}
				}
				if err != nil {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.add(mine)
		})
	}
	wg.Wait()
	all.over = time.Since(begin)
	return all
}

// exchange sends a request as it is, and returns the status and the body, which is
// good until the next one.
func (c *wire) exchange(request []byte) (status int, body []byte, err error) {
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

func formRequest(host, path, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, host, len(body), body)
}

func getRequest(host, path string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
}

// refreshing is a family that goes on refreshing over whatever connection.
type refreshing struct {
	client  string
	handle  string
	request []byte
}

func (f *refreshing) send(c *wire) (int, error) {
	if f.request == nil {
		f.request = formRequest(c.host, "/token", "grant_type=refresh_token&client_id="+f.client+"&refresh_token="+f.handle)
	}
	status, body, err := c.exchange(f.request)
	if err != nil || status != 200 {
		return status, err
	}
	_, rest, ok := bytes.Cut(body, []byte(`"refresh_token":"`))
	handle, _, ok2 := bytes.Cut(rest, []byte(`"`))
	if !ok || !ok2 {
		return status, fmt.Errorf("no handle in %s", body)
	}
	f.handle, f.request = string(handle), nil
	return status, nil
}

func percentile(of []time.Duration, p int) time.Duration {
	if len(of) == 0 {
		return 0
	}
	slices.Sort(of)
	return of[len(of)*p/100].Round(10 * time.Microsecond)
}

func (s seen) String() string {
	return fmt.Sprintf("good %.0f/s p50 %v p99 %v; refused %.0f/s p50 %v p99 %v; not sent %.0f/s; failed %d %v",
		float64(len(s.good))/s.over.Seconds(), percentile(s.good, 50), percentile(s.good, 99),
		float64(len(s.refused))/s.over.Seconds(), percentile(s.refused, 50), percentile(s.refused, 99), float64(s.skipped)/s.over.Seconds(), s.failures, s.failed)
}
