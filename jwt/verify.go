package jwt

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

const defaultCacheSize = 10_000

// VerifierOptions say which tokens a [Verifier] accepts.
type VerifierOptions struct {
	Issuer    string                    // iss must be this very string
	Audiences []string                  // aud must be one of these very strings; a URL without a path may end in a slash
	Keys      KeySource                 // the issuer's published keys
	Revoked   func(grantID string) bool // must not block and be safe for concurrent use; nil: no grant is revoked
	Feed      *RevocationFeed           // revokes grants in addition to Revoked, and must run; nil: none

	// RevokedKnown reports whether Revoked knows the revoked grants yet. Until then no
	// token gets a verdict ([ErrRevocationsUnknown]). Nil: it always does.
	RevokedKnown func() bool

	// NotBefore is the Unix second of iat from which tokens count: the issuer's store was
	// lost, restored or rolled back then. Nil: all count.
	NotBefore func() int64

	// SameClock means that the tokens were dated by the clock of this process, as the
	// issuer's own verifier knows: they end at exp. Otherwise they end [Leeway] later,
	// because the issuer's clock may be ahead.
	SameClock bool

	// CacheSize is the number of verified tokens to remember; 0 is 10,000, negative none. Of
	// tokens above 1 KiB there are fewer, so that 10,000 take at most about 15 MiB.
	CacheSize int
}

// Verifier checks access tokens. It is safe for concurrent use.
type Verifier struct {
	options VerifierOptions
	late    time.Duration // how long after its exp a token is still accepted
	cache   *cache        // nil: none
}

// NewVerifier returns a Verifier, or an error that names the missing option: issuer,
// audiences and keys are required.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	switch {
	case o.Issuer == "":
		return nil, errors.New("verifier without an issuer")
	case len(o.Audiences) == 0 || slices.Contains(o.Audiences, ""):
		return nil, errors.New("verifier without an audience")
	case o.Keys == nil:
		return nil, errors.New("verifier without keys")
	}
	o.Audiences = spellings(o.Audiences)
	if o.CacheSize == 0 {
		o.CacheSize = defaultCacheSize
	}
	v := &Verifier{options: o, late: Leeway}
	if o.SameClock {
		v.late = 0
	}
	if o.CacheSize > 0 {
		v.cache = newCache(o.CacheSize)
	}
	return v, nil
}

// For returns a Verifier like v for the tokens of another audience, which must not be empty. It
// remembers no tokens.
func (v *Verifier) For(audience string) *Verifier {
	o := v.options
	o.Audiences = spellings([]string{audience})
	return &Verifier{options: o, late: v.late}
}

// spellings returns audiences with their other spellings.
func spellings(audiences []string) []string {
	all := slices.Clone(audiences)
	for _, audience := range audiences {
		if other, ok := otherSpelling(audience); ok {
			all = append(all, other)
		}
	}
	return all
}

// otherSpelling returns a URL without a path with a slash at its end, or without that slash,
// which is the same URL (RFC 3986 §6.2.3). ok is false for all others.
func otherSpelling(audience string) (other string, ok bool) {
	_, host, ok := strings.Cut(audience, "://")
	host, slash := strings.CutSuffix(host, "/")
	switch {
	case !ok || host == "" || strings.ContainsAny(host, "/?#"):
		return "", false
	case slash:
		return strings.TrimSuffix(audience, "/"), true
	}
	return audience + "/", true
}

// Verify returns the claims of an access token that the issuer made for one of the
// audiences, that is neither expired nor revoked, and whose key is still published
// (RFC 9068 §4). Times may be off by [Leeway], but see [VerifierOptions.SameClock]. The
// claims are a copy, which the caller may change.
//
// A refusal wraps [ErrInvalid]. Any other error is no verdict on the token:
// [ErrKeysUnavailable] or another error of the key source, and [ErrRevocationsUnknown].
// ctx bounds the time that the key source, or the first token of a verifier with a feed,
// may wait for the issuer.
//
// An accepted token is remembered by its hash until it expires. This saves the next
// check of its signature, nothing else: time, key and revocation are checked each time.
func (v *Verifier) Verify(ctx context.Context, rawToken string) (*Claims, error) {
	c, err := v.VerifyShared(ctx, rawToken)
	if err != nil {
		return nil, err
	}
	return c.Clone(), nil
}

// VerifyShared is Verify without the copy: the claims are those that v remembers, so the
// caller must not change them. For a remembered token it allocates nothing.
func (v *Verifier) VerifyShared(ctx context.Context, rawToken string) (*Claims, error) {
	if len(rawToken) > MaxSize {
		return nil, refusal("too long")
	}
	now := time.Now()
	if v.cache == nil {
		t, err := v.verify(ctx, rawToken, now)
		if err != nil {
			return nil, err
		}
		return &t.claims, nil
	}
	// Ordinary tokens fit into a buffer on the stack, also with an upstream token in them.
	hash := sha256.Sum256(append(make([]byte, 0, 4096), rawToken...))
	t := v.cache.get(hash)
	if t == nil {
		var err error
		if t, err = v.verify(ctx, rawToken, now); err != nil {
			return nil, err
		}
		v.cache.put(hash, t, now)
	} else if err := v.recheck(ctx, t, now); err != nil {
		v.cache.forget(hash)
		return nil, err
	}
	return &t.claims, nil
}

// verifiedToken is the part of an accepted token that the cache remembers.
type verifiedToken struct {
	claims    Claims
	notBefore int64 // Unix second of the issuer's clock
	until     int64 // Unix second of this process's clock at which the token has expired
	length    int   // of the token, in characters
	keyID     string
	key       *ecdsa.PublicKey
}

// Clone returns a copy that shares nothing with c.
func (c *Claims) Clone() *Claims {
	d := *c
	if c.Actor != nil {
		a := *c.Actor
		d.Actor = &a
	}
	return &d
}

// verify does the cheap checks before it asks for the key: a forger learns nothing from
// a refusal of the claims that the forger wrote, and tokens of other issuers do not
// reach the key source.
func (v *Verifier) verify(ctx context.Context, rawToken string, now time.Time) (*verifiedToken, error) {
	u, err := parse(rawToken)
	if err != nil {
		return nil, err
	}
	// RFC 9068 §4; RFC 8725 §3.8, §3.9: whole strings.
	if u.claims.Issuer != v.options.Issuer {
		return nil, refusal("wrong issuer")
	}
	if !slices.Contains(v.options.Audiences, u.claims.Audience) {
		return nil, refusal("wrong audience")
	}
	t := &verifiedToken{claims: u.claims, notBefore: max(u.claims.IssuedAt, u.notBefore), until: v.AcceptedUntil(&u.claims).Unix(), length: len(rawToken), keyID: u.keyID}
	if err := t.checkTime(now); err != nil {
		return nil, err
	}
	if t.key, err = v.key(ctx, t.keyID); err != nil {
		return nil, err
	}
	if !verifySignature(t.key, u.signed, u.signature) {
		return nil, refusal("wrong signature")
	}
	return t, v.checkRevoked(ctx, t, now)
}

// recheck repeats the checks whose result may have changed since t was verified.
func (v *Verifier) recheck(ctx context.Context, t *verifiedToken, now time.Time) error {
	if err := t.checkTime(now); err != nil {
		return err
	}
	key, err := v.key(ctx, t.keyID)
	if err != nil {
		return err
	}
	if key != t.key && !key.Equal(t.key) {
		return refusal("its key was replaced")
	}
	return v.checkRevoked(ctx, t, now)
}

func (v *Verifier) key(ctx context.Context, keyID string) (*ecdsa.PublicKey, error) {
	key, err := v.options.Keys.Key(ctx, keyID)
	if errors.Is(err, ErrUnknownKey) {
		return nil, refusal("unknown key ID")
	}
	if err != nil {
		return nil, fmt.Errorf("verifying a token: %w", err)
	}
	return key, nil
}

func (v *Verifier) checkRevoked(ctx context.Context, t *verifiedToken, now time.Time) error {
	if v.options.Feed != nil {
		if err := v.options.Feed.ready(ctx); err != nil {
			return fmt.Errorf("verifying a token: %w", err)
		}
	}
	return v.CheckGrant(&t.claims, now)
}

// CheckGrant checks at now whether the grant of a token that was accepted before, with
// claims c, still stands, for a caller that serves one token for a long time. It returns nil,
// [ErrRevoked] or [ErrRevocationsUnknown]. It only reads memory. A token without a grant
// cannot be revoked, but it gets no verdict either while the revoked grants are not known.
func (v *Verifier) CheckGrant(c *Claims, now time.Time) error {
	if v.options.RevokedKnown != nil && !v.options.RevokedKnown() {
		return ErrRevocationsUnknown
	}
	if v.options.NotBefore != nil && c.IssuedAt < v.options.NotBefore() {
		return ErrRevoked
	}
	if c.GrantID != "" && v.options.Revoked != nil && v.options.Revoked(c.GrantID) {
		return ErrRevoked
	}
	if v.options.Feed != nil {
		return v.options.Feed.check(c, now)
	}
	return nil
}

// AcceptedUntil returns the time at which v stops accepting a token with claims c because
// it has expired.
func (v *Verifier) AcceptedUntil(c *Claims) time.Time { return c.Expires().Add(v.late) }

// checkTime enforces exp, iat and nbf (RFC 7519 §4.1.4-6). The latter two are within
// [Leeway] also in the issuer's process, because a replica may have dated the token.
func (t *verifiedToken) checkTime(now time.Time) error {
	if now.Unix() >= t.until {
		return ErrExpired
	}
	if t.notBefore > now.Unix()+int64(Leeway/time.Second) {
		return refusal("not valid yet")
	}
	return nil
}

// verifySignature reports whether an ES256 signature is right (RFC 7518 §3.4).
// ecdsa.Verify refuses r and s outside of [1, n-1].
func verifySignature(key *ecdsa.PublicKey, signed string, signature [signatureSize]byte) bool {
	hash := sha256.Sum256([]byte(signed))
	r := new(big.Int).SetBytes(signature[:signatureSize/2])
	s := new(big.Int).SetBytes(signature[signatureSize/2:])
	return ecdsa.Verify(key, hash[:], r, s)
}
