package cli

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/handlers"
	"signet/internal/seal"
)

var update = flag.Bool("update", false, "write the generated files that tests compare with")

func TestEnvExampleIsAValidConfiguration(t *testing.T) {
	b, err := os.ReadFile("../../.env.example")
	if err != nil {
		t.Fatal(err)
	}
	fromFile, err := readConfig(strings.Split(string(b), "\n"))
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := readConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	fromFile.environ, defaults.environ = nil, nil
	fromFile.all, defaults.all = nil, nil
	if !reflect.DeepEqual(fromFile, defaults) {
		t.Errorf("the file says\n%+v\nbut the defaults are\n%+v", fromFile, defaults)
	}
}

// A wrong value stops the start. The error names the variable.
func TestWrongValueNamesTheVariable(t *testing.T) {
	for setting, want := range map[string]string{
		"SIGNET_ISSUER=http://as.example.com":            "SIGNET_ISSUER",
		"SIGNET_ISSUER=https://as.example.com/":          "SIGNET_ISSUER",
		"SIGNET_ISSUER=http://0.0.0.0:8080":              "SIGNET_ISSUER",
		"SIGNET_ISSUER=as.example.com":                   "SIGNET_ISSUER",
		"SIGNET_ROLE=both":                               "SIGNET_ROLE",
		"SIGNET_LISTEN=8080":                             "SIGNET_LISTEN",
		"SIGNET_METRICS_LISTEN=none":                     "SIGNET_METRICS_LISTEN",
		"SIGNET_TLS_CERT=cert.pem":                       "SIGNET_TLS_KEY",
		"SIGNET_RESOURCES=/mcp":                          "SIGNET_RESOURCES",
		"SIGNET_RESOURCES=http://localhost:8080/a/*":     "SIGNET_RESOURCES",
		"SIGNET_RESOURCES=https://a.example/mcp#x":       "SIGNET_RESOURCES",
		"SIGNET_STORE=postgres://localhost/x":            "SIGNET_SECRET",
		"SIGNET_STORE=postgres://u:se/cret@h/x":          "SIGNET_STORE",
		"SIGNET_STORE=mysql://localhost/x":               "SIGNET_STORE",
		"SIGNET_ROLLBACK=ignore":                         "SIGNET_ROLLBACK",
		"SIGNET_SCOPES=rea\"d":                           "SIGNET_SCOPES",
		"SIGNET_DEFAULT_SCOPES=reed":                     "SIGNET_DEFAULT_SCOPES",
		"SIGNET_REQUIRED_SCOPES=root":                    "SIGNET_REQUIRED_SCOPES",
		"SIGNET_SCOPE_HIERARCHY=admin>root":              "SIGNET_SCOPE_HIERARCHY",
		"SIGNET_SCOPE_HIERARCHY=admin>read>admin":        "SIGNET_SCOPE_HIERARCHY",
		"SIGNET_SCOPE_HIERARCHY=admin read":              "SIGNET_SCOPE_HIERARCHY",
		"SIGNET_CODE_TTL=60":                             "SIGNET_CODE_TTL: must be a duration",
		"SIGNET_CODE_TTL=11m":                            "SIGNET_CODE_TTL",
		"SIGNET_ACCESS_TTL=0s":                           "SIGNET_ACCESS_TTL",
		"SIGNET_REFRESH_TTL=-1h":                         "SIGNET_REFRESH_TTL",
		"SIGNET_REFRESH_IDLE_TTL=soon":                   "SIGNET_REFRESH_IDLE_TTL",
		"SIGNET_REPLAY_WINDOW=2h":                        "SIGNET_REPLAY_WINDOW",
		"SIGNET_KEY_ROTATION=1s":                         "SIGNET_KEY_ROTATION",
		"SIGNET_TRUSTED_PROXIES=10.0.0.1":                "SIGNET_TRUSTED_PROXIES",
		"SIGNET_MCP_ORIGINS=https://app.example.com/":    "SIGNET_MCP_ORIGINS",
		"SIGNET_CLIENT_DOCUMENTS=maybe":                  "SIGNET_CLIENT_DOCUMENTS",
		"SIGNET_CLIENT_DOCUMENT_HOSTS=https://a.example": "SIGNET_CLIENT_DOCUMENT_HOSTS",
		"SIGNET_CLIENT_DOCUMENT_HOSTS=intranet":          "SIGNET_CLIENT_DOCUMENT_HOSTS",
		"SIGNET_CLIENT_DOCUMENT_DENIED_HOSTS=*":          "SIGNET_CLIENT_DOCUMENT_DENIED_HOSTS",
		"SIGNET_CLIENT_DOCUMENT_HOSTS=localhost:8080":    "SIGNET_CLIENT_DOCUMENT_HOSTS: \"localhost:8080\" has a port",
		"SIGNET_REGISTRATION=closed":                     "SIGNET_REGISTRATION",
		"SIGNET_REGISTRATION=token":                      "SIGNET_REGISTRATION_TOKEN",
		"SIGNET_REGISTRATION_TOKEN=0123456789abcdefghij": "SIGNET_REGISTRATION_TOKEN",
		"SIGNET_REDIRECT_SCHEMES=cursor javascript":      "SIGNET_REDIRECT_SCHEMES",
		"SIGNET_REDIRECT_SCHEMES=cursor://":              "SIGNET_REDIRECT_SCHEMES",
		"SIGNET_REDIRECT_SCHEMES=http":                   "SIGNET_REDIRECT_SCHEMES",
		"SIGNET_REDIRECT_SCHEMES=ms-word":                "SIGNET_REDIRECT_SCHEMES",
		"SIGNET_LIMITS=logins=5":                         "SIGNET_LIMITS",
		"SIGNET_LIMITS=login=-5":                         "SIGNET_LIMITS",
		"SIGNET_LIMITS=login":                            "SIGNET_LIMITS",
		"SIGNET_LIMITS=login=5 login=6":                  "SIGNET_LIMITS",
		"SIGNET_COLOR=green":                             "SIGNET_COLOR",
		"SIGNET_COLOR=#12345g":                           "SIGNET_COLOR",
		"SIGNET_LOG_FORMAT=xml":                          "SIGNET_LOG_FORMAT",
		"SIGNET_LOG_LEVEL=loud":                          "SIGNET_LOG_LEVEL: must be debug",
		"SIGNET_DRAIN_DELAY=1h":                          "SIGNET_DRAIN_DELAY",
		"SIGNET_REVOCATION_POLL=0s":                      "SIGNET_REVOCATION_POLL",
		"SIGNET_REVOCATION_POLL=1h":                      "SIGNET_REVOCATION_POLL",
		"SIGNET_REVOCATION_MAX_AGE=15s":                  "SIGNET_REVOCATION_MAX_AGE",
		"SIGNET_REVOCATION_MAX_AGE=-1m":                  "SIGNET_REVOCATION_MAX_AGE",
		"SIGNET_UPSTREAM_ISSUER=https://id.example":      "SIGNET_UPSTREAM_CLIENT_ID",
		"SIGNET_UPSTREAM_CLIENT_ID=signet":               "SIGNET_UPSTREAM_ISSUER",
		"SIGNET_UPSTREAM_CLIENT_SECRET=x":                "SIGNET_UPSTREAM_ISSUER",
		"SIGNET_UPSTREAM_KEY=short":                      "SIGNET_UPSTREAM_KEY",
	} {
		_, err := readConfig([]string{setting})
		if err == nil {
			t.Errorf("%s: accepted", setting)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error %q does not name %s", setting, err, want)
		}
	}
}

// The URL of the store has a password, which no error shows.
func TestStoreURLIsNotShown(t *testing.T) {
	for _, url := range []string{"postgres://u:hunter2@h:port/x", "postgres://u:hun/ter2@h/x", "postgres://u:hunter2%zz@h/x", "mysql://u:hunter2@h/x",
		"postgres://u:hunter2@h/x?sslmode=never", "postgres://h/x?password=hunter2&port=0", "postgresql://u:hunter2@h/x?sslrootcert=/nowhere&sslmode=verify-full"} {
		_, err := readConfig([]string{"SIGNET_STORE=" + url, "SIGNET_SECRET=" + seal.NewSecret()})
		if err == nil || !strings.Contains(err.Error(), "SIGNET_STORE") || strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%s: %v, want an error that names the variable and no part of the password", url, err)
		}
	}
	for _, url := range []string{"postgres://u:p@h/x", "postgresql://u:p@h1,h2:5433/x?sslmode=require", "postgres://h1:1,h2:2/x", "postgres:///x?host=/run/postgresql"} {
		if _, err := readConfig([]string{"SIGNET_STORE=" + url, "SIGNET_SECRET=" + seal.NewSecret()}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// For any value of a variable, either the settings can be used, or an error names a
// variable and shows no secret.
func FuzzConfig(f *testing.F) {
	var names []string
	for _, v := range variables() {
		names = append(names, envPrefix+v.Tag.Get("env"))
		f.Add(uint8(len(names)-1), v.Tag.Get("envDefault")+" ")
		for _, value := range []string{"-1", "1e9h", "postgres://u:hunter2hunter2@h:port/x", "a>b>a", "::/0", "%zz", "https://a@b/c#d", strings.Repeat("x,", 100)} {
			f.Add(uint8(len(names)-1), value)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		name := names[int(which)%len(names)]
		c, err := readConfig([]string{name + "=" + value})
		if err == nil {
			c.options(nil)
			return
		}
		if !strings.Contains(err.Error(), envPrefix) {
			t.Errorf("%s=%q: %v names no variable", name, value, err)
		}
		secret := map[string]bool{"SIGNET_SECRET": true, "SIGNET_STORE": true, "SIGNET_REGISTRATION_TOKEN": true, "SIGNET_UPSTREAM_CLIENT_SECRET": true, "SIGNET_UPSTREAM_KEY": true, "SIGNET_UPSTREAM_PASSWORD": true, "SIGNET_GATEWAY_CLIENT_SECRET": true}[name]
		if secret && len(value) > 8 && strings.Contains(err.Error(), value) {
			t.Errorf("%s=%q is shown: %v", name, value, err)
		}
	})
}

func TestAllFaultsAreNamedAtOnce(t *testing.T) {
	_, err := readConfig([]string{"SIGNET_ROLE=both", "SIGNET_CODE_TTL=1h"})
	if err == nil || !strings.Contains(err.Error(), "SIGNET_ROLE") || !strings.Contains(err.Error(), "SIGNET_CODE_TTL") {
		t.Errorf("error %v does not name both variables", err)
	}
	_, err = readConfig([]string{"SIGNET_ISSUER=none", "SIGNET_ACCESS_TTL=5", "SIGNET_COLOR=reddish", "SIGNET_GROUP_READ=perhaps"})
	for _, want := range []string{"SIGNET_ISSUER: ", "SIGNET_ACCESS_TTL: must be a duration", "SIGNET_COLOR: ", "SIGNET_GROUP_READ: must be"} {
		if err == nil || strings.Count(err.Error(), want) != 1 {
			t.Errorf("error %v does not have %q once", err, want)
		}
	}
}

func TestUnknownVariableIsNoticed(t *testing.T) {
	c, err := readConfig([]string{"SIGNET_ISUER=https://as.example.com", "SIGNET_TEST_ALL=1", "PATH=/bin"})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.unknown(); len(got) != 1 || got[0] != "SIGNET_ISUER" {
		t.Errorf("unknown variables: %q, want SIGNET_ISUER alone", got)
	}
}

// 0 in the environment means no delay; unset means the server's default.
func TestDrainDelayOfZeroIsNoDelay(t *testing.T) {
	for setting, want := range map[string]time.Duration{"SIGNET_DRAIN_DELAY=0s": 1, "SIGNET_DRAIN_DELAY=2s": 2 * time.Second, "SIGNET_DRAIN_DELAY=": 0} {
		c, err := readConfig([]string{setting})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.options(nil).DrainDelay; got != want {
			t.Errorf("%s: %d ns, want %d", setting, got, want)
		}
	}
}

func TestSettingsReachTheServer(t *testing.T) {
	c, err := readConfig([]string{"SIGNET_SCOPES=norman.read,norman.write mcp:tools", "SIGNET_DEFAULT_SCOPES=norman.read", "SIGNET_REPLAY_WINDOW=0",
		"SIGNET_ACCESS_TTL=1h", "SIGNET_DATA_DIR=d", "SIGNET_METRICS_LISTEN=off", "SIGNET_TRUSTED_PROXIES=10.1.2.3/8", "SIGNET_PUBLIC_TOOLS=greet, echo", "SIGNET_HIDDEN_TOOLS=wipe drop"})
	if err != nil {
		t.Fatal(err)
	}
	o := c.options(nil)
	if diff := cmp.Diff([]string{"norman.read", "norman.write", "mcp:tools"}, o.Scopes); diff != "" {
		t.Errorf("scopes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"greet", "echo"}, o.PublicTools); diff != "" {
		t.Errorf("tools without login (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"wipe", "drop"}, o.HiddenTools); diff != "" {
		t.Errorf("hidden tools (-want +got):\n%s", diff)
	}
	if o.Lives.Replay >= 0 {
		t.Errorf("replay window %s, want the strict one", o.Lives.Replay)
	}
	if o.Lives.Access != time.Hour || o.UsersFile != "d/users" || o.MetricsListen != "" || o.TrustedProxies[0].String() != "10.0.0.0/8" {
		t.Errorf("options: %+v", o)
	}
}

// The defaults in the environment are those of the code.
func TestDefaultsAndLimitsReachTheServer(t *testing.T) {
	defaults, err := readConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(handlers.DefaultLimits, defaults.options(nil).Limits); diff != "" {
		t.Errorf("defaults (-in force +written down):\n%s", diff)
	}
	if diff := cmp.Diff(handlers.DefaultLives, defaults.options(nil).Lives); diff != "" {
		t.Errorf("default lives (-in force +written down):\n%s", diff)
	}
	for setting, want := range map[string]handlers.Limits{
		"login=60, register=20": {Login: 60, Register: 20},
		"login=0":               {Login: -1},
		"off":                   {Authorize: -1, Login: -1, Register: -1, RegisterAll: -1, WrongSecret: -1, TokensGrant: -1, TokensClient: -1, Documents: -1},
	} {
		c, err := readConfig([]string{"SIGNET_LIMITS=" + setting})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c.options(nil).Limits); diff != "" {
			t.Errorf("%s (-want +got):\n%s", setting, diff)
		}
	}
}

// A file for the pages that cannot be used stops a server, and names its variable.
func TestWrongPagesNameTheVariable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("neither <form> nor {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"SIGNET_LOGO", "SIGNET_MESSAGES", "SIGNET_LOGIN_TEMPLATE"} {
		for _, role := range []string{"all", "mcp"} {
			c, err := readConfig([]string{name + "=" + path, "SIGNET_ROLE=" + role})
			if err != nil {
				t.Fatal(err)
			}
			err = c.checkFiles()
			if role == "mcp" && err != nil {
				t.Errorf("%s matters although there are no pages: %v", name, err)
			} else if role != "mcp" && (err == nil || !strings.Contains(err.Error(), name+": ") || !strings.Contains(err.Error(), path)) {
				t.Errorf("%s: the error is %v", name, err)
			}
		}
	}
}
