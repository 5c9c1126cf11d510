package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// imports lists, for each of our packages, which of ours it may import. A request
// flows downward only; what is not listed may not be imported.
var imports = map[string][]string{
	"signet":                    {"internal/cli"},
	"signet/internal/cli":       {"*"},
	"signet/server":             {"*"},
	"signet/internal/admission": {},
	"signet/handlers":           {"handlers/pages", "internal/rawjson", "internal/admission", "internal/clients", "users", "internal/denylist", "internal/gatewayconfig", "internal/throttle", "internal/upstream", "internal/vault", "keys", "jwt", "internal/seal", "internal/oauth"},
	"signet/handlers/pages":     {},
	"signet/mcp":                {"internal/admission", "jwt", "internal/oauth", "internal/rawjson"},
	"signet/mcp/gateway":        {"internal/backend", "internal/gatewayconfig", "internal/oauth", "internal/rawjson", "jwt", "mcp"},
	"signet/internal/clients":   {"internal/durable", "internal/fetch", "internal/oauth", "jwt", "internal/seal"},
	"signet/internal/fetch":     {"internal/oauth"},
	"signet/keys":               {"internal/durable", "jwt", "internal/store", "internal/seal"},
	"signet/internal/denylist":  {"internal/background", "internal/store"},
	"signet/internal/upstream":  {"internal/configfile", "internal/oauth"},
	"signet/internal/backend":   {"internal/gatewayconfig", "internal/oauth", "internal/plainhttp", "internal/rawjson"},
	"signet/internal/vault":     {"internal/background", "internal/store", "internal/seal"},
	"signet/internal/throttle":  {"internal/background", "internal/store", "users"}, // users for what one account is
	"signet/users":              {"internal/durable"},
	"signet/jwt":                {"internal/rawjson"},
	"signet/internal/seal":      {"internal/rawjson"},
	"signet/internal/store":     {"internal/background", "internal/durable", "internal/failpoint"}, // in a build for tests
	"signet/internal/oauth":     {"internal/rawjson"},
	"signet/internal/backup":    {"internal/state", "internal/store", "internal/seal", "internal/durable"},
	"signet/internal/state":     {"internal/background", "internal/store", "internal/vault", "internal/seal", "internal/durable", "keys", "jwt"},
	"signet/internal/durable":   {},
	"signet/internal/memory":    {},
	"signet/internal/failpoint": {},

	"signet/internal/background":    {},
	"signet/internal/configfile":    {"internal/oauth"},
	"signet/internal/gatewayconfig": {"internal/configfile", "internal/oauth", "internal/rawjson"},
	"signet/internal/plainhttp":     {},
	"signet/internal/rawjson":       {},
	"signet/internal/mcpclient":     {"internal/oauth"},
	"signet/internal/chaos":         {"internal/background"},
}

// kept lists libraries that only the named packages may import.
var kept = map[string][]string{
	"github.com/lestrrat-go/jwx/":             {"signet/jwt", "signet/keys"},
	"github.com/modelcontextprotocol/go-sdk/": {"signet/mcp", "signet/mcp/gateway", "signet/server", "signet/internal/mcpclient", "signet/internal/upstream"},
	"github.com/alexedwards/argon2id":         {"signet/users"},
	"golang.org/x/crypto/bcrypt":              {"signet/users"},
	"github.com/ccojocar/zxcvbn-go":           {"signet/users"},
	"go.yaml.in/yaml/":                        {"signet/users", "signet/internal/upstream", "signet/internal/configfile", "signet/internal/gatewayconfig"},
	"golang.org/x/oauth2":                     {"signet/internal/upstream", "signet/internal/mcpclient"},
	"github.com/coreos/go-oidc/":              {"signet/internal/upstream"},
	"modernc.org/sqlite":                      {"signet/internal/store"},
	"github.com/jackc/pgx/":                   {"signet/internal/store"},
	"golang.org/x/crypto/chacha20poly1305":    {"signet/internal/seal"},
	"github.com/caarlos0/env/":                {"signet/internal/cli"},
	"github.com/gofrs/flock":                  {"signet/internal/durable"},
	"github.com/spf13/cobra":                  {"signet/internal/cli"},
	"github.com/prometheus/client_golang/":    {"signet/server"},
	"golang.org/x/net/html":                   {"signet/internal/mcpclient"},
	"code.dny.dev/ssrf":                       {"signet/internal/fetch", "signet/internal/mcpclient"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T, patterns ...string) []goPackage {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, patterns...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestImportsRunOneWay(t *testing.T) {
	for _, p := range packages(t, "./...") {
		if strings.HasPrefix(p.ImportPath, "signet/internal/test/") || strings.HasPrefix(p.ImportPath, "signet/internal/e2e") || strings.HasPrefix(p.ImportPath, "signet/examples/") {
			continue // test support may import anything; samples have a rule of their own
		}
		allowed, known := imports[p.ImportPath]
		if !known {
			t.Errorf("%s is a new room: give it a line here, and in the README's map", p.ImportPath)
			continue
		}
		for _, dep := range p.Imports {
			if ours, ok := strings.CutPrefix(dep, "signet/"); ok && !slices.Contains(allowed, ours) && !slices.Contains(allowed, "*") {
				t.Errorf("%s imports %s", p.ImportPath, dep)
			}
			for library, users := range kept {
				if strings.HasPrefix(dep, library) && !slices.Contains(users, p.ImportPath) {
					t.Errorf("%s imports %s, which only %s may", p.ImportPath, dep, strings.Join(users, ", "))
				}
			}
		}
	}
}

// Readers copy a sample into a module of their own, which may not import internal packages.
// The sample of the gateway is not for that: it starts the servers of the tests.
func TestSamplesCanBeCopied(t *testing.T) {
	for _, p := range packages(t, "./examples/...") {
		for _, dep := range p.Imports {
			if strings.HasPrefix(dep, "signet/internal/") && p.ImportPath != "signet/examples/gateway" {
				t.Errorf("%s imports %s", p.ImportPath, dep)
			}
		}
	}
}

// heavy lists, for packages that other programs import, what must not be in their
// build: a program that only verifies has no SQL driver, no secret and no password
// hash, and one that checks users has no SQL driver.
var heavy = map[string][]string{
	"./jwt ./mcp": {"database/sql", "modernc.org/", "github.com/jackc/", "github.com/alexedwards/argon2id",
		"signet/internal/seal", "signet/internal/store", "signet/internal/throttle", "signet/keys", "signet/users", "signet/internal/denylist", "signet/internal/clients", "signet/handlers"},
	"./users": {"database/sql", "modernc.org/", "github.com/jackc/", "signet/internal/store"},
}

func TestVerifierIsSmallAndUsersLinkNoSQLDriver(t *testing.T) {
	for patterns, banned := range heavy {
		for _, p := range packages(t, strings.Fields(patterns)...) {
			for _, dep := range p.Deps {
				if slices.ContainsFunc(banned, func(prefix string) bool { return strings.HasPrefix(dep, prefix) }) {
					t.Errorf("%s depends on %s", p.ImportPath, dep)
				}
			}
		}
	}
}

// fuzzed lists what reads foreign input, by what it reads, and the target that looks
// for what it should not take.
var fuzzed = map[string]string{
	"sealed artefacts":       "internal/seal/FuzzOpen",
	"signed tokens":          "jwt/FuzzSigned",
	"claims":                 "jwt/FuzzVerify",
	"JWK Sets":               "jwt/FuzzParseSet",
	"revocation feeds":       "jwt/FuzzFeed",
	"key files":              "keys/FuzzKeyFile",
	"redirect URIs":          "internal/oauth/FuzzRedirectURIMatches",
	"scopes":                 "internal/oauth/FuzzParseScope",
	"resources":              "internal/oauth/FuzzCanonicalResource",
	"Basic credentials":      "internal/oauth/FuzzBasic",
	"forms":                  "internal/oauth/FuzzForm",
	"challenges":             "internal/oauth/FuzzChallenge",
	"registrations":          "internal/clients/FuzzRegister",
	"files that people edit": "internal/durable/FuzzJSON",
	"clients files":          "internal/clients/FuzzFile",
	"users files":            "users/FuzzUsersFile",
	"users files of others":  "users/FuzzImportYAML",
	"password hashes":        "users/FuzzHash",
	"cookies":                "handlers/FuzzCookie",
	"authorization":          "handlers/FuzzAuthorize",
	"token requests":         "handlers/FuzzToken",
	"MCP messages":           "mcp/FuzzInspect",
	"JSON of MCP servers":    "internal/rawjson/FuzzMembers",
	"answers of MCP servers": "internal/backend/FuzzAnswer",
	"streams of MCP servers": "internal/backend/FuzzEvents",
	"backups":                "internal/backup/FuzzReader",
	"settings":               "internal/cli/FuzzConfig",
	"files of variables":     "internal/cli/FuzzDotenv",
	"forms of login pages":   "internal/mcpclient/FuzzForms",
	"files of providers":     "internal/upstream/FuzzConfiguration",
	"answers of providers":   "internal/upstream/FuzzAnswer",
	"gateway configurations": "internal/gatewayconfig/FuzzConfiguration",
}

// Every parser of foreign input has a fuzz target, whose seeds run with the tests.
func TestEveryParserIsFuzzed_L14(t *testing.T) {
	for what, target := range fuzzed {
		dir, name := path.Split(target)
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), "\nfunc "+name+"(f *testing.F) {")
		}) {
			t.Errorf("what reads %s has no fuzz target %s", what, target)
		}
	}
}
