package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
)

// Explanation is what a registry sees in a client. It has no secret, and no private key.
type Explanation struct {
	ID           string             `json:"client_id,omitempty"`
	Hash         string             `json:"client_hash,omitempty"`
	KnownBy      string             `json:"known_by"` // configuration, registration, document, pinned document or registration document
	Name         string             `json:"client_name,omitempty"`
	Since        *time.Time         `json:"since,omitempty"` // when it was configured or registered
	Resource     string             `json:"resource,omitempty"`
	Methods      []string           `json:"token_endpoint_auth_methods"` // that it may use
	RedirectURIs []ExplainedURI     `json:"redirect_uris"`
	Scopes       []string           `json:"scopes"`       // of a request that names none
	MayRequest   []string           `json:"scopes_limit"` // those that a request may name
	GrantTypes   []string           `json:"grant_types"`
	Exchange     []string           `json:"exchange,omitempty"`   // audiences for which it may exchange tokens of users
	Consent      string             `json:"consent,omitempty"`    // ConsentChoose or ConsentFixed; empty: it has no users
	ConsentBy    string             `json:"consent_by,omitempty"` // see Client.ConsentChoice
	Document     *ExplainedDocument `json:"document,omitempty"`
	Keys         *ExplainedKeys     `json:"keys,omitempty"`
	Quirk        *Quirk             `json:"quirk,omitempty"`
	QuirkBy      string             `json:"quirk_matched_by,omitempty"`
	Refused      []string           `json:"refused,omitempty"` // what is refused, left out or replaced, and why
	client       *Client
}

// Client is the client that endpoints see, or nil if they refuse it.
func (e *Explanation) Client() *Client { return e.client }

// ExplainedURI is a redirect URI, and what is wrong with it.
type ExplainedURI struct {
	URI     string `json:"uri"`
	Refused string `json:"refused,omitempty"`
	Warning string `json:"warning,omitempty"`
}

// ExplainedDocument says where a metadata document was read, or why it was not.
type ExplainedDocument struct {
	URL   string `json:"url"`
	Bytes int    `json:"bytes,omitempty"`
	Fresh string `json:"fresh_for,omitempty"` // as its host says
	Error string `json:"error,omitempty"`
}

// ExplainedKeys are the public keys of a client, or why they cannot be had.
type ExplainedKeys struct {
	URL   string          `json:"jwks_uri,omitempty"`
	List  []jwt.ClientKey `json:"keys,omitempty"`
	Error string          `json:"error,omitempty"`
}

// How a client is known.
const (
	byConfiguration = "configuration"
	byRegistration  = "registration"
	byDocument      = "document"
	byPinned        = "pinned document"
	byProposal      = "registration document"
)

// Explain says what the registry sees in the client named id. It fetches the document and the
// keys of the client as the server does, under the same rules, each time. The error is
// [ErrUnknown] if there is no such client. A client that is blocked is explained too.
func (r *Registry) Explain(ctx context.Context, id string) (*Explanation, error) {
	e := newExplanation("")
	e.ID, e.Hash = id, seal.ClientHash(id)
	k, named := r.named(id)
	var err error
	switch {
	case named:
		e.KnownBy = byConfiguration
		e.addURIs(k.RedirectURIs, oauth.CheckConfiguredRedirectURI)
	case isDocumentURL(id):
		k, err = r.explainDocument(ctx, e)
	default:
		k, err = r.explainRegistered(e)
	}
	if err != nil {
		return nil, err
	}
	if k.ID != "" {
		r.explainKnown(ctx, e, &k)
	}
	return e, nil
}

// newExplanation makes lists "[]" in JSON, not "null".
func newExplanation(by string) *Explanation {
	return &Explanation{KnownBy: by, Methods: []string{}, RedirectURIs: []ExplainedURI{}, Scopes: []string{}, MayRequest: []string{}, GrantTypes: []string{}}
}

func (e *Explanation) refuse(format string, args ...any) {
	e.Refused = append(e.Refused, fmt.Sprintf(format, args...))
}

// addURIs adds redirect URIs with the judgement of check.
func (e *Explanation) addURIs(all []string, check func(string) error) {
	for _, uri := range all {
		x := ExplainedURI{URI: uri, Warning: oauth.RedirectURIWarning(uri)}
		if err := check(uri); err != nil {
			x.Refused, x.Warning = strings.TrimPrefix(oauth.AsError(err).Description, "redirect URI "), ""
		}
		e.RedirectURIs = append(e.RedirectURIs, x)
	}
}

func (r *Registry) checkURI(uri string) error { return oauth.CheckRedirectURI(uri, r.o.Schemes) }

func (r *Registry) explainRegistered(e *Explanation) (known, error) {
	c, err := seal.Open[seal.Client](r.o.Ring, e.ID)
	if err != nil {
		return known{}, ErrUnknown
	}
	e.KnownBy = byRegistration
	e.addURIs(c.RedirectURIs, r.checkURI)
	if _, retired := r.o.Ring.RetiredRoot(e.ID); retired {
		e.refuse("the id, unless it was made before its root secret was retired: a server with the store knows")
	}
	k, err := r.registered(e.ID)
	if err != nil {
		return known{}, err
	}
	r.dropURIs(k)
	return *k, nil
}

// explainDocument reads the document of a client. That it cannot be had is part of the
// explanation.
func (r *Registry) explainDocument(ctx context.Context, e *Explanation) (k known, err error) {
	e.KnownBy, e.Document = byDocument, &ExplainedDocument{URL: e.ID}
	if k, ok := r.documents.pin(e.ID); ok {
		e.KnownBy = byPinned
		e.addURIs(k.RedirectURIs, r.checkURI)
		return k, nil
	}
	if err = r.documents.check(e.ID); err == nil {
		k, err = r.fetchDocument(ctx, e)
	}
	if err != nil {
		e.Document.Error = err.Error()
		e.refuse("the client: %v", err)
		e.addQuirk(r.quirkRows(), &Client{ID: e.ID, Document: "unread"})
		return known{}, nil
	}
	return k, nil
}

func (r *Registry) fetchDocument(ctx context.Context, e *Explanation) (known, error) {
	answer, err := r.o.Fetcher.JSON(ctx, e.ID, maxDocument)
	if err != nil {
		return known{}, err
	}
	e.Document.Bytes = len(answer.Body)
	if answer.Fresh >= 0 {
		e.Document.Fresh = answer.Fresh.String()
	}
	if members, err := readMembers(answer.Body); err == nil {
		e.addURIs(stringsOf(members["redirect_uris"]), r.checkURI)
	}
	return r.documents.parse(e.ID, answer.Body)
}

func (e *Explanation) addQuirk(rows quirks, c *Client) {
	q, key := rows.of(c)
	if e.Quirk = q; q != nil {
		e.QuirkBy = key.String()
	}
}

// explainKnown adds what is the same for all kinds of clients.
func (r *Registry) explainKnown(ctx context.Context, e *Explanation, k *known) {
	rows := r.quirkRows()
	e.addQuirk(rows, &k.Client)
	rows.narrow(k)
	e.client = &k.Client
	e.Name, e.Resource, e.Exchange = k.Name, k.Resource, k.Exchange
	if k.Issued != 0 {
		since := time.Unix(k.Issued, 0).UTC()
		e.Since = &since
	}
	if k.Resource == "" {
		e.GrantTypes, e.Scopes, e.MayRequest = k.GrantTypes, k.Scopes, slices.Concat(r.o.Scopes, AlwaysKnown)
		if !k.Registered {
			e.MayRequest = slices.Concat(oauth.IntersectScope(k.Scopes, r.o.Scopes), AlwaysKnown)
		}
	}
	if k.MayUse(oauth.GrantAuthorizationCode) {
		e.Consent, e.ConsentBy = k.ConsentChoice()
	} else if k.Resource == "" { // the other scopes are about a user
		e.MayRequest = append([]string{}, oauth.IntersectScope(k.Scopes, r.o.Scopes)...) // "[]" in JSON, not "null"
	}
	if len(k.Exchange) > 0 && len(k.GrantTypes) == 1 { // an exchange gives scopes of the exchanged token
		e.Scopes, e.MayRequest = []string{}, []string{}
	}
	if k.keys != nil {
		e.Keys = r.explainKeys(ctx, k.keys)
	}
	for _, method := range k.methods() {
		if k.Quirk.accepts(method) {
			e.Methods = append(e.Methods, method)
		} else {
			e.refuse("the method %s: the quirk %s accepts %s only", method, k.Quirk.Name, strings.Join(k.Quirk.Methods, " and "))
		}
	}
	if e.Keys != nil && e.Keys.Error != "" {
		e.refuse("assertions: %s", e.Keys.Error)
	}
}

// methods are those by which a client may authenticate, but for its quirk.
func (k *known) methods() (all []string) {
	switch {
	case k.matches != nil && k.strict:
		all = []string{k.Method}
	case k.matches != nil:
		all = []string{methodBasic, methodPost}
	case k.Method == methodNone:
		all = []string{methodNone}
	}
	if k.keys != nil {
		all = append(all, methodKey)
	}
	return all
}

func (r *Registry) explainKeys(ctx context.Context, source *keySource) *ExplainedKeys {
	if source.fixed != nil {
		return &ExplainedKeys{List: source.fixed.List()}
	}
	e := &ExplainedKeys{URL: source.uri}
	answer, err := r.o.Fetcher.JSON(ctx, source.uri, maxKeySet)
	if err == nil {
		var keys *jwt.ClientKeys
		if keys, err = jwt.ParseClientKeys(answer.Body); err == nil {
			e.List = keys.List()
		}
	}
	if err != nil {
		e.Error = fmt.Sprintf("the keys at %s: %v", source.uri, err)
	}
	return e
}

// ExplainRegistration says what would become of a registration document. Nothing is
// registered.
func (r *Registry) ExplainRegistration(ctx context.Context, body []byte) (*Explanation, error) {
	e := newExplanation(byProposal)
	asked, err := parseMetadata(body)
	if errors.Is(err, ErrNotObject) {
		return nil, errors.New(oauth.AsError(err).Description)
	}
	if err == nil {
		e.Name = cleanName(asked.Name)
		e.addURIs(asked.RedirectURIs, r.checkURI)
	}
	reg, err := r.Register(ctx, body)
	if err != nil {
		e.refuse("the registration: %s: %s", oauth.AsError(err).Code, oauth.AsError(err).Description)
		return e, nil
	}
	e.explainNarrowing(asked, reg)
	k, err := r.registered(reg.ClientID)
	if err != nil {
		return nil, err
	}
	r.explainKnown(ctx, e, k)
	e.Since = nil
	return e, nil
}

// explainNarrowing compares what a client asks for with what it would get.
func (e *Explanation) explainNarrowing(asked *metadata, got *Registration) {
	for _, x := range e.RedirectURIs {
		if x.Refused != "" {
			e.refuse("%s: %s", x.URI, x.Refused)
		}
	}
	if asked.Method == "" {
		e.refuse("token_endpoint_auth_method is missing: it becomes %s", got.Method)
	} else if asked.Method != got.Method {
		e.refuse("token_endpoint_auth_method %s: it becomes %s", quoted(asked.Method), got.Method)
	}
	for _, list := range []struct {
		name       string
		asked, got []string
	}{
		{"grant_types", asked.GrantTypes, got.GrantTypes}, {"response_types", asked.ResponseTypes, got.ResponseTypes},
		{"scope", strings.Fields(asked.Scope), strings.Fields(got.Scope)}, {"post_logout_redirect_uris", asked.PostLogoutRedirectURIs, got.PostLogoutRedirectURIs},
	} {
		for _, value := range list.asked {
			if !slices.Contains(list.got, value) {
				e.refuse("%s: %s is left out", list.name, quoted(value))
			}
		}
	}
	for name, uris := range map[string][2]string{"client_uri": {asked.URI, got.URI}, "logo_uri": {asked.LogoURI, got.LogoURI}, "jwks_uri": {asked.KeysURI, got.KeysURI}} {
		if uris[0] != uris[1] {
			e.refuse("%s: %s is left out: it is not an https URL", name, quoted(uris[0]))
		}
	}
	slices.Sort(e.Refused)
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return "" // strings always marshal
	}
	return string(b)
}
