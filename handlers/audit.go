package handlers

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"

	"signet/internal/clients"
	"signet/internal/oauth"
)

// event is one decision for the audit log. An endpoint fills in what it learns.
type event struct {
	name    string
	subject string
	client  *clients.Client
	grantID string
	reason  string

	audience string // of an exchange
	judged   bool   // whether a token request is a decision for the log
}

// audit writes one line about a decision. err says how it ended: nil means done, an
// oauth.Error with a status below 500 is a refusal, and any other error is a failure of
// the server. Client ids are long and client names are chosen by strangers, so the hash
// of the id identifies the client.
func (e *endpoints) audit(r *http.Request, ev event, err error) {
	level, outcome, counted, reason := slog.LevelInfo, "ok", "", ev.reason
	if err != nil {
		outcome = "refused"
		refusal := oauth.AsError(unanswered(err))
		switch status := refusal.Status(); {
		case status >= 500:
			outcome = "failed"
		case status == http.StatusTooManyRequests:
			counted = "throttled"
		}
		if reason == "" {
			reason = refusal.Error()
		}
	}
	e.o.Count(ev.name, cmp.Or(counted, outcome))
	if ev.name == "refresh_rollback" {
		level = slog.LevelError
	} else if ev.name == "refresh_reuse" || ev.name == "code_reuse" {
		level = slog.LevelWarn
	}
	from := "unknown"
	if address, _ := e.o.ClientIP(r); address.IsValid() {
		from = address.String()
	}
	attrs := append(make([]slog.Attr, 0, 9), slog.String("event", ev.name), slog.String("outcome", outcome), slog.String("address", from))
	if ev.subject != "" {
		attrs = append(attrs, slog.String("sub", ev.subject))
	}
	if ev.client != nil {
		attrs = append(attrs, slog.String("client", ev.client.Hash()), slog.String("client_name", plain(ev.client.Name, maxName)))
	}
	if ev.grantID != "" {
		attrs = append(attrs, slog.String("gid", ev.grantID))
	}
	if ev.audience != "" {
		attrs = append(attrs, slog.String("audience", ev.audience))
	}
	if reason != "" {
		attrs = append(attrs, slog.String("reason", reason))
	}
	e.o.Log.LogAttrs(r.Context(), level, "audit", attrs...)
}

// is reports whether err is an oauth.Error with the given code.
func is(err error, code oauth.Code) bool {
	var e *oauth.Error
	return errors.As(err, &e) && e.Code == code
}
