package backend

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"signet/internal/rawjson"
)

func isEvents(resp *http.Response) bool {
	return resp.StatusCode == http.StatusOK && mediaType(resp.Header) == "text/event-stream" && coding(resp.Header) == ""
}

func (c *httpConn) listen(ctx context.Context, key string, header http.Header, uris []string, notify Notify) error {
	s := c.span(ctx)
	defer s.end()
	// A session has one stream at most: each listener has a session of its own.
	key += "\x00" + strconv.FormatUint(c.ids.Add(1), 10)
	protocol, in, err := c.probe(s, Message{Session: key, Header: header})
	if err != nil {
		return err
	}
	switch protocol {
	case rest:
		return c.hearNothing(s)
	case modernVersion:
		return c.listenModern(s, header, uris, notify)
	}
	if in == nil {
		if in, err = c.session(s, key, header); err != nil {
			return err
		}
	}
	defer func() {
		c.forget(in)
		c.later(func() { c.delete(c.closed, in, header) })
	}()
	return c.listenSession(s, in, header, uris, notify)
}

// hearNothing waits for the end of a listener to a server that says nothing unasked.
func (c *httpConn) hearNothing(s *span) error {
	s.forever()
	<-s.ctx.Done()
	return c.unheard(s, s.ctx.Err())
}

func (c *httpConn) listenModern(s *span, header http.Header, uris []string, notify Notify) error {
	list := ""
	if len(uris) > 0 {
		text, _ := json.Marshal(uris) // strings can always be marshalled
		list = `,"resourceSubscriptions":` + string(text)
	}
	id := c.ids.Add(1)
	const method = "subscriptions/listen"
	params := `{"_meta":{` + c.triple + `},"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true` + list + `}}`
	r := c.request(s.ctx, encode(id, method, json.RawMessage(params)), header)
	setModern(r.Header, method, "")
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return c.unheard(s, err)
	}
	defer resp.Body.Close()
	st := &stream{m: Message{Header: header}, notify: notify}
	if !isEvents(resp) {
		a, _, err := c.answer(s, resp, id, method, st)
		if err == nil && errorCode(a.Error) == codeMethodNotFound {
			return c.hearNothing(s)
		}
		if err == nil {
			err = c.noAnswer(resp.StatusCode, "it is not a stream of events")
		}
		return err
	}
	return c.follow(s, resp, id, st)
}

// listenSession subscribes to resources, and reads the stream of a session.
func (c *httpConn) listenSession(s *span, in *session, header http.Header, uris []string, notify Notify) error {
	for _, uri := range uris {
		params := json.RawMessage(`{"uri":` + string(rawjson.Quote(uri)) + `}`)
		a, err := c.exchange(c.span(s.caller), Message{Method: "resources/subscribe", Params: params, Header: header}, in, nil)
		if err != nil {
			return err
		}
		if a.Error != nil {
			return c.noAnswer(http.StatusOK, "it refuses the subscription to a resource")
		}
		s.alive()
	}
	resp, err := c.get(s, in, header, "")
	if err != nil {
		return c.unheard(s, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusMethodNotAllowed {
		return c.hearNothing(s)
	}
	if !isEvents(resp) {
		return c.refusal(resp)
	}
	return c.follow(s, resp, 0, &stream{in: in, m: Message{Header: header}, notify: notify})
}

// follow reads a stream of events until it ends.
func (c *httpConn) follow(s *span, resp *http.Response, id uint64, st *stream) error {
	s.forever()
	e := newEvents(resp.Body, c.most, func() {})
	defer e.close()
	_, err := c.until(s, e, id, "", st)
	if err == nil || err == io.EOF {
		return c.unheard(s, io.ErrUnexpectedEOF)
	}
	return err
}
