package gatewayconfig

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
)

// open returns the value of a text that began with enc:.
func (r *reader) open(text, path string) (string, error) {
	if old, ok := strings.CutPrefix(text, "gcm:"); ok {
		return r.openOld(old)
	}
	if r.Decrypt == nil {
		return "", away("there is no root secret that opens the value")
	}
	sealed, err := r.Decrypt(text)
	switch {
	case errors.Is(err, ErrSkip):
		return "", err
	case errors.Is(err, ErrSealed):
		return "", away("the root secret does not open the value: seal it anew with `signet secret encrypt`")
	case err != nil:
		return "", away("the value cannot be opened: %v", err)
	}
	if sealed.Old {
		r.warn(path, "was sealed under an earlier root secret: seal it anew with `signet secret encrypt` before the rotation ends")
	}
	if !sealed.At.IsZero() {
		r.sealed = append(r.sealed, sealedValue{path, sealed.At})
	}
	return sealed.Value, nil
}

// openOld opens a value that master-mcp-server sealed: AES-256-GCM under the SHA-256 of a
// variable's value, as base64 of nonce, tag and ciphertext.
func (r *reader) openOld(text string) (string, error) {
	key, err := r.variable(r.keyVariable)
	if err != nil {
		if key, err = r.variable("MASTER_SECRET_KEY"); err != nil {
			return "", away("the environment variable %s is not set", r.keyVariable)
		}
	}
	value, err := openGCM(text, key)
	if err != nil {
		return "", away("the value of %s does not open it: seal the value anew with `signet secret encrypt`", r.keyVariable)
	}
	return value, nil
}

const (
	oldNonce = 12
	oldTag   = 16
)

func openGCM(text, secret string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) < oldNonce+oldTag {
		return "", errors.New("not base64 of a sealed value")
	}
	key := sha256.Sum256([]byte(secret))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return "", err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	nonce, tag, text2 := b[:oldNonce], b[oldNonce:oldNonce+oldTag], b[oldNonce+oldTag:]
	plain, err := aead.Open(nil, nonce, append(append([]byte{}, text2...), tag...), nil)
	return string(plain), err
}
