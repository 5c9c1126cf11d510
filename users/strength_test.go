package users_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"signet/users"
)

func TestCheckPassword(t *testing.T) {
	own := []string{"alice", "alice.liddell@wonder.example", "Alice Liddell", "My Tools"}
	for _, password := range []string{
		"correct horse battery staple", "correct horse battery", "correct horse alice", "another good password", "purple monkey dishwasher",
		"xk9!mQ2z", "kanarienvogel", "tr0ub4dor&3x", "жуткий бегемот на даче", "🐄🐎🐖🐑🐐🐓🦆🐈", "Zx8#kqPv", strings.Repeat("quite long words ", 60),
		" spaces around it ", "\x00\x01binary\x7f!",
	} {
		if err := users.CheckPassword(password, own...); err != nil {
			t.Errorf("%q: %v", password, err)
		}
	}
	for password, want := range map[string]string{
		"":                             "fewer than 8",
		"xk9!mQ2":                      "fewer than 8",
		"🐄🐄🐄🐄":                         "fewer than 8", // 16 bytes
		"xk9!mQ2z\xff":                 "UTF-8",
		strings.Repeat("x", 1025):      "1024 bytes",
		"password":                     "common passwords",
		"iloveyou":                     "common passwords",
		"P4ssw0rd":                     "common passwords",
		"passw0rd123":                  "common passwords",
		"trustno1!":                    "common passwords",
		"Summer2024!":                  "common passwords",
		"monkeydragon":                 "common passwords",
		"correcthorse":                 "common passwords",
		"Elisabeth":                    "common passwords",
		"changeme1!":                   "common passwords",
		"alice2024!":                   "too easy",
		"4l1c3l1dd3ll":                 "your name",
		"aliceliddell1":                "your name",
		"wonderwonder":                 "too easy",
		"alice.liddell@wonder.example": "your name",
		"MyTools2024":                  "too easy",
		"my tools 1":                   "name of this service",
		"abcdefgh":                     "neighbours",
		"hgfedcba":                     "neighbours",
		"qwertyuiop":                   "too easy",
		"poiuytrewq":                   "neighbours",
		"asdfghjkl;'":                  "neighbours",
		"1qaz2wsx3edc":                 "neighbours",
		"12345678":                     "too easy",
		"9876543210":                   "neighbours",
		"aaaaaaaaaaaa":                 "repeats",
		"xyzzxyzzxyzz":                 "repeats",
		strings.Repeat("q7", 500):      "repeats",
		strings.Repeat("Ab1", 25):      "repeats",
		"01011980":                     "too easy",
		"19841984":                     "too easy",
		"84739201":                     "too few different characters",
	} {
		err := users.CheckPassword(password, own...)
		var refused users.PasswordError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want a PasswordError with %q", password, err, want)
		}
	}
}

// What a guesser knows about the user makes the same password weaker.
func TestCheckPasswordKnowsTheUser(t *testing.T) {
	const password = "zaphodbeeblebrox"
	if err := users.CheckPassword(password, "alice"); err != nil {
		t.Errorf("for alice: %v", err)
	}
	for _, words := range [][]string{{"zaphod", "", "Zaphod Beeblebrox"}, {"Zaphod.Beeblebrox@example.com"}, {"ZAPHODBEEBLEBROX"}} {
		if err := users.CheckPassword(password, words...); err == nil {
			t.Errorf("for %q it is good enough", words)
		}
	}
}

// Setting a password is as cheap as its hash, whatever the password.
func TestCheckPasswordIsBounded(t *testing.T) {
	users.CheckPassword("unpack the lists")
	for _, unit := range []string{"4@8({[<369!1|i0$5+7%2", "a", "aA", "1", "abc", "password", "é", "🐄", "\u0130", "I\u0307"} {
		password := strings.Repeat(unit, 1024/len(unit))
		shortest := time.Hour
		for range 5 {
			begin := time.Now()
			users.CheckPassword(password, strings.Repeat("x", 10000), password)
			shortest = min(shortest, time.Since(begin))
		}
		if shortest > 100*time.Millisecond {
			t.Errorf("%q…: %v", unit, shortest)
		}
	}
}

func FuzzCheckPassword(f *testing.F) {
	for _, s := range []string{"password", "Tr0ub4dor&3", "aaaaaaaaa", "\u0130stanbul", "ẞßẞßẞßẞß", "1234\xff5678", "4@8({[<369!1|i0$5+7%2", "xyzxyzxyz", "20242024", "🐄🐄🐄🐄🐄🐄🐄🐄"} {
		f.Add(s, "alice")
	}
	f.Fuzz(func(t *testing.T, password, name string) {
		err := users.CheckPassword(password, name)
		var refused users.PasswordError
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("%q: %v", password, err)
		}
		// The text is one of a few, so nothing of a password is in it.
		if len(password) >= 8 && strings.Contains(string(refused), password) && !strings.Contains(sayings, password) {
			t.Errorf("%q is in its own error", password)
		}
		// What a guesser knows makes no password stronger.
		if err != nil && users.CheckPassword(password, name, password, "other") == nil {
			t.Errorf("%q is better when the guesser knows it", password)
		}
		if len([]rune(password)) >= 8 && len(password) <= 24 && users.CheckPassword(password, password) == nil {
			t.Errorf("%q is good although it is the user's name", password)
		}
	})
}

const sayings = "the password is too easy to guess: it has too few different characters; it is little more than common passwords, words or names; " +
	"it is little more than your name, your e-mail address or the name of this service; it is little more than neighbours in the alphabet or on the keyboard; " +
	"it repeats itself; it is little more than a year or a date; take three or four words that have nothing to do with each other, or let a password manager make one; " +
	"the password has fewer than 8 characters; the password is longer than 1024 bytes; not UTF-8, so it cannot be typed on the login page"
