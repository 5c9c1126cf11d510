package mcpclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"signet/internal/oauth"
)

// loginTime is how long a person may take to sign in.
const loginTime = 5 * time.Minute

// redirect is where the authorization server sends the browser back to: a port of
// this machine (RFC 8252 §7.3).
type redirect struct {
	uri, state string
	answers    chan url.Values
	server     *http.Server
	served     chan struct{}
}

func listenForRedirect() (*redirect, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("waiting for the browser: %w", err)
	}
	b := &redirect{uri: "http://" + l.Addr().String() + "/callback", state: rand.Text(), answers: make(chan url.Values, 1), served: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /callback", b.take)
	b.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		defer close(b.served)
		b.server.Serve(l) // until close
	}()
	return b, nil
}

func (b *redirect) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // the browser still reads its page
	defer cancel()
	b.server.Shutdown(ctx)
	b.server.Close()
	<-b.served
}

// take accepts the first answer with the state that was sent. Another page may send the
// browser here too, so an answer with another state is refused.
func (b *redirect) take(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	answer := r.URL.Query()
	if answer.Get("state") != b.state {
		http.Error(w, "This answer belongs to another login.", http.StatusBadRequest)
		return
	}
	select {
	case b.answers <- answer:
		fmt.Fprintln(w, "Done. You can close this window and go back to the terminal.")
	default:
		http.Error(w, "This login was answered already.", http.StatusBadRequest)
	}
}

// visit has the user sign in at the authorization endpoint and returns the answer.
func (c *Client) visit(ctx context.Context, where string, back *redirect) (url.Values, error) {
	if c.options.Username != "" {
		c.say("Signing in as %s", c.options.Username)
		return c.fillForms(ctx, where, back.uri)
	}
	c.say("Sign in with a browser at the address below. Waiting for it to come back to %s", back.uri)
	c.options.ShowLogin(ctx, where)
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	select {
	case answer := <-back.answers:
		return answer, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, fmt.Errorf("the login did not end within %s", loginTime)
		}
		return nil, errors.New("interrupted")
	}
}

// fillForms does with the pages what a person would do: it signs in, and approves. The
// password goes only to the authorization server's origin.
func (c *Client) fillForms(ctx context.Context, where, redirectURI string) (url.Values, error) {
	begin, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	origin := oauth.Origin(begin)
	var answer url.Values
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	browser := &http.Client{Transport: c.web, Jar: jar, Timeout: 30 * time.Second, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		to := *r.URL
		to.RawQuery = ""
		switch {
		case to.String() == redirectURI:
			answer = r.URL.Query()
			return http.ErrUseLastResponse
		case oauth.Origin(&to) != origin:
			return fmt.Errorf("the login continues at %s: %w", to.Host, ErrBrowser)
		case len(via) > 10:
			return errors.New("the login redirects in circles")
		}
		return nil
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	for signedIn, pages := false, 0; err == nil; pages++ {
		var resp *http.Response
		if resp, err = browser.Do(r); err != nil {
			break
		}
		page, readErr := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if answer != nil || readErr != nil || pages > 8 {
			return answer, errors.Join(readErr, tooMany(answer))
		}
		forms, title := readPage(string(page))
		f, isLogin := chooseForm(forms)
		switch {
		case f == nil:
			return nil, fmt.Errorf("the page at %s (%s) has no form to sign in or approve: %s", resp.Request.URL.Path, resp.Status, title)
		case isLogin && signedIn:
			return nil, errors.New("the server does not accept this name and password")
		}
		signedIn = signedIn || isLogin
		r, err = c.submit(ctx, resp.Request.URL, f, origin)
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // its URL holds the login transaction
	}
	return nil, fmt.Errorf("signing in: %w", err)
}

func tooMany(answer url.Values) error {
	if answer == nil {
		return errors.New("signing in: the pages do not end")
	}
	return nil
}

// submit makes the request that sends the form on a page.
func (c *Client) submit(ctx context.Context, page *url.URL, f *form, origin string) (*http.Request, error) {
	to, err := page.Parse(f.action)
	if err != nil {
		return nil, fmt.Errorf("the form's address: %w", err)
	}
	if oauth.Origin(to) != origin {
		return nil, fmt.Errorf("the form goes to %s: %w", to.Host, ErrBrowser)
	}
	values := f.fill(c.options.Username, c.options.Password)
	if !strings.EqualFold(f.method, "post") {
		return nil, fmt.Errorf("the form would put its fields into an address: %w", ErrBrowser)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", origin) // as a browser does; servers check it
	return r, nil
}
