package pages

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"strings"
)

// Limits of a logo: its size in bytes, and its width and height in pixels.
const (
	maxLogo   = 256 << 10
	maxPixels = 4096
)

// Asset is a file that is served as it is.
type Asset struct {
	Body       []byte
	Type, ETag string
	Policy     string // Content-Security-Policy, for a browser that opens it as a document
}

// readLogo reads the operator's logo, or gives the built-in mark its colour. The
// content of the file decides its type, not the name.
func readLogo(path, accent string) (Asset, error) {
	if path == "" {
		b, err := files.ReadFile("mark.svg")
		if err != nil {
			return Asset{}, err
		}
		c, err := parseColor(accent)
		if err != nil {
			return Asset{}, err
		}
		b = bytes.ReplaceAll(b, []byte(defaultColor), []byte(c.String()))
		return newAsset(bytes.ReplaceAll(b, []byte("#ffffff"), []byte(c.ink().String())), "image/svg+xml"), nil
	}
	b, err := readFile(path, maxLogo)
	if err != nil {
		return Asset{}, err
	}
	if bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")) {
		config, err := png.DecodeConfig(bytes.NewReader(b))
		if err != nil {
			return Asset{}, fmt.Errorf("%s is a damaged PNG file: %w", path, err)
		}
		if config.Width > maxPixels || config.Height > maxPixels {
			return Asset{}, fmt.Errorf("%s is larger than %d pixels", path, maxPixels)
		}
		return newAsset(b, "image/png"), nil
	}
	if err := checkSVG(b); err != nil {
		return Asset{}, fmt.Errorf("%s is neither PNG nor SVG: %w", path, err)
	}
	return newAsset(b, "image/svg+xml"), nil
}

func newAsset(b []byte, contentType string) Asset {
	hash := sha256.Sum256(b)
	return Asset{
		Body: b, Type: contentType, ETag: `"` + base64.RawURLEncoding.EncodeToString(hash[:12]) + `"`,
		Policy: "default-src 'none'; style-src 'unsafe-inline'",
	}
}

// checkSVG accepts well-formed documents whose root is svg. Scripts in them would run
// neither in an image nor under the policy; they are refused so that the operator
// learns of them.
func checkSVG(b []byte) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	root := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) && root {
			return nil
		}
		if err != nil {
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if !root && (start.Name.Local != "svg" || start.Name.Space != "http://www.w3.org/2000/svg") {
			return fmt.Errorf("its root element is %s, not svg of http://www.w3.org/2000/svg", start.Name.Local)
		}
		root = true
		if err := checkElement(start); err != nil {
			return err
		}
	}
}

func checkElement(e xml.StartElement) error {
	if strings.EqualFold(e.Name.Local, "script") {
		return errors.New("it has a script")
	}
	for _, a := range e.Attr {
		if strings.HasPrefix(strings.ToLower(a.Name.Local), "on") {
			return fmt.Errorf("it has a script in the attribute %s", a.Name.Local)
		}
	}
	return nil
}
