package mcp

// Inspect returns what the endpoint reads from a message, for the fuzz test.
func Inspect(body []byte) (method, name string, ok bool) {
	m, no := inspect(body)
	return m.method, m.name, no == nil
}

// Recent is the bounded memory of newer upstream tokens, with other values.
type Recent struct{ recent[int] }

func (r *Recent) Put(key string, v int)           { r.put(key, v) }
func (r *Recent) Get(key string) (v int, ok bool) { return r.get(key) }
func (r *Recent) Len() int                        { return len(r.young) + len(r.old) }
