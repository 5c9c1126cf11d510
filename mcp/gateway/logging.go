package gateway

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"

	"signet/internal/rawjson"
	"signet/mcp"
)

// logLevels are the levels of the protocol, which are those of syslog (RFC 5424 §6.2.1).
var logLevels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// levels are the log levels that clients of the older protocol have asked for. There is no session
// that could keep them, so they hold for a grant, in this process, until many others come.
type levels struct {
	mu sync.Mutex
	of map[string]string
}

const maxLevels = 10_000

func (l *levels) set(grant, level string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil || len(l.of) >= maxLevels {
		l.of = map[string]string{}
	}
	l.of[grant] = level
}

func (l *levels) get(grant string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[grant]
}

// setLevel answers logging/setLevel.
func (g *Gateway) setLevel(c *mcp.Call) mcp.Reply {
	level, _ := rawjson.String(rawjson.Get(c.Params, "level"))
	if c.Modern {
		return mcp.ErrorReply(codeMethodNotFound, "method not found")
	}
	if !slices.Contains(logLevels, level) {
		return mcp.ErrorReply(codeInvalidParams, "level is not one of the protocol")
	}
	g.levels.set(c.Claims.GrantID, level)
	return mcp.Reply{Result: json.RawMessage("{}")}
}

const logMessage = "notifications/message"

// metaLevel is the member of _meta by which messages without a session ask for log messages.
const metaLevel = "io.modelcontextprotocol/logLevel"

// wantsLog reports whether a client has asked for a log message. One of the older protocol that has
// named no level gets all.
func (g *Gateway) wantsLog(c *mcp.Call, message json.RawMessage) bool {
	level, _ := rawjson.String(rawjson.Get(rawjson.Get(c.Params, "_meta"), metaLevel))
	if !c.Modern {
		if level = g.levels.get(c.Claims.GrantID); level == "" {
			return true
		}
	}
	least := slices.Index(logLevels, level)
	said, _ := rawjson.String(rawjson.Get(rawjson.Get(message, "params"), "level"))
	return least >= 0 && slices.Index(logLevels, said) >= least
}

// withLevel returns the parameters of a message of the older protocol, with the log level that its
// client has asked for.
func (g *Gateway) withLevel(c *mcp.Call, params json.RawMessage) json.RawMessage {
	if c.Modern || len(params) == 0 || params[0] != '{' {
		return params
	}
	level := g.levels.get(c.Claims.GrantID)
	if level == "" {
		return params
	}
	member := `"` + metaLevel + `":"` + level + `"`
	meta := rawjson.Get(params, "_meta")
	switch {
	case meta == nil:
		return insert(params, params, `"_meta":{`+member+`}`)
	case meta[0] != '{' || bytes.Contains(meta, []byte(`"`+metaLevel+`":`)):
		return params
	}
	return insert(params, meta, member)
}

// insert puts a member at the begin of an object that is a part of text.
func insert(text, object []byte, member string) []byte {
	rest := bytes.TrimLeft(object[1:], " \t\r\n")
	if rest[0] != '}' {
		member += ","
	}
	return rawjson.Replace(text, object, slices.Concat([]byte("{"+member), rest))
}

// legacySubscription answers resources/subscribe and resources/unsubscribe. Clients of the older protocol
// have no stream here on which an update could come, so they may subscribe to what they may read,
// and hear nothing; clients of the newer one listen.
func (g *Gateway) legacySubscription(c *mcp.Call) mcp.Reply {
	if c.Modern {
		return mcp.ErrorReply(codeMethodNotFound, "method not found")
	}
	m, own := g.now.Load().find(readResource, c.Name)
	if m == nil || !m.isServed(readResource, own) {
		c.Method = readResource
		return unknown(c)
	}
	return mcp.Reply{Result: json.RawMessage("{}")}
}
