package gatewayconfig_test

import (
	"errors"
	"strings"
	"testing"

	"signet/internal/gatewayconfig"
)

func TestPinsAreWrittenIntoTheFile(t *testing.T) {
	pins := gatewayconfig.Pins{"a": {"on": "1e5", "x:y": "02"}, "c": {}}
	for name, files := range map[string][2]string{
		"new, in the order of names": {
			"# all of them\nservers:\n  - id: a # the first\n    type: http\n  - id: b\n    pins: {z: '1'}\n  - type: stdio\n    id: \"c\"\nrouting: {}\n",
			"# all of them\nservers:\n  - id: a # the first\n    pins:\n      \"on\": \"1e5\"\n      \"x:y\": \"02\"\n    type: http\n  - id: b\n    pins: {z: '1'}\n  - type: stdio\n    id: \"c\"\n    pins: {}\nrouting: {}\n",
		},
		"in place of others": {
			"servers:\n- id: a\n  pins: # reviewed\n    old: '1'\n\n    older: '2'\n  # of the type\n  type: http\n- id: c\n  pins: {q: '1',\n    r: '2'}\n- id: a\n  weight: 2\n",
			"servers:\n- id: a\n  pins:\n    \"on\": \"1e5\"\n    \"x:y\": \"02\"\n  # of the type\n  type: http\n- id: c\n  pins: {}\n- id: a\n  weight: 2\n",
		},
		"at the end, without a line end": {
			"servers:\n  - type: http\n    id: c\n  - id: a",
			"servers:\n  - type: http\n    id: c\n    pins: {}\n  - id: a\n    pins:\n      \"on\": \"1e5\"\n      \"x:y\": \"02\"\n",
		},
		"with line ends of Windows": {
			"servers:\r\n  - id: a\r\n  - id: c\r\n",
			"servers:\r\n  - id: a\r\n    pins:\r\n      \"on\": \"1e5\"\r\n      \"x:y\": \"02\"\r\n  - id: c\r\n    pins: {}\r\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pins.Write([]byte(files[0]))
			if err != nil || string(got) != files[1] {
				t.Fatalf("error %v\n%s\nwant\n%s", err, got, files[1])
			}
			again, err := pins.Write(got)
			if err != nil || string(again) != files[1] {
				t.Errorf("a second time: error %v\n%s", err, again)
			}
		})
	}
}

func TestPinsThatMustBeAddedByHand(t *testing.T) {
	pins := gatewayconfig.Pins{"a": {"x": "1"}}
	for name, text := range map[string]string{
		"JSON":            `{"servers": [{"id": "a"}]}`,
		"braces":          "servers:\n  - {id: a, type: http}\n",
		"a list in line":  "servers: [{id: a}]\n",
		"a brace below":   "servers:\n- id: a\n  pins: {q: '1'\n  }\n",
		"an id in a fold": "servers:\n- id: >-\n    a\n  type: http\n",
	} {
		if got, err := pins.Write([]byte(text)); !errors.Is(err, gatewayconfig.ErrByHand) {
			t.Errorf("%s: error %v\n%s", name, err, got)
		}
	}
	if _, err := pins.Write([]byte("servers:\n- id: b\n")); err == nil || !strings.Contains(err.Error(), "server a is not in the file") {
		t.Errorf("a server that is not there: error %v", err)
	}
}
