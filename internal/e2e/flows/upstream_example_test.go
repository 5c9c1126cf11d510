package flows

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/e2e"
	"signet/internal/test/invoices"
	"signet/internal/test/person"
	"signet/internal/test/upstreamtest"
)

// byPassword signs a user in on the login page with the password of an upstream.
func byPassword(t *testing.T, id, email, password string) auth.OAuthHandler {
	return e2e.SDKLoginWith(t, func(link string) (*url.URL, error) {
		p := person.New(email, password)
		page, err := p.Open(link)
		if err == nil && !page.AsksPassword() { // there are several ways in
			page, err = p.Submit(page, url.Values{"provider": {id}})
		}
		if err == nil {
			page, err = p.Submit(page, url.Values{"email": {email}, "password": {password}})
		}
		if err == nil {
			page, err = p.Approve(page)
		}
		return leftBy(page, err)
	})
}

// byProvider signs a user in at an OpenID provider.
func byProvider(t *testing.T, id string, corp *upstreamtest.Provider, name string) auth.OAuthHandler {
	return e2e.SDKLoginWith(t, func(link string) (*url.URL, error) {
		p := person.New("", "")
		page, err := p.Open(link)
		if err == nil && !page.AsksConsent() { // there are several ways in
			page, err = p.Submit(page, url.Values{"provider": {id}})
		}
		if err == nil {
			page, err = p.Approve(page)
		}
		left, err := leftBy(page, err)
		if err != nil {
			return nil, err
		}
		back, err := corp.Authorize(t.Context(), left.String(), name)
		if err != nil {
			return nil, err
		}
		return leftBy(p.Open(back))
	})
}

// leftBy returns where a page sends the browser.
func leftBy(page *person.Page, err error) (*url.URL, error) {
	if err == nil && page.Left() == nil {
		err = fmt.Errorf("the login ends at %s: %s", page, page.Body)
	}
	if err != nil {
		return nil, err
	}
	return page.Left(), nil
}

// invoiceServer is the example with its API and its provider.
type invoiceServer struct {
	t      *testing.T
	issuer string
	api    *invoices.API
	corp   *upstreamtest.Provider
}

func startInvoiceServer(t *testing.T) *invoiceServer {
	t.Helper()
	corp := upstreamtest.New(t, upstreamtest.Options{})
	emails := map[string]string{"ann": "ann@example.com", "bob": "bob@example.com"}
	api := invoices.New(t, invoices.Options{Owner: func(token string) string { return emails[corp.Owner(token)] }})
	issuer, _ := e2e.StartServerExample(t, "upstream", "INVOICES_URL="+api.URL(), "CORP_ISSUER="+corp.Issuer(), "CORP_CLIENT_ID="+corp.ClientID(), "CORP_SECRET="+corp.ClientSecret())
	corp.Register(issuer + "/oauth/callback")
	return &invoiceServer{t, issuer, api, corp}
}

func (s *invoiceServer) connect(login auth.OAuthHandler) *sdk.ClientSession {
	s.t.Helper()
	return e2e.Connect(s.t, s.issuer+"/mcp", login, nil)
}

// result is what a tool of the example returned.
type result struct {
	Failed bool
	Text   string

	Error string
	Code  int `json:"status_code"`

	Results          []struct{ PublicID string }
	PublicID, Status string // of one invoice
}

func callInvoices(t *testing.T, session *sdk.ClientSession, tool string, arguments map[string]any) (r result) {
	t.Helper()
	res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	text := res.Content[0].(*sdk.TextContent).Text
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%s: %s: %v", tool, text, err)
	}
	r.Failed, r.Text = res.IsError, text
	return r
}

func (r result) ids() (list []string) {
	for _, one := range r.Results {
		list = append(list, one.PublicID)
	}
	return list
}

// callByREST calls a tool without arguments over HTTP.
func callByREST(t *testing.T, token, tool string) (status int, text string) {
	t.Helper()
	resp, err := e2e.BearerClient(t, token).Post(tool, "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Both ways of login lead to the user's own companies, and nobody's switch changes another user's
// company.
func TestUpstreamExample_Row37_Row47(t *testing.T) {
	s := startInvoiceServer(t)
	ann := s.connect(byPassword(t, "invoices", "ann@example.com", "ann-password"))
	bob := s.connect(byProvider(t, "corp", s.corp, "bob"))
	if got := callInvoices(t, ann, "list_companies", nil); !slices.Equal(got.ids(), []string{"ann-gmbh", "shared-ag"}) {
		t.Errorf("Ann's companies: %s", got.Text)
	}
	if got := callInvoices(t, bob, "list_companies", nil); !slices.Equal(got.ids(), []string{"bob-gmbh", "shared-ag"}) {
		t.Errorf("Bob's companies: %s", got.Text)
	}
	made := callInvoices(t, ann, "create_invoice", map[string]any{"customer": "ACME", "amount": 12.5})
	if made.Failed || made.Status != "draft" {
		t.Fatalf("create_invoice: %s", made.Text)
	}
	if sent := callInvoices(t, ann, "send_invoice", map[string]any{"invoice_id": made.PublicID}); sent.Failed || sent.Status != "sent" {
		t.Errorf("send_invoice: %s", sent.Text)
	}
	if got := callInvoices(t, ann, "switch_company", map[string]any{"company_id": "shared-ag"}); got.Failed {
		t.Errorf("switch_company: %s", got.Text)
	}
	if got := callInvoices(t, ann, "list_invoices", nil); len(got.Results) != 0 {
		t.Errorf("after the switch Ann sees %s", got.Text)
	}
	if got := callInvoices(t, bob, "create_invoice", map[string]any{"customer": "Bobs", "amount": 1}); got.Failed {
		t.Errorf("create_invoice: %s", got.Text)
	}
	if log := s.api.Log(); !strings.Contains(log, "POST /api/v1/invoices/?companyId=bob-gmbh") || strings.Contains(log, "POST /api/v1/invoices/?companyId=shared-ag") {
		t.Errorf("Bob's company followed Ann's switch:\n%s", log)
	}
	if got := callInvoices(t, bob, "switch_company", map[string]any{"company_id": "ann-gmbh"}); !got.Failed || got.Code != 403 || got.Error != "Access forbidden. Check your account permissions." {
		t.Errorf("Bob switches to Ann's company: %s", got.Text)
	}
	if got := callInvoices(t, bob, "send_invoice", map[string]any{"invoice_id": made.PublicID}); !got.Failed || got.Code != 404 || got.Error != "Resource not found" {
		t.Errorf("Bob sends Ann's invoice: %s", got.Text)
	}
}

// Calls of two users at the same time are never mixed.
func TestInterleavedCallsAreNeverMixed_Row37(t *testing.T) {
	s := startInvoiceServer(t)
	sessions := map[string]*sdk.ClientSession{
		"ann-gmbh": s.connect(byPassword(t, "invoices", "ann@example.com", "ann-password")),
		"bob-gmbh": s.connect(byPassword(t, "invoices", "bob@example.com", "bob-password")),
	}
	var calls sync.WaitGroup
	for range 100 {
		for company, session := range sessions {
			calls.Go(func() {
				res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "list_companies"})
				if err != nil || !strings.Contains(res.Content[0].(*sdk.TextContent).Text, company) || strings.Count(res.Content[0].(*sdk.TextContent).Text, "gmbh\"") != 2 {
					t.Errorf("%s: %+v, %v", company, res, err)
				}
			})
		}
	}
	calls.Wait()
}

// A token that has ended at the upstream is refreshed there once, whatever the number of calls.
// When it cannot be refreshed, the tool says so, and the next request is refused.
func TestTokenThatEndedAtTheUpstream_Row39(t *testing.T) {
	s := startInvoiceServer(t)
	login := byPassword(t, "invoices", "ann@example.com", "ann-password")
	ann := s.connect(login)
	logins := s.api.Count("login")
	s.api.Invalidate("ann@example.com")
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			res, err := ann.CallTool(t.Context(), &sdk.CallToolParams{Name: "list_companies"})
			if err != nil || res.IsError {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	calls.Wait()
	if n := s.api.Count("refresh"); n != 1 || s.api.Count("login") != logins {
		t.Errorf("%d refreshes and %d logins, want one refresh", n, s.api.Count("login")-logins)
	}
	token := e2e.SDKToken(t, login)
	s.api.EndLogins("ann@example.com")
	post := func() (int, string) { return callByREST(t, token.AccessToken, s.issuer+"/tools/list_companies") }
	if status, text := post(); status != http.StatusOK || !strings.Contains(text, "Please sign in again") || !strings.Contains(text, `"isError":true`) || !strings.Contains(text, `"status_code":401`) {
		t.Errorf("the call: %d %s", status, text)
	}
	if status, text := post(); status != http.StatusUnauthorized || !strings.Contains(text, "invalid_token") {
		t.Errorf("the next call: %d %s", status, text)
	}
	if got := callInvoices(t, ann, "list_companies", nil); got.Failed || s.api.Count("login") != logins+1 {
		t.Errorf("a client that signs in again: %s, after %d logins", got.Text, s.api.Count("login")-logins)
	}
}
