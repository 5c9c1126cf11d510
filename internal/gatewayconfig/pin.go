package gatewayconfig

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
)

// Pin returns the hash by which an operator pins a tool: of everything that a model or a client
// reads of it, which is all of the tool in tools/list except for _meta. The order of members and
// white space do not count.
func Pin(tool json.RawMessage) (string, error) {
	var members map[string]any
	d := json.NewDecoder(bytes.NewReader(tool))
	d.UseNumber() // 1 and 1.0 are different texts, and long numbers stay exact
	if err := d.Decode(&members); err != nil || members == nil {
		return "", errors.New("the tool is not a JSON object")
	}
	delete(members, "_meta")
	canonical, err := json.Marshal(members) // with sorted keys
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:]), nil
}
