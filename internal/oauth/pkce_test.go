package oauth_test

import (
	"strings"
	"testing"

	"signet/internal/oauth"
)

// The example of RFC 7636 Appendix B.
const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

// Only S256 with a hash is accepted: an absent method means plain.
func TestPKCEIsNotDowngraded_B09(t *testing.T) {
	if err := oauth.CheckChallenge(challenge, "S256"); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"", "plain", "s256", "S512", "none", "S256 "} {
		wantCode(t, oauth.CheckChallenge(challenge, method), oauth.InvalidRequest)
	}
	for _, c := range []string{"", challenge[1:], challenge + "A", challenge + "=", challenge[:42] + "+", challenge[:42] + "N", strings.Repeat("A", 128), challenge[:20] + "\n" + challenge[20:]} {
		wantCode(t, oauth.CheckChallenge(c, "S256"), oauth.InvalidRequest)
	}
}

func TestVerifierMatchesItsChallenge_D06(t *testing.T) {
	if err := oauth.CheckVerifier(verifier, challenge); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		verifier, challenge string
		want                oauth.Code
	}{
		"missing":                      {"", challenge, oauth.InvalidRequest},
		"42 characters":                {verifier[1:], challenge, oauth.InvalidRequest},
		"129 characters":               {strings.Repeat("a", 129), challenge, oauth.InvalidRequest},
		"bad character":                {verifier[1:] + "+", challenge, oauth.InvalidRequest},
		"not ASCII":                    {verifier[2:] + "é", challenge, oauth.InvalidRequest},
		"line break":                   {verifier + "\n", challenge, oauth.InvalidRequest},
		"other verifier":               {strings.Repeat("a", 128), challenge, oauth.InvalidGrant},
		"verifier equals challenge":    {challenge, challenge, oauth.InvalidGrant},
		"code without challenge":       {verifier, "", oauth.InvalidGrant},
		"plain challenge in the code":  {verifier, verifier, oauth.InvalidGrant},
		"padded challenge in the code": {verifier, challenge + "=", oauth.InvalidGrant},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, oauth.CheckVerifier(c.verifier, c.challenge), c.want) })
	}
}
