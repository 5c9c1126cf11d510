package backend

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"signet/internal/rawjson"
)

// codeHeaderMismatch says that headers and message differ, such as that an argument is missing in
// the headers. The server has done nothing.
const codeHeaderMismatch = -32020

// params are the arguments of tools that the server wants in headers, too (SEP-2243), as its lists
// say. Clients of servers with sessions do not send these.
type params struct {
	mu    sync.RWMutex
	tools map[string][]param // only those that have any
}

// param is one argument in a header.
type param struct {
	path   []string // of members of arguments
	header string
}

// learn reads a list of tools.
func (p *params) learn(tools []json.RawMessage) {
	for _, tool := range tools {
		if !bytes.Contains(tool, []byte("x-mcp-header")) {
			continue
		}
		name, _ := rawjson.String(rawjson.Get(tool, "name"))
		found := annotated(rawjson.Get(tool, "inputSchema"), nil, nil)
		p.mu.Lock()
		if p.tools == nil {
			p.tools = map[string][]param{}
		}
		if len(p.tools) < maxItems && len(found) > 0 {
			p.tools[name] = found
		}
		p.mu.Unlock()
	}
}

// maxParams and maxDepth bound what the schema of one tool can demand.
const (
	maxParams = 64
	maxDepth  = 16
)

// annotated adds the annotated properties of a schema to those found so far.
func annotated(schema []byte, path []string, found []param) []param {
	if len(path) == maxDepth {
		return found
	}
	for name, property := range rawjson.Members(rawjson.Get(schema, "properties")) {
		here := append(append([]string(nil), path...), name)
		header, ok := rawjson.String(rawjson.Get(property, "x-mcp-header"))
		if ok && httpguts.ValidHeaderFieldName(header) && len(found) < maxParams {
			found = append(found, param{here, http.CanonicalHeaderKey("Mcp-Param-" + header)})
		}
		found = annotated(property, here, found)
	}
	return found
}

// knows reports whether a tool has arguments that belong into headers.
func (p *params) knows(tool string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.tools[tool]) > 0
}

// set adds the headers of a call, unless the caller has sent any.
func (p *params) set(h http.Header, m Message) {
	if m.Method != "tools/call" {
		return
	}
	p.mu.RLock()
	list := p.tools[m.Name]
	p.mu.RUnlock()
	if len(list) == 0 {
		return
	}
	for name := range m.Header {
		if strings.HasPrefix(http.CanonicalHeaderKey(name), "Mcp-Param-") {
			return
		}
	}
	for _, one := range list {
		value := rawjson.Get(m.Params, "arguments")
		for _, name := range one.path {
			value = rawjson.Get(value, name)
		}
		if text, ok := primitive(value); ok {
			h[one.header] = []string{headerValue(text)}
		}
	}
}

// primitive is the text of a string, a boolean or an integer that every JSON parser keeps.
func primitive(value []byte) (string, bool) {
	if s, ok := rawjson.String(value); ok {
		return s, true
	}
	if s := string(value); s == "true" || s == "false" {
		return s, true
	}
	const exact = 1<<53 - 1
	n, err := strconv.ParseFloat(string(value), 64)
	if err != nil || n != math.Trunc(n) || math.Abs(n) > exact {
		return "", false
	}
	return strconv.FormatInt(int64(n), 10), true
}
