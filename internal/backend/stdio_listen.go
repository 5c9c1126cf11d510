package backend

import (
	"context"
	"encoding/json"
	"slices"
)

// listen passes on that resources have changed.
func (p *process) listen(ctx context.Context, uris []string, notify Notify) error {
	c := newCall("subscriptions/listen", nil, false)
	if p.modern() && len(uris) > 0 {
		id, err := p.begin(c)
		if err != nil {
			return err
		}
		defer p.offer(cancelled(id))
		defer p.take(id)
		asked, _ := json.Marshal(map[string]any{"notifications": map[string][]string{"resourceSubscriptions": uris}})
		if err := p.send(ctx, line(id, "subscriptions/listen", p.withMeta(asked))); err != nil {
			return err
		}
	} else {
		if err := p.subscribe(c, uris); err != nil {
			return err
		}
		defer p.unsubscribe(c, uris)
	}
	_, err := p.await(ctx, c, notify, 0)
	if err == nil {
		err = p.conn.down("it has ended a subscription")
	}
	return err
}

// subscribe adds a listener. The server is asked for a resource by the first one only, and what it
// answers is of no interest: without a subscription there are no updates.
func (p *process) subscribe(c *call, uris []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return p.conn.unsent("its process has ended")
	}
	if len(uris) == 0 {
		uris = []string{""} // only the end of the process is waited for
	}
	for _, uri := range uris {
		if len(p.listeners[uri]) == 0 {
			p.ask("resources/subscribe", uri)
		}
		p.listeners[uri] = append(p.listeners[uri], c)
	}
	return nil
}

// unsubscribe takes a listener away.
func (p *process) unsubscribe(c *call, uris []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(uris) == 0 {
		uris = []string{""}
	}
	for _, uri := range uris {
		p.listeners[uri] = slices.DeleteFunc(p.listeners[uri], func(other *call) bool { return other == c })
		if len(p.listeners[uri]) == 0 {
			delete(p.listeners, uri)
			p.ask("resources/unsubscribe", uri)
		}
	}
}

// ask sends a request whose answer nothing waits for. The caller holds mu, so that requests for one
// resource are sent in the order in which its listeners come and go.
func (p *process) ask(method, uri string) {
	if uri == "" || !p.offers.Resources.Subscribe {
		return
	}
	p.last++
	params, _ := json.Marshal(map[string]string{"uri": uri})
	p.offer(line(p.last, method, params))
}
