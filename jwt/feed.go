package jwt

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// feedType is the typ in the header of a revocation feed and of nothing else, so that
// a feed never passes for an access or id token, nor such a token for a feed (RFC 8725
// §3.11).
const feedType = "revoked+jwt"

// MaxRevoked is the largest number of grants in a revocation feed. The issuer leaves
// out the grants that were revoked first, which every reader has seen by then.
const MaxRevoked = 200_000

// maxFeedSize is the length of the longest feed, in characters: MaxRevoked grants with
// ids of 26 characters are 11 MB.
const maxFeedSize = 16 << 20

// maxGrantID is the length of the longest grant id in a feed, in bytes. The ids of a
// Signet issuer have 26 at most.
const maxGrantID = 128

// FeedClaims are the claims of a revocation feed: the grants that were revoked so
// recently that an access token of them may be alive. Times are Unix seconds.
type FeedClaims struct {
	Issuer    string           `json:"iss"`
	IssuedAt  int64            `json:"iat"`                  // when the issuer last read its store; lists all grants revoked by then
	ExpiresAt int64            `json:"exp"`                  // when every token that was alive at IssuedAt is dead, so that the list says nothing
	TTL       int64            `json:"ttl"`                  // seconds until a reader should ask again
	NotBefore int64            `json:"not_before,omitempty"` // no access token with an earlier iat counts: the issuer's store was lost, restored or rolled back then; 0: never
	Revoked   map[string]int64 `json:"revoked"`              // id of a grant (gid) to the time of its revocation
}

// SignFeed signs a revocation feed of c with the key that signs at now. It returns an
// error for claims that a [RevocationFeed] would refuse, and for a feed that is longer
// than it reads.
func (s *Signer) SignFeed(c FeedClaims, now time.Time) (string, error) {
	if c.Issuer == "" {
		return "", errors.New("signing a feed: no iss")
	}
	if c.IssuedAt <= 0 || c.ExpiresAt <= c.IssuedAt || c.ExpiresAt > maxTime {
		return "", errors.New("signing a feed: times out of order")
	}
	if len(c.Revoked) > MaxRevoked {
		return "", fmt.Errorf("signing a feed: %d grants, more than %d", len(c.Revoked), MaxRevoked)
	}
	return s.sign(feedType, &c, now, maxFeedSize)
}

// MarshalJSON writes the grants in any order. Package encoding/json sorts the keys of a
// map, so that a long feed takes up to half as much time again (BenchmarkMarshalFeed).
func (c *FeedClaims) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 256+48*len(c.Revoked))
	b = strconv.AppendQuoteToASCII(append(b, `{"iss":`...), c.Issuer)
	b = strconv.AppendInt(append(b, `,"iat":`...), c.IssuedAt, 10)
	b = strconv.AppendInt(append(b, `,"exp":`...), c.ExpiresAt, 10)
	b = strconv.AppendInt(append(b, `,"ttl":`...), c.TTL, 10)
	if c.NotBefore != 0 {
		b = strconv.AppendInt(append(b, `,"not_before":`...), c.NotBefore, 10)
	}
	b = append(b, `,"revoked":{`...)
	separator := ""
	for id, at := range c.Revoked {
		if id == "" || len(id) > maxGrantID || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return nil, errors.New("grant id with a character that JSON escapes")
		}
		b = append(append(append(b, separator...), '"'), id...)
		b = strconv.AppendInt(append(b, `":`...), at, 10)
		separator = ","
	}
	return append(b, "}}"...), nil
}

// verifyFeed returns the claims of a revocation feed that issuer made. It is as strict
// as the verification of an access token.
func verifyFeed(ctx context.Context, keys KeySource, issuer, rawToken string, now time.Time) (*FeedClaims, error) {
	t, payload, err := parseSigned(rawToken, feedType, maxFeedSize)
	if err != nil {
		return nil, err
	}
	// The signature comes before the claims, because the list may be long.
	key, err := keys.Key(ctx, t.keyID)
	if errors.Is(err, ErrUnknownKey) {
		return nil, refusal("unknown key ID")
	}
	if err != nil {
		return nil, err
	}
	if !verifySignature(key, t.signed, t.signature) {
		return nil, refusal("wrong signature")
	}
	c, err := parseFeed(payload)
	if err != nil {
		return nil, err
	}
	const leeway = int64(Leeway / time.Second)
	switch {
	case c.Issuer != issuer:
		return nil, refusal("wrong issuer")
	case c.IssuedAt > now.Unix()+leeway:
		return nil, refusal("not valid yet")
	case now.Unix() >= c.ExpiresAt+leeway:
		return nil, ErrExpired
	}
	return c, nil
}

var feedNames = []string{"iss", "iat", "exp", "ttl", "not_before", "revoked"}

// parseFeed reads the claims of a feed.
func parseFeed(text string) (*FeedClaims, error) {
	c := &FeedClaims{}
	err := scanObject(text, func(s *scanner, name string) (err error) {
		switch name {
		case "iss":
			c.Issuer, err = s.string()
		case "iat":
			c.IssuedAt, err = s.seconds()
		case "exp":
			c.ExpiresAt, err = s.seconds()
		case "ttl":
			c.TTL, err = s.seconds()
		case "not_before":
			c.NotBefore, err = s.seconds()
		case "revoked":
			c.Revoked, err = s.grants()
		default:
			err = s.skipUnknown(name, feedNames)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case c.Issuer == "" || c.IssuedAt == 0 || c.ExpiresAt == 0 || c.TTL == 0 || c.Revoked == nil:
		return nil, refusal("a required claim is missing")
	case c.ExpiresAt <= c.IssuedAt:
		return nil, refusal("times out of order")
	}
	return c, nil
}

// grants reads the claim revoked. It finds duplicates by a map, unlike the method
// object, because the members are many.
func (s *scanner) grants() (map[string]int64, error) {
	if !s.take('{') {
		return nil, refusal("not a JSON object")
	}
	grants := map[string]int64{}
	if s.take('}') {
		return grants, nil
	}
	for {
		id, err := s.name()
		if err != nil {
			return nil, err
		}
		if id == "" || len(id) > maxGrantID {
			return nil, refusal("grant ID missing or too long")
		}
		if _, twice := grants[id]; twice {
			return nil, refusal("duplicate JSON member")
		}
		if !s.take(':') {
			return nil, errJSON
		}
		at, err := s.seconds()
		if err != nil {
			return nil, err
		}
		// The copy keeps the id from holding the whole text in memory.
		if grants[strings.Clone(id)] = at; len(grants) > MaxRevoked {
			return nil, refusal("too many JSON members")
		}
		if s.take('}') {
			return grants, nil
		}
		if !s.take(',') {
			return nil, errJSON
		}
	}
}
