package oauth

// NoSubject is the description of the error for a subject_token that does not count: expired,
// revoked, or of a user or client who is gone. RFC 8693 §2.2.2 demands invalid_request for it, as
// for a malformed request, so a client tells the two apart by this text.
const NoSubject = "subject_token is not a live access token of this server"
