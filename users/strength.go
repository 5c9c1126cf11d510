package users

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/ccojocar/zxcvbn-go/data"
)

const (
	minPassword = 8   // characters
	maxScored   = 100 // characters that are checked; the work grows with their square
	minBits     = 27  // log2 of the guesses that a password must withstand: 10^8
	maxWord     = 24  // characters of the longest word looked up
	minWord     = 3   // of the shortest
	minRun      = 3   // characters of the shortest row of keys that counts

	pieceBits   = 1.0 // what a guesser pays for joining one more piece,
	leetBits    = 1.0 // for p4ssw0rd,
	capitalBits = 1.0 // for a capital in the usual place,
	yearBits    = 7.2 // for one of 150 years
)

// PasswordError says why a password may not be set, and which password would be better.
// It holds nothing of the password, so it may be shown.
type PasswordError string

func (e PasswordError) Error() string { return string(e) }

// CheckPassword applies the rules for a password that is about to be set; passwords that
// were set before need not follow them. words are what a guesser knows about the user
// and the program: names, the e-mail address. The error is a [PasswordError].
//
// There is no rule about kinds of characters: those make passwords like Summer2024!,
// which are guessed first (NIST SP 800-63B §3.1.1.2).
func CheckPassword(password string, words ...string) error {
	switch {
	case len(password) > MaxPassword:
		return ErrPasswordTooLong
	case !utf8.ValidString(password):
		return PasswordError("the password is not UTF-8, so it cannot be typed on the login page")
	case utf8.RuneCountInString(password) < minPassword:
		return PasswordError("the password has fewer than 8 characters; " + better)
	}
	bits, what := guess(password, words)
	if bits >= minBits {
		return nil
	}
	return PasswordError("the password is too easy to guess: " + what.String() + "; " + better)
}

const better = "take three or four words that have nothing to do with each other, or let a password manager make one"

// piece is what a guesser takes a part of a password for.
type piece int

const (
	letter piece = iota // a character by itself
	word
	own
	run
	again
	year
	pieces
)

func (p piece) String() string {
	return [pieces]string{
		letter: "it has too few different characters",
		word:   "it is little more than common passwords, words or names",
		own:    "it is little more than your name, your e-mail address or the name of this service",
		run:    "it is little more than neighbours in the alphabet or on the keyboard",
		again:  "it repeats itself",
		year:   "it is little more than a year or a date",
	}[p]
}

// rows are what fingers run along, in both directions.
var rows = strings.Fields(`abcdefghijklmnopqrstuvwxyz 0123456789 1234567890 qwertyuiop[] asdfghjkl;' zxcvbnm,./
	qwertzuiop yxcvbnm azertyuiop qsdfghjklm wxcvbn !@#$%^&*() 1qaz2wsx3edc4rfv5tgb6yhn7ujm 147258369 789456123`)

// leetI and leetL undo the spelling of p4ssw0rd; a 1 may be an i or an l.
var (
	leetI = strings.NewReplacer("4", "a", "@", "a", "3", "e", "1", "i", "!", "i", "|", "i", "0", "o", "5", "s", "$", "s", "7", "t", "+", "t")
	leetL = strings.NewReplacer("4", "a", "@", "a", "3", "e", "1", "l", "!", "i", "|", "l", "0", "o", "5", "s", "$", "s", "7", "t", "+", "t")
)

// guesser finds the cheapest way to put a password together from the pieces that
// people use. After k characters it costs best[k] bits, ending with a last[k] that
// begins at from[k].
type guesser struct {
	given, lower []rune
	spelt        [][]rune // lower, without leet
	own          map[string]bool
	best         []float64
	last         []piece
	from         []int
}

// guess returns how many bits of guessing a password takes at least, and the piece
// that covers most of it.
func guess(password string, words []string) (bits float64, mostly piece) {
	given := []rune(password)
	given = given[:min(len(given), maxScored)]
	g := &guesser{given: given, lower: make([]rune, len(given)), own: ownWords(words)}
	for i, r := range given {
		g.lower[i] = unicode.ToLower(r)
	}
	for _, spell := range []*strings.Replacer{leetI, leetL} {
		if s := []rune(spell.Replace(string(g.lower))); !slices.Equal(s, g.lower) && len(s) == len(g.lower) {
			g.spelt = append(g.spelt, s)
		}
	}
	n := len(given)
	g.best, g.last, g.from = make([]float64, n+1), make([]piece, n+1), make([]int, n+1)
	single := charBits(given)
	for k := 1; k <= n; k++ {
		g.best[k], g.last[k], g.from[k] = g.best[k-1]+single, letter, k-1
		g.words(k)
		g.rows(k)
		g.repeats(k)
		g.years(k)
	}
	var covers [pieces]int
	for k := n; k > 0; k = g.from[k] {
		covers[g.last[k]] += k - g.from[k]
		if covers[g.last[k]] > covers[mostly] {
			mostly = g.last[k]
		}
	}
	return g.best[n], mostly
}

// offer notes that the characters from i to k are a piece of that many bits.
func (g *guesser) offer(p piece, i, k int, bits float64) {
	if bits += g.best[i] + pieceBits; bits < g.best[k] {
		g.best[k], g.last[k], g.from[k] = bits, p, i
	}
}

func (g *guesser) words(k int) {
	for i := max(0, k-maxWord); i <= k-minWord; i++ {
		bits := capitals(g.given[i:k])
		g.lookUp(g.lower, i, k, bits)
		for _, s := range g.spelt {
			g.lookUp(s, i, k, bits+leetBits)
		}
	}
}

func (g *guesser) lookUp(text []rune, i, k int, bits float64) {
	w := string(text[i:k])
	if g.own[w] {
		g.offer(own, i, k, bits)
	} else if rank, ok := common()[w]; ok {
		g.offer(word, i, k, bits+math.Log2(float64(rank)))
	}
}

func (g *guesser) rows(k int) {
	for _, row := range rows {
		for _, step := range []int{1, -1} {
			at, i := -1, k
			for i > 0 { // backwards from the last character
				here := strings.IndexRune(row, g.lower[i-1])
				if here < 0 || at >= 0 && at-here != step {
					break
				}
				at, i = here, i-1
			}
			bits := 6 + math.Log2(float64(k-i))
			if at == 0 || at == len(row)-1 {
				bits -= 3 // people begin where the row begins
			}
			if k-i >= minRun {
				g.offer(run, i, k, bits+capitals(g.given[i:k]))
			}
		}
	}
}

func (g *guesser) repeats(k int) {
	for size := 1; 2*size <= k; size++ {
		block := g.lower[k-size : k]
		for i, times := k-2*size, 2.0; i >= 0 && slices.Equal(g.lower[i:i+size], block); i, times = i-size, times+1 {
			if k-i >= minRun {
				once := max(1, g.best[i+size]-g.best[i])
				g.offer(again, i, k, once+math.Log2(times))
			}
		}
	}
}

func (g *guesser) years(k int) {
	if k < 4 || !isDigit(g.lower[k-2]) || !isDigit(g.lower[k-1]) {
		return
	}
	if y := string(g.lower[k-4 : k]); y >= "1900" && y < "2050" {
		g.offer(year, k-4, k, yearBits)
	}
}

// kinds are the characters that a guesser tries together.
var kinds = []struct {
	count float64
	has   func(rune) bool
}{
	{10, isDigit},
	{26, func(r rune) bool { return r >= 'a' && r <= 'z' }},
	{26, func(r rune) bool { return r >= 'A' && r <= 'Z' }},
	{33, func(r rune) bool { return r < utf8.RuneSelf && !isDigit(r) && !unicode.IsLetter(r) }},
	{100, func(r rune) bool { return r >= utf8.RuneSelf }},
}

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

// charBits is what one character costs a guesser who tries all of the kinds in use.
func charBits(password []rune) float64 {
	n := 0.0
	for _, k := range kinds {
		if slices.ContainsFunc(password, k.has) {
			n += k.count
		}
	}
	return math.Log2(n)
}

// capitals is what the capitals of a piece cost: little at its beginning or all
// through it.
func capitals(piece []rune) float64 {
	n := 0
	for _, r := range piece {
		if unicode.IsUpper(r) {
			n++
		}
	}
	switch {
	case n == 0:
		return 0
	case n == len(piece), n == 1 && unicode.IsUpper(piece[0]):
		return capitalBits
	}
	return capitalBits + float64(min(n, len(piece)-n))
}

// ownWords takes names and addresses to pieces.
func ownWords(texts []string) map[string]bool {
	own := map[string]bool{}
	for _, t := range texts {
		t = strings.ToLower(t)
		for _, w := range append(strings.FieldsFunc(t, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }), t) {
			if utf8.RuneCountInString(w) >= minWord {
				own[w] = true
			}
		}
	}
	return own
}

// common returns the ranks of common passwords, words and names. The lists are
// zxcvbn's; its estimate is not used: importing it takes 40 ms and 6 MiB of every
// start, and 100 characters made for it take it seconds. So the lists are unpacked
// when the first password is set, in some 40 ms, and take 2 MiB from then on.
var common = sync.OnceValue(func() map[string]uint16 {
	ranks := map[string]uint16{}
	add := func(words []string) {
		for i, w := range words {
			if rank := uint16(min(i+1, math.MaxUint16)); len(w) >= minWord && (ranks[w] == 0 || rank < ranks[w]) {
				ranks[w] = rank
			}
		}
	}
	for name, most := range map[string]int{"Passwords": 10e3, "English": 40e3, "FemaleNames": 10e3, "MaleNames": 10e3, "Surnames": 10e3} {
		var list struct{ List []string }
		text, err := data.Asset("data/" + name + ".json")
		if err == nil {
			err = json.Unmarshal(text, &list)
		}
		if err != nil {
			panic(err) // part of the program
		}
		add(list.List[:min(most, len(list.List))])
	}
	add(strings.Fields(`passwort kennwort geheim changeme changeit default administrator welcome willkommen hallo
		login oauth contraseña motdepasse wachtwoord parola heslo senha hasło пароль`))
	return ranks
})
