package clients

import "signet/internal/oauth"

// Added are the clients of clients.json at one moment: when each was added, in Unix
// seconds, by its [Client.Hash].
type Added map[string]int64

// Added returns the present clients of clients.json.
func (r *Registry) Added() Added { return addedIn(r.configured()) }

func addedIn(clients map[string]known) Added {
	added := Added{}
	for _, k := range clients {
		added[k.Hash()] = k.Issued
	}
	return added
}

// actingIn returns those of the clients that may get tokens for themselves.
func actingIn(clients map[string]known) Added {
	acting := Added{}
	for _, k := range clients {
		if k.MayUse(oauth.GrantClientCredentials) {
			acting[k.Hash()] = k.Issued
		}
	}
	return acting
}

// OnChange makes do known, after each change of clients.json that comes into use, the
// [Client.Hash] of clients that were removed or added again, and of those whose tokens for
// themselves have to end: they are gone, or may no longer get such. No change is left out,
// however short it was in use. do must not use r.
func (r *Registry) OnChange(do func(gone, ended []string)) {
	if r.file != nil {
		r.file.OnChange(func(before, now configured) {
			do(addedIn(before.byID).gone(addedIn(now.byID)), actingIn(before.byID).gone(actingIn(now.byID)))
		})
	}
}

// gone returns the clients that are not in next, or were added again.
func (a Added) gone(next Added) (gone []string) {
	for hash, added := range a {
		if again, there := next[hash]; !there || again != added {
			gone = append(gone, hash)
		}
	}
	return gone
}
