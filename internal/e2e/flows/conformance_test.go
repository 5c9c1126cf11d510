package flows

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/clientdoc"
)

const conformanceScript = "@modelcontextprotocol/conformance/dist/index.js"

// conformed are the checks of the two scenarios for authorization servers, by id. The suite
// also ends with status 0 if it skips a scenario, so the tests compare what it reports.
var conformed = map[string]string{
	"authorization-server-metadata":      "SUCCESS",
	"authorization-server-metadata-cimd": "SUCCESS",
	"authorization-code-grant":           "SUCCESS",
}

// conform runs the MCP project's conformance suite against an authorization server, as a client
// that is known to it. The user signs in when the suite names a URL.
func conform(t *testing.T, issuer, client, resource string, args ...string) (checks map[string]string, status int, output string) {
	t.Helper()
	out := t.TempDir()
	args = append([]string{"authorization", "--url", issuer, "--client-id", client, "--port", e2e.FreePort(t), "--resource", resource, "-o", out}, args...)
	output, status, _ = runClient(t, t.TempDir(), "", conformanceScript, args...)
	return conformanceChecks(t, out), status, output
}

// conformanceChecks reads the status of each check from the suite's report.
func conformanceChecks(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "checks.json"))
	if err != nil {
		t.Fatal(err)
	}
	statuses := map[string]string{}
	for _, file := range files {
		var checks []struct{ ID, Status string }
		text, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(text, &checks)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range checks {
			statuses[c.ID] = c.Status
		}
	}
	return statuses
}

// A client of each kind that needs no secret passes: the suite takes part in no other
// authentication, because the metadata lists `none`.
func TestConformanceSuitePasses(t *testing.T) {
	for name, client := range map[string]func(*testing.T, *site, *clientdoc.Host) string{
		"configured": configuredPublic,
		"registered": func(t *testing.T, s *site, _ *clientdoc.Host) string {
			return e2e.Register(t, s.Program.URL(), e2e.RedirectURI).ID
		},
		"document": func(t *testing.T, _ *site, host *clientdoc.Host) string {
			return e2e.PublishClient(t, host, "/client.json", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			host := clientdoc.NewTLSHost(t)
			site := startSite(t, e2e.Trusts(host))
			checks, status, out := conform(t, site.proxy.URL, client(t, site, host), site.endpoint)
			if status != 0 || !maps.Equal(checks, conformed) {
				t.Errorf("status %d and checks %v, want 0 and %v:\n%s", status, checks, conformed, out)
			}
		})
	}
}

func configuredPublic(_ *testing.T, s *site, _ *clientdoc.Host) string {
	s.TakesUp("clients", func() {
		s.Must("client", "add", "conf-client", "--public", "--redirect-uri", e2e.RedirectURI, "--scope", "read")
	})
	return "conf-client"
}

func TestConformanceSuitePassesForEachVersionOfTheSpecification(t *testing.T) {
	site := startSite(t)
	client := configuredPublic(t, site, nil)
	for _, version := range []string{"2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"} {
		want := maps.Clone(conformed)
		if version < "2025-11-25" { // which introduced the documents of clients
			delete(want, "authorization-server-metadata-cimd")
		}
		checks, status, out := conform(t, site.proxy.URL, client, site.endpoint, "--spec-version", version)
		if status != 0 || !maps.Equal(checks, want) {
			t.Errorf("%s: status %d and checks %v, want 0 and %v:\n%s", version, status, checks, want, out)
		}
	}
}

// The suite reports the faults of a server, so a run without one means something.
func TestConformanceSuiteReportsFaults(t *testing.T) {
	for name, row := range map[string]struct {
		fault  func(s *site) (issuer string)
		failed string
	}{
		"issuer with a slash": {func(s *site) string { return s.proxy.URL + "/" }, "authorization-server-metadata"},
		"token request refused": {func(s *site) string {
			s.proxy.Instead(func(e e2e.Exchange) (int, string) {
				if e.Path != "/token" {
					return 0, ""
				}
				return 400, `{"error":"invalid_grant"}`
			})
			return s.proxy.URL
		}, "authorization-code-grant"},
	} {
		t.Run(name, func(t *testing.T) {
			site := startSite(t)
			checks, status, out := conform(t, row.fault(site), configuredPublic(t, site, nil), site.endpoint)
			if status == 0 || checks[row.failed] != "FAILURE" {
				t.Errorf("status %d and checks %v, want a failure of %s:\n%s", status, checks, row.failed, out)
			}
		})
	}
}
