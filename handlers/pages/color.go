package pages

import (
	"encoding/hex"
	"fmt"
	"math"
)

// defaultColor is the accent if the operator has not chosen one.
const defaultColor = "#1f6f5c"

// color is an sRGB colour.
type color [3]uint8

// The surfaces of style.css on which the accent appears, and the possible colours of
// text on the accent.
var (
	lightCard, darkCard = color{0xff, 0xff, 0xff}, color{0x1b, 0x20, 0x1e}
	white, black        = color{0xff, 0xff, 0xff}, color{0x00, 0x00, 0x00}
)

// The contrast that WCAG 2.2 demands of text (1.4.3) and of the shape of controls
// (1.4.11).
const (
	textContrast  = 4.5
	shapeContrast = 3.0
)

func parseColor(s string) (color, error) {
	if s == "" {
		s = defaultColor
	}
	var c color
	if len(s) != 7 || s[0] != '#' {
		return c, fmt.Errorf("colour %q is not of the form #rrggbb", s)
	}
	if _, err := hex.Decode(c[:], []byte(s[1:])); err != nil {
		return c, fmt.Errorf("colour %q is not of the form #rrggbb", s)
	}
	return c, nil
}

func (c color) String() string { return "#" + hex.EncodeToString(c[:]) }

// luminance is WCAG's relative luminance.
func (c color) luminance() float64 {
	linear := func(v uint8) float64 {
		s := float64(v) / 255
		if s <= 0.04045 {
			return s / 12.92
		}
		return math.Pow((s+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(c[0]) + 0.7152*linear(c[1]) + 0.0722*linear(c[2])
}

// contrast is WCAG's contrast ratio, from 1 to 21.
func contrast(a, b color) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// towards returns c with a share of other mixed in.
func (c color) towards(other color, share float64) color {
	var mixed color
	for i := range c {
		mixed[i] = uint8(math.Round(float64(c[i])*(1-share) + float64(other[i])*share))
	}
	return mixed
}

// legible returns c, moved towards ink as little as possible until it has the wanted
// contrast on the surface.
func (c color) legible(surface, ink color, want float64) color {
	for share := 0.0; share < 1; share += 0.02 {
		if m := c.towards(ink, share); contrast(m, surface) >= want {
			return m
		}
	}
	return ink
}

// ink is black or white, whichever is easier to read on c.
func (c color) ink() color {
	if contrast(c, white) >= contrast(c, black) {
		return white
	}
	return black
}

// accentStyle is the end of the style sheet: the operator's colour as a fill, as text,
// and the text colour on the fill, all readable in both themes.
func accentStyle(s string) (string, error) {
	accent, err := parseColor(s)
	if err != nil {
		return "", err
	}
	vars := func(fill, text color) string {
		return fmt.Sprintf("--accent: %s; --on-accent: %s; --link: %s;", fill, fill.ink(), text)
	}
	light := vars(accent, accent.legible(lightCard, black, textContrast+.3)) // links also stand on tinted ground
	dark := vars(accent.legible(darkCard, white, shapeContrast), accent.legible(darkCard, white, textContrast+1))
	return ":root { " + light + " }\n@media (prefers-color-scheme: dark) { :root { " + dark + " } }\n", nil
}
