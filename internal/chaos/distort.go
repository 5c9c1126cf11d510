package chaos

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// distort writes an answer in another form that means the same.
func distort(w http.ResponseWriter, a *captured, d dice, path string) {
	maps.Copy(w.Header(), a.header)
	body := a.body.Bytes()
	if object, err := parseObject(body); err == nil {
		body = object.distorted(d, path)
		w.Header().Set("Content-Type", []string{"application/json", "application/json;charset=UTF-8", "application/json; charset=utf-8"}[d.IntN(3)])
		w.Header().Del("Content-Length")
		w.Header().Del("Etag")
	}
	w.WriteHeader(a.status)
	w.Write(body)
}

// object is a JSON object with unparsed values.
type object map[string]json.RawMessage

func parseObject(body []byte) (o object, err error) {
	err = json.Unmarshal(body, &o)
	if o == nil && err == nil {
		err = errors.New("null")
	}
	return o, err
}

// distorted returns the text of the object with its members in another order, other
// whitespace, and unknown members.
func (o object) distorted(d dice, path string) []byte {
	if strings.HasSuffix(path, "/readyz") {
		o["chaos"] = json.RawMessage(`"on"`)
		return o.format(d)
	}
	o.addUnknown(d)
	if _, ok := o["token_type"]; ok {
		o["token_type"] = json.RawMessage([]string{`"Bearer"`, `"bearer"`, `"BEARER"`}[d.IntN(3)])
	}
	var keys []object
	if strings.HasSuffix(path, "/jwks.json") && json.Unmarshal(o["keys"], &keys) == nil {
		o["keys"] = distortedKeys(keys, d)
	}
	return o.format(d)
}

// addUnknown adds members that a client must ignore (RFC 6749 §5.1, RFC 8414 §3.2, RFC 7517 §4).
func (o object) addUnknown(d dice) {
	for range 1 + d.IntN(3) {
		values := []string{`"?"`, `null`, `-1.5e3`, `true`, `[]`, `{"a":[{"b":null}]}`, `"☂ \u0000 \"</script>"`}
		o[fmt.Sprintf("x_chaos_%d", d.IntN(1000))] = json.RawMessage(values[d.IntN(len(values))])
	}
}

func (o object) format(d dice) []byte {
	names := slices.Sorted(maps.Keys(o))
	d.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	space := func() string { return []string{"", " ", "\n", "\t ", "\r\n  "}[d.IntN(5)] }
	var b bytes.Buffer
	b.WriteString(space() + "{")
	for i, name := range names {
		if i > 0 {
			b.WriteString(",")
		}
		quoted, _ := json.Marshal(name) // never fails for a string
		b.WriteString(space())
		b.Write(quoted)
		b.WriteString(space() + ":" + space())
		b.Write(o[name])
		b.WriteString(space())
	}
	b.WriteString("}" + space())
	return b.Bytes()
}

// distortedKeys adds keys of other kinds, which a verifier must ignore (RFC 7517 §5), and
// changes the order of the keys.
func distortedKeys(keys []object, d dice) json.RawMessage {
	number := func(bytes int) string {
		b := make([]byte, bytes)
		for i := range b {
			b[i] = byte(d.Uint32()) | 1
		}
		b[0] |= 0x80
		return base64.RawURLEncoding.EncodeToString(b)
	}
	for _, text := range []string{
		fmt.Sprintf(`{"kty":"RSA","use":"enc","alg":"RSA-OAEP-256","kid":"chaos-rsa-%d","n":%q,"e":"AQAB"}`, d.IntN(100), number(256)),
		fmt.Sprintf(`{"kty":"OKP","crv":"X25519","use":"enc","alg":"ECDH-ES","kid":"chaos-okp-%d","x":%q}`, d.IntN(100), number(32)),
		fmt.Sprintf(`{"kty":"CHAOS","kid":"chaos-%d"}`, d.IntN(100)),
	} {
		if o, err := parseObject([]byte(text)); err == nil && d.of100(80) {
			keys = append(keys, o)
		}
	}
	d.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	list := make([][]byte, len(keys))
	for i, k := range keys {
		k.addUnknown(d)
		list[i] = k.format(d)
	}
	return slices.Concat([]byte("["), bytes.Join(list, []byte(",")), []byte("]"))
}
