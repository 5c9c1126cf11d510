package mcp

// Inspect returns what the endpoint reads from a message, for the fuzz test.
func Inspect(body []byte) (method, name string, ok bool) {
	m, no := inspect(body)
	return m.method, m.name, no == nil
}
