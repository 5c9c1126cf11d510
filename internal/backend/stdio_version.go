package backend

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"signet/internal/rawjson"
)

const subscriptionID = "io.modelcontextprotocol/subscriptionId"

func (p *process) modern() bool { return p.version == modernVersion }

// withMeta adds to params what each request says in the version without sessions.
func (p *process) withMeta(params []byte) []byte { return withTriple(params, triple(p.conn.agent)) }

// capabilities are what a server says it offers.
type capabilities struct {
	Tools     struct{ ListChanged bool }
	Prompts   struct{ ListChanged bool }
	Resources struct{ ListChanged, Subscribe bool }
}

// discover asks a process for its versions, as those without sessions have it.
func (p *process) discover(ctx context.Context) error {
	a, err := p.request(ctx, "server/discover", p.withMeta(nil), nil)
	if err != nil {
		return err
	}
	var found struct {
		SupportedVersions []string
		Capabilities      capabilities
	}
	if a.Result == nil || json.Unmarshal(a.Result, &found) != nil || !slices.Contains(found.SupportedVersions, modernVersion) {
		return malformed(p.conn.server, "it does not speak version "+modernVersion+" of the protocol")
	}
	p.version, p.offers = modernVersion, found.Capabilities
	return p.hearOfLists(ctx)
}

// hearOfLists asks the server to say when its lists change. It is asked once for the whole life of
// the process, and its answer is of no interest.
func (p *process) hearOfLists(ctx context.Context) error {
	asked, _ := json.Marshal(map[string]bool{"toolsListChanged": p.offers.Tools.ListChanged, "promptsListChanged": p.offers.Prompts.ListChanged, "resourcesListChanged": p.offers.Resources.ListChanged})
	if !strings.Contains(string(asked), "true") {
		return nil
	}
	id, err := p.begin(newCall("subscriptions/listen", nil, false))
	if err != nil {
		return err
	}
	return p.send(ctx, line(id, "subscriptions/listen", p.withMeta(slices.Concat([]byte(`{"notifications":`), asked, []byte("}")))))
}

// initialize begins the only session with a process.
func (p *process) initialize(ctx context.Context) error {
	for _, version := range legacyVersions[:2] {
		params := slices.Concat([]byte(`{"protocolVersion":`), rawjson.Quote(version), []byte(`,"capabilities":{},"clientInfo":`), []byte(implementation(p.conn.agent)), []byte("}"))
		a, err := p.request(ctx, "initialize", params, nil)
		if err != nil {
			return err
		}
		var found struct {
			ProtocolVersion string
			Capabilities    capabilities
		}
		if a.Result == nil || json.Unmarshal(a.Result, &found) != nil {
			continue // some servers refuse a version that they do not know
		}
		if !slices.Contains(legacyVersions, found.ProtocolVersion) {
			return malformed(p.conn.server, "it answers initialize with a version of the protocol that is not supported")
		}
		p.version, p.offers = found.ProtocolVersion, found.Capabilities
		return p.send(ctx, line(0, "notifications/initialized", nil))
	}
	return malformed(p.conn.server, "it refuses initialize")
}

// ping reports whether the process answers. The versions without sessions have no ping.
func (p *process) ping(ctx context.Context) error {
	method, params := "ping", []byte(nil)
	if p.modern() {
		method, params = "server/discover", p.withMeta(nil)
	}
	_, err := p.request(ctx, method, params, nil)
	return err
}
