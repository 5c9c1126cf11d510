package jwt

// For the tests of package jwt_test.
var (
	Parse = func(rawToken string) error {
		_, err := parse(rawToken)
		return err
	}
	VerifySignature = verifySignature
	ParseSet        = parseSet
	ParseFeed       = parseFeed
	VerifyFeed      = verifyFeed
	ScanObject      = func(text []byte) error {
		return scanObject(string(text), func(s *scanner, _ string) error { return s.skip() })
	}
	ScanString = func(text []byte) (value string, err error) {
		err = scanObject(string(text), func(s *scanner, _ string) error {
			value, err = s.string()
			return err
		})
		return value, err
	}
)

// Remembered returns the number of tokens in the cache.
func (v *Verifier) Remembered() (n int) {
	for i := range v.cache.shards {
		n += len(v.cache.shards[i].tokens)
	}
	return n
}

// Former returns the number of former keys that r remembers.
func (r *RemoteKeys) Former() int { return len(r.set.Load().former) }
