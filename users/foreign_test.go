package users_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/users"
)

const (
	hex32    = "5f4dcc3b5aa765d61d8327deb882cf99"
	hex40    = "5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8"
	hex64    = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
	base20   = "W6ph5Mm5Pz8GgiULbPgzG37mj9g="
	base32   = "XohImNooBHFR0OVvjcYpJ3NgPQ1qq73WKhHvch0VQtg="
	bcrypt53 = "c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC"
)

// foreignTexts are what other programs have in the place of a password.
var foreignTexts = map[string]string{
	"compose":              "$$2y$$05$$" + bcrypt53,
	"compose, apr1":        "$$apr1$$dHoI4KGd$$5Uv3Dm9UoDWuTUmDe5YRW.",
	"bcrypt 2x":            "$2x$05$" + bcrypt53,
	"bcrypt, cut":          "$2y$05$" + bcrypt53[:50],
	"bcrypt, long":         "$2y$05$" + bcrypt53 + "xy",
	"bcrypt, a space":      " $2y$05$" + bcrypt53,
	"bcrypt, a comma":      "$2y$05$" + bcrypt53 + ",bob:$2y$05$" + bcrypt53,
	"bcrypt, DokuWiki":     "$2y$05$" + bcrypt53 + ":Carol:carol@example.com:user",
	"bcrypt, no dollar":    "2y$05$" + bcrypt53,
	"bcrypt, in a shell":   "y$" + bcrypt53,
	"bcrypt, cost too low": "$2a$3$" + bcrypt53,
	"Spring":               "{bcrypt}$2a$10$" + bcrypt53,
	"Spring, noop":         "{noop}cows",
	"Dovecot":              "{BLF-CRYPT}$2y$05$" + bcrypt53,
	"Dovecot, PBKDF2":      "{PBKDF2}$1$abc$5000$0123",
	"LDAP SHA":             "{SHA}" + base20,
	"LDAP SSHA":            "{SSHA}" + base20,
	"LDAP, low":            "{ssha512}" + base20,
	"Atlassian":            "{PKCS5S2}" + base32,
	"WordPress":            "$P$BqGHmDFyLvFoKfg6OlSWyDlNCTqf/1.",
	"phpBB":                "$H$9LCNKL5ZbxS0ZGLvPkXyKjkQ6OCR6T0",
	"WordPress 6.8":        "$wp$2y$10$" + bcrypt53,
	"Drupal":               "$S$Eo6LyWFgIYVGmJBLVrAAxBTJIIFWc8yPhD1RqdIDtg4r/1LEGUHG",
	"Drupal, upgraded":     "U$S$Eo6LyWFgIYVGmJBLVrAAxBTJIIFWc8yPhD1RqdIDtg4r",
	"Django":               "pbkdf2_sha256$600000$Zm9vYmFy$" + base32,
	"Django, SHA-1":        "pbkdf2_sha1$600000$Zm9v$" + base20,
	"Django, bcrypt":       "bcrypt_sha256$$2b$12$" + bcrypt53,
	"Django, argon2":       "argon2$argon2id$v=19$m=102400,t=2,p=8$c2FsdHNhbHQ$" + base32,
	"Django, scrypt":       "scrypt$16384$salt$8$1$" + base32,
	"Django, MD5":          "md5$salt$" + hex32,
	"Django, crypt":        "crypt$$rEK1ecacw.7.c",
	"Django, none":         "!2sBOXhYCZUVoFS5HaDaEj5oGJrFzL6TmVbTiPPyk",
	"Werkzeug":             "pbkdf2:sha256:260000$Zm9vYmFy$" + hex64,
	"Werkzeug, scrypt":     "scrypt:32768:8:1$Zm9v$" + hex64 + hex64,
	"Werkzeug, salted":     "sha256$Zm9v$" + hex64,
	"MD5":                  hex32,
	"MD5, capitals":        strings.ToUpper(hex32),
	"SHA-1":                hex40,
	"SHA-224":              hex64[:56],
	"SHA-256":              hex64,
	"SHA-384":              hex64 + hex32,
	"SHA-512":              hex64 + hex64,
	"Grafana, Gitea":       hex64 + hex32 + "0123",
	"Joomla":               hex32 + ":aBcDeFgHiJkLmNoP",
	"Magento":              hex64 + ":salt:1",
	"salt first":           "salt:" + hex64,
	"scrypt of Node":       hex32 + ":" + hex64 + hex64,
	"Redis":                "#" + hex64,
	"base64 SHA-1":         base20,
	"base64 SHA-256":       base32,
	"base64, no padding":   strings.TrimSuffix(base32, "="),
	"base64, URL":          "x-_ImNooBHFR0OVvjcYpJ3NgPQ1qq73WKhHvch0VQtg=",
	"base64 MD5":           "X03MO1qnZdYdgyfeuILPmQ==",
	"RabbitMQ":             "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
	"ASP.NET 3":            "AQAAAAEAACcQAAAAEFNOQ2qfsGvEhlyeMd3RZYpNzCqsvQpPb5mXlXYcqJzGzF8GvDzX5A5QmFzRGzZ7Xw==",
	"ASP.NET 3, cut off":   "AQAAAAEAACcQAAAAEFNOQ2qfsGvEhlyeMd3RZYpNzCqsvQpPb5mXlXYcqJzGzF8GvDzX",
	"old MySQL":            "6f8c114b58f2ce9e",
	"MySQL":                "*6BB4837EB74329105EE4568DDA7DC67ED2CA2AD9",
	"MySQL 8":              "$A$005$THISISACOMBINATIONOFINVALIDSALT",
	"SQL Server":           "0x0200F733058A07892C5CACE899768F89965F6BD1DED7955FE89E1C9A10E27849",
	"PostgreSQL, MD5":      "md5" + hex32,
	"GRUB":                 "grub.pbkdf2.sha512.10000." + base32 + "." + base32,
	"GRUB, short":          "grub.pbkdf2.sha512.10000.AB.CD",
	"PostgreSQL, SCRAM":    "SCRAM-SHA-256$4096:c2FsdA==$" + base32 + ":" + base32,
	"Kafka, SCRAM":         "salt=c2FsdA==,stored_key=" + base32 + ",server_key=" + base32 + ",iterations=4096",
	"Oracle":               "S:8F2D65FB5547B71C8DA3760F10960428CD307B1C6271691FC55C1F56554A;T:0123",
	"CouchDB":              "-pbkdf2-" + hex40 + ",salt,10",
	"CouchDB, old":         "-hashed-" + hex40 + ",salt",
	"passlib":              "$pbkdf2-sha256$29000$N2YMIWQsBWBMae09x1jrPQ$1t8iyB2A.WF/Z5JZv.lfCIhXXN33N23OSgQYThBYRfk",
	"passlib, bcrypt":      "$bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2",
	"scrypt":               "$scrypt$ln=17,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
	"argon2i":              "$argon2i$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$" + strings.TrimSuffix(base32, "="),
	"argon2d":              "$argon2d$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ$" + strings.TrimSuffix(base32, "="),
	"argon2id, old":        "$argon2id$m=4096,t=3,p=1$c2FsdHNhbHQ$" + strings.TrimSuffix(base32, "="),
	"argon2id, cut":        "$argon2id$v=19$m=4096,t=3,p=1$c2FsdHNhbHQ",
	"argon2id, huge":       "$argon2id$v=19$m=4294967295,t=3,p=1$c2FsdHNhbHQ$" + strings.TrimSuffix(base32, "="),
	"Nextcloud":            "3|$argon2id$v=19$m=65536,t=4,p=1$c2FsdHNhbHQ$" + strings.TrimSuffix(base32, "="),
	"Nextcloud, bcrypt":    "1|$2y$10$" + bcrypt53,
	"apr1":                 "$apr1$dHoI4KGd$5Uv3Dm9UoDWuTUmDe5YRW.",
	"crypt, MD5":           "$1$dHoI4KGd$5Uv3Dm9UoDWuTUmDe5YRW.",
	"crypt, SHA-512":       "$6$rounds=5000$salt$0123456789",
	"yescrypt":             "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
	"gost-yescrypt":        "$gy$j9T$salt$0123",
	"crypt, SHA-1":         "$sha1$40000$jtNX3nZ2$hBNaIXkt4wBI2o5rsi8KejSjNqIq",
	"crypt, Sun":           "$md5,rounds=904$salt$$0123",
	"crypt, BSD":           "_J9..CCCCXBrJUJV154M",
	"crypt, old":           "rEK1ecacw.7.c",
	"Cisco 9":              "$9$nhEmQVczB7dqsO$X.HsgL6x1il0RxkOSSvyQYwucySCt7qFm4v7pqCxkKM",
	"htdigest":             "realm:" + hex32,
	"htdigest, SHA-256":    "realm:" + hex64,
	"shadow":               "$6$salt$0123:19000:0:99999:7:::",
	"shadow, bcrypt":       "$2y$05$" + bcrypt53 + ":19000:0:99999:7:::",
	"shadow, locked":       "!:19000:0:99999:7:::",
	"shadow, none":         "*:19000::::::",
	"shadow, locked hash":  "!$6$salt$0123",
	"passwd":               "x:1000:1000:Carol:/home/carol:/bin/sh",
	"master.passwd":        "*:0:0::0:0:Carol:/root:/bin/csh",
	"smbpasswd":            "1000:" + hex32 + ":" + strings.ToUpper(hex32) + ":[U          ]:LCT-5F000000:",
	"locked":               "!!",
	"locked, star":         "*",
	"locked, Solaris":      "*LK*",
	"variable":             "${PASSWORD}",
	"variable, default":    "${PASSWORD:-cows}",
	"variable, inside":     "a${PASSWORD}",
	"variable, bare":       "$CAROL_PASSWORD",
	"variable, Windows":    "%PASSWORD%",
	"command":              "$(cat /run/secrets/carol)",
	"template":             "{{ carol_password }}",
	"place holder":         "<password>",
	"sops":                 "ENC[AES256_GCM,data:Tr7o,iv:1=,tag:2=,type:str]",
	"Jasypt":               "ENC(bm90IGEgcGFzc3dvcmQ=)",
	"Ansible":              "$ANSIBLE_VAULT;1.1;AES256",
	"Vault":                "vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zoCmHnSeDX9vyf7w==",
	"1Password":            "op://vault/carol/password",
	"double quotes":        `"cows and cows"`,
	"single quotes":        `'cows and cows'`,
	"quoted MD5":           `"` + hex32 + `"`,
	"quoted compose":       `'$$2y$$05$$` + bcrypt53 + `'`,
	"a NUL":                "cows\x00",
	"a line separator":     "cows\u2028and",
	"a BOM":                "\ufeffcows",
}

// Nothing that another program has in the place of a password becomes the password: the
// line is named, and the file has no effect, with --plaintext and without.
func TestImportTakesNoForeignHashForAPassword(t *testing.T) {
	for what, secret := range foreignTexts {
		for _, plaintext := range []bool{true, false} {
			f, path := newFile(t)
			add(t, f, "zoe", "cows")
			before := contents(t, path)
			text := "alice:$2y$05$" + bcrypt53 + "\ncarol:" + secret + "\nbob:$2y$05$" + bcrypt53 + "\n"
			_, err := f.Import(t.Context(), "users.txt", strings.NewReader(text), users.ImportOptions{Plaintext: plaintext})
			if err == nil || !strings.HasPrefix(err.Error(), "users.txt:2: ") || strings.Count(err.Error(), "users.txt:") != 1 {
				t.Errorf("%s: %v, want one error, of line 2", what, err)
				continue
			}
			if len(secret) > 6 && strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), bcrypt53[:20]) || strings.Contains(err.Error(), hex32[:20]) {
				t.Errorf("%s: the text is in %v", what, err)
			}
			if contents(t, path) != before {
				t.Errorf("%s: the file was changed", what)
			}
		}
	}
}

// Lines of other files that have the form name:password are no users.
func TestImportTakesNoLineOfAnotherFormat(t *testing.T) {
	for _, line := range []string{
		`"carol:cows"`, `'carol':cows`, `"carol": "cows",`, "- carol:cows", "- \"carol:$$2y$$05$$x\"", "username:password", "User:Password", "dn: cn=carol,dc=example", "userPassword:: e1NTSEF9", "version: '3'", "carol,cows", "carol cows", "carol\tcows",
		`{"carol":"cows"}`, "\x1f\x8b\x08:x", "c\x00a\x00:\x00c\x00",
	} {
		f, path := newFile(t)
		_, err := f.Import(t.Context(), "users.txt", strings.NewReader("alice:cows\n"+line+"\n"), users.ImportOptions{Plaintext: true})
		if err == nil || !strings.HasPrefix(err.Error(), "users.txt:2: ") || strings.Contains(err.Error(), "cows") {
			t.Errorf("%q: %v, want an error of line 2", line, err)
		}
		if f := open(t, path); len(f.List()) != 0 {
			t.Errorf("%q: %v were added", line, f.List())
		}
	}
}

// Without --plaintext only hashes are taken.
func TestImportTakesPasswordsOnlyIfToldTo(t *testing.T) {
	const text = "alice:cows and cows\nbob:$2y$05$" + bcrypt53 + "\n"
	f, path := newFile(t)
	began := ""
	o := users.ImportOptions{Begin: func(passwords, hashes int) {
		began = fmt.Sprint(passwords, " ", hashes, " ", len(open(t, path).List()))
	}}
	_, err := f.Import(t.Context(), "users.txt", strings.NewReader(text), o)
	if err == nil || !strings.HasPrefix(err.Error(), "users.txt:1: ") || !strings.Contains(err.Error(), "--plaintext") || began != "" || len(f.List()) != 0 {
		t.Errorf("%v, began %q", err, began)
	}
	o.Plaintext = true
	if _, err := f.Import(t.Context(), "users.txt", strings.NewReader(text), o); err != nil || began != "1 1 0" {
		t.Errorf("%v, began %q, want one password and one hash, before any user is there", err, began)
	}
	check(t, f, "alice", "cows and cows", nil)
}

// Hashes of argon2id let their users in, with any parameters within the limits.
func TestImportArgon2id(t *testing.T) {
	for _, quote := range []string{"", `"`, "'"} {
		other, from := newFile(t)
		other.UseParams(64, 3)
		add(t, other, "x", "cows and dogs")
		_, hash, _ := strings.Cut(contents(t, from), `"hash":"`)
		hash, _, _ = strings.Cut(hash, `"`)
		f, path := newFile(t)
		all, err := f.Import(t.Context(), "users.txt", strings.NewReader("alice:"+quote+hash+quote+"\r\n"), users.ImportOptions{})
		if err != nil || all[0].Hash != "argon2id" || all[0].Clear || !strings.Contains(contents(t, path), `"`+hash+`"`) {
			t.Fatalf("%s: %+v, %v", hash, all, err)
		}
		check(t, f, "alice", "cows and goats", users.ErrInvalid)
		check(t, f, "alice", hash, users.ErrInvalid)
		check(t, f, "alice", "cows and dogs", nil)
	}
	for params, want := range map[string]string{
		"m=1048577,t=1,p=1": "m is", "m=65536,t=17,p=1": "t is", "m=65536,t=0,p=1": "t is", "m=65536,t=1,p=17": "p is", "m=8,t=1,p=2": "m is", "m=4,t=1,p=1": "m is",
	} {
		f, _ := newFile(t)
		line := "alice:$argon2id$v=19$" + params + "$c2FsdHNhbHRzYWx0c2FsdA$" + strings.TrimSuffix(base32, "=")
		if _, err := f.Import(t.Context(), "users.txt", strings.NewReader(line), users.ImportOptions{}); err == nil || !strings.HasPrefix(err.Error(), "users.txt:1: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", params, err, want)
		}
	}
}

const authelia = `---
# the users of Authelia
users:
  alice:
    disabled: false
    displayname: 'Alice A.'
    password: 'HASH'  # cows
    email: alice@example.com
    groups: [admins, dev]
  Bob:
    disabled: true
    displayname: "Bob"
    password: "$2y$05$` + bcrypt53 + `"
    given_name: Bob
    extra:
      a: {b: c}
`

// A users file of Authelia is understood as far as Signet has the same; a fault is named by
// its line.
func TestImportAuthelia(t *testing.T) {
	good := strings.Replace(authelia, "HASH", goodHash, 1)
	for _, text := range []string{good, "\ufeff" + good, strings.ReplaceAll(good, "\n", "\r\n")} {
		f, path := newFile(t)
		all, err := f.Import(t.Context(), "users.yml", strings.NewReader(text), users.ImportOptions{Scopes: []string{"read"}})
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		list := open(t, path).List()
		for i := range list {
			list[i].Version, list[i].Updated = "", 0
		}
		want := []users.Account{
			{User: users.User{Subject: "alice", Name: "alice", Email: "alice@example.com", DisplayName: "Alice A.", Scopes: []string{"read"}}},
			{User: users.User{Subject: "bob", Name: "bob", DisplayName: "Bob", Scopes: []string{"read"}}, Disabled: true},
		}
		if diff := cmp.Diff(want, list); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := contents(t, path); !strings.Contains(got, goodHash) || !strings.Contains(got, bcrypt53) {
			t.Errorf("the file is\n%s", got)
		}
	}
	for what, c := range map[string]struct {
		old, new string
		line     int
		want     string
	}{
		"crypt":             {"HASH", "$6$rounds=50000$salt$0123", 4, "hash of crypt"},
		"pbkdf2":            {"HASH", "$pbkdf2-sha512$310000$c2FsdA$0123", 4, "another kind"},
		"clear":             {"HASH", "kanarienvogel", 4, "no hash"},
		"variable":          {"HASH", "${PASSWORD}", 4, "variable"},
		"no password":       {"    password: 'HASH'  # cows\n", "", 4, "no member password"},
		"two passwords":     {"    disabled: false\n", "    password: '" + goodHash + "'\n", 4, "twice"},
		"same user":         {"  Bob:", "  ALICE:", 10, "same user as in line 4"},
		"disabled":          {"disabled: false", "disabled: maybe", 4, "neither true nor false"},
		"unknown member":    {"disabled: false", "kanarienvogel: x", 4, "line 5"},
		"alias":             {"'HASH'", "*x", 0, "not YAML"},
		"anchor":            {"  Bob:\n", "  x: &x {password: '" + goodHash + "'}\n  y: *x\n  Bob:\n", 11, "alias"},
		"merge":             {"    disabled: false\n", "    <<: {password: x}\n", 4, "alias"},
		"syntax":            {"'Alice A.'", "'kanarienvogel", 0, "not YAML"},
		"line of syntax":    {"disabled: false", "disabled: @", 5, "not YAML"},
		"no user":           {"  alice:\n", "  alice: kanarienvogel\n  carol:\n", 4, "no member password"},
		"list":              {"email: alice@example.com", "email: [a, b]", 4, "not one value"},
		"control character": {"'Alice A.'", `"a\e[2J"`, 4, "control"},
		"bad name":          {"  Bob:", `  "b\0":`, 10, "control"},
		"another member":    {"users:\n", "other: x\nusers:\n", 3, "nothing beside"},
		"another document":  {"    extra:", "---\nx:", 1, "more than one"},
	} {
		f, path := newFile(t)
		text := strings.Replace(authelia, c.old, c.new, 1)
		if text == authelia {
			t.Fatalf("%s changes nothing", what)
		}
		text = strings.Replace(text, "HASH", goodHash, 1)
		for _, plaintext := range []bool{true, false} {
			_, err := f.Import(t.Context(), "users.yml", strings.NewReader(text), users.ImportOptions{Plaintext: plaintext})
			if err == nil || !strings.HasPrefix(err.Error(), "users.yml:") || c.line > 0 && !strings.Contains(err.Error(), fmt.Sprintf("users.yml:%d: ", c.line)) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "kanarien") {
				t.Errorf("%s: %v, want line %d and %q", what, err, c.line, c.want)
			}
			if len(open(t, path).List()) != 0 {
				t.Errorf("%s: users were added", what)
			}
		}
	}
}

func FuzzImportYAML(f *testing.F) {
	f.Add(authelia)
	f.Add("users:\n  a: &x {password: b}\n  c: *x\n")
	f.Add("users:\n  <<: [*a]\n? [x]\n: y\n--- !!binary x\n...\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, passwords, err := users.ParseImport([]byte("users:\n" + text))
		if err != nil {
			return
		}
		for i, u := range all {
			if u.Clear || passwords[i] != "" || u.Hash != "bcrypt" && u.Hash != "argon2id" {
				t.Errorf("%q has a password in clear: %+v", text, u)
			}
		}
	})
}
