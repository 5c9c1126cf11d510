package e2e

import (
	"time"

	"signet/keys"
)

// keyInfo is a key of `signet key list --json`.
type keyInfo struct {
	ID             string     `json:"kid"`
	State          keys.State `json:"state"`
	Private        bool       `json:"private_half"`
	PublishedAt    *time.Time `json:"published_at,omitempty"`
	SignsFrom      *time.Time `json:"signs_from,omitempty"`
	SignsUntil     *time.Time `json:"signs_until,omitempty"`
	PublishedUntil *time.Time `json:"published_until,omitempty"`
	WithdrawnAt    *time.Time `json:"withdrawn_at,omitempty"`
}

// grantInfo is a grant of `signet grant list --json`.
type grantInfo struct {
	ID          string     `json:"id"`
	User        string     `json:"user"`
	Client      string     `json:"client"`
	Scopes      []string   `json:"scopes"`
	Resource    string     `json:"resource"`
	Since       time.Time  `json:"since"`
	LastRefresh *time.Time `json:"last_refresh,omitempty"`
	Replays     int64      `json:"replays"`
	Expires     time.Time  `json:"expires"`
}
