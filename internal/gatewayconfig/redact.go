package gatewayconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// What a configuration comes to, for people: the names are those of the file, and secrets are ***.
type (
	redacted struct {
		Servers      []redactedServer     `json:"servers"`
		Connections  []redactedConnection `json:"connections"`
		Routing      redactedRouting      `json:"routing"`
		Deny         bool                 `json:"deny_by_default"`
		CallerIssuer *redactedIssuer      `json:"caller_issuer,omitempty"`
		BaseURL      string               `json:"base_url,omitempty"`
		Port         int                  `json:"port,omitempty"`
		AllAddresses bool                 `json:"all_addresses,omitempty"`
		LogLevel     string               `json:"log_level,omitempty"`
	}
	redactedServer struct {
		ID          string                  `json:"id"`
		Name        string                  `json:"name"`
		Strategy    string                  `json:"auth_strategy"`
		Instances   []redactedInstance      `json:"instances"`
		Connection  string                  `json:"connection,omitempty"`
		Ask         string                  `json:"ask"`
		Audience    string                  `json:"audience,omitempty"`
		TokenScopes []string                `json:"token_scopes,omitempty"`
		Passthrough bool                    `json:"passthrough,omitempty"`
		Fallback    bool                    `json:"fallback,omitempty"`
		Token       string                  `json:"token_source,omitempty"`
		Header      string                  `json:"header"`
		Settings    map[string]string       `json:"auth_config,omitempty"`
		Scopes      []string                `json:"scopes,omitempty"`
		Tools       map[string]redactedTool `json:"tools,omitempty"`
		Expose      []string                `json:"expose,omitempty"`
		Hide        []string                `json:"hide,omitempty"`
		Pins        map[string]string       `json:"pins,omitempty"`
		Timeout     string                  `json:"timeout"`
		MaxAnswer   int                     `json:"max_answer"`
		MaxRequests int                     `json:"max_requests"`
		HealthEvery string                  `json:"health_interval"`
	}
	redactedTool struct {
		Scopes     []string `json:"scopes,omitempty"`
		Hide       bool     `json:"hide,omitempty"`
		Idempotent bool     `json:"idempotent,omitempty"`
	}
	redactedInstance struct {
		URL     string            `json:"url,omitempty"`
		Command []string          `json:"command,omitempty"`
		Env     map[string]string `json:"env,omitempty"`
		Dir     string            `json:"dir,omitempty"`
		Weight  int               `json:"weight"`
	}
	redactedConnection struct {
		ID                    string   `json:"id"`
		Name                  string   `json:"name"`
		Servers               []string `json:"servers"`
		Own                   bool     `json:"own,omitempty"`
		Key                   bool     `json:"key,omitempty"`
		Grant                 string   `json:"grant,omitempty"`
		Provider              string   `json:"provider,omitempty"`
		Issuer                string   `json:"issuer,omitempty"`
		AuthorizationEndpoint string   `json:"authorization_endpoint,omitempty"`
		TokenEndpoint         string   `json:"token_endpoint,omitempty"`
		RevocationEndpoint    string   `json:"revocation_endpoint,omitempty"`
		JWKSURI               string   `json:"jwks_uri,omitempty"`
		ClientID              string   `json:"client_id,omitempty"`
		ClientSecret          string   `json:"client_secret,omitempty"`
		ClientKey             string   `json:"client_key,omitempty"`
		RefreshToken          string   `json:"refresh_token,omitempty"`
		Scopes                []string `json:"scopes,omitempty"`
		Audience              string   `json:"audience,omitempty"`
	}
	redactedRouting struct {
		Prefix           bool    `json:"prefix"`
		Separator        string  `json:"separator"`
		Strategy         string  `json:"strategy"`
		FailureThreshold int     `json:"failureThreshold"`
		SuccessThreshold int     `json:"successThreshold"`
		Recovery         string  `json:"recoveryTimeout"`
		Retries          int     `json:"maxRetries"`
		BaseDelay        string  `json:"baseDelay"`
		MaxDelay         string  `json:"maxDelay"`
		Backoff          float64 `json:"backoffFactor"`
		Jitter           bool    `json:"jitter"`
		RetryNetwork     bool    `json:"networkErrors"`
		RetryStatuses    []int   `json:"httpStatuses"`
		RetryClasses     []int   `json:"httpStatusClasses"`
		RetryAnyMethod   bool    `json:"anyMethod"`
	}
	redactedIssuer struct {
		Issuer   string `json:"issuer"`
		JWKSURI  string `json:"jwks_uri"`
		Audience string `json:"audience"`
	}
)

// hiding says what stands in the place of a secret.
type hiding func(secret string) string

// asStars hides a secret completely.
func asStars(secret string) string {
	if secret == "" {
		return ""
	}
	return "***"
}

// asHash hides a secret so that a change of it is seen. The result is compared and never shown.
func asHash(secret string) string {
	if secret == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(secret))
	return "*** " + hex.EncodeToString(sum[:])
}

// Redacted returns c for logs and for people, as a value that encodes as JSON: secrets are ***.
func (c *Config) Redacted() any { return c.redact(asStars) }

func (c *Config) redact(hide hiding) redacted {
	rt := &c.Routing
	view := redacted{
		Servers: []redactedServer{}, Connections: []redactedConnection{}, Deny: c.DenyByDefault, BaseURL: c.BaseURL, Port: c.Port, AllAddresses: c.AllAddresses, LogLevel: c.LogLevel,
		Routing: redactedRouting{
			Prefix: c.Prefix, Separator: c.Separator, Strategy: rt.Strategy, FailureThreshold: rt.FailureThreshold, SuccessThreshold: rt.SuccessThreshold,
			Recovery: rt.Recovery.String(), Retries: rt.Retries, BaseDelay: rt.BaseDelay.String(), MaxDelay: rt.MaxDelay.String(), Backoff: rt.Backoff,
			Jitter: rt.Jitter, RetryNetwork: rt.RetryNetwork, RetryStatuses: rt.RetryStatuses, RetryClasses: rt.RetryClasses, RetryAnyMethod: rt.RetryAnyMethod,
		},
	}
	if i := c.CallerIssuer; i != nil {
		view.CallerIssuer = &redactedIssuer{i.Issuer, i.JWKSURI, i.Audience}
	}
	for _, s := range c.Servers {
		view.Servers = append(view.Servers, c.redactServer(s, hide))
	}
	for _, conn := range c.Connections {
		view.Connections = append(view.Connections, conn.redact(hide))
	}
	return view
}

func (c *Config) redactServer(s *Server, hide hiding) redactedServer {
	view := redactedServer{
		ID: s.ID, Name: s.Name, Strategy: s.Strategy, Ask: s.Ask, Audience: c.redactText(s.Audience, hide), TokenScopes: s.TokenScopes, Passthrough: s.Passthrough, Fallback: s.Fallback,
		Token: hide(string(s.Token)), Header: s.Header + ": " + s.Scheme + "{key}", Settings: redactMap(s.Settings, hide),
		Scopes: s.Scopes, Tools: map[string]redactedTool{}, Expose: s.Expose, Hide: s.Hide, Pins: s.Pins,
		Timeout: s.Timeout.String(), MaxAnswer: s.MaxAnswer, MaxRequests: s.MaxRequests, HealthEvery: s.HealthEvery.String(),
	}
	if s.Connection != nil {
		view.Connection = s.Connection.ID
	}
	for name, t := range s.Tools {
		view.Tools[name] = redactedTool(t)
	}
	for _, i := range s.Instances {
		view.Instances = append(view.Instances, redactedInstance{
			URL: c.redactText(redactURL(i.URL, hide), hide), Command: c.redactCommand(i.Command, hide), Env: redactMap(i.Env, hide), Dir: i.Dir, Weight: i.Weight,
		})
	}
	return view
}

func (conn *Connection) redact(hide hiding) redactedConnection {
	return redactedConnection{
		ID: conn.ID, Name: conn.Name, Servers: conn.Servers, Own: conn.Own, Key: conn.Key, Grant: conn.Grant, Provider: conn.Provider,
		Issuer: redactURL(conn.Issuer, hide), AuthorizationEndpoint: redactURL(conn.AuthorizationEndpoint, hide), TokenEndpoint: redactURL(conn.TokenEndpoint, hide),
		RevocationEndpoint: redactURL(conn.RevocationEndpoint, hide), JWKSURI: redactURL(conn.JWKSURI, hide), ClientID: conn.ClientID,
		ClientSecret: hide(string(conn.ClientSecret)), ClientKey: hide(string(conn.ClientKey)), RefreshToken: hide(string(conn.RefreshToken)),
		Scopes: conn.Scopes, Audience: conn.Audience,
	}
}

func redactMap(m map[string]Secret, hide hiding) map[string]string {
	view := map[string]string{}
	for name, secret := range m {
		view[name] = hide(string(secret))
	}
	return view
}

// redactText hides what stands elsewhere.
func (c *Config) redactText(s string, hide hiding) string {
	for _, value := range c.hidden {
		if value != "" {
			s = strings.ReplaceAll(s, value, hide(value))
		}
	}
	return s
}

// redactURL hides the values in the query of a URL.
func redactURL(raw string, hide hiding) string {
	before, query, ok := strings.Cut(raw, "?")
	if !ok {
		return raw
	}
	var parts []string
	for part := range strings.SplitSeq(query, "&") {
		name, value, has := strings.Cut(part, "=")
		if plain, err := url.QueryUnescape(value); err == nil {
			value = plain
		}
		if has {
			name += "=" + hide(value)
		}
		parts = append(parts, name)
	}
	return before + "?" + strings.Join(parts, "&")
}

// secretName matches the names of options that have a secret.
var secretName = regexp.MustCompile(`(?i)secret|token|passw|key|auth|credential|header`)

// redactCommand hides the arguments that stand elsewhere, and those of options whose names say
// that they are secrets.
func (c *Config) redactCommand(command []string, hide hiding) (view []string) {
	for i, argument := range command {
		name, value, has := strings.Cut(argument, "=")
		switch {
		case i > 0 && has && secretName.MatchString(name):
			argument = name + "=" + hide(value)
		case i > 1 && strings.HasPrefix(command[i-1], "-") && !strings.Contains(command[i-1], "=") && secretName.MatchString(command[i-1]):
			argument = hide(argument)
		default:
			argument = c.redactText(argument, hide)
		}
		view = append(view, argument)
	}
	return view
}

// Diff returns what differs between two configurations, a line for each difference. Secrets are
// ***. The configurations may be nil.
func Diff(old, new *Config) []string {
	before, after := old.flat(), new.flat()
	var lines []string
	whole := map[string]bool{} // servers and connections that are only in one of them
	for _, path := range slices.Sorted(maps.Keys(union(before, after))) {
		a, had := before[path]
		b, has := after[path]
		if owner, id := strings.CutSuffix(path, ".id"); id && had != has {
			whole[owner] = true
			lines = append(lines, owner+": "+map[bool]string{true: "added", false: "removed"}[has])
		}
		switch {
		case a == b && had == has, strings.HasSuffix(path, ".id"):
		case hidden(a) || hidden(b):
			lines = append(lines, path+": changed")
		case !had:
			lines = append(lines, path+": "+b)
		case !has:
			lines = append(lines, path+": removed, was "+a)
		default:
			lines = append(lines, path+": "+b+", was "+a)
		}
	}
	return slices.DeleteFunc(lines, func(line string) bool {
		owner, rest, _ := strings.Cut(line, "]")
		return whole[owner+"]"] && strings.HasPrefix(rest, ".")
	})
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func hidden(s string) bool { return strings.Contains(s, "*** ") }

// flat returns the values of c by their paths, with hashes in place of secrets.
func (c *Config) flat() map[string]string {
	flat := map[string]string{}
	if c == nil {
		return flat
	}
	text, err := json.Marshal(c.redact(asHash))
	if err != nil {
		return flat // a struct of texts and numbers always encodes
	}
	var v any
	if json.Unmarshal(text, &v) == nil {
		flatten(v, "", flat)
	}
	return flat
}

func flatten(v any, path string, to map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			flatten(member, strings.TrimPrefix(path+"."+name, "."), to)
		}
	case []any:
		for i, element := range v {
			flatten(element, path+"["+elementName(element, i)+"]", to)
		}
	case nil:
	default:
		to[path] = fmt.Sprint(v)
	}
}

// elementName is the id of an element, or its number.
func elementName(element any, i int) string {
	if object, ok := element.(map[string]any); ok {
		if id, ok := object["id"].(string); ok {
			return id
		}
	}
	return fmt.Sprint(i)
}
