package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/rawjson"
	"signet/mcp"
)

// Codes of JSON-RPC errors.
const (
	codeMethodNotFound   = -32601
	codeInvalidParams    = -32602
	codeInternal         = -32603
	codeResourceNotFound = -32002 // in the versions before 2026-07-28
)

// Needs returns the scopes that a message needs, besides those of every request. A message for a
// tool that its caller is not to know needs none: Route answers as if there were no such tool.
func (g *Gateway) Needs(method, name string, granted []string) []string {
	if name == "" {
		return nil
	}
	m, own := g.now.Load().find(method, name)
	if m == nil || !m.isServed(method, own) || method == callTool && m.hides(own, granted) {
		return nil
	}
	return m.needs(method, own)
}

const (
	callTool     = "tools/call"
	readResource = "resources/read"
	getPrompt    = "prompts/get"
	complete     = "completion/complete"
)

// Route answers a message.
func (g *Gateway) Route(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply {
	switch c.Method {
	case tools.method:
		return g.list(ctx, c, tools)
	case prompts.method:
		return g.list(ctx, c, prompts)
	case resources.method:
		return g.list(ctx, c, resources)
	case templates.method:
		return g.list(ctx, c, templates)
	case callTool, getPrompt, readResource, complete:
		return g.pass(ctx, c, notify)
	case "logging/setLevel":
		return g.setLevel(c)
	case "resources/subscribe", "resources/unsubscribe":
		return g.legacySubscription(c)
	}
	return mcp.ErrorReply(codeMethodNotFound, "method not found")
}

// find returns the server of a name that clients see, and the server's own name. Without prefixes
// it is the first server whose lists have the name, or had it when they could be read last: a name
// does not move to another server because its own one fails.
func (s *set) find(method, name string) (m *member, own string) {
	for _, m := range s.members {
		if own, ok := strings.CutPrefix(name, m.prefix); ok && (m.prefix != "" || m.lists.has(method, name)) {
			return m, own
		}
	}
	return nil, ""
}

// isServed reports whether the configuration lets a name be used.
func (m *member) isServed(method, own string) bool {
	if checkName(own) != "" {
		return false
	}
	return method != callTool && method != getPrompt || m.serves(own)
}

// has reports whether some caller's list of the objects of a method had a name when it was read last.
func (l *lists) has(method, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, k := range kinds {
		if !k.isOf(method) {
			continue
		}
		if l.names[i][name] > 0 {
			return true
		}
		if k == templates && method == readResource {
			for template := range l.names[i] {
				if fits(template, name) {
					return true
				}
			}
		}
	}
	return false
}

// fits reports whether a URI may be one of a template (RFC 6570): it has the template's text in the
// same order.
func fits(template, uri string) bool {
	literal, rest, more := strings.Cut(template, "{")
	uri, ok := strings.CutPrefix(uri, literal)
	for ok && more {
		_, rest, _ = strings.Cut(rest, "}")
		literal, rest, more = strings.Cut(rest, "{")
		if literal == "" && !more {
			return true
		}
		if !more {
			return strings.HasSuffix(uri, literal)
		}
		_, uri, ok = strings.Cut(uri, literal)
	}
	return ok && uri == ""
}

func (one *keptList) isReady() bool {
	select {
	case <-one.ready:
		return true
	default:
		return false
	}
}

// isOf reports whether a list has the objects that a method names.
func (k kind) isOf(method string) bool {
	switch method {
	case callTool:
		return k == tools
	case getPrompt:
		return k == prompts
	case readResource:
		return k == resources || k == templates
	}
	return method == complete && (k == prompts || k == templates)
}

// pass sends a message to its server.
func (g *Gateway) pass(ctx context.Context, c *mcp.Call, notify func(json.RawMessage)) mcp.Reply {
	s := g.now.Load()
	if !s.config.Prefix {
		g.fill(ctx, c, s)
	}
	m, own := s.find(c.Method, c.Name)
	if m == nil || !m.isServed(c.Method, own) || c.Method == callTool && m.hides(own, c.Granted) {
		return unknown(c)
	}
	if !m.use.TryRLock() { // it has just been removed
		return unknown(c)
	}
	defer m.use.RUnlock()
	message := backend.Message{
		Method: c.Method, Params: withoutResponses(g.withLevel(c, c.Renamed(own))), Name: own, Modern: c.Modern, Session: c.Claims.GrantID,
		Safe: c.Method != callTool,
	}
	if c.Method == complete {
		message.Name = ""
	}
	if c.Method == callTool {
		tool, err := g.tool(ctx, c, m, own)
		switch {
		case m.config.Pins == nil: // what its list says is a help only
		case errors.Is(err, errNoTool), m.config.Pins[own] == "":
			return unknown(c)
		case err != nil:
			return g.failed(c, m, err)
		}
		message.Safe = tool.safe || m.config.Tools[own].Idempotent
	}
	return g.send(ctx, c, m, message, notify)
}

// tool returns what the server's list says of a tool, if the list is at hand or the tool may only
// be called as it is pinned.
func (g *Gateway) tool(ctx context.Context, c *mcp.Call, m *member, own string) (item, error) {
	var items []item
	var err error
	if m.config.Pins != nil {
		items, err = g.items(ctx, c, m, tools)
	} else {
		items = m.lists.atHand(g.owner(c, m), tools)
	}
	for _, one := range items {
		if one.name == own {
			return one, nil
		}
	}
	return item{}, cmp.Or(err, errNoTool)
}

var errNoTool = errors.New("the server does not list the tool")

// atHand returns a list if it is there already.
func (l *lists) atHand(owner string, k kind) []item {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own := l.owners[owner]; own != nil {
		if one := own.kept[k.index()]; one != nil && one.isReady() {
			return one.items
		}
	}
	return nil
}

// send gets the credential and sends the message. If the server refuses the credential, it is got
// anew once: nothing was done for it.
func (g *Gateway) send(ctx context.Context, c *mcp.Call, m *member, message backend.Message, notify func(json.RawMessage)) mcp.Reply {
	caller := Caller{Claims: c.Claims, Token: c.Token, Granted: c.Granted}
	relay := func(method string, n json.RawMessage) {
		if method != logMessage || g.wantsLog(c, n) {
			notify(m.outward(n))
		}
	}
	var refused *backend.Error
	for range 2 {
		header, err := g.credential(ctx, c, m, caller, refused != nil)
		if err != nil {
			return g.failed(c, m, err)
		}
		message.Header = withContext(header, c.Header)
		answer, err := m.backend.Do(ctx, message, relay)
		if err == nil {
			return m.reply(c, answer)
		}
		if missing := m.scopeMissing(err); missing != nil {
			g.ConnectionChanged(c.Claims.Subject, missing.Connection) // as the user may do at any time from now on
			return g.ask.answer(c, m.config, missing)
		}
		var e *backend.Error
		if !errors.As(err, &e) || e.Kind != backend.Unauthorized || e.Status != http.StatusUnauthorized || !g.strategies.renews(m.config) {
			return g.failed(c, m, err)
		}
		refused = e
		ctx = withSent(ctx, header)
	}
	return g.failed(c, m, refused)
}

// scopeMissing returns what the user has to allow if the server wants more scopes of the user's own token
// than that has (RFC 6750 §3.1). Scopes that the configuration does not list are not asked for.
func (m *member) scopeMissing(err error) *Missing {
	var e *backend.Error
	connection := m.config.Connection
	if !errors.As(err, &e) || e.Status != http.StatusForbidden || m.config.Strategy != gatewayconfig.DelegateOAuth || connection == nil {
		return nil
	}
	challenges, err := oauthex.ParseWWWAuthenticate([]string{e.Challenge})
	if err != nil {
		return nil
	}
	for _, c := range challenges {
		if c.Scheme != "bearer" || c.Params["error"] != string(oauth.InsufficientScope) {
			continue
		}
		scope, err := oauth.ParseScope(c.Params["scope"])
		if err == nil && len(scope) > 0 && (len(connection.Scopes) == 0 || oauth.ScopeIsSubset(scope, connection.Scopes)) {
			return &Missing{Connection: connection.ID, Scope: oauth.FormatScope(scope)}
		}
	}
	return nil
}

// credential returns the headers by which the server knows the caller. A user who is following the
// link to connect it is waited for.
func (g *Gateway) credential(ctx context.Context, c *mcp.Call, m *member, caller Caller, refused bool) (http.Header, error) {
	header, err := g.strategies.headers(ctx, caller, m.config, refused)
	var missing *Missing
	if errors.As(err, &missing) && accepted(c, missing) {
		return g.strategies.await(ctx, caller, m.config)
	}
	return header, err
}

// passed are the headers of a client's request that servers get: trace context (W3C Trace Context
// and Baggage), which may name no user, and arguments that a tool's schema puts into headers.
var passed = []string{"Traceparent", "Tracestate", "Baggage"}

// withContext returns the headers of a credential, with those of the request that are passed. It
// changes neither.
func withContext(credential, request http.Header) http.Header {
	var both http.Header
	for name, v := range request {
		if slices.Contains(passed, name) || strings.HasPrefix(name, "Mcp-Param-") && len(credential[name]) == 0 {
			if both == nil {
				both = http.Header{}
				maps.Copy(both, credential)
			}
			both[name] = v
		}
	}
	if both == nil {
		return credential
	}
	return both
}

// reply returns a server's answer as clients see it.
func (m *member) reply(c *mcp.Call, answer backend.Answer) mcp.Reply {
	if answer.Error != nil {
		return mcp.Reply{Error: answer.Error}
	}
	result := m.outwardResult(c.Method, answer.Result)
	if c.Modern && c.Method == readResource {
		result = private(result)
	}
	return mcp.Reply{Result: result}
}

// private returns what was read with the members for caches that clients want: it is for its caller,
// whatever its server says, because the scopes that it needs are the gateway's.
func private(result json.RawMessage) json.RawMessage {
	if scope := rawjson.Get(result, "cacheScope"); scope != nil {
		result = rawjson.Replace(result, scope, []byte(`"private"`))
	} else {
		result = insert(result, result, `"cacheScope":"private"`)
	}
	if rawjson.Get(result, "ttlMs") == nil {
		result = insert(result, result, `"ttlMs":0`)
	}
	return result
}

// outwardResult puts the server's prefix before the URIs of resources in a result, so that a
// client can read them.
func (m *member) outwardResult(method string, result json.RawMessage) json.RawMessage {
	if m.prefix == "" {
		return result
	}
	switch method {
	case readResource:
		return m.rename(result, "contents", func(content []byte) []byte { return rawjson.Get(content, "uri") })
	case callTool:
		if bytes.Contains(result, []byte(`"resource`)) {
			return m.rename(result, "content", resourceURI)
		}
	case getPrompt:
		if bytes.Contains(result, []byte(`"resource`)) {
			return m.rename(result, "messages", func(message []byte) []byte { return resourceURI(rawjson.Get(message, "content")) })
		}
	}
	return result
}

// resourceURI returns the URI in a content block that is a resource or a link to one, or nil.
func resourceURI(block []byte) []byte {
	switch kind, _ := rawjson.String(rawjson.Get(block, "type")); kind {
	case "resource_link":
		return rawjson.Get(block, "uri")
	case "resource":
		return rawjson.Get(rawjson.Get(block, "resource"), "uri")
	}
	return nil
}

// rename puts the prefix before the URIs that find finds in the elements of a member of result.
func (m *member) rename(result json.RawMessage, member string, find func(element []byte) []byte) json.RawMessage {
	out, from := make([]byte, 0, len(result)+64), 0
	for element := range rawjson.Elements(rawjson.Get(result, member)) {
		raw := find(element)
		uri, ok := rawjson.String(raw)
		if !ok {
			continue
		}
		at := cap(result) - cap(raw)
		out = append(append(out, result[from:at]...), rawjson.Quote(m.prefix+uri)...)
		from = at + len(raw)
	}
	if from == 0 {
		return result
	}
	return append(out, result[from:]...)
}

// outward returns a notification as clients see it: the URI of a changed resource has the prefix.
func (m *member) outward(notification json.RawMessage) json.RawMessage {
	if method, _ := rawjson.String(rawjson.Get(notification, "method")); method != resourceUpdated || m.prefix == "" {
		return notification
	}
	raw := rawjson.Get(rawjson.Get(notification, "params"), "uri")
	uri, ok := rawjson.String(raw)
	if !ok {
		return notification
	}
	return rawjson.Replace(notification, raw, rawjson.Quote(m.prefix+uri))
}

// unknown answers a message for something that does not exist.
func unknown(c *mcp.Call) mcp.Reply {
	switch {
	case c.Method == callTool:
		return mcp.ErrorReply(codeInvalidParams, fmt.Sprintf("unknown tool %q", c.Name))
	case c.Method == getPrompt:
		return mcp.ErrorReply(codeInvalidParams, fmt.Sprintf("unknown prompt %q", c.Name))
	case c.Method == readResource && !c.Modern:
		return mcp.ErrorReply(codeResourceNotFound, "Resource not found")
	case c.Method == readResource:
		return mcp.ErrorReply(codeInvalidParams, "Resource not found")
	}
	return mcp.ErrorReply(codeInvalidParams, "unknown prompt or resource")
}

// failed answers a message that was not sent, or whose server failed.
func (g *Gateway) failed(c *mcp.Call, m *member, err error) mcp.Reply {
	var missing *Missing
	var e *backend.Error
	switch {
	case errors.As(err, &missing):
		return g.ask.answer(c, m.config, missing)
	case errors.Is(err, ErrEnded):
		return mcp.Reply{Challenge: "the login has ended: sign in again"}
	case errors.As(err, &e):
		return failure(c, e.Error()+retryHint(e.RetryAfter))
	case errors.Is(err, errSlow):
		return failure(c, fmt.Sprintf("server %s: it has not answered yet", m.config.ID))
	case errors.Is(err, context.Canceled):
		return mcp.ErrorReply(codeInternal, "cancelled")
	}
	g.o.Log.Warn("no credential for a server", "server", m.config.ID, "err", err)
	return failure(c, fmt.Sprintf("server %s: its credential cannot be had now", m.config.ID))
}

func retryHint(after time.Duration) string {
	if after <= 0 {
		return ""
	}
	return fmt.Sprintf(" (try again in %d s)", int((after+time.Second-1)/time.Second))
}

// failure answers that a server cannot be used: to the call of a tool as its result, which the
// model reads.
func failure(c *mcp.Call, text string) mcp.Reply {
	if c.Method != callTool {
		return mcp.ErrorReply(codeInternal, text)
	}
	return toolError(c, text, nil)
}

// toolError returns the result of a tool that failed, with structured content if there is some.
func toolError(c *mcp.Call, text string, structured json.RawMessage) mcp.Reply {
	result := append([]byte(`{"content":[{"type":"text","text":`), rawjson.Quote(text)...)
	result = append(result, `}],"isError":true`...)
	if structured != nil {
		result = append(append(result, `,"structuredContent":`...), structured...)
	}
	if c.Modern {
		result = append(result, `,"resultType":"complete"`...)
	}
	return mcp.Reply{Result: append(result, '}')}
}
