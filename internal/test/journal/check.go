package journal

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Rules are the promises in a run.
type Rules struct {
	Window time.Duration // time within which the last refresh may be repeated
	Feed   time.Duration // time after which a revocation counts at the MCP endpoint

	// Late is how long a request without an answer may still be on its way, as through
	// a proxy; 0 if it ends with its server.
	Late time.Duration

	// Verify, if not nil, checks every access token that was issued.
	Verify func(access string) error
}

// slack is how much the times of client and server may differ.
const slack = time.Second

// Checker reads a journal and finds violations. They begin with the code of the
// invariant in docs/code.md.
type Checker struct {
	rules    Rules
	families map[string]*family
	open     map[int64]*request
	handles  map[string]owner
	access   map[string]string // family by access token
	at       int64             // offset in the journal
	broken   []string
	counts   Counts
	checked  map[string]int // how often an invariant was checked, by its code
}

// Counts sum up a run.
type Counts struct {
	Requests, Acknowledged, Unavailable, Lost int
	Families, Refreshes, Revocations          int
}

// owner is the family and the generation of a handle, from the answer that issued it.
type owner struct {
	family string
	gen    int
}

// family is a grant, as its client knows it.
type family struct {
	consent *Consent
	doubt   string        // why it may be dead: a request was sent that can end it
	dead    string        // why it is dead
	deadAt  int64         // when the end was known
	tried   int           // newest generation presented, -1 before the code
	used    int           // newest generation with an acknowledged use
	first   map[int]int64 // when the first use of a generation was sent
	known   map[int]int64 // when the first use of a generation was acknowledged
	lost    map[int]int64 // when a use without an answer was sent
	codes   int           // acknowledged uses of the code
}

// request is a request and the knowledge at the time when it was sent.
type request struct {
	Request
	at     int64
	gen    int
	dead   string
	deadAt int64
	used   int
	known  int64 // when the first use of the same generation was acknowledged; 0 was not
}

// NewChecker returns a checker of an empty journal.
func NewChecker(r Rules) *Checker {
	return &Checker{rules: r, families: map[string]*family{}, open: map[int64]*request{}, handles: map[string]owner{}, access: map[string]string{}, checked: map[string]int{}}
}

// Follow reads the lines added since the last call. An incomplete last line is left for
// the next call.
func (c *Checker) Follow(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(c.at, io.SeekStart); err != nil {
		return err
	}
	for r := bufio.NewReader(f); ; {
		b, err := r.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		c.at += int64(len(b))
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		c.take(l)
	}
}

// Broken returns the violations so far.
func (c *Checker) Broken() []string { return slices.Clone(c.broken) }

// Checked returns how often each invariant was checked, by its code.
func (c *Checker) Checked() map[string]int { return maps.Clone(c.checked) }

// look counts checks of invariants.
func (c *Checker) look(invariants ...string) {
	for _, name := range invariants {
		c.checked[name]++
	}
}

// Counts returns the counts so far.
func (c *Checker) Counts() Counts {
	n := c.counts
	n.Families = len(c.families)
	n.Lost += len(c.open)
	return n
}

func (c *Checker) violation(r *request, format string, args ...any) {
	c.broken = append(c.broken, fmt.Sprintf("%s (%s of family %s, generation %d)", fmt.Sprintf(format, args...), r.Op, r.Family, r.gen))
}

func (c *Checker) take(l line) {
	if l.Request != nil {
		c.sent(l)
		return
	}
	r := c.open[l.N]
	if r == nil || l.Answer == nil {
		c.broken = append(c.broken, fmt.Sprintf("the journal answers request %d, which was not sent", l.N))
		return
	}
	delete(c.open, l.N)
	c.answered(r, *l.Answer, l.At)
}

func (c *Checker) family(name string) *family {
	f := c.families[name]
	if f == nil {
		f = &family{tried: -1, used: -1, first: map[int]int64{}, known: map[int]int64{}, lost: map[int]int64{}}
		c.families[name] = f
	}
	return f
}

// sent records a request, and whether it may end its family.
func (c *Checker) sent(l line) {
	c.counts.Requests++
	f := c.family(l.Family)
	r := &request{Request: *l.Request, at: l.At, gen: c.handles[l.Artefact].gen, dead: f.dead, deadAt: f.deadAt, used: f.used}
	r.known = f.known[r.gen]
	c.open[l.N] = r
	switch {
	case r.Flawed:
	case r.Op == Revoke:
		f.doubt = "a revocation was sent"
	case r.Op == Code:
		f.consent = r.Consent
		if f.tried >= 0 {
			f.doubt = "the code was sent twice"
		}
		f.present(0, l.At)
	case r.Op == Refresh:
		if r.gen == 0 {
			c.violation(r, "the journal has no answer with this handle")
		}
		c.mayEnd(f, r)
		f.present(r.gen, l.At)
	}
}

// mayEnd records that a presented handle may be taken for a stolen one.
func (c *Checker) mayEnd(f *family, r *request) {
	first, tried := f.first[r.gen]
	switch lost, isLost := f.lost[r.gen-1]; {
	case r.gen < f.tried:
		f.doubt = "an older handle was sent"
	case tried && r.at > first+c.rules.Window.Milliseconds()-slack.Milliseconds():
		f.doubt = "a used handle was sent after the window"
	case isLost && c.rules.Late > 0 && r.at < lost+c.rules.Late.Milliseconds():
		f.doubt = "an earlier request may still be on its way"
	}
}

func (f *family) present(gen int, at int64) {
	f.tried = max(f.tried, gen)
	if f.first[gen] == 0 {
		f.first[gen] = at
	}
}

func (f *family) end(why string, at int64) {
	if f.dead == "" {
		f.dead, f.deadAt = why, at
	}
}

func (c *Checker) answered(r *request, a Answer, at int64) {
	f := c.family(r.Family)
	unavailable := a.Status == 503 && (a.Error == "temporarily_unavailable" || r.Op == Call)
	switch {
	case a.Status == 0:
		c.counts.Lost++
	case unavailable:
		c.counts.Unavailable++
	default:
		c.counts.Acknowledged++
	}
	if a.Status != 0 {
		c.look("INV11")
	}
	switch {
	case a.Status == 0 || unavailable || a.Status == 429: // the result is unknown, or nothing happened
		if (r.Op == Refresh || r.Op == Code) && !r.Flawed {
			f.lost[r.gen] = r.at
		}
	case r.Flawed:
		c.look("INV12")
		if a.Status < 400 || a.Status >= 500 {
			c.violation(r, "INV12: an invalid request got %d %s", a.Status, a.Error)
		}
	case r.Op == Call:
		c.called(f, r, a)
	case a.Status == 200:
		c.accepted(f, r, a, at)
	case a.Status == 400 && a.Error == "invalid_grant" && (r.Op == Code || r.Op == Refresh):
		if r.dead != "" {
			c.look("INV4", "INV5", "INV14")
		} else {
			c.look("INV6", "INV7")
		}
		if f.doubt == "" {
			c.violation(r, "INV6, INV7: refused, but no request could have ended the grant")
		}
		f.end("it was refused", at)
	default:
		c.violation(r, "INV11: got %d %q", a.Status, a.Error)
	}
}

// accepted checks a 200 of the authorization server.
func (c *Checker) accepted(f *family, r *request, a Answer, at int64) {
	switch r.Op {
	case Revoke:
		c.counts.Revocations++
		f.end("its revocation was acknowledged", at)
	case Introspect:
		if r.dead != "" {
			c.look("INV4", "INV5")
		}
		if a.Active && r.dead != "" {
			c.violation(r, "INV4, INV5: introspected as active, although %s", r.dead)
		}
	case Code, Refresh:
		c.issued(f, r, a, at)
	}
}

func (c *Checker) issued(f *family, r *request, a Answer, at int64) {
	c.look("INV2", "INV3", "INV6", "INV7", "INV8")
	if r.Op == Code {
		c.look("INV1")
	}
	switch {
	case r.dead != "":
		c.violation(r, "INV4, INV5, INV14: accepted, although %s", r.dead)
	case r.Op == Code && f.codes > 0:
		c.violation(r, "INV1: a code was accepted twice")
	case r.used > r.gen:
		c.violation(r, "INV2: accepted, although generation %d was used before", r.used)
	case r.known != 0 && r.at > r.known+(c.rules.Window+slack).Milliseconds():
		c.violation(r, "INV2: accepted again after the window")
	}
	if r.Op == Code {
		f.codes++
	} else {
		c.counts.Refreshes++
	}
	f.used = max(f.used, r.gen)
	if f.known[r.gen] == 0 {
		f.known[r.gen] = at
	}
	next := owner{r.Family, r.gen + 1}
	if was, seen := c.handles[a.Handle]; seen && was != next {
		c.violation(r, "INV3: answered with a handle of family %s, generation %d", was.family, was.gen)
	}
	c.handles[a.Handle] = next
	c.access[a.Access] = r.Family
	if err := f.consent.allows(a.Access); err != nil {
		c.violation(r, "INV8: %v", err)
	}
	if c.rules.Verify != nil {
		c.look("INV9")
		if err := c.rules.Verify(a.Access); err != nil {
			c.violation(r, "INV9: %v", err)
		}
	}
}

// called checks an answer of the MCP endpoint.
func (c *Checker) called(f *family, r *request, a Answer) {
	claims, _ := decode(r.Artefact)
	if r.dead != "" && r.at > r.deadAt+c.rules.Feed.Milliseconds() {
		c.look("INV4", "INV5")
	} else if a.Status == 200 {
		c.look("INV7")
	}
	switch {
	case a.Status == 200 && r.dead != "" && r.at > r.deadAt+c.rules.Feed.Milliseconds():
		c.violation(r, "INV4, INV5: a call was accepted %d ms after %s", r.at-r.deadAt, r.dead)
	case a.Status == 401 && f.doubt == "" && r.at < (claims.Expires-1)*1000:
		c.violation(r, "INV7: a live access token was refused")
	case a.Status != 200 && a.Status != 401:
		c.violation(r, "INV11: got %d %q", a.Status, a.Error)
	}
}

type claims struct {
	Issuer   string `json:"iss"`
	Audience string `json:"aud"`
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
	Expires  int64  `json:"exp"`
}

// decode reads the claims of a token without verifying it.
func decode(access string) (cl claims, err error) {
	parts := strings.Split(access, ".")
	if len(parts) != 3 {
		return cl, fmt.Errorf("an access token has %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return cl, err
	}
	return cl, json.Unmarshal(b, &cl)
}

func (want *Consent) allows(access string) error {
	if want == nil {
		return nil
	}
	got, err := decode(access)
	if err != nil {
		return err
	}
	if got.Issuer != want.Issuer || got.Audience != want.Audience || got.Subject != want.Subject || got.ClientID != want.ClientID {
		return fmt.Errorf("a token for iss %s, aud %s, sub %s, client %s", got.Issuer, got.Audience, got.Subject, got.ClientID)
	}
	for _, s := range strings.Fields(got.Scope) {
		if !slices.Contains(want.Scope, s) {
			return fmt.Errorf("a token with scope %s, which was not granted", s)
		}
	}
	return nil
}
