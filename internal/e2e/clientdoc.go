package e2e

import (
	"maps"
	"net/url"
	"testing"

	"signet/internal/test/clientdoc"
)

// Trusts is the setting of a program that trusts a host of documents.
func Trusts(host *clientdoc.Host) string { return "SSL_CERT_FILE=" + host.CA }

// PublishClient serves the document of a client at host and returns its URL, the client
// id. Unless more says something else, it is a public client with [RedirectURI].
func PublishClient(t testing.TB, host *clientdoc.Host, path string, more map[string]any) string {
	t.Helper()
	members := map[string]any{"redirect_uris": []string{RedirectURI}}
	maps.Copy(members, more)
	return host.Client(t, path, members)
}

// Signed adds an assertion to a token request.
func Signed(form url.Values, assertion string) url.Values {
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", assertion)
	return form
}
