package flows

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/oauth2"

	"signet/internal/e2e"
	"signet/internal/test/npm"
)

// chaosFlag has a fixed seed, so that a run can be repeated; any seed will do.
const chaosFlag = "--chaos=20261120"

// did counts the faults of a kind that the log reports.
func did(d *e2e.Program, what string) int {
	return strings.Count(d.Output(), `"msg":"chaos","what":"`+what+`"`)
}

// signet call goes through login, call and refresh, again and again.
func TestSignetCallLivesWithChaos(t *testing.T) {
	d := e2e.Start(t, nil, "--demo", chaosFlag)
	e2e.Eventually(t, func() bool {
		return strings.Contains(d.Output(), "**** CHAOS ****") && strings.Contains(d.Output(), chaosFlag)
	})
	for n := 0; did(d, "lost") < 2 || did(d, "busy") < 2; n++ {
		if n > 300 {
			t.Fatalf("after %d runs %d answers were lost and %d refused", n, did(d, "lost"), did(d, "busy"))
		}
		out, errOut, status := d.Signet("demo_password\n", "call", "echo", "--server", d.Issuer+"/mcp", "--username", "demo_user", "message=hi")
		if status != 0 || !strings.Contains(out, "hi") {
			t.Fatalf("run %d: %d %s%s", n, status, out, errOut)
		}
	}
}

// A random seed is printed, a wrong one refused.
func TestChaosSeedIsPrintedOrRefused(t *testing.T) {
	d := e2e.Start(t, nil, "--chaos")
	d.WaitFor("The same again: --chaos=")
	d.Stop()
	for _, seed := range []string{"0", "-1", "x"} {
		if _, errOut, status := d.Signet("", "serve", "--chaos="+seed); status != e2e.ExitWrongUse || !strings.Contains(errOut, "seed") {
			t.Errorf("--chaos=%s: %d %s", seed, status, errOut)
		}
	}
	d.Env = append(d.Env, "SIGNET_ISSUER=https://auth.example.com")
	if _, errOut, status := d.Signet("", "serve", "--chaos"); status != e2e.ExitFailed || !strings.Contains(errOut, "loopback") {
		t.Errorf("for the world: %d %s", status, errOut)
	}
}

// The go-sdk's client stays signed in while its tokens expire every second, answers are
// lost and refused, and keys rotate. A replica that has only the published keys accepts
// its tokens.
func TestGoClientStaysSignedInUnderChaos(t *testing.T) {
	d := e2e.Start(t, []string{"SIGNET_ACCESS_TTL=5s", "SIGNET_KEY_ROTATION=4s"}, "--demo", chaosFlag)
	replica := d.Beside()
	replica.Args = []string{"serve", "--role", "mcp"}
	replica.Start()
	logins := 0
	login := e2e.SDKLoginOver(t, countLogins{&logins}, "demo_user", "demo_password")
	var session *sdk.ClientSession
	e2e.Eventually(t, func() bool { // the code may be refused at the moment
		client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
		var err error
		session, err = client.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: d.Issuer + "/mcp", OAuthHandler: login, DisableStandaloneSSE: true}, nil)
		return err == nil
	})
	defer session.Close()
	begun := logins
	source, err := login.TokenSource(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for n := 0; len(used) < 40; n++ {
		var token *oauth2.Token
		e2e.Eventually(t, func() (ok bool) { // as a user would try again
			res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "echo", Arguments: map[string]any{"message": fmt.Sprint(n)}})
			if err == nil {
				token, err = source.Token()
			}
			return err == nil && !res.IsError
		})
		used[token.AccessToken] = true
		if status := e2e.Call(t, replica.URL()+"/mcp", token.AccessToken); status != http.StatusOK {
			t.Errorf("call %d: the replica says %d", n, status)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if logins != begun {
		t.Errorf("the user signed in %d times again", logins-begun)
	}
	t.Logf("lost %d, busy %d", did(d, "lost"), did(d, "busy"))
}

// countLogins counts requests to the authorization endpoint.
type countLogins struct{ n *int }

func (c countLogins) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/authorize" {
		*c.n++
	}
	return http.DefaultTransport.RoundTrip(r)
}

// The TypeScript SDK's clients keep their tokens. If the answer to a refresh was lost,
// they ask for a login that they do not need: the same call again succeeds without it.
func TestTypeScriptClientKeepsWhatItHoldsUnderChaos(t *testing.T) {
	for _, ts := range typeScripts {
		t.Run(ts.name, func(t *testing.T) {
			npm.Node(t)
			proxy := e2e.NewProxy(t)
			d := e2e.Start(t, []string{"SIGNET_ISSUER=" + proxy.URL}, "--demo", chaosFlag)
			proxy.To(t, d.URL())
			c := ts.connect(t, &site{d, proxy, proxy.URL + "/mcp"})
			types, asked := map[string]bool{}, 0
			for n := 0; n < 40 || len(types) < 3 || len(proxy.Refreshes(http.StatusServiceUnavailable)) == 0 || did(d, "lost") == 0; n++ {
				if n > 400 {
					t.Fatalf("after %d calls: types %v, %d lost, %d busy", n, types, did(d, "lost"), did(d, "busy"))
				}
				proxy.Spoil()
				text := fmt.Sprint("call ", n)
				e2e.Eventually(t, func() bool {
					answer := c.ask(sdkCommand{Do: "call", Tool: "echo", Arguments: map[string]string{"message": text}})
					if answer.Authorize != "" {
						asked++
					}
					return answer.Result != nil && strings.Contains(string(answer.Result), text)
				})
				for _, e := range proxy.Refreshes(http.StatusOK) {
					var tok e2e.Tokens
					if json.Unmarshal([]byte(e.Answer), &tok) == nil {
						types[tok.TokenType] = true
					}
				}
			}
			if asked > did(d, "lost") {
				t.Errorf("%d answers were lost, and it asked for a login %d times", did(d, "lost"), asked)
			}
			if n := len(proxy.Exchanges("/register")); n != 1 || c.logins != 1 {
				t.Errorf("%d registrations and %d logins, want 1 and 1", n, c.logins)
			}
			t.Logf("refreshed %d times, lost %d, asked %d, busy %d", len(proxy.Refreshes(http.StatusOK)), did(d, "lost"), asked, did(d, "busy"))
		})
	}
}
