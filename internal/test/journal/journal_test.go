package journal_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/test/journal"
)

// step is a request and its answer, which may be missing.
type step struct {
	ask    journal.Request
	answer *journal.Answer
}

func consent() *journal.Consent {
	return &journal.Consent{Issuer: "https://as.test", Audience: "https://mcp.test", Subject: "alice", ClientID: "c", Scope: []string{"read"}}
}

func token(scope string, expires time.Time) string {
	b, _ := json.Marshal(map[string]any{"iss": "https://as.test", "aud": "https://mcp.test", "sub": "alice", "client_id": "c", "scope": scope, "exp": expires.Unix()})
	return "h." + base64.RawURLEncoding.EncodeToString(b) + ".s"
}

var live = token("read", time.Now().Add(time.Hour))

// good is a run in which every promise was kept: the code of g, three refreshes, one of
// them repeated because its answer was lost, an invalid request, a call, and the
// revocation.
func good() []step {
	ask := func(op journal.Op, sent string) journal.Request {
		return journal.Request{Op: op, Family: "g", Artefact: sent}
	}
	flawed := ask(journal.Refresh, "h3")
	flawed.Flawed = true
	code := ask(journal.Code, "code")
	code.Consent = consent()
	issued := func(handle string) *journal.Answer {
		return &journal.Answer{Status: 200, Handle: handle, Access: live}
	}
	refused := &journal.Answer{Status: 400, Error: "invalid_grant"}
	return []step{
		{code, issued("h1")},
		{ask(journal.Refresh, "h1"), nil},
		{ask(journal.Refresh, "h1"), issued("h2")},
		{ask(journal.Refresh, "h2"), &journal.Answer{Status: 503, Error: "temporarily_unavailable"}},
		{ask(journal.Refresh, "h2"), issued("h3")},
		{flawed, refused},
		{ask(journal.Call, live), &journal.Answer{Status: 200}},
		{ask(journal.Refresh, "h3"), issued("h4")},
		{ask(journal.Revoke, "h4"), &journal.Answer{Status: 200}},
		{ask(journal.Refresh, "h4"), refused},
		{ask(journal.Introspect, "h4"), &journal.Answer{Status: 200}},
		{ask(journal.Call, live), &journal.Answer{Status: 401}},
	}
}

func check(t *testing.T, steps []step) (*journal.Checker, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	c := journal.NewChecker(journal.Rules{Window: time.Minute})
	for _, s := range steps {
		n, err := j.Intend(s.ask)
		if err != nil {
			t.Fatal(err)
		}
		if s.answer != nil {
			if err := j.Answered(n, *s.answer); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Millisecond) // the feed's interval is counted in milliseconds
		if err := c.Follow(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return c, strings.Join(c.Broken(), "\n")
}

func TestCheckerAcceptsKeptPromises(t *testing.T) {
	c, broken := check(t, good())
	if broken != "" {
		t.Error(broken)
	}
	want := journal.Counts{Requests: 12, Acknowledged: 10, Unavailable: 1, Lost: 1, Families: 1, Refreshes: 3, Revocations: 1}
	if c.Counts() != want {
		t.Errorf("counts %+v, want %+v", c.Counts(), want)
	}
	for name, want := range map[string]int{"INV1": 1, "INV2": 4, "INV3": 4, "INV4": 3, "INV5": 3, "INV6": 4, "INV7": 5, "INV8": 4, "INV11": 11, "INV12": 1, "INV14": 1} {
		if got := c.Checked()[name]; got != want {
			t.Errorf("%s was checked %d times, want %d", name, got, want)
		}
	}
}

// After one change of the good run, the checker names the broken promise.
func TestCheckerFindsBrokenPromises(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]step) []step
		want   string
	}{
		"code accepted twice": {func(s []step) []step { return append(s[:1:1], s[0]) }, "INV1"},
		"old handle accepted": {func(s []step) []step {
			return append(s[:8:8], step{s[1].ask, &journal.Answer{Status: 200, Handle: "h2", Access: live}})
		}, "INV2"},
		"handle of another generation":   {func(s []step) []step { s[7].answer.Handle = "h2"; return s }, "INV3"},
		"accepted after revocation":      {func(s []step) []step { s[9].answer = s[2].answer; return s }, "INV4"},
		"active after revocation":        {func(s []step) []step { s[10].answer = &journal.Answer{Status: 200, Active: true}; return s }, "INV4"},
		"call accepted after revocation": {func(s []step) []step { s[11].answer = &journal.Answer{Status: 200}; return s }, "INV4"},
		"alive after a refusal":          {func(s []step) []step { return append(s[:10:10], s[9], step{s[9].ask, s[2].answer}) }, "INV5"},
		"compliant client logged out":    {func(s []step) []step { s[2].answer = s[5].answer; return s[:3] }, "INV6"},
		"acknowledged grant gone":        {func(s []step) []step { s[4].answer = s[5].answer; return s[:5] }, "INV7"},
		"live access token refused":      {func(s []step) []step { s[6].answer = &journal.Answer{Status: 401}; return s[:7] }, "INV7"},
		"scope grew":                     {func(s []step) []step { s[4].answer.Access = token("read admin", time.Now()); return s }, "INV8"},
		"another user's token":           {func(s []step) []step { s[0].ask.Consent.Subject = "bob"; return s }, "INV8"},
		"server error":                   {func(s []step) []step { s[3].answer = &journal.Answer{Status: 500}; return s }, "INV11"},
		"wrong error of a failing store": {func(s []step) []step { s[3].answer = &journal.Answer{Status: 400, Error: "invalid_client"}; return s }, "INV11"},
		"call failing otherwise":         {func(s []step) []step { s[6].answer = &journal.Answer{Status: 500}; return s }, "INV11"},
		"flawed request accepted":        {func(s []step) []step { s[5].answer = s[2].answer; return s }, "INV12"},
		"flawed request ended the grant": {func(s []step) []step { s[7].answer = s[5].answer; return s[:8] }, "INV6"},
		"handle from nowhere":            {func(s []step) []step { s[1].ask.Artefact = "x"; return s[:2] }, "no answer with this handle"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, broken := check(t, c.change(good())); !strings.Contains(broken, c.want) {
				t.Errorf("found %q, want %s", broken, c.want)
			}
		})
	}
}

// A request without an answer may have ended the grant, so later refusals are no
// violation.
func TestCheckerDoubtsWhatWasNotAnswered(t *testing.T) {
	for name, change := range map[string]func([]step) []step{
		"revocation without an answer": func(s []step) []step { s[8].answer = nil; return s[:11] },
		"code sent twice":              func(s []step) []step { return append([]step{{s[0].ask, nil}}, step{s[0].ask, s[5].answer}) },
		"old handle sent":              func(s []step) []step { return append(s[:8:8], step{s[1].ask, nil}, s[9]) },
	} {
		if _, broken := check(t, change(good())); broken != "" {
			t.Errorf("%s: %s", name, broken)
		}
	}
}

func TestConcurrentLinesAreWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Create(path); err == nil {
		t.Error("Create overwrote a journal")
	}
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 20 {
				n, err := j.Intend(journal.Request{Op: journal.Revoke, Family: fmt.Sprint(w, i), Artefact: "h"})
				if err == nil {
					err = j.Answered(n, journal.Answer{Status: 200})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	c := journal.NewChecker(journal.Rules{})
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"n":161,"op":"re`); err != nil { // an incomplete line
		t.Fatal(err)
	}
	f.Close()
	if err := c.Follow(path); err != nil || len(c.Broken()) > 0 || c.Counts().Revocations != 160 || c.Counts().Families != 160 {
		t.Errorf("%v %v %+v", err, c.Broken(), c.Counts())
	}
}
