package backend

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"signet/internal/rawjson"
)

// restCall sends a request in the REST shape and returns the object that came. A nil body is a GET.
func (c *httpConn) restCall(s *span, path string, header http.Header, body []byte) (json.RawMessage, error) {
	r := c.request(s.ctx, body, header)
	r.URL = c.root.JoinPath(path)
	r.Header["Accept"] = []string{"application/json"}
	if body == nil {
		r.Method, r.Body, r.GetBody = http.MethodGet, nil, nil
		r.Header.Del("Content-Type")
	}
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return nil, c.unheard(s, err)
	}
	s.alive()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		return nil, c.refusal(resp)
	}
	if encoded := coding(resp.Header); encoded != "" {
		return nil, c.noAnswer(resp.StatusCode, encoded)
	}
	text, err := c.read(s, resp)
	if err != nil {
		return nil, err
	}
	if text = bytes.TrimSpace(text); !json.Valid(text) || text[0] != '{' {
		return nil, c.noAnswer(resp.StatusCode, "it is not a JSON object")
	}
	return text, nil
}

// isREST reports whether the instance answers in the REST shape.
func (c *httpConn) isREST(s *span) bool {
	if s.ctx.Err() != nil {
		return false
	}
	return c.checkREST(s) == nil
}

func (c *httpConn) checkREST(s *span) error {
	health, err := c.restCall(s, "health", nil, nil)
	if err != nil {
		return err
	}
	if string(rawjson.Get(health, "ok")) == "false" {
		return &Error{Server: c.server.ID, Kind: Down, What: "its health check says that it is not well"}
	}
	return nil
}

// doREST sends a message in the REST shape, which has tools and resources only.
func (c *httpConn) doREST(s *span, m Message) (Answer, error) {
	var result json.RawMessage
	var err error
	switch m.Method {
	case "ping":
		result = json.RawMessage(`{}`)
	case "tools/list":
		result, err = c.restList(s, m.Header, "tools")
	case "resources/list":
		result, err = c.restList(s, m.Header, "resources")
	case "prompts/list":
		result, err = c.restList(s, m.Header, "prompts")
	case "resources/templates/list":
		result = json.RawMessage(`{"resourceTemplates":[]}`)
	case "tools/call":
		result, err = c.restTool(s, m)
	case "resources/read":
		result, err = c.restRead(s, m)
	default:
		if strings.HasPrefix(m.Method, "notifications/") {
			return Answer{}, nil
		}
		return Answer{Error: json.RawMessage(`{"code":-32601,"message":"the server does not have this method"}`)}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	return Answer{Result: result}, nil
}

// restList returns a list: that of the capabilities, or else that of its own path.
func (c *httpConn) restList(s *span, header http.Header, list string) (json.RawMessage, error) {
	all, err := c.restCall(s, "capabilities", header, nil)
	if err == nil {
		items := rawjson.Get(all, list)
		if items == nil {
			items = rawjson.Get(rawjson.Get(all, "capabilities"), list)
		}
		if len(items) > 0 && items[0] == '[' {
			return json.RawMessage(`{"` + list + `":` + string(items) + `}`), nil
		}
	}
	if e, ok := err.(*Error); err != nil && (!ok || e.Kind != Malformed) {
		return nil, err
	}
	if list == "prompts" {
		return json.RawMessage(`{"prompts":[]}`), nil
	}
	path := "mcp/" + list + "/list"
	result, err := c.restCall(s, path, header, nil)
	if e, ok := err.(*Error); ok && e.Kind == Malformed {
		result, err = c.restCall(s, path, header, []byte(`{}`))
	}
	if e, ok := err.(*Error); ok && e.Status == http.StatusNotFound {
		return json.RawMessage(`{"` + list + `":[]}`), nil
	}
	if err == nil && !hasShape(list+"/list", result) {
		err = c.noAnswer(http.StatusOK, "its result has the wrong shape")
	}
	return result, err
}

// restTool calls a tool. An error in the place of the content becomes content.
func (c *httpConn) restTool(s *span, m Message) (json.RawMessage, error) {
	arguments := rawjson.Get(m.Params, "arguments")
	if arguments == nil {
		arguments = []byte(`{}`)
	}
	body := `{"name":` + string(rawjson.Quote(m.Name)) + `,"arguments":` + string(arguments) + `}`
	result, err := c.restCall(s, "mcp/tools/call", m.Header, []byte(body))
	if err != nil {
		return nil, err
	}
	content := rawjson.Get(result, "content")
	if content == nil {
		return nil, c.noAnswer(http.StatusOK, "its result has no content").ofMessage()
	}
	if content[0] == '[' {
		return result, nil
	}
	text, ok := rawjson.String(rawjson.Get(content, "error"))
	if !ok {
		if text, ok = rawjson.String(content); !ok {
			text = string(content)
		}
	}
	return rawjson.Replace(result, content, []byte(`[{"type":"text","text":`+string(rawjson.Quote(text))+`}]`)), nil
}

// restRead reads a resource, whose text stands in the place of the list of contents.
func (c *httpConn) restRead(s *span, m Message) (json.RawMessage, error) {
	result, err := c.restCall(s, "mcp/resources/read", m.Header, []byte(`{"uri":`+string(rawjson.Quote(m.Name))+`}`))
	if err != nil {
		return nil, err
	}
	contents := rawjson.Get(result, "contents")
	if contents == nil {
		return nil, c.noAnswer(http.StatusOK, "its result has no contents").ofMessage()
	}
	if contents[0] == '[' {
		return result, nil
	}
	text, ok := rawjson.String(contents)
	if !ok {
		text = string(contents)
	}
	out := `{"contents":[{"uri":` + string(rawjson.Quote(m.Name))
	if kind := rawjson.Get(result, "mimeType"); kind != nil && kind[0] == '"' {
		out += `,"mimeType":` + string(kind)
	}
	return json.RawMessage(out + `,"text":` + string(rawjson.Quote(text)) + `}]}`), nil
}
