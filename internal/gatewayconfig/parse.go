package gatewayconfig

import (
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

// Fault is a fault of a configuration: the error of [Parse] joins them. It quotes no value, because
// there may be a secret.
type Fault = configfile.Fault

// Part says which secrets a process needs. Secrets of the other part need not be there.
type Part int

// The parts of a configuration.
const (
	Whole      Part = iota
	ForIssuer       // the connections, and what the servers are called
	ForGateway      // the servers, and what the connections are called
)

// Options are what a file does not say. The zero value refuses values that stand elsewhere.
type Options struct {
	Environ    func(name string) (string, bool)
	Decrypt    func(text string) (Sealed, error) // opens a value that begins with enc:
	Part       Part
	Flags      []string // dotted, such as --hosting.port=4000; they win over everything
	Dir        string   // of the file; paths in it are relative to Dir
	Strategies []string // that the program has registered
	Resources  []string // of the process; nil: not known, so passthrough is not checked
}

// reader reads the nodes of a configuration.
type reader struct {
	configfile.Reader
	Options

	keyVariable string // with the key of values that begin with enc:gcm:

	at    map[string]*yaml.Node // where each value stands, by its path
	bad   map[string]bool       // paths of values with faults
	paths map[string]string     // of the first entry of servers, by id
	table map[*Connection]bool  // connections of oauth_delegation.providers

	absent   map[*yaml.Node]bool // values that stand elsewhere, are not there, and need not be
	hidden   []string            // values from elsewhere in places that are not of type Secret
	warnings []string
	sealed   []sealedValue
}

// Load reads the configuration file at path. Relative paths in it are relative to its directory.
func Load(path string, o Options) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		o.Dir = filepath.Dir(path)
	}
	return Parse(text, o)
}

// Parse reads the text of a configuration in YAML or JSON. Variables that begin with MASTER_ win
// over it, and flags over both. Its error joins all faults, each a [*Fault].
func Parse(text []byte, o Options) (*Config, error) {
	r := &reader{
		Options: o, absent: map[*yaml.Node]bool{}, at: map[string]*yaml.Node{}, bad: map[string]bool{},
		paths: map[string]string{}, table: map[*Connection]bool{},
	}
	root := r.Document(text)
	if root == nil {
		return nil, r.Err()
	}
	r.overlay(root)
	d := newDocument()
	r.object(root, "", d.members())
	c := r.config(d)
	if err := r.Err(); err != nil {
		return nil, err
	}
	c.Warnings, c.hidden = r.warnings, r.hidden
	return c, nil
}

// Server returns the server with an id.
func (c *Config) Server(id string) (*Server, bool) {
	for _, s := range c.Servers {
		if s.ID == id {
			return s, true
		}
	}
	return nil, false
}

// Connection returns the connection with an id.
func (c *Config) Connection(id string) (*Connection, bool) {
	for _, conn := range c.Connections {
		if conn.ID == id {
			return conn, true
		}
	}
	return nil, false
}
