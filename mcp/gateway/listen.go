package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"signet/internal/oauth"
	"signet/internal/rawjson"
	"signet/mcp"
)

const resourceUpdated = "notifications/resources/updated"

// changes tells listeners which lists have changed. It is safe for concurrent use.
type changes struct {
	mu        sync.Mutex
	listeners map[chan string]bool
}

// tell tells that a list has changed: tools, prompts, resources, resourceTemplates, or all for "".
// A listener that does not keep up gets one notification for several changes.
func (c *changes) tell(list string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.listeners {
		select {
		case l <- list:
		default:
		}
	}
}

func (c *changes) listen() (<-chan string, func()) {
	l := make(chan string, 16)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listeners == nil {
		c.listeners = map[chan string]bool{}
	}
	c.listeners[l] = true
	return l, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, l)
	}
}

// wanted is what a client subscribes to.
type wanted struct {
	Tools     bool     `json:"toolsListChanged,omitempty"`
	Prompts   bool     `json:"promptsListChanged,omitempty"`
	Resources bool     `json:"resourcesListChanged,omitempty"`
	URIs      []string `json:"resourceSubscriptions,omitempty"`
}

const maxURIs = 1000 // of one subscription

// Listen sends the notifications that a client subscribes to until ctx ends (MCP 2026-07-28,
// subscriptions/listen).
func (g *Gateway) Listen(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply {
	var params struct {
		Notifications *wanted `json:"notifications"`
	}
	if err := json.Unmarshal(c.Params, &params); err != nil || params.Notifications == nil {
		return mcp.ErrorReply(codeInvalidParams, "notifications: says what the client subscribes to, and is required")
	}
	want := params.Notifications
	if len(want.URIs) > maxURIs {
		return mcp.ErrorReply(codeInvalidParams, "resourceSubscriptions: too many URIs")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	heard, done := g.changes.listen()
	defer done()
	updates := make(chan json.RawMessage)
	want.URIs = g.subscribe(ctx, c, want.URIs, updates)
	notify(g.acknowledgement(c, want))
	for {
		select {
		case <-ctx.Done():
			return mcp.Reply{Result: json.RawMessage(`{"resultType":"complete","_meta":{` + subscription(c) + `}}`)}
		case list := <-heard:
			for _, method := range want.changed(list) {
				notify(json.RawMessage(`{"jsonrpc":"2.0","method":"` + method + `","params":{"_meta":{` + subscription(c) + `}}}`))
			}
		case n := <-updates:
			notify(n)
		}
	}
}

func subscription(c *mcp.Call) string {
	return `"io.modelcontextprotocol/subscriptionId":` + string(c.ID)
}

func (g *Gateway) acknowledgement(c *mcp.Call, agreed *wanted) json.RawMessage {
	text, _ := json.Marshal(agreed) // booleans and strings
	return json.RawMessage(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{` + subscription(c) + `},"notifications":` + string(text) + `}}`)
}

// changed returns the notifications for the change of a list.
func (w *wanted) changed(list string) (methods []string) {
	if w.Tools && (list == "" || list == tools.list) {
		methods = append(methods, "notifications/tools/list_changed")
	}
	if w.Prompts && (list == "" || list == prompts.list) {
		methods = append(methods, "notifications/prompts/list_changed")
	}
	if w.Resources && (list == "" || list == resources.list || list == templates.list) {
		methods = append(methods, "notifications/resources/list_changed")
	}
	return methods
}

// subscribe listens to the servers of resources. It returns the URIs that the caller may subscribe
// to.
func (g *Gateway) subscribe(ctx context.Context, c *mcp.Call, uris []string, updates chan<- json.RawMessage) (agreed []string) {
	of := map[*member][]string{}
	for _, uri := range uris {
		m, own := g.now.Load().find(readResource, uri)
		if m == nil || !m.isServed(readResource, own) || !oauth.ScopeIsSubset(m.config.Scopes, c.Granted) || slices.Contains(agreed, uri) {
			continue
		}
		of[m] = append(of[m], own)
		agreed = append(agreed, uri)
	}
	for m, own := range of {
		go g.follow(ctx, c, m, own, updates)
	}
	return agreed
}

// settled is how long a server must have been listened to for its listener to count as heard.
const settled = time.Second

// follow sends the updates of resources of one server until ctx ends. After a gap, such as a restart
// of the server, each resource may have changed.
func (g *Gateway) follow(ctx context.Context, c *mcp.Call, m *member, uris []string, updates chan<- json.RawMessage) {
	send := func(n json.RawMessage) {
		select {
		case updates <- n:
		case <-ctx.Done():
		}
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	var missed []string // what may have changed in the gap
	g.listenAgain(ctx, m.config.ID, func() error {
		err := g.hear(ctx, c, m, uris, missed, send)
		if errors.Is(err, ErrEnded) {
			end()
		}
		missed = uris
		return err
	})
}

// hear listens to the server of the configuration as it is now that has the place of m, and sends
// the updates of resources. Those that were missed are sent as soon as it listens.
func (g *Gateway) hear(ctx context.Context, c *mcp.Call, m *member, uris, missed []string, send func(json.RawMessage)) error {
	members := g.now.Load().members
	i := slices.IndexFunc(members, func(other *member) bool { return other.config.ID == m.config.ID && other.prefix == m.prefix })
	if i < 0 || !oauth.ScopeIsSubset(members[i].config.Scopes, c.Granted) {
		return ErrUnknown
	}
	m = members[i]
	header, err := g.strategies.headers(ctx, Caller{Claims: c.Claims, Token: c.Token, Granted: c.Granted}, m.config, false)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	if len(missed) > 0 {
		work.Go(func() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(settled):
			}
			for _, uri := range missed {
				send(m.updated(c, uri))
			}
		})
	}
	return m.backend.Listen(ctx, c.Claims.GrantID, withContext(header, nil), uris, func(method string, n json.RawMessage) {
		if method == resourceUpdated {
			uri, _ := rawjson.String(rawjson.Get(rawjson.Get(n, "params"), "uri"))
			send(m.updated(c, uri))
		}
	})
}

// updated returns the notification that a resource has changed, as one of the client's subscription.
func (m *member) updated(c *mcp.Call, uri string) json.RawMessage {
	return json.RawMessage(`{"jsonrpc":"2.0","method":"` + resourceUpdated + `","params":{"_meta":{` + subscription(c) + `},"uri":` + string(rawjson.Quote(m.prefix+uri)) + `}}`)
}
