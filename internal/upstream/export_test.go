package upstream

import "time"

// Age makes the discovery document of a provider old.
func Age(p *Provider) {
	old := *p.known.Load()
	old.fetched = time.Now().Add(-2 * metadataAge)
	p.known.Store(&old)
}

// IsOld reports whether the discovery document of a provider is old.
func IsOld(p *Provider) bool { return time.Since(p.known.Load().fetched) >= metadataAge }
