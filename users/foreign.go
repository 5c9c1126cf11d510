package users

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// foreign are texts in the place of a password that are none: hashes of other programs, and
// what stands for a password elsewhere. If one was taken for the password itself, a reader
// of the file could sign in with it. The first form that matches gives the name. They are
// compiled when an import first needs them: a server never does.
var foreign = sync.OnceValue(func() []foreignForm {
	return []foreignForm{
		{regexp.MustCompile(`^[^:]*(:-?\d*){6}:[^:]*$`), "a line of /etc/shadow"},
		{regexp.MustCompile(`^[^:]*:\d+:\d+:[^:]*:[^:]*:[^:]*$|^[^:]*:\d+:\d+:[^:]*:\d+:\d+:`), "a line of /etc/passwd"},
		{regexp.MustCompile(`(?i)^[^:]*:[0-9a-f]{32}(:[^:]*)?$|^[^:]*:[0-9a-f]{64}$`), "a line of htdigest"},
		{regexp.MustCompile(`^(!+|\*+|x|\*?LK\*?|\*?NP\*?)$`), "the mark of an account without a password"},
		{regexp.MustCompile(`^!\w{40}$`), "Django's mark of an account without a password"},

		{regexp.MustCompile(`\$\$(2.?|apr1|[156y]|argon2\w+)\$\$`), "a hash with doubled dollar signs, as in a compose file (write each $$ as $)"},
		{regexp.MustCompile(`^\{[^{}\s]+\}`), "a hash with its scheme in braces, like {SHA} (before a bcrypt hash, remove the scheme)"},
		{regexp.MustCompile(`\$2.?\$`), "a bcrypt hash that is damaged, has something before or after it, or is of the broken kind 2x"},
		{regexp.MustCompile(`\$argon2id\$`), "an argon2id hash that is damaged, or has something before or after it"},
		{regexp.MustCompile(`\$argon2`), "a hash of another argon2 than argon2id"},
		{regexp.MustCompile(`^\$apr1\$`), "htpasswd's MD5 (apr1)"},
		{regexp.MustCompile(`^[!*]*\$([1567y]|gy|md5|sha1|sm3)[$,]`), "a hash of crypt"},
		{regexp.MustCompile(`^U?\$[PH]\$`), "a hash of phpass (WordPress, phpBB)"},
		{regexp.MustCompile(`^U?\$S\$`), "a hash of Drupal"},
		{regexp.MustCompile(`(?i)^SCRAM-SHA|stored_?key=`), "a SCRAM verifier"},
		{regexp.MustCompile(`^\$ANSIBLE_VAULT|^!vault|^ENC[\[(]|^vault:v\d+:|^(op|file)://|^arn:aws:|^env:|^-----BEGIN`), "an encrypted value, or the place of one"},
		{regexp.MustCompile(`\$\{|^\$\(|^\$[A-Z_][A-Z0-9_]+$|^%\w+%$|\{\{.*\}\}|^<[^<>]+>$`), "a variable or a place holder"},
		{regexp.MustCompile(`^\$[^$\s]+\$`), "a hash of another kind"},
		{regexp.MustCompile(`(?i)^(pbkdf2|scrypt|bcrypt|argon2\w*|yescrypt|s?sha-?\d*|md[245]|crypt|hmac|unsalted|ntlm|nthash|lmhash)([-_:]\w+)*[:$].|^-(pbkdf2|hashed)[-:]`), "a hash with its method before it, as of Django or Werkzeug"},
		{regexp.MustCompile(`(?i)^grub\.pbkdf2\.`), "a hash of GRUB"},
		{regexp.MustCompile(`\$[./+=\w-]{20,}$`), "the end of a hash"},

		{regexp.MustCompile(`(?i)^\*[0-9a-f]{40}$`), "a hash of MySQL"},
		{regexp.MustCompile(`(?i)^md5[0-9a-f]{32}$`), "a hash of PostgreSQL"},
		{regexp.MustCompile(`(?i)^0x[0-9a-f]{16,}$`), "a hash in hexadecimal"},
		{regexp.MustCompile(`^_[./0-9A-Za-z]{19}$`), "a hash of crypt"},
		{regexp.MustCompile(`^AQAAAA[0-9A-Za-z+/]{34,}=*$`), "a hash of ASP.NET"}, // of any length: some are cut off
	}
})

type foreignForm struct {
	form *regexp.Regexp
	what string
}

var (
	// crypt is the form of the oldest crypt. Its last character holds four bits only.
	crypt   = regexp.MustCompile(`^[./0-9A-Za-z]{12}[.26AEIMQUYcgkosw]$`)
	hexText = regexp.MustCompile(`^(?i:[0-9a-f]{16}|[0-9a-f]{32,})$`)
)

// hashSizes are the bytes of hashes, and of hashes with a salt or a header, that are
// written in base64.
var hashSizes = []int{20, 28, 32, 36, 48, 49, 61, 64}

// foreignHash returns what secret looks like, if that is not a password in clear.
func foreignHash(secret string) (kind string) {
	secret = strings.TrimSpace(secret)
	for _, f := range foreign() {
		if f.form.MatchString(secret) {
			return f.what
		}
	}
	if crypt.MatchString(secret) && mixed(secret) {
		return "a hash of crypt" // all but one in a thousand have letters of both cases
	}
	for _, part := range strings.FieldsFunc(secret, func(r rune) bool { return strings.ContainsRune(":$,;|#@. ", r) }) {
		switch {
		case hexText.MatchString(part) && (len(part) > 16 || strings.ContainsFunc(part, unicode.IsDigit) && strings.ContainsFunc(part, unicode.IsLetter)):
			return "a hash in hexadecimal"
		case isDigest(part):
			return "a hash in base64"
		}
	}
	return ""
}

// isDigest reports text in base64 that has the length of a hash. Without the padding
// that ends it, only a mixture of letters and digits is no word.
func isDigest(text string) bool {
	body := strings.TrimRight(text, "=")
	b, err := base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_").Replace(body))
	if err != nil {
		return false
	}
	if body != text {
		return len(text)%4 == 0 && len(b) >= 16 && len(b) <= 64
	}
	return slices.Contains(hashSizes, len(b)) && mixed(text) && strings.ContainsFunc(text, unicode.IsDigit)
}

func mixed(text string) bool {
	return strings.ContainsFunc(text, unicode.IsUpper) && strings.ContainsFunc(text, unicode.IsLower)
}
