package handlers

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"mime"
	"net/http"

	"signet/internal/clients"
	"signet/internal/oauth"
)

// register serves dynamic client registration (RFC 7591 §3). Nothing is stored: the
// client id contains the registration.
func (e *endpoints) register(r *http.Request) (any, error) {
	if err := e.mayRegister(r); err != nil {
		e.audit(r, event{name: "register"}, err)
		return nil, err
	}
	body, err := io.ReadAll(r.Body) // limited by the route
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, oauth.Errorf(oauth.InvalidClientMetadata, "body is longer than %d bytes", tooLong.Limit).WithStatus(http.StatusRequestEntityTooLarge)
	case err != nil:
		return nil, oauth.Errorf(oauth.InvalidClientMetadata, "body could not be read").Because(err)
	}
	slot, err := e.o.Admission.Register.Enter(r.Context())
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	registration, err := e.o.Clients.Register(r.Context(), body)
	if errors.Is(err, clients.ErrNotObject) && !isJSON(r.Header.Get("Content-Type")) {
		// A body that is JSON all the same was taken: some clients send no type, or the default of
		// their library.
		err = oauth.Errorf(oauth.InvalidClientMetadata, "Content-Type must be application/json").WithStatus(http.StatusUnsupportedMediaType).Because(err)
	}
	ev := event{name: "register"}
	if err == nil {
		// The log shows the client's name; if this fails, it shows none.
		ev.client, _ = e.o.Clients.Find(r.Context(), registration.ClientID)
	}
	e.audit(r, ev, err)
	if err != nil {
		return nil, err
	}
	return reply{status: http.StatusCreated, body: registration}, nil
}

// isJSON reports whether a Content-Type says JSON, or nothing.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && media == "application/json"
}

// mayRegister checks the initial access token if one is required (RFC 7591 §3).
func (e *endpoints) mayRegister(r *http.Request) error {
	if e.o.Registration.Token == "" {
		return nil
	}
	token, ok, err := oauth.Bearer(r.Header["Authorization"])
	if err != nil || !ok {
		return &bearerError{err: oauth.Errorf(oauth.InvalidToken, "registration requires an initial access token").Because(err), bare: !ok}
	}
	// Comparing hashes hides the length too.
	got, want := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(e.o.Registration.Token))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return &bearerError{err: oauth.Errorf(oauth.InvalidToken, "the initial access token is not valid")}
	}
	return nil
}
