package clients

import "maps"

// Added are the clients of clients.json at one moment: when each was added, in Unix
// seconds, by its [Client.Hash].
type Added map[string]int64

// Added returns the present clients of clients.json.
func (r *Registry) Added() Added {
	added := Added{}
	for _, k := range r.configured() {
		added[k.Hash()] = k.Issued
	}
	return added
}

// Gone returns the clients that are not in next, or were added again.
func (a Added) Gone(next Added) Added {
	gone := maps.Clone(a)
	maps.DeleteFunc(gone, func(hash string, added int64) bool {
		again, there := next[hash]
		return there && again == added
	})
	return gone
}
