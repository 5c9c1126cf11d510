package gatewayconfig_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/gatewayconfig"
)

const (
	document   = "../../docs/gateway-config.md"
	tableBegin = "<!-- begin of the members, written by go test -run TestReference ./internal/gatewayconfig -update -->\n"
	tableEnd   = "<!-- end of the members -->"
)

var update = flag.Bool("update", false, "write the table of members into the document")

// table returns the members of the file as a table for the document.
func table() string {
	var b strings.Builder
	b.WriteString("| member | form | default | meaning |\n|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;")
	for _, row := range gatewayconfig.Reference() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", row.Path, row.Form, cell.Replace(row.Default), cell.Replace(row.Meaning))
	}
	return b.String()
}

// The table in the document is made from the members that the reader knows.
func TestReference_Row91(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	got, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around the members", document)
	}
	if *update {
		if err := os.WriteFile(document, []byte(before+tableBegin+table()+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table(), got); diff != "" {
		t.Errorf("run go test -run %s ./internal/gatewayconfig -update (-want +got):\n%s", t.Name(), diff)
	}
}

// Each file that the document shows has no fault.
func TestFilesInTheDocument_Row91(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 3 {
		t.Errorf("%s has %d examples of files", document, len(examples))
	}
	for _, example := range examples {
		if _, err := gatewayconfig.Parse([]byte(example[1]), gatewayconfig.Options{
			Environ: func(name string) (string, bool) {
				return "x", regexp.MustCompile("_(TOKEN|SECRET|ID)$").MatchString(name)
			},
			Decrypt: func(string) (gatewayconfig.Sealed, error) { return gatewayconfig.Sealed{Value: "x"}, nil },
		}); err != nil {
			t.Errorf("%v\n%s", err, example[1])
		}
	}
}

// The schema is JSON, and says what the reader refuses and needs.
func TestSchema_Row73(t *testing.T) {
	type node struct {
		Type                 any
		Enum                 []string
		Description          string
		Required             []string
		Properties           map[string]json.RawMessage
		AdditionalProperties json.RawMessage
		Items                json.RawMessage
	}
	read := func(text json.RawMessage) (n node) {
		if err := json.Unmarshal(text, &n); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		return n
	}
	root := read(gatewayconfig.Schema())
	if diff := cmp.Diff([]string{"servers"}, root.Required); diff != "" {
		t.Errorf("required members: -want +got:\n%s", diff)
	}
	server := read(read(root.Properties["servers"]).Items)
	if diff := cmp.Diff([]string{"id", "type", "auth_strategy"}, server.Required); diff != "" {
		t.Errorf("required members of a server: -want +got:\n%s", diff)
	}
	if n := read(server.Properties["type"]); n.Type != "string" || len(n.Enum) != 7 {
		t.Errorf("type is %+v", n)
	}
	if n := read(server.Properties["timeout"]); !strings.HasSuffix(n.Description, "(default: 60s)") {
		t.Errorf("timeout is %+v", n)
	}
	for name, n := range map[string]node{"the file": root, "a server": server, "config": read(server.Properties["config"]), "auth_config": read(server.Properties["auth_config"])} {
		if string(n.AdditionalProperties) != "false" {
			t.Errorf("%s may have unknown members: %s", name, n.AdditionalProperties)
		}
	}
}
