package backend

import (
	"context"
	"encoding/json"
	"time"

	"signet/internal/gatewayconfig"
)

// SetPace replaces durations that processes keep to; 0 leaves one as it is.
func (o *Options) SetPace(start, grace, pause, patience time.Duration) {
	if o.pace == (pace{}) {
		o.pace = usualPace
	}
	p := &o.pace
	for _, d := range []struct {
		of *time.Duration
		to time.Duration
	}{{&p.start, start}, {&p.grace, grace}, {&p.pause, pause}, {&p.patience, patience}} {
		if d.to != 0 {
			*d.of = d.to
		}
	}
	p.discover = p.start / 3
}

// Await waits for the answer to a call, while feed plays the server. It returns the names of the
// notifications that came before.
func Await(timeout time.Duration, feed func(progress, answer func())) (got []string, err error) {
	c := newCall("tools/call", nil, true)
	go feed(func() { c.events <- notification{method: "progress"} }, func() { c.finish(Answer{Result: []byte("{}")}, nil) })
	p := &process{conn: &stdioConn{server: &gatewayconfig.Server{ID: "s"}}}
	_, err = p.await(context.Background(), c, func(method string, _ json.RawMessage) { got = append(got, method) }, timeout)
	return got, err
}
