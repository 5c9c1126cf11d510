package handlers

import (
	"errors"
	"io"
	"mime"
	"net/http"

	"signet/oauth"
)

// register serves dynamic client registration (RFC 7591 §3). Nothing is stored:
// what is registered is in the client id.
func (s *server) register(r *http.Request) (any, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, oauth.Errorf(oauth.InvalidClientMetadata, "Content-Type must be application/json").WithStatus(http.StatusUnsupportedMediaType)
	}
	body, err := io.ReadAll(r.Body) // limited by the route
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, oauth.Errorf(oauth.InvalidClientMetadata, "body is longer than %d bytes", tooLong.Limit).WithStatus(http.StatusRequestEntityTooLarge)
	case err != nil:
		return nil, oauth.Errorf(oauth.InvalidClientMetadata, "body could not be read").Because(err)
	}
	registration, err := s.o.Clients.Register(r.Context(), body)
	ev := event{name: "register"}
	if err == nil {
		// A registered id opens as the client it names; a miss costs the log its name.
		ev.client, _ = s.o.Clients.Find(r.Context(), registration.ClientID)
	}
	s.audit(r, ev, err)
	if err != nil {
		return nil, err
	}
	return reply{status: http.StatusCreated, body: registration}, nil
}
