package oauth

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
)

// ConnectionPath is the path, below the issuer's, at which a user connects a provider.
const ConnectionPath = "/oauth/authorize"

// ConnectionLink returns the address at which the user with a subject connects what a server of
// the gateway needs. It names the user by [ConnectionUser], so that the page refuses others.
func ConnectionLink(issuer, serverID, sub string) string {
	return issuer + ConnectionPath + "?server_id=" + url.QueryEscape(serverID) + "&for=" + ConnectionUser(issuer, sub)
}

// ConnectionUser returns what a link says of the user who may follow it: the first 16 hexadecimal
// characters of the SHA-256 of issuer, line feed and subject. It is no secret, and proves nothing:
// the page compares it with the user who is signed in.
func ConnectionUser(issuer, sub string) string {
	hash := sha256.Sum256([]byte(issuer + "\n" + sub))
	return hex.EncodeToString(hash[:8])
}
