package backend

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"signet/internal/rawjson"
)

// Protocol versions that are spoken to servers.
const (
	modernVersion = "2026-07-28"
	legacyVersion = "2025-11-25"
)

// legacyVersions are those that a server may choose at initialize.
var legacyVersions = []string{legacyVersion, "2025-06-18", "2025-03-26", "2024-11-05"}

// Members of _meta that every request of the protocol without sessions has.
const (
	metaVersion      = "io.modelcontextprotocol/protocolVersion"
	metaInfo         = "io.modelcontextprotocol/clientInfo"
	metaCapabilities = "io.modelcontextprotocol/clientCapabilities"
)

// implementation describes this client to servers. The agent is "name/version".
func implementation(agent string) string {
	name, version, _ := strings.Cut(agent, "/")
	if name == "" {
		name = "signet"
	}
	if version == "" {
		version = "0"
	}
	return `{"name":` + string(rawjson.Quote(name)) + `,"version":` + string(rawjson.Quote(version)) + `}`
}

// triple is what _meta has in common for all requests that are not of a modern caller.
func triple(agent string) string {
	return `"` + metaVersion + `":"` + modernVersion + `","` + metaInfo + `":` + implementation(agent) + `,"` + metaCapabilities + `":{}`
}

// withTriple returns params with the members of triple in _meta, in place of equal ones. An empty
// triple removes them.
func withTriple(params json.RawMessage, triple string) json.RawMessage {
	out := make([]byte, 0, len(params)+len(triple)+16)
	out = append(out, `{"_meta":{`+triple...)
	for key, value := range rawjson.Members(rawjson.Get(params, "_meta")) {
		if key != metaVersion && key != metaInfo && key != metaCapabilities {
			out = appendMember(out, key, value)
		}
	}
	out = append(out, '}')
	for key, value := range rawjson.Members(params) {
		if key != "_meta" {
			out = appendMember(out, key, value)
		}
	}
	return append(out, '}')
}

// appendMember adds a member to the object that out ends in.
func appendMember(out []byte, key string, value []byte) []byte {
	if out[len(out)-1] != '{' {
		out = append(out, ',')
	}
	out = append(out, rawjson.Quote(key)...)
	return append(append(out, ':'), value...)
}

// complete returns a result with a resultType, for callers that need one.
func complete(result json.RawMessage) json.RawMessage {
	if rawjson.Get(result, "resultType") != nil {
		return result
	}
	rest := strings.TrimLeft(string(result[1:]), " \t\r\n")
	if rest == "}" {
		return json.RawMessage(`{"resultType":"complete"}`)
	}
	return json.RawMessage(`{"resultType":"complete",` + rest)
}

// encode returns the text of a request, or of a notification if id is 0.
func encode(id uint64, method string, params json.RawMessage) []byte {
	out := make([]byte, 0, len(params)+len(method)+64)
	out = append(out, `{"jsonrpc":"2.0",`...)
	if id != 0 {
		out = append(strconv.AppendUint(append(out, `"id":`...), id, 10), ',')
	}
	out = append(append(out, `"method":`...), rawjson.Quote(method)...)
	if params != nil {
		out = append(append(out, `,"params":`...), params...)
	}
	return append(out, '}')
}

// headerValue returns the value of Mcp-Name for a name (SEP-2243): in Base64 if the name would not
// survive as it is.
func headerValue(name string) string {
	plain := !strings.HasPrefix(name, "=?base64?") && strings.TrimSpace(name) == name &&
		!slices.ContainsFunc([]byte(name), func(c byte) bool { return c < 0x20 || c > 0x7e })
	if plain {
		return name
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(name)) + "?="
}
