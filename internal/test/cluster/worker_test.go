package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"signet/internal/seal"
	"signet/internal/test/cluster"
	"signet/internal/test/journal"
	"signet/internal/test/person"
)

// worker is a client that uses one grant after the other: it signs a user in,
// refreshes, also twice at the same time, repeats requests without an answer, calls
// tools, and revokes. It follows the protocol, except at the end of some grants, when
// it acts as a thief that presents a stolen handle.
type worker struct {
	*run
	random *rand.Rand
	who    *person.Person
}

func (w *worker) work(ctx context.Context) {
	for ctx.Err() == nil {
		f, err := w.begin(ctx)
		if err != nil {
			continue
		}
		for steps := 5 + w.random.IntN(30); steps > 0 && f.ended == "" && !f.unsure && ctx.Err() == nil; steps-- {
			w.pause(ctx, time.Duration(20+w.random.IntN(300))*time.Millisecond)
			w.step(ctx, f)
		}
		w.finish(ctx, f)
	}
}

func (w *worker) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// base is the URL of nginx, or now and then of an auth replica, as with another
// balancer.
func (w *worker) base() string {
	if w.random.IntN(5) == 0 {
		return w.c.Auth[w.random.IntN(len(w.c.Auth))].URL
	}
	return w.c.URL
}

// begin registers a client and signs in until it has a grant.
func (w *worker) begin(ctx context.Context) (*family, error) {
	for {
		if ctx.Err() != nil {
			return nil, errGone
		}
		if f := w.login(); f != nil {
			return f, nil
		}
		w.pause(ctx, time.Duration(200+w.random.IntN(500))*time.Millisecond)
	}
}

func (w *worker) login() *family {
	began := time.Now()
	base := w.base()
	client, a := register(w.http, base)
	w.count("register", base, a, began)
	if client.id == "" {
		w.mayFail("register", a)
		return nil
	}
	f := &family{client: client, user: w.who.Name, scope: []string{"read", "write"}[:1+w.random.IntN(2)]}
	began = time.Now()
	c, a := authorize(w.who, w.http, w.c.URL, client, strings.Join(f.scope, " "))
	w.count("sign in", w.c.URL, a, began)
	if c.code == "" {
		w.mayFail("sign in", a)
		return nil
	}
	w.secret("code", c.code)
	w.secret("code verifier", c.verifier)
	opened, err := seal.Open[seal.Code](w.ring, c.code)
	if err != nil {
		w.breach("INV10: a code: %v", err)
		return nil
	}
	f.name = opened.Grant.ID
	q := journal.Request{Op: journal.Code, Artefact: c.code, Consent: &journal.Consent{
		Issuer: w.c.URL, Audience: w.c.URL + "/mcp", Subject: f.user, ClientID: client.id, Scope: f.scope,
	}}
	a, tok := w.ask(f, q, w.base(), codeForm(client, c))
	if a.status != 200 {
		return nil // a code cannot be sent twice: the user signs in again
	}
	if err := w.take(f, 0, tok); err != nil {
		w.breach("%v", err)
		return nil
	}
	if w.random.IntN(20) == 0 { // a double click ends it
		if a, _ := w.ask(f, q, w.base(), codeForm(client, c)); a.status == 400 {
			w.end(f, "its code was used twice")
			w.afterwards(f)
		} else {
			f.unsure = true
		}
	}
	return f
}

// mayFail checks that a failing cluster may give this unsuccessful answer.
func (w *worker) mayFail(what string, a reply) {
	w.look("INV11")
	if a.status == 429 && a.header.Get("Retry-After") != "" {
		return // many parallel logins of one user look like guessing
	}
	if a.ours() && a.status != 503 {
		w.breach("INV11: %s: %s: %.300s", what, a.label(), a.body)
	}
}

func (w *worker) step(ctx context.Context, f *family) {
	if time.Until(f.expires) < 5*time.Second {
		w.refresh(ctx, f, 1)
		return
	}
	switch n := w.random.IntN(100); {
	case n < 45:
		w.refresh(ctx, f, 1)
	case n < 55:
		w.refresh(ctx, f, 2+w.random.IntN(4))
	case n < 60:
		w.flawed(f)
	default:
		w.call(f, w.mcpBase())
	}
}

func (w *worker) mcpBase() string {
	if w.random.IntN(5) == 0 {
		return w.c.MCP[w.random.IntN(len(w.c.MCP))].URL
	}
	return w.c.URL
}

// refresh presents the newest handle, n times at once, until it gets an answer. Without
// an answer the client has to give up after the window.
func (w *worker) refresh(ctx context.Context, f *family, n int) {
	spent, handle, began := f.gen, f.handle, time.Now()
	f.tried = max(f.tried, spent)
	for try := 0; ; try++ {
		answers := make([]tokens, n)
		refused := make([]bool, n)
		bases := make([]string, n)
		for i := range bases {
			bases[i] = w.base()
		}
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				a, tok := w.ask(f, journal.Request{Op: journal.Refresh, Artefact: handle}, bases[i], refreshForm(f.client, handle))
				answers[i], refused[i] = tok, a.status == 400
			})
		}
		all.Wait()
		for i := range n {
			if answers[i].Refresh != "" {
				if err := w.take(f, spent, answers[i]); err != nil {
					w.breach("%v", err)
				}
			} else if refused[i] {
				w.end(f, "it was refused") // the journal shows whether that was right
				return
			}
		}
		if f.gen > spent {
			return
		}
		// An attempt must reach a server within the window of the first one, even if
		// that server is paused for a quarter of it.
		pause := time.Duration(min(100<<try, 1000)+w.random.IntN(200)) * time.Millisecond
		if time.Since(began)+pause > w.window-w.window/4-w.window/10 && w.window > 0 || ctx.Err() != nil {
			f.unsure = true
			return
		}
		w.pause(ctx, pause)
		n = 1
	}
}

// flawed presents the newest handle in invalid requests, which must change nothing.
func (w *worker) flawed(f *family) {
	q := journal.Request{Op: journal.Refresh, Artefact: f.handle, Flawed: true}
	form := refreshForm(f.client, f.handle)
	switch w.random.IntN(3) {
	case 0:
		form.Set("scope", "read write admin")
	case 1:
		form.Set("resource", "https://elsewhere.example/mcp")
	case 2:
		form.Set("client_id", cluster.User)
	}
	w.ask(f, q, w.base(), form)
}

// finish ends a live family: by revocation, by theft, or not at all.
func (w *worker) finish(ctx context.Context, f *family) {
	if f.ended != "" {
		return
	}
	if f.unsure || ctx.Err() != nil {
		w.end(f, "")
		return
	}
	switch n := w.random.IntN(10); {
	case n < 5:
		artefact := f.handle
		if n < 2 && time.Until(f.expires) > 5*time.Second {
			artefact = f.access
		}
		form := url.Values{"token": {artefact}, "client_id": {f.client.id}}
		for ctx.Err() == nil {
			if a, _ := w.ask(f, journal.Request{Op: journal.Revoke, Artefact: artefact}, w.base(), form); a.status == 200 {
				w.end(f, "its revocation was acknowledged")
				w.afterwards(f)
				return
			} else if artefact == f.access && time.Until(f.expires) < 5*time.Second {
				artefact = f.handle // revoking an expired token does not end the grant
				form.Set("token", artefact)
			}
			w.pause(ctx, 300*time.Millisecond)
		}
		f.unsure = true
	case n < 8 && len(f.handles) > 2:
		w.theft(ctx, f)
		return
	}
	w.end(f, "")
}

// theft presents a handle older than the predecessor, or the predecessor after the
// window: that ends the grant.
func (w *worker) theft(ctx context.Context, f *family) {
	stolen := f.handles[w.random.IntN(len(f.handles)-2)]
	if w.window < 20*time.Second && w.random.IntN(2) == 0 {
		stolen = f.handles[len(f.handles)-2]
		w.pause(ctx, w.window+2*time.Second)
	}
	a, _ := w.ask(f, journal.Request{Op: journal.Refresh, Artefact: stolen}, w.base(), refreshForm(f.client, stolen))
	if a.status != 400 {
		f.unsure = true // if it was accepted, the journal shows it
		w.end(f, "")
		return
	}
	w.end(f, "an old handle was presented")
	w.afterwards(f)
}

// afterwards checks at once, at every auth replica, that a family has ended.
func (w *worker) afterwards(f *family) {
	for _, auth := range w.c.Auth {
		w.probe(f, auth)
	}
}

// newWorkers returns n workers. One in four signs in a user with a password hash.
func newWorkers(r *run, n int, seed uint64) (list []*worker) {
	for i := range n {
		who := demoPerson()
		if i%4 == 3 {
			who = person.New(fmt.Sprint("user", i), passwordOf(i))
		}
		list = append(list, &worker{run: r, random: rand.New(rand.NewPCG(seed, uint64(i)+1)), who: who})
	}
	return list
}

func passwordOf(i int) string { return fmt.Sprint("walnut radio summer ladder ", i) }
