package invoices_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"signet/internal/test/invoices"
	"signet/internal/upstream"
)

// call makes a request as a user of a token, and reads the answer.
func call(t *testing.T, a *invoices.API, token, method, path, body string) (int, map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, a.URL()+"api/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatalf("%s %s: %q: %v", method, path, text, err)
	}
	return resp.StatusCode, members
}

// Users log in by the configuration that the package gives, and see their own companies only.
func TestInvoices(t *testing.T) {
	a := invoices.New(t, invoices.Options{})
	set, err := upstream.Parse([]byte("upstreams:\n"+a.Configuration("finance")), nil)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := set.Get("finance")
	_, ann, err := p.Login(t.Context(), "ann@example.com", "ann-password")
	if err != nil || ann.Expires <= ann.Obtained {
		t.Fatalf("got %+v, %v", ann, err)
	}
	if _, _, err := p.Login(t.Context(), "ann@example.com", "bob-password"); err == nil {
		t.Error("a wrong password is accepted")
	}
	status, got := call(t, a, ann.Access, "GET", "companies/", "")
	if list, _ := got["results"].([]any); status != 200 || len(list) != 2 || list[0].(map[string]any)["publicId"] != "ann-gmbh" {
		t.Errorf("companies: %d %v", status, got)
	}
	status, made := call(t, a, ann.Access, "POST", "invoices/?companyId=ann-gmbh", `{"customer":"C","amount":12.5}`)
	if status != 201 || made["status"] != "draft" {
		t.Errorf("create: %d %v", status, made)
	}
	id, _ := made["publicId"].(string)
	if status, got := call(t, a, ann.Access, "POST", "invoices/"+id+"/send/?companyId=ann-gmbh", ""); status != 200 || got["status"] != "sent" {
		t.Errorf("send: %d %v", status, got)
	}
	status, got = call(t, a, ann.Access, "GET", "invoices/?companyId=ann-gmbh", "")
	if list, _ := got["results"].([]any); status != 200 || len(list) != 1 {
		t.Errorf("list: %d %v", status, got)
	}
	for path, want := range map[string]int{"invoices/?companyId=bob-gmbh": 403, "invoices/": 400, "invoices/none/?companyId=ann-gmbh": 404} {
		if status, got := call(t, a, ann.Access, "GET", path, ""); status != want {
			t.Errorf("%s: %d %v, want %d", path, status, got, want)
		}
	}
	fresh, err := p.Refresh(t.Context(), ann)
	if err != nil || a.Owner(fresh.Access) != "ann@example.com" || fresh.Refresh != ann.Refresh || a.Count("refresh ann@example.com") != 1 {
		t.Errorf("refresh: %+v, %v", fresh, err)
	}
	a.Invalidate("ann@example.com")
	if status, got := call(t, a, fresh.Access, "GET", "companies/", ""); status != 401 {
		t.Errorf("an access token that was ended: %d %v", status, got)
	}
	a.Switch(func(s *invoices.Switches) { s.Rotate = true })
	rotated, err := p.Refresh(t.Context(), fresh)
	if err != nil || rotated.Refresh == fresh.Refresh {
		t.Errorf("rotation: %+v, %v", rotated, err)
	}
	if _, err := p.Refresh(t.Context(), fresh); err == nil || a.Count("reuse") != 1 {
		t.Errorf("a rotated token: %v", err)
	}
	if _, err := p.Refresh(t.Context(), rotated); err == nil {
		t.Error("its family goes on")
	}
}
