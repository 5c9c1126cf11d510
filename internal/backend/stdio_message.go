package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"signet/internal/rawjson"
)

const (
	maxEvents       = 64       // notifications that a caller has not taken yet
	maxNotification = 64 << 10 // bytes of one
	tailSize        = 64       // bytes of the end of a long line
)

// call is a request that waits for its answer, or a listener.
type call struct {
	method string
	token  []byte // the caller's progress token; nil: there is none
	lossy  bool   // notifications may be left out if the caller is slow
	events chan notification
	answer chan reply // has room for the only one
}

type notification struct {
	method  string
	message json.RawMessage
}

type reply struct {
	answer Answer
	err    error
}

func newCall(method string, token []byte, lossy bool) *call {
	return &call{method: method, token: token, lossy: lossy, events: make(chan notification, maxEvents), answer: make(chan reply, 1)}
}

// finish gives the call its reply, unless it has one.
func (c *call) finish(a Answer, err error) {
	select {
	case c.answer <- reply{a, err}:
	default:
	}
}

// begin gives a call an id.
func (p *process) begin(c *call) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return 0, p.conn.unsent("its process has ended")
	}
	p.last++
	p.calls[p.last] = c
	return p.last, nil
}

// take ends that a call waits for an answer.
func (p *process) take(id uint64) *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.calls[id]
	delete(p.calls, id)
	return c
}

// idle reports whether the process has nothing to answer, apart from health checks.
func (p *process) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(slices.Collect(maps.Values(p.calls)), func(c *call) bool { return c.lossy && c.method != "ping" && c.method != "server/discover" })
}

func (p *process) failAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	for _, c := range p.calls {
		c.finish(Answer{}, p.conn.down("its process has ended"))
	}
	for _, cs := range p.listeners {
		for _, c := range cs {
			c.finish(Answer{}, p.conn.down("its process has ended"))
		}
	}
}

// do sends a message of a caller, in the form of the process's version.
func (p *process) do(ctx context.Context, m Message, notify Notify) (Answer, error) {
	switch m.Method {
	case "notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/roots/list_changed":
		return Answer{}, nil // they speak of the caller's own session, which the process does not know
	}
	if p.modern() && !m.Modern {
		m.Params = p.withMeta(m.Params)
	} else if m.Modern && !p.modern() {
		m.Params = withTriple(m.Params, "")
	}
	if strings.HasPrefix(m.Method, "notifications/") {
		return Answer{}, p.send(ctx, line(0, m.Method, m.Params))
	}
	a, err := p.request(ctx, m.Method, m.Params, notify)
	if a.Result != nil && m.Modern && !p.modern() {
		a.Result = complete(a.Result)
	}
	return a, err
}

// request sends a request and waits for its answer, or until the server has been silent for the
// timeout.
func (p *process) request(ctx context.Context, method string, params []byte, notify Notify) (Answer, error) {
	token := rawjson.Get(rawjson.Get(params, "_meta"), "progressToken")
	c := newCall(method, token, true)
	id, err := p.begin(c)
	if err != nil {
		return Answer{}, err
	}
	if token != nil {
		params = rawjson.Replace(params, token, strconv.AppendUint(nil, id, 10))
	}
	if err := p.send(ctx, line(id, method, params)); err != nil {
		p.take(id)
		return Answer{}, err
	}
	a, err := p.await(ctx, c, notify, p.conn.timeout)
	if p.take(id) != nil && p.version != "" { // it may still be at work
		p.offer(cancelled(id))
	}
	return a, err
}

// await passes notifications on until there is an answer. A timeout of 0 never ends.
func (p *process) await(ctx context.Context, c *call, notify Notify, timeout time.Duration) (Answer, error) {
	pass := func(n notification) {
		if notify != nil {
			notify(n.method, n.message)
		}
	}
	var silent <-chan time.Time
	if timeout > 0 {
		silent = time.After(timeout)
	}
	for {
		select {
		case n := <-c.events:
			pass(n)
			if timeout > 0 {
				silent = time.After(timeout)
			}
		case o := <-c.answer:
			for len(c.events) > 0 { // they came before the answer
				pass(<-c.events)
			}
			return o.answer, o.err
		case <-silent:
			return Answer{}, p.conn.down("no answer within %s", timeout)
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	}
}

// line is the text of a message on a line of its own.
func line(id uint64, method string, params []byte) []byte {
	b := encode(id, method, params)
	for i, c := range b {
		if c == '\n' || c == '\r' { // between tokens: a string has none
			b[i] = ' '
		}
	}
	return append(b, '\n')
}

func cancelled(id uint64) []byte {
	return line(0, "notifications/cancelled", append(strconv.AppendUint([]byte(`{"requestId":`), id, 10), '}'))
}

// line takes a line that the process has written. The tail is the end of one that is not whole.
func (p *process) line(text, tail []byte, whole bool) {
	if !whole {
		p.unusable(text, tail, fmt.Sprintf("it is longer than %d bytes", p.conn.max))
		return
	}
	h, wrong := hear(text)
	switch {
	case wrong != "":
		p.unusable(text, text, wrong)
	case h.method != "" && h.id != nil:
		p.refuse(h.id, h.method)
	case h.method != "":
		p.notified(h.method, text, rawjson.Get(text, "params"))
	default:
		p.answered(h)
	}
}

// unusable lets the call fail whose answer a line may be. Of lines that are nothing of the kind,
// the first one is logged.
func (p *process) unusable(text, tail []byte, why string) {
	for _, id := range idsOf(text, tail) {
		if c := p.takeText([]byte(id)); c != nil {
			c.finish(Answer{}, malformed(p.conn.server, "its answer is none: "+why).ofMessage())
			return
		}
	}
	p.noise.Do(func() {
		p.conn.log.Warn("the server writes a line to its output that is no message, such lines are skipped", "problem", why)
	})
}

// takeText is take with an id of a message.
func (p *process) takeText(id []byte) *call {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		return nil
	}
	return p.take(n)
}

func (p *process) answered(h heard) {
	c := p.takeText(h.id)
	if c == nil {
		return // it was cancelled, or the id is not of this side
	}
	id, _ := strconv.ParseUint(string(h.id), 10, 64)
	a, wrong := h.answers(id, c.method)
	if wrong != "" {
		c.finish(Answer{}, malformed(p.conn.server, "its answer is none: "+wrong).ofMessage())
		return
	}
	c.finish(a, nil)
}

// refuse answers a request of the server. There is no client that it could be passed on to, as the
// process cannot tell to whose call it belongs.
func (p *process) refuse(id []byte, method string) {
	if id[0] == '{' || id[0] == '[' || len(id) > 256 {
		return
	}
	answer := `"error":{"code":-32601,"message":"Method not found"}`
	if method == "ping" {
		answer = `"result":{}`
	}
	p.offer(slices.Concat([]byte(`{"jsonrpc":"2.0","id":`), id, []byte(","+answer+"}\n")))
}

// notified passes a notification on to the call that it belongs to.
func (p *process) notified(method string, text, params []byte) {
	n := notification{method, text}
	switch method {
	case "notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed":
		p.conn.changes.add(strings.Split(method, "/")[1])
	case "notifications/progress":
		p.progress(n, params)
	case "notifications/resources/updated":
		p.updated(n, params)
	case "notifications/message":
		p.log("log message", params)
	default:
		p.conn.log.Debug("the server has sent a notification to no caller", "method", method)
	}
}

func (p *process) progress(n notification, params []byte) {
	token := rawjson.Get(params, "progressToken")
	id, err := strconv.ParseUint(string(token), 10, 64)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.calls[id]; c != nil && c.token != nil {
		n.message = rawjson.Replace(n.message, token, c.token)
		p.pass(c, n)
	}
}

func (p *process) updated(n notification, params []byte) {
	uri, _ := rawjson.String(rawjson.Get(params, "uri"))
	id, err := strconv.ParseUint(string(rawjson.Get(rawjson.Get(params, "_meta"), subscriptionID)), 10, 64)
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.calls[id]; err == nil && c != nil && !c.lossy {
		p.pass(c, n)
		return
	}
	for _, c := range p.listeners[uri] {
		p.pass(c, n)
	}
}

// pass queues a notification for a call, without waiting: other calls must not wait for a slow
// caller.
func (p *process) pass(c *call, n notification) {
	if len(n.message) > maxNotification {
		p.conn.log.Debug("the server has sent a notification that is too long", "method", n.method, "limit", maxNotification)
		return
	}
	select {
	case c.events <- n:
	default:
		if !c.lossy {
			c.finish(Answer{}, p.conn.down("what listens to it is too slow"))
		}
	}
}
