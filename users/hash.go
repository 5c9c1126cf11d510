package users

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

const (
	maxBcryptCost = 14 // about a second
	maxBcrypt     = 72 // bytes of a password that bcrypt sees
)

// defaultParams are OWASP's first choice for argon2id: about 20 ms a core.
func defaultParams() argon2id.Params {
	return argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}
}

// formatHash is the PHC string of a hash.
func formatHash(p *argon2id.Params, salt, key []byte) string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.Memory, p.Iterations, p.Parallelism, b64(salt), b64(key))
}

// dummyHash is a hash with these parameters that no password has. Checking it costs as
// much as checking the hash of a user; making it costs nothing.
func dummyHash(p argon2id.Params) string {
	salt, key := make([]byte, p.SaltLength), make([]byte, p.KeyLength)
	rand.Read(salt)
	rand.Read(key)
	return formatHash(&p, salt, key)
}

// bcryptForm is a bcrypt hash as other systems write it. 2x marks the hashes of a
// broken implementation, which cannot be checked. The length is not compiled into the form:
// dozens of states at every start.
var bcryptForm = regexp.MustCompile(`^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]*$`)

// argonForm is the form of argon2id's PHC string; parseHash checks the rest.
var argonForm = regexp.MustCompile(`^\$argon2id\$v=19\$m=[0-9]+,t=[0-9]+,p=[0-9]+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$`)

// isBcrypt reports whether hash is a bcrypt hash, of any cost.
func isBcrypt(hash string) bool { return len(hash) == 60 && bcryptForm.MatchString(hash) }

// checkBcrypt bounds what a login with that hash costs.
func checkBcrypt(hash string) error {
	cost, err := bcrypt.Cost([]byte(hash))
	if err != nil || cost > maxBcryptCost {
		return fmt.Errorf("hash: the bcrypt cost is not between %d and %d", bcrypt.MinCost, maxBcryptCost)
	}
	return nil
}

// compare reports whether hash is that of password. Bcrypt reads only the first 72 bytes,
// and reads "a\x00a" as "a", so passwords that are longer or have a NUL are wrong, after
// the same work.
func compare(password, hash string) (bool, error) {
	if !isBcrypt(hash) {
		return argon2id.ComparePasswordAndHash(password, hash)
	}
	b := []byte(password)
	err := bcrypt.CompareHashAndPassword([]byte(hash), b)
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil
	}
	return err == nil && len(b) <= maxBcrypt && bytes.IndexByte(b, 0) < 0, err
}
